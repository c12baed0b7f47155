"""Label propagation against loops that say the same patch by patch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from percepta.errors import BadInput
from percepta.evaluation.label_propagation import (
    PropagationRule,
    on_patches,
    patch_labels,
    propagate,
    to_pixels,
    track,
)
from percepta.evaluation.regions import score_masks


def slow_propagate(tokens: np.ndarray, first: np.ndarray, rule: PropagationRule) -> np.ndarray:
    """Patch by patch; of ties at the last place all count."""
    frames, rows, columns, _ = tokens.shape
    units = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    labels = [first]
    for frame in range(1, frames):
        sources = [0, *range(max(1, frame - rule.last_frames), frame)]
        out = np.zeros_like(first)
        for i in range(rows):
            for j in range(columns):
                found = [
                    (math.exp(float(units[frame, i, j] @ units[source, p, q]) / rule.temperature), source, p, q)
                    for source in sources
                    for p in range(rows)
                    for q in range(columns)
                    if not rule.neighbourhood or max(abs(p - i), abs(q - j)) <= rule.neighbourhood
                ]
                least = sorted((entry[0] for entry in found), reverse=True)[: rule.top][-1]
                kept = [entry for entry in found if entry[0] >= least * (1 - 1e-12)]
                whole = sum(entry[0] for entry in kept)
                out[i, j] = sum(weight / whole * labels[source][p, q] for weight, source, p, q in kept)
        labels.append(out)
    return np.stack(labels)


def random_tokens(frames: int, rows: int, columns: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, rows, columns, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "rule",
    [
        PropagationRule(),
        PropagationRule(last_frames=2, neighbourhood=1, top=3),
        PropagationRule(last_frames=0, neighbourhood=2, top=1, temperature=0.5),
        PropagationRule(neighbourhood=0, top=400),
    ],
    ids=["published", "narrow", "first frame only", "everything"],
)
def test_equals_the_loops(rule: PropagationRule) -> None:
    tokens = random_tokens(5, 4, 5)
    first = torch.softmax(random_tokens(1, 4, 5, 3, seed=1)[0], dim=-1)
    found = propagate(tokens, first, rule)
    assert found.shape == (5, 4, 5, 3)
    np.testing.assert_allclose(found, slow_propagate(tokens.numpy(), first.numpy(), rule), atol=2e-5)
    np.testing.assert_allclose(found.sum(dim=-1), 1, atol=1e-5)
    torch.testing.assert_close(propagate(3 * tokens, first, rule), found)


def test_the_published_rule() -> None:
    rule = PropagationRule()
    assert (rule.last_frames, rule.neighbourhood, rule.top, rule.temperature) == (7, 12, 5, 0.1)


@pytest.mark.parametrize(("alike", "remembered"), [(0, True), (1, False), (2, True), (8, True)])
def test_context_is_the_first_frame_and_the_last_seven(alike: int, remembered: bool) -> None:
    """All tokens are at right angles, but frame 9 looks like one earlier frame, which looks like the first."""
    basis = torch.eye(20).reshape(10, 2, 1, 20)
    tokens = basis.clone()
    tokens[alike] = 0.8 * basis[0] + 0.6 * basis[alike]
    tokens[9] = basis[alike]
    first = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    last = propagate(tokens, first, PropagationRule(top=1))[9]
    assert torch.equal(last, first) is remembered


def test_identical_frames_keep_the_mask() -> None:
    mask = np.zeros((32, 48), np.int64)
    mask[4:20, 8:24], mask[16:28, 28:44] = 3, 7
    tokens = random_tokens(1, 8, 12, 64).expand(10, -1, -1, -1)
    found = track(tokens, mask)
    assert (found[0] == mask).all()
    assert (found[1:] == found[1]).all()
    assert (found[1:] == on_patches(mask[None], (8, 12))).all()
    regions, boundaries = score_masks(found, np.broadcast_to(mask, found.shape))
    assert regions.min() > 0.95  # corners are rounded
    assert boundaries.min() > 0.95


def test_a_moving_object_is_followed() -> None:
    """One patch with a token of its own walks across a background of different tokens."""
    background, thing = random_tokens(1, 8, 8, 32)[0], random_tokens(1, 1, 1, 32, seed=9)[0, 0, 0]
    frames, masks = background.expand(6, -1, -1, -1).clone(), np.zeros((6, 32, 32), np.int64)
    for number in range(6):
        frames[number, 3, number + 1] = thing
        masks[number, 12:16, 4 * number + 4 : 4 * number + 8] = 1
    found = track(frames, masks[0])
    for number in range(1, 6):
        assert found[number, 14, 4 * number + 6] == 1
        assert found[number, 14, 4 * number - 2] == 0


def test_only_near_patches_are_asked() -> None:
    """The same token far away is out of reach."""
    tokens = torch.eye(16)[:, None].expand(16, 1, 16)[None].clone()  # a column of 16 patches, each its own
    tokens = torch.cat([tokens, tokens.flip(1)])
    first = torch.zeros(16, 1, 2)
    first[:, :, 0], first[0, 0] = 1, torch.tensor([0.0, 1.0])
    near, far = (propagate(tokens, first, PropagationRule(neighbourhood=reach, top=1)) for reach in (12, 15))
    assert far[1, 15, 0, 1] == 1  # the last patch looks like the first
    assert near[1, 15, 0, 1] == 0


def test_patch_labels_and_pixels() -> None:
    mask = np.arange(16).reshape(4, 4) // 8
    assert patch_labels(mask, (2, 2), 2).argmax(-1).tolist() == [[0, 0], [1, 1]]
    labels = torch.tensor([[[[0.95, 0.05], [0.9, 0.1]]]])  # one frame, one row, two patches
    # Scaled by class over the frame, a faded object still shows where it is strongest.
    assert to_pixels(labels, (2, 4))[0].tolist() == [[0, 0, 1, 1]] * 2
    assert to_pixels(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), (2, 4)).sum() == 0


def test_bad_input() -> None:
    tokens, labels = torch.ones(2, 2, 2, 3), torch.ones(2, 2, 1)
    with pytest.raises(BadInput, match="tokens"):
        propagate(tokens[0], labels)
    with pytest.raises(BadInput, match=r"first .* the shape \(2, 2, C\)"):
        propagate(tokens, labels[:1])
    with pytest.raises(BadInput, match="top"):
        PropagationRule(top=0)
    with pytest.raises(BadInput, match="temperature"):
        PropagationRule(temperature=0)
