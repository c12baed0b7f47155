"""What must not stand in any file: paths of one machine, addresses of package indexes, promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.house.repository import ROOT, name, sources, tracked

BINARY = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".safetensors", ".npz", ".npy", ".mp4", ".gz", ".parquet"}
LARGEST = 26_000_000  # bytes: packaged weights with a vocabulary
# The words are put together here, so that this file may be searched like every other.
MACHINE = re.compile(
    rf"(?<![\w.~])/(?:{'|'.join(['wo' + 'rk', 'ro' + 'ot', 'ho' + 'me', 'Us' + 'ers', 'mn' + 't'])})/[\w.]"
)
INDEXES = re.compile(
    r"--(?:extra-)?index" + r"-url|pypi\." + r"org|download\.py" + r"torch\.org|files\.python" + r"hosted"
)
PROMISES = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
SECRETS = re.compile(r"\b(?:hf_[A-Za-z]{20,}|ghp_\w{20,}|AKIA[A-Z0-9]{16})\b")


def texts() -> list[tuple[str, str]]:
    """Name and content of every text file."""
    return [(name(path), path.read_text(encoding="utf-8")) for path in tracked() if path.suffix not in BINARY]


def found(pattern: re.Pattern[str], files: list[tuple[str, str]]) -> dict[str, str]:
    """The first place in each file that fits."""
    return {where: match[0] for where, text in files if (match := pattern.search(text))}


@pytest.mark.parametrize("pattern", [MACHINE, INDEXES, SECRETS], ids=["machine", "indexes", "secrets"])
def test_nothing_of_one_machine_stands_in_the_files(pattern: re.Pattern[str]) -> None:
    files = texts()
    assert len(files) > 50
    assert found(pattern, files) == {}


def test_sources_promise_nothing() -> None:
    files = [(name(path), path.read_text(encoding="utf-8")) for path in sources("src")]
    assert found(PROMISES, files) == {}
    assert found(re.compile(r"raise NotImplemented" + r"Error|^\s+pass$", re.MULTILINE), files) == {}


def test_every_source_says_what_it_is() -> None:
    silent = [
        name(path)
        for path in sources("src")
        if path.stat().st_size and not path.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []


def test_nothing_is_too_large_to_carry() -> None:
    assert {name(path): path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST} == {}


def test_constraints_are_names_and_versions() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    names = [plain(line.split("==")[0]) for line in lines]
    assert len(names) == len(set(names))
    assert "percepta" not in names


def test_constraints_pin_every_dependency_that_we_name() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    names = {plain(re.split(r"[\[<>=!~; ]", entry)[0]) for entry in wanted} - {"percepta"}
    pinned = {plain(line.split("==")[0]) for line in read("constraints.txt").splitlines() if "==" in line}
    assert names <= pinned


def test_versions_agree() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert f'__version__ = "{project["version"]}"' in read("src/percepta/__init__.py")
    assert f"## {project['version']}" in read("CHANGELOG.md")
    assert "Apache License" in read("LICENSE")
    assert (ROOT / "src" / "percepta" / "py.typed").is_file()


def test_the_patterns_see_what_they_should() -> None:
    assert MACHINE.search("open('/" + "ho" + "me/someone/x')")
    assert not MACHINE.search("~/Pictures, ../shared/work/x, photos/home/x")
    assert INDEXES.search("pip install --index" + "-url x")
    assert PROMISES.search("# TO" + "DO: later")
    assert SECRETS.search("hf_" + "a" * 30)


def read(file: str) -> str:
    """A file of the top folder."""
    return Path(ROOT / file).read_text(encoding="utf-8")


def plain(package: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()
