from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import percepta
from percepta.errors import BadInput
from percepta.training.interaction import Clicks, Interaction, Plan, RandomUser, draw_box, draw_click, draw_plan
from percepta.training.segment_recipe import SegmentRecipe
from percepta.training.segment_validation import CentreUser

SMALL: dict[str, Any] = {
    "image_size": 64,
    "width": 32,
    "decoder_heads": 2,
    "decoder_hidden": 64,
    "decoder_inner": 32,
    "quality_width": 32,
    "memory_width": 16,
    "memory_layers": 1,
    "memory_hidden": 64,
    "trunk": {
        "embed_dim": 16,
        "stages": [1, 1, 1, 1],
        "windows": [8, 4, 4, 2],
        "global_blocks": [],
        "background": [4, 4],
    },
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disk(x: float, y: float, radius: float, size: int = 64) -> Tensor:
    axis = torch.arange(size)
    return (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2


def at(clicks: Clicks, masks: Tensor) -> list[bool]:
    """Whether each click is on its mask."""
    return [bool(mask[int(y), int(x)]) for mask, (x, y) in zip(masks, clicks.points[:, 0].tolist(), strict=True)]


def test_a_first_click_is_anywhere_in_the_object() -> None:
    truth = disk(20, 40, 2).expand(4000, -1, -1)
    clicks = draw_click(truth, None, generator())
    assert all(at(clicks, truth))
    assert clicks.labels.eq(1).all()
    counts = Counter(map(tuple, clicks.points[:, 0].int().tolist()))
    assert len(counts) == truth[0].sum()
    assert max(counts.values()) < 2 * 4000 / len(counts)


def test_corrections_are_uniform_over_all_errors_and_say_what_is_true() -> None:
    """A missed part of 1/4 and a wrong part of 3/4 of the errors are clicked in that proportion."""
    truth, seen = torch.zeros(64, 64, dtype=torch.bool), torch.zeros(64, 64, dtype=torch.bool)
    truth[:10, :20], seen[:10, 10:20], seen[40:50, :30] = True, True, True
    clicks = draw_click(truth.expand(2000, -1, -1), seen.expand(2000, -1, -1), generator())
    wrong = (truth ^ seen).expand(2000, -1, -1)
    assert all(at(clicks, wrong))
    assert [bool(label) for label in clicks.labels[:, 0]] == at(clicks, truth.expand(2000, -1, -1))
    assert clicks.labels.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_a_perfect_mask_gets_a_click_on_the_background() -> None:
    truth = disk(30, 30, 10).expand(50, -1, -1)
    clicks = draw_click(truth, truth, generator())
    assert not any(at(clicks, truth))
    assert clicks.labels.eq(0).all()
    full = torch.ones(2, 8, 8, dtype=torch.bool)
    assert draw_click(full, full, generator()).points.shape == (2, 1, 2)  # no background: anywhere, but somewhere


def test_boxes_are_careless_within_their_limits() -> None:
    truth = torch.zeros(500, 64, 64, dtype=torch.bool)
    truth[:, 10:30, 20:60] = True  # 20 high, 40 wide; the right edge is near the border
    exact = draw_box(truth, 0.0, 0.0, generator())
    assert exact.points[0].tolist() == [[20, 10], [59, 29]]
    assert exact.labels[0].tolist() == [2, 3]
    noisy = draw_box(truth, 0.1, 20.0, generator()).points - exact.points
    assert noisy[..., 0].abs().max().item() == pytest.approx(3.9, abs=0.1)
    assert noisy[..., 1].abs().max().item() == pytest.approx(1.9, abs=0.1)
    assert (draw_box(truth, 0.1, 1.0, generator()).points - exact.points).abs().max() <= 1.0
    assert draw_box(truth, 1.0, 20.0, generator()).points.max() <= 63
    assert draw_box(torch.zeros(1, 8, 8, dtype=torch.bool), 0.1, 20.0, generator()).points.eq(0).all()


def test_plans_have_the_papers_shares() -> None:
    draws = generator()
    plans = [draw_plan(SegmentRecipe(), 8, draws) for _ in range(2000)]
    masks = [plan for plan in plans if "mask" in plan.prompts.values()]
    assert len(masks) / len(plans) == pytest.approx(0.5, abs=0.04)
    assert all(not plan.corrected and set(plan.prompts.values()) == {"mask"} for plan in masks)
    pointed = [plan for plan in plans if plan not in masks]
    kinds = Counter(kind for plan in pointed for kind in plan.prompts.values())
    assert kinds["box"] / sum(kinds.values()) == pytest.approx(0.5, abs=0.04)
    assert Counter(len(plan.prompts) for plan in plans)[2] / len(plans) == pytest.approx(0.5, abs=0.04)
    assert Counter(len(plan.corrected) for plan in pointed)[2] / len(pointed) == pytest.approx(0.75, abs=0.04)
    for plan in plans:
        assert next(iter(plan.prompts)) == 0
        assert plan.order[: len(plan.prompts)] == list(plan.prompts)
        assert sorted(plan.order) == list(range(8))
        rest = plan.order[len(plan.prompts) :]
        assert rest == sorted(rest)
        assert plan.corrected >= set(plan.prompts) or not plan.corrected


def test_single_pictures_are_always_pointed_at_and_corrected() -> None:
    draws = generator()
    for _ in range(100):
        plan = draw_plan(SegmentRecipe(), 1, draws)
        assert plan.prompts[0] in ("box", "click")
        assert (plan.corrected, plan.clicks) == ({0}, 7)


def dialogue(plan: Plan, clips: int = 2, train: bool = True) -> tuple[Any, list[Any], Tensor]:
    torch.manual_seed(0)
    model = percepta.build("sam2-nano", **SMALL).train(train)
    pictures = torch.randn(plan.frames * clips, 3, 64, 64, generator=generator(1))
    which = torch.tensor([0, 1, 1])
    truth = torch.stack([disk(20, 20, 9), disk(40, 30, 12), disk(15, 45, 6)])[:, None].repeat(1, plan.frames, 1, 1)
    user = RandomUser(SegmentRecipe(), generator(2))
    steps = Interaction(model, model.encode_image(pictures), which, truth, user).run(plan)
    return model, steps, pictures


def test_steps_have_three_masks_while_there_is_at_most_one_point() -> None:
    plan = Plan(3, {0: "click", 2: "box"}, frozenset([0, 1, 2]), 2)
    _, steps, _ = dialogue(plan)
    told = [(step.frame, step.clicks, step.candidates.shape[1]) for step in steps]
    one = [(0, 1, 3), (0, 2, 1), (0, 3, 1), (2, 0, 1), (2, 1, 1), (2, 2, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]
    assert told == one  # of a tracked frame one mask, as the nano model's config says


def test_masks_that_are_given_teach_only_what_follows() -> None:
    model, steps, _ = dialogue(Plan(3, {0: "mask"}))
    assert [step.frame for step in steps] == [1, 2]
    sum(step.candidates.sum() for step in steps).backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not [name for name in without if name.startswith(("memory", "mask_shrink", "pointer"))]


def test_objects_do_not_disturb_each_other() -> None:
    plan = Plan(3, {0: "mask"})
    model, steps, pictures = dialogue(plan, train=False)
    truth = disk(40, 30, 12)[None, None].repeat(1, 3, 1, 1)
    features = model.encode_image(pictures)
    alone = Interaction(model, features, torch.tensor([1]), truth, CentreUser()).run(plan)
    for step, single in zip(steps, alone, strict=True):
        torch.testing.assert_close(step.logits[1:2], single.logits, atol=1e-4, rtol=1e-4)


def test_a_session_tells_what_the_interaction_does() -> None:
    """The code that trains is, in evaluation mode, what a session computes: mask on the first frame, then tracking."""
    model, steps, pictures = dialogue(Plan(4, {0: "mask"}), train=False)
    session = model.session(pictures.unflatten(0, (4, 2))[:, 0], (64, 64))
    session.add_mask(0, 1, disk(20, 20, 9))
    for masks in session.propagate():
        if masks.frame:
            step = next(one for one in steps if one.frame == masks.frame)
            large = torch.nn.functional.interpolate(step.logits[:1], (64, 64), mode="bilinear", align_corners=False)
            torch.testing.assert_close(masks.logits, large[:, 0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("field", [{"points": 2}, {"clicks": -1}, {"prompted_frames": 0}, {"validation_clicks": (0,)}])
def test_impossible_users_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(field))} of segment must be"):
        SegmentRecipe(**field)
