"""The protocol of moments: an oracle scores full marks, a blind one does not, and videos are what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from percepta.datasets.scenes import SceneConfig, make_clip
from percepta.datasets.scenes.clips import plan_clip
from percepta.evaluation.moments import (
    JoinedVideo,
    evaluate_scenes_moments,
    join_clips,
    overlap,
    scenes_moments_protocol,
)
from percepta.media import VideoReader

COUNT = 12


@dataclass(frozen=True)
class Part:
    start: float
    end: float
    vector: np.ndarray


@pytest.fixture(scope="module")
def joined() -> JoinedVideo:
    return join_clips([1_000_000, 1_000_003, 1_000_004], [8, 20, 11], 8, SceneConfig(32))


def test_a_joined_video_holds_its_clips_one_after_the_other(joined: JoinedVideo) -> None:
    assert joined.edges.tolist() == [0.0, 1.0, 3.5, 4.875]
    assert joined.captions[1] == plan_clip(1_000_003, SceneConfig(32)).content_caption
    with VideoReader(joined.file) as reader:
        assert reader.frames == 39
        assert reader.duration == pytest.approx(4.875)
        first_of_second = np.asarray(reader.read([8])[0])
    assert np.array_equal(first_of_second, make_clip(1_000_003, SceneConfig(32), 20).frames[0])  # lossless


def test_overlap() -> None:
    table = overlap(np.array([[0.0, 2.0], [2.0, 4.0]]), np.array([[0.0, 2.0], [1.0, 3.0], [5.0, 6.0]]))
    assert np.allclose(table, [[1, 1 / 3, 0], [0, 1 / 3, 0]])


class Oracle:
    """Knows the clips: reads the edges from jumps of the picture, and answers each caption by the clip's number."""

    def __init__(self, shift: float = 0.0, blind: bool = False) -> None:
        self.shift, self.blind, self.clips = shift, blind, 0

    def look(self, file: bytes) -> list[tuple[float, float]]:
        with VideoReader(file) as reader:
            frames = np.stack([np.asarray(picture, np.float32) for picture in reader.iterate()])
        jumps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        edges = [0.0, *((np.flatnonzero(jumps > 20) + 1) / 8).tolist(), len(frames) / 8]
        return list(pairwise(edges))

    def split(self, parts: list[tuple[float, float]]) -> list[Part]:
        found = []
        for start, end in parts:
            vector = np.eye(COUNT, dtype=np.float32)[0 if self.blind else self.clips]
            found.append(Part(start + self.shift * (end - start), end + self.shift * (end - start), vector))
            self.clips += 1
        return found


def texts(captions: object) -> torch.Tensor:
    return torch.eye(COUNT)[: len(captions)]  # type: ignore[arg-type]


def test_an_oracle_finds_all_and_a_blind_one_the_first() -> None:
    protocol = scenes_moments_protocol(COUNT, 32)
    oracle, blind, late = Oracle(), Oracle(blind=True), Oracle(shift=0.4)
    found = evaluate_scenes_moments(
        oracle.look, oracle.split, texts, {"blind": blind.split, "late": late.split}, protocol
    )
    assert found["interval found, all videos"].value == 1
    assert found["overlap of the best"].value == pytest.approx(1)
    baselines = {(one.name, one.measure): one.value for one in found.baselines}
    assert baselines["blind", "interval found, all videos"] == pytest.approx(1 / COUNT)
    assert baselines["blind", "interval found, own video"] == pytest.approx(found.details["videos"] / COUNT)
    assert baselines["late", "interval found, all videos"] == 0  # an overlap of 0.6 / 1.4 is below one half
    assert found["interval found, all videos"].chance == pytest.approx(1 / COUNT)
    assert found.details["moments"] == COUNT
    assert found.details["cuts"] == COUNT - found.details["videos"]


def test_all_that_shapes_the_score_is_in_the_hash() -> None:
    protocol = scenes_moments_protocol()
    assert protocol.hash == scenes_moments_protocol().hash
    others = [
        scenes_moments_protocol(100),
        scenes_moments_protocol(moments={"rate": 2.0}),
        scenes_moments_protocol(steps=(3.0,)),
        replace(protocol, settings={**protocol.settings, "overlap": 0.7}),
    ]
    assert len({protocol.hash, *(other.hash for other in others)}) == 5
