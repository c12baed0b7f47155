"""Videos as moments: where they are cut, that they cover the video, odd and damaged files, flat memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef

import percepta
from percepta.errors import BadInput, BadMedia
from percepta.evaluation.moments import film
from percepta.media import Source, VideoReader, write_gif, write_video
from percepta.media.survey import survey
from percepta.results import Failure
from percepta.tasks.encoder import Encoder
from percepta.tasks.evaluating.moments import fixed_steps
from percepta.tasks.indexing import moments
from percepta.tasks.indexing.moments import (
    MomentRule,
    SeenVideo,
    look_at,
    moments_of,
    pieces,
    sampled,
    spread,
    video_moments,
    videos_moments,
)
from tests.media import clips
from tests.tasks import nano


class Colours:
    """A model whose vector of a picture is its mean colour, scaled: differences are known beforehand."""

    name = "colours"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.model = self

    def preprocess(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float()

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        return torch.nn.functional.normalize(pixels.mean(dim=(2, 3)) + 1e-3, dim=-1)


def shot(colour: tuple[int, int, int], frames: int) -> np.ndarray:
    """A still of one colour with a white corner."""
    array = np.full((frames, 32, 32, 3), colour, np.uint8)
    array[:, :6, :6] = 255
    return array


RED, GREEN, BLUE, BLACK = (220, 10, 10), (10, 200, 10), (10, 10, 220), (0, 0, 0)


def found_in(data: bytes | Path, rule: MomentRule | None = None) -> list[tuple[float, float]]:
    thing = {"data": data} if isinstance(data, bytes) else {"path": data}
    parts = video_moments(Colours(), Source("clip", "video", **thing), rule)  # type: ignore[arg-type]
    assert all(abs(float(np.linalg.norm(part.vector)) - 1) < 1e-5 for part in parts)
    return [(round(part.start, 3), round(part.end, 3)) for part in parts]


def test_cuts_are_exact_to_the_frame() -> None:
    data = film([shot(RED, 11), shot(GREEN, 19), shot(RED, 23)], 8)
    assert found_in(data) == [(0.0, 1.375), (1.375, 3.75), (3.75, 6.625)]


def test_a_moment_is_the_mean_direction_of_its_frames() -> None:
    source = Source("clip", "video", data=film([shot(RED, 16), shot(GREEN, 16)], 8))
    encoder = Colours()
    seen = look_at(encoder, source)
    first, second = moments_of(seen)
    assert np.allclose(first.vector, encoder.embed(encoder.preprocess(Image.fromarray(shot(RED, 1)[0]))[None])[0])
    assert first.vector @ second.vector < 0.5


def test_a_flash_is_no_moment_but_a_second_is() -> None:
    flash = film([shot(RED, 16), shot((255, 255, 255), 1), shot(RED, 23)], 8)
    assert len(found_in(flash)) == 1
    second = film([shot(RED, 16), shot(GREEN, 8), shot(RED, 24)], 8)
    assert found_in(second) == [(0.0, 2.0), (2.0, 3.0), (3.0, 6.0)]


def test_a_dissolve_is_one_cut() -> None:
    shares = np.linspace(0, 1, 8)[:, None, None, None]
    mixed = ((1 - shares) * shot(RED, 8) + shares * shot(BLUE, 8)).round().astype(np.uint8)
    parts = found_in(film([shot(RED, 24), mixed, shot(BLUE, 24)], 8))
    assert len(parts) == 2
    assert 3.25 <= parts[0][1] <= 3.75


def test_long_shots_are_halved_not_chipped() -> None:
    still = shot(RED, 84)
    still[:, 20:, :, 1] = np.arange(84, dtype=np.uint8)[:, None, None]  # something moves, so that all frames count
    (start, middle), (again, end) = found_in(film([still], 8))
    assert (start, end) == (0.0, 10.5)
    assert 4.5 <= middle == again <= 6.0
    assert len(found_in(film([still], 8), MomentRule(longest=3))) == 4


def test_segmentation_holds_over_rates_and_for_models_that_crowd_pictures_into_a_cone() -> None:
    random = np.random.default_rng(0)
    scenes = random.normal(size=(5, 32))
    for rate in (1, 2, 4):
        frames = np.repeat(scenes, [4 * rate, 2 * rate, 6 * rate, 2 * rate, 3 * rate], axis=0)
        frames = frames + 0.2 * random.normal(size=frames.shape)
        for cone in (0.0, 6.0):
            vectors = np.c_[frames, np.full(len(frames), cone)]
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            times = np.arange(len(frames)) / rate
            parts = moments_of(SeenVideo(vectors, times, times, 17.0), MomentRule(rate=rate))
            assert [part.start for part in parts] == [0, 4, 6, 12, 14]
    pairs = (1 - vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    assert spread(vectors) == pytest.approx(pairs.mean(), abs=1e-5)


def test_frames_that_are_looked_at() -> None:
    times = np.arange(100) / 25
    assert sampled(times, 4.0, MomentRule(rate=1)) == [12, 37, 62, 87]
    assert sampled(times[:3], 3 / 25, MomentRule()) == [0, 1, 2]
    assert sampled(np.zeros(1), 0.04, MomentRule()) == [0]
    assert sampled(np.array([0.0, 50.0]), 60.0, MomentRule()) == [0, 1]  # a still is looked at once


def test_one_frame_and_stills_of_a_minute(tmp_path: Path) -> None:
    assert found_in(film([shot(RED, 1)], 25)) == [(0.0, 0.04)]
    slow = write_gif(tmp_path / "slow.gif", list(np.concatenate([shot(RED, 1), shot(GREEN, 1)])), 1 / 30)
    first, second = found_in(slow)
    assert first == (0.0, 30.0)
    assert second[1] > second[0] == 30.0


@pytest.mark.parametrize("name", ["h264 with B-frames", "vp9", "mpeg4 avi", "h264 transport stream", "gif"])
def test_containers_and_variable_rates(name: str, tmp_path: Path) -> None:
    if not clips.has_encoder(name):
        pytest.skip(f"this FFmpeg cannot write {name}")
    for variable in (False, True):
        if variable and name == "mpeg4 avi":
            continue
        path = clips.make(tmp_path, name, variable=variable)
        parts = found_in(path)
        with VideoReader(path) as reader:
            assert parts[0][0] == 0
            assert parts[-1][1] == pytest.approx(reader.duration, abs=1e-3)
        assert all(before[1] == after[0] for before, after in pairwise(parts))


def test_a_border_is_the_frame_of_the_largest_change(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", np.concatenate([shot(RED, 13), shot(GREEN, 12)]), 10)
    with VideoReader(path) as reader:
        found = list(survey(reader, [0, 10, 20]))
        assert [(one.frame, one.border) for one in found][2] == (20, 13)
        assert found[0].border == 0
        assert np.abs(np.asarray(found[2].picture, int) - np.asarray(reader.read([20])[0], int)).max() == 0
        assert list(survey(reader, [])) == []
    still = write_video(tmp_path / "still.mp4", shot(RED, 25), 10)
    with VideoReader(still) as reader:
        assert [one.border for one in survey(reader, [0, 10, 20])] == [0, 6, 16]  # nothing stands out: the middle


def test_a_cut_file_gives_what_is_left_and_tells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.mp4", noise, 10).read_bytes()
    short, nothing = tmp_path / "short.mp4", tmp_path / "nothing.mp4"
    short.write_bytes(whole[: len(whole) * 6 // 10])
    nothing.write_bytes(whole[:200])
    told: list[Failure] = []
    sources = [Source(str(path), "video", path) for path in (short, nothing, tmp_path / "whole.mp4")]
    results = [found for _, found in videos_moments(Colours(), sources, tell=told.append)]  # type: ignore[arg-type]
    assert isinstance(results[0], list)
    assert 1.0 < results[0][-1].end < 6.0
    assert [failure.source for failure in told] == [str(short)]
    assert "is cut short" in told[0].reason
    assert told[0].reason.count("60 frames") == 1
    assert isinstance(results[1], Failure)
    assert isinstance(results[2], list)
    with pytest.raises(BadMedia):
        video_moments(Colours(), sources[1])  # type: ignore[arg-type]


def test_frames_come_in_bounded_pieces_and_decoding_stops_with_the_reader(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", shot(RED, 200), 2)
    encoder = Colours()
    rule = MomentRule(rate=2)
    sizes = [len(piece.pixels) for piece in pieces(path, encoder.preprocess, rule, 32)]
    assert sizes == [32] * 6 + [8]
    results = videos_moments(encoder, iter([Source("long", "video", path)] * 50), rule)  # type: ignore[arg-type]
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "percepta-moments"]


def test_pixels_are_let_go_piece_by_piece(tmp_path: Path) -> None:
    class Watching(Colours):
        def __init__(self) -> None:
            super().__init__()
            self.given: list[StorageWeakRef] = []
            self.alive = 0

        def embed(self, pixels: torch.Tensor) -> torch.Tensor:
            self.given.append(StorageWeakRef(pixels.untyped_storage()))
            self.alive = max(self.alive, sum(not storage.expired() for storage in self.given))
            return super().embed(pixels)

    encoder = Watching()
    path = write_video(tmp_path / "long.mp4", shot(RED, 400), 2)
    seen = look_at(encoder, Source("long", "video", path))  # type: ignore[arg-type]
    assert (len(encoder.given), len(seen.vectors)) == (13, 400)
    assert encoder.alive <= 2


def test_segmentation_of_many_frames_is_that_of_its_parts() -> None:
    """Sums are taken in blocks; a cut that nothing depends on divides the video into two of their own."""
    random = np.random.default_rng(0)
    scenes = np.repeat(random.normal(size=(700, 16)), 4, axis=0) + 0.05 * random.normal(size=(2800, 16))
    vectors = (scenes / np.linalg.norm(scenes, axis=1, keepdims=True)).astype(np.float32)
    times = np.arange(2800) / 2
    starts = [part.start for part in moments_of(SeenVideo(vectors, times, times, 1400.0))]
    assert starts == [2.0 * number for number in range(700)]


def test_frames_of_several_sizes_are_not_stacked() -> None:
    def prepare(picture: Image.Image) -> torch.Tensor:
        prepare.calls += 1  # type: ignore[attr-defined]
        return torch.zeros(3, 4, 4 if prepare.calls < 5 else 8)  # type: ignore[attr-defined]

    prepare.calls = 0  # type: ignore[attr-defined]
    found = list(pieces(film([shot(RED, 64)], 8), prepare, MomentRule()))
    assert [tuple(piece.pixels.shape) for piece in found] == [(4, 3, 4, 4), (12, 3, 4, 8)]


def test_an_error_of_the_decoding_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[object]:
        raise ZeroDivisionError("a mistake of ours")
        yield

    monkeypatch.setattr(moments, "pieces", broken)
    with pytest.raises(ZeroDivisionError):
        video_moments(Colours(), Source("clip", "video", data=film([shot(RED, 4)], 8)))  # type: ignore[arg-type]


def test_batches_are_halved_when_memory_runs_out() -> None:
    class Small(Colours):
        def embed(self, pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > 3:
                raise RuntimeError("CUDA out of memory")
            return super().embed(pixels)

    encoder = Small()
    seen = look_at(encoder, Source("clip", "video", data=film([shot(RED, 64)], 8)))  # type: ignore[arg-type]
    assert len(seen.vectors) == 16
    assert max(encoder.batches) <= 3


def test_with_a_real_model(tmp_path: Path) -> None:
    encoder = Encoder(nano.model())
    parts = video_moments(encoder, Source("clip", "video", nano.clip(tmp_path / "clip.mp4")))
    assert parts[0].start == 0
    assert parts[-1].end == pytest.approx(1.0)
    frame = encoder.embed(encoder.prepare(Source("clip", "video", tmp_path / "clip.mp4")))
    assert parts[0].vector.shape == frame.shape[1:]


def test_the_protocol_for_a_model() -> None:
    settings = {"count": 6, "size": 32, "steps": [2.0]}
    (found,) = percepta.evaluate("scenes-moments", nano.model(), settings=settings)
    assert found.protocol.settings["moments"] == asdict(MomentRule())
    assert found.details["moments"] >= found.details["videos"] >= 1
    assert {one.name for one in found.baselines} == {"steps of 2 s"}
    coarse = {**settings, "moments": asdict(MomentRule(worth=100))}
    (whole,) = percepta.evaluate("scenes-moments", nano.model(), settings=coarse)
    assert whole.details["moments"] < found.details["moments"]  # the rule of the protocol is the one that is used


def test_fixed_steps_hold_the_frames_shown_in_them() -> None:
    vectors = np.eye(6, dtype=np.float32)
    times = np.array([0.2, 1.0, 1.9, 2.0, 6.1, 6.5])
    found = fixed_steps(SeenVideo(vectors, times, times, 7.0), 2.0)
    assert [(part.start, part.end) for part in found] == [(0, 2), (2, 4), (6, 7)]
    assert [np.flatnonzero(part.vector).tolist() for part in found] == [[0, 1, 2], [3], [4, 5]]


@pytest.mark.parametrize("setting", [{"rate": 0}, {"worth": -1}, {"longest": float("inf")}, {"fewest": 0}])
def test_a_rule_checks_itself(setting: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="MomentRule"):
        MomentRule(**setting)  # type: ignore[arg-type]


def test_shapes_are_checked() -> None:
    with pytest.raises(BadInput, match="SeenVideo"):
        SeenVideo(np.zeros((3, 4), np.float32), np.zeros(2), np.zeros(3), 1.0)
