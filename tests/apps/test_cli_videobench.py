"""`percepta evaluate videobench` on the command line, with a tiny model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from percepta.apps.cli import run as percepta
from tests.datasets.videobench_on_disk import write_bench
from tests.tasks import tiny_plm


def test_a_tiny_model_runs_all_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tiny_plm.folder(tmp_path / "model")
    data, run, scores = write_bench(tmp_path / "data"), tmp_path / "run", tmp_path / "scores.json"
    line = ["evaluate", "videobench", "--data", str(data), "--task", "fgqa,rtloc,rcap", "--judge", "overlap"]
    line += ["--model", str(weights), "--run", str(run), "--set", "frames=4", "--set", "limit=1"]
    assert percepta([*line, "-o", str(scores)]) == 0
    assert "rtloc, mean recall" in capsys.readouterr().out
    (found,) = json.loads(scores.read_text())
    assert found["protocol"]["settings"]["judge"] == "overlap"
    assert "weights" in found["model"]
    assert percepta([*line, "-o", str(tmp_path / "page.html")]) == 0
    assert "Fine-grained questions" in (tmp_path / "page.html").read_text()


def test_a_page_is_for_these_protocols(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert percepta(["evaluate", "scenes-depth", "-o", str(tmp_path / "x.html")]) == 2
    assert "is for videobench and scenes-videobench, not for scenes-depth" in capsys.readouterr().err
    assert percepta(["evaluate"]) == 0
    assert "scenes-videobench" in capsys.readouterr().out
