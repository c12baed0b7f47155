"""Tokens of neighbouring frames merge: exact where nothing moves, and only in videos."""

from __future__ import annotations

import pytest
import torch

import percepta
from percepta.errors import BadInput
from percepta.layers import Tokens
from percepta.speedups import STRATEGIES
from percepta.speedups.frames import joined, paired
from tests.battery import close, pictures, small


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_still_video_is_encoded_exactly(strategy: str, normalize: bool) -> None:
    model = small("pe-core-nano")
    still = pictures(2, 1, 3, 32, 40).expand(-1, 4, -1, -1, -1)
    want = model.encode_video(still, normalize)
    merging = percepta.merge_tokens(model, r=0, frames=4, strategy=strategy)
    close(model.encode_video(still, normalize), want)
    assert merging.flops < 0.6


@torch.no_grad()
def test_pictures_and_frames_left_over_are_encoded_as_ever() -> None:
    model = small("pe-core-nano")
    video = pictures(2, 5, 3, 32, 32)
    plain = model.encode_image(video[:, 4])
    percepta.merge_tokens(model, r=0, frames=4)
    assert torch.equal(model.encode_image(video[:, 4]), plain)
    whole, four = model.encode_video(video), model.encode_video(video[:, :4])
    close(whole, (4 * four + plain) / 5)
    close(model.encode_video(video[:, :3]), model.encode_image(video[:, :3].flatten(0, 1)).view(2, 3, -1).mean(1))
    percepta.merge_tokens(model, r=0)
    close(model.encode_video(video), model.encode_image(video.flatten(0, 1)).view(2, 5, -1).mean(1), 0.0)


@torch.no_grad()
def test_moving_videos_change_a_little_and_batches_do_not_matter() -> None:
    model = small("pe-core-nano")
    video = pictures(2, 4, 3, 32, 32)
    want = model.encode_video(video)
    percepta.merge_tokens(model, r=2, frames=2)
    got = model.encode_video(video)
    assert not torch.equal(got, want)
    assert torch.nn.functional.cosine_similarity(got, want).min() > 0.5
    close(model.encode_video(video[1:])[0], got[1])


def test_groups_follow_tokens_through_a_seam() -> None:
    """Features that name their input token: where it went can be read off the group map."""
    names = torch.arange(12.0).view(4, 3, 1)
    tokens = joined(Tokens(names, position=names.expand(-1, -1, 2)), protected=1)
    assert tokens.x[0, :, 0].tolist() == [1.5, 1, 4, 2, 5]  # the class tokens 0 and 3 are averaged
    assert tokens.size is not None
    assert tokens.group is not None
    assert tokens.position is not None
    assert tokens.size[0].tolist() == [2, 1, 1, 1, 1]
    assert tokens.group[0].tolist() == [0, 1, 3, 0, 2, 4]
    assert tokens.position[1, 1:, 0].tolist() == [7, 10, 8, 11]
    dropped = joined(Tokens(names, group=torch.tensor([[0, 1, -1]]).expand(4, -1)), protected=1)
    assert dropped.group is not None
    assert dropped.group[0].tolist() == [0, 1, -1, 0, 2, -1]


def test_rows_of_two_frames_take_turns() -> None:
    values = torch.arange(8).view(2, 4)
    assert paired(values, 2).tolist() == [[0, 1, 2, 6, 3, 7]]


def test_towers_of_others_have_no_frames() -> None:
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    with pytest.raises(BadInput, match="Perception Encoders"):
        percepta.merge_tokens(vit, r=1, frames=2)
