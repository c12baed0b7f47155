from __future__ import annotations

import numpy as np
import pytest
import torch

from percepta.errors import BadInput
from percepta.evaluation.scenes_vos import Presence
from percepta.tasks.fit_presence import move, threshold, told_of_clips
from percepta.tasks.segment import Segmenter
from tests.tasks import tiny_sam2


def told(scores: list[float], seen: list[bool]) -> Presence:
    return Presence(np.array(seen), np.array(scores), np.zeros(len(seen), bool))


def test_the_threshold_lies_above_the_wanted_share_of_hidden_frames() -> None:
    clips = [told([0.0, 1, 2, 9], [False, False, False, True]), told([3.0, 4, -9], [False, False, True])]
    assert threshold(clips, 0.75) == 3.0
    assert threshold(clips, 0.5) == 2.0
    with pytest.raises(BadInput, match="share"):
        threshold(clips, 1.0)
    with pytest.raises(BadInput, match="none"):
        threshold([told([1.0], [True])], 0.5)


def test_moving_shifts_every_score_alike() -> None:
    model = tiny_sam2.model()
    frames = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def score() -> float:
        shown = model.session(frames, size=(64, 64)).add_points(0, 1, [(30.0, 30.0)], [1])
        return float(shown.object_scores[0])

    before = score()
    move(model, -1.5)
    assert score() == pytest.approx(before - 1.5, abs=1e-5)


def test_clips_hide_what_they_are_chosen_for() -> None:
    (one,) = told_of_clips(Segmenter(tiny_sam2.model()), 1)
    assert (~one.seen).any()
    assert one.seen.any()
    assert np.isfinite(one.scores).all()
