"""A long video and one thing in it: masks, a table and a painted video, flat memory, interrupted and gone on with.

On generated clips of test seeds, by the command line alone. What is followed well is asked of the packaged model where
its weights are there; all else holds for any weights.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import percepta
from percepta.apps.cli import run
from percepta.checkpoints import read_tensors
from percepta.datasets import scenes
from percepta.media import VideoReader, write_video
from percepta.results.formats.tracks import read_tracks
from percepta.tasks.track import track
from tests.tasks import tiny_sam2

SETTINGS = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
PEAK = """
import itertools, resource, sys, torch
from pathlib import Path
from percepta.tasks.track import track
from tests.tasks import tiny_sam2
torch.set_num_threads(1)
count, folder = int(sys.argv[1]), sys.argv[2]
with track((tiny_sam2.frame(number) for number in range(count)), model=tiny_sam2.model()) as video:
    video.add_point(0, (8, 20))
    video.run().save(folder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return percepta.save(tiny_sam2.model(), tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.mark.slow
def test_ctrl_c_and_resume_of_a_program_of_its_own(tiny: Path, tmp_path: Path) -> None:
    clip = tiny_sam2.video(tmp_path / "field.mp4", 60)
    words = [sys.executable, "-m", "percepta", "track", str(clip), "--model", str(tiny)]
    program = subprocess.Popen(
        [*words, "--point", "8,20", "-o", str(tmp_path / "cow")], env=SETTINGS, stderr=subprocess.PIPE, text=True
    )
    table = tmp_path / "cow" / "tracks.csv"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not table.exists() or len(table.read_text().splitlines()) < 5):
        time.sleep(0.02)
    program.send_signal(signal.SIGINT)
    said = program.communicate(timeout=60)[1]
    assert program.returncode == 130, said
    assert "interrupted; what was written so far is kept." in said
    begun = read_tracks(tmp_path / "cow" / "masks.parquet")
    count = len(set(begun.frames.tolist()))
    assert 4 <= count < 60
    with VideoReader(tmp_path / "cow" / "overlay.mp4") as reader:
        assert reader.frames == count
    assert run(["track", str(clip), "--model", str(tiny), "-o", str(tmp_path / "cow"), "--resume"]) == 0
    whole = track(clip, points=[(8, 20)], model=str(tiny))
    found = read_tracks(tmp_path / "cow" / "masks.parquet")
    assert whole.masks is not None
    assert found.masks is not None
    assert found.masks.to_strings() == whole.masks.to_strings()
    assert len(table.read_text().splitlines()) == 1 + len(whole)


def test_what_is_kept_does_not_grow(tmp_path: Path) -> None:
    kept = {}
    with track((tiny_sam2.frame(number) for number in range(90)), model=tiny_sam2.model()) as video:
        video.add_point(0, (8, 20))
        for result in video.run():
            if result.frame in (30, 80):
                video.save(tmp_path)
                state = read_tensors(tmp_path / "session" / "state.safetensors")
                kept[result.frame] = (len(state), sum(tensor.nbytes for tensor in state.values()))
    assert kept[80] == kept[30]


@pytest.mark.slow
def test_peak_memory_of_three_thousand_frames(tmp_path: Path) -> None:
    """At most 1.05 times that of 300, with all files written."""
    peaks = []
    for count in (300, 3000):
        words = [sys.executable, "-c", PEAK, str(count), str(tmp_path / str(count))]
        done = subprocess.run(words, check=True, env=SETTINGS, capture_output=True, text=True)
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.05 * peaks[0]


def test_the_thing_is_followed(tmp_path: Path) -> None:
    config = scenes.SceneConfig(96)
    overlaps = []
    for seed in scenes.distinct_clips(count=3, config=config).tolist():
        clip = scenes.make_clip(seed, config, 12)
        write_video(tmp_path / f"{seed}.mp4", clip.frames, 8, quality=5)
        thing = max(clip.tracks, key=lambda one: one.visible_masks[0].sum())
        box = ",".join(f"{edge:g}" for edge in thing.boxes[0])
        out = tmp_path / str(seed)
        assert run(["track", str(tmp_path / f"{seed}.mp4"), "--box", box, "-o", str(out)]) == 0
        found = read_tracks(out / "masks.parquet")
        assert found.masks is not None
        for frame, dense in zip(found.frames.tolist(), found.masks, strict=True):
            truth = thing.visible_masks[frame]
            overlaps.append((truth & dense).sum() / max(1, (truth | dense).sum()))
    assert np.mean(overlaps) >= 0.6
