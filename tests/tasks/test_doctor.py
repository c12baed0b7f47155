"""What the doctor finds, on this machine and on machines where something is missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from percepta.tasks.doctor import FOR_DEVELOPERS, PURPOSES, Finding, doctor, requirements
from tests.house.repository import ROOT


def by_subject() -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor()}


def test_it_names_versions_devices_weights_the_index_and_extras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    found = doctor()
    assert [*dict.fromkeys(finding.topic for finding in found)] == [
        "version", "device", "speed", "weights", "index", "extra", "network"
    ]  # fmt: skip
    named = by_subject()
    assert named["torch"].found.startswith(torch.__version__.split("+")[0])
    assert named["cpu"].good
    assert named["pe-core-nano"].found == "packaged"
    assert "none yet" in named["of your account"].found
    assert all(finding.good or finding.advice for finding in found)
    (tmp_path / "percepta").mkdir()
    (tmp_path / "percepta" / "pictures.index").write_bytes(bytes(200_000))
    assert by_subject()["of your account"].found == f"{tmp_path / 'percepta' / 'pictures.index'}, 0.2 MB"


def test_it_looks_for_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = by_subject()
    for line in project["dependencies"]:
        assert line.split(">=")[0].replace("_", "-").lower() in named
    assert set(project["optional-dependencies"]) - set(FOR_DEVELOPERS) == set(PURPOSES)
    assert set(PURPOSES) <= set(named)
    assert ("torch", "2.9") in requirements()[""]
    assert ("pillow-heif", "0.20") in requirements()["heic"]


def test_it_says_how_to_get_what_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(package: str) -> str:
        if package in ("pillow-heif", "rich"):
            raise metadata.PackageNotFoundError(package)
        return {"numpy": "1.9.5", "onnx": "1.16.2", "pillow": "11.0"}.get(package) or real(package)

    monkeypatch.setattr(metadata, "version", version)
    named = by_subject()
    assert named["rich"] == Finding("version", "rich", False, "not installed", 'pip install "rich>=13"')
    assert named["numpy"] == Finding("version", "numpy", False, "1.9.5 is too old", 'pip install "numpy>=1.26"')
    assert named["pillow"].good
    assert named["export"].found == "onnx 1.16.2 is too old"
    assert named["heic"].advice == (
        "for HEIC pictures: pip install --upgrade pillow-heif "
        '(or, in the folder of percepta\'s source: pip install ".[heic]")'
    )


def test_without_a_network_weights_that_are_not_cached_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = by_subject()["pe-lang-g14-448"]
    assert (found.good, found.found) == (False, "not in the cache")
    assert found.advice == (
        "unset HF_HUB_OFFLINE, or bring PE-Lang-G14-448.pt of facebook/PE-Lang-G14-448 and pass --weights FILE"
    )


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("torchvision", "torch + torchvision do not fit together (undefined symbol) -> take both from one place"),
        ("torch", "torch cannot be loaded (undefined symbol) -> pip install --force-reinstall torch torchvision"),
    ],
)
def test_libraries_that_cannot_be_loaded_do_not_stop_it(broken: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / f"{broken}.py").write_text("raise ImportError('undefined symbol')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from percepta.apps.cli import run; run(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sentence in " ".join(done.stdout.split())
    assert "\nnetwork\n" in done.stdout  # the last topic
