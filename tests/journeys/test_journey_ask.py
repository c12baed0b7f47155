"""Ask of a film, caption a folder: by the command line, killed in the middle and gone on with.

What holds for any weights; that answers are right is asked of the packaged model where its weights are there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import percepta
from percepta.apps.cli import run
from tests.tasks import tiny_plm

SETTINGS = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_plm.folder(tmp_path_factory.mktemp("weights"))


def test_one_model_for_all_that_is_asked(tmp_path: Path) -> None:
    """The front door alone: a model in hand, a film, its pictures, its words."""
    model = tiny_plm.model()
    film = tiny_plm.video(tmp_path / "film.mp4", 30, 10)
    shots: Any = percepta.caption(film, every=1.0, max_tokens=4, model=model)
    (timed,) = shots
    assert [moment.start for moment in timed.moments] == [0.0, 1.0, 2.0]
    start, end = timed.moments[1].start, timed.moments[1].end
    answer: Any = percepta.ask(film, "what moves?", start=start, end=end, frames=4, max_tokens=4, model=model)
    assert len(answer.frames) == 4
    assert start <= answer.frames[0]
    assert answer.frames[-1] <= end
    pieces: Any = percepta.ask(None, "what is a film?", stream=True, max_tokens=4, model=model)
    assert "".join(pieces) == pieces.answer.text
    assert json.loads(json.dumps(answer.to_dict()))["span"] == [start, end]


@pytest.mark.slow
def test_killed_and_gone_on_with(tiny: Path, tmp_path: Path) -> None:
    folder = tiny_plm.pictures(tmp_path / "pictures", 60)
    words = ["caption", str(folder), "--model", str(tiny), "--tiles", "0", "--max-tokens", "60"]
    out = tmp_path / "captions.jsonl"
    program = subprocess.Popen(
        [sys.executable, "-m", "percepta", *words, "-o", str(out)], env=SETTINGS, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 400  # a busy machine is slow to begin
    while time.monotonic() < until and (not out.exists() or out.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    done = out.read_bytes().count(b"\n")
    assert 5 <= done < 60
    assert run([*words, "-o", str(out), "--resume"]) == 0
    assert run([*words, "-o", str(tmp_path / "whole.jsonl")]) == 0
    went_on, whole = (
        [json.loads(line) | {"logprob": None} for line in path.read_text().splitlines()]
        for path in (out, tmp_path / "whole.jsonl")
    )
    assert went_on == whole  # but for the last digits of what batches of other sizes compute


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    program = """
import resource, sys, torch
from percepta.tasks.caption import caption
from tests.tasks import tiny_plm
torch.set_num_threads(1)
(answer,) = caption(sys.argv[1], every=1.0, max_tokens=2, frames=4, model=tiny_plm.model())
print(len(answer.moments), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for seconds in (10, 100):
        film = tiny_plm.video(tmp_path / f"{seconds}.mp4", 10 * seconds, 10)
        done = subprocess.run(
            [sys.executable, "-c", program, str(film)], env=SETTINGS, capture_output=True, text=True, check=True
        )
        parts, peak = map(int, done.stdout.split())
        assert parts == seconds
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]
