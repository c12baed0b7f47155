from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import TinyModel
from torch import Tensor, nn

import percepta
from percepta.errors import BadInput
from percepta.training import make_recipe, read_records, run
from percepta.training.batching import Inputs
from percepta.training.learner import Learner
from percepta.training.masking import MaskRegularisation, draw_hidden, spread
from percepta.training.objectives import masked_token_loss
from percepta.training.ranks import Ranks
from percepta.training.recipe import MaskRecipe, Recipe


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return percepta.build("pe-core-nano", depth=2, text={"depth": 1})


def pictures(count: int = 4, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def recipe(out: Path = Path("unused"), **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "pe-core-nano",
        "model_overrides": {"depth": 2, "text": {"depth": 1}},
        "out": str(out),
        "steps": 30,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "schedule": "constant",
        "hard_negative_weight": 0,
        "log_every": 5,
        "evaluate_every": 0,
        "stages": [{"share": 1, "image_size": 32}],
        "mask": {"share": 0.5},
        "data": {"workers": 0, "scenes": {"size": 32, "pool": 16}},
    }
    return make_recipe({**values, **changes})


def test_hidden_places_do_not_see_their_own_pixels(model: Any) -> None:
    """Other pixels under the mask change nothing; the same change beside the mask changes everything."""
    tower, hidden = model.vision.eval(), draw_hidden(4, 16, 0.4)
    mask = MaskRegularisation(MaskRecipe(fill="learned"), tower)
    patch = tower.config.patch_size
    under = hidden.view(4, 1, 32 // patch, 32 // patch).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    given = pictures()
    other = torch.where(under, torch.randn_like(given), given)
    with torch.no_grad():
        first = mask.masked_tokens(tower, given, hidden)
        assert torch.equal(first, mask.masked_tokens(tower, other, hidden))
        beside = mask.masked_tokens(tower, torch.where(under, given, torch.randn_like(given)), hidden)
    assert ((first - beside).abs().amax(-1) > 1e-3).all()


def test_nothing_hidden_is_the_ordinary_pass(model: Any) -> None:
    tower = model.vision.eval()
    nothing = torch.zeros(4, 16, dtype=torch.bool)
    with torch.no_grad():
        tokens = tower.last_tokens(pictures())
        masked = MaskRegularisation(MaskRecipe(), tower).masked_tokens(tower, pictures(), nothing)
        assert torch.equal(masked, tokens.x)
        assert torch.equal(tower.read_out(tokens), tower(pictures()))


@pytest.mark.parametrize("after_norm", [True, False])
@pytest.mark.parametrize("fill", ["zero", "learned"])
def test_the_loss_is_that_of_the_copied_pictures(model: Any, fill: Any, after_norm: bool) -> None:
    tower = model.vision.eval()
    mask = MaskRegularisation(MaskRecipe(share=0.5, ratio=0.25, fill=fill, after_norm=after_norm), tower)
    tokens = tower.last_tokens(pictures())
    torch.manual_seed(5)
    loss = mask(tower, pictures(), tokens)
    torch.manual_seed(5)
    hidden = draw_hidden(2, 16, 0.25)
    norm = tower.norm_post if after_norm else nn.Identity()
    masked = norm(mask.masked_tokens(tower, pictures()[[0, 2]], hidden))[:, 1:]
    torch.testing.assert_close(loss, masked_token_loss(masked, norm(tokens.x[[0, 2]])[:, 1:], hidden))
    loss.backward()
    assert [name for name, _ in mask.named_parameters()] == (["filling"] if fill == "learned" else [])
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in mask.parameters())


def test_no_gradient_leaks_either_way(model: Any) -> None:
    """The mask loss gives the full pass no gradient, the contrastive loss gives the copy none."""
    tower = model.vision
    mask = MaskRegularisation(MaskRecipe(share=1.0), tower)
    full = tower.last_tokens(pictures())
    full.x.retain_grad()
    copies: list[Tensor] = []
    ordinary = tower.last_tokens

    def remember(x: Tensor, change: Any = None) -> Any:
        tokens = ordinary(x, change)
        tokens.x.retain_grad()
        copies.append(tokens.x)
        return tokens

    tower.last_tokens = remember
    masked_loss = mask(tower, pictures(), full)
    (copy,) = copies
    masked_loss.backward(retain_graph=True)
    assert full.x.grad is None
    assert copy.grad is not None
    assert copy.grad.any()
    copy.grad = None
    tower.read_out(full).square().sum().backward()
    assert full.x.grad is not None
    assert copy.grad is None


def test_the_learner_adds_the_weighted_loss(model: Any) -> None:
    tokens = model.tokenize(["a", "b", "c", "d"])
    ids = torch.arange(4)
    inputs = Inputs(pictures(), ((4, 1),), tokens, ids, ids, None, None)
    plan = recipe()
    plain = Learner(model, replace(plan, mask=None), Ranks())(inputs)
    losses = {}
    for weight in (1.0, 3.0):
        torch.manual_seed(2)
        learner = Learner(model, replace(plan, mask=MaskRecipe(share=0.5, weight=weight)), Ranks())
        losses[weight] = dict(zip(learner.names, learner(inputs), strict=True))
        torch.testing.assert_close(losses[weight]["contrastive_loss"], plain[0])
    for weight, found in losses.items():
        torch.testing.assert_close(found["loss"], found["contrastive_loss"] + weight * found["mask_loss"])
    assert losses[1.0]["mask_loss"] == losses[3.0]["mask_loss"] > 0


def test_both_losses_fall_in_training(tmp_path: Path) -> None:
    run(recipe(tmp_path, mask={"share": 0.5, "fill": "learned"}))
    rows = [row for row in read_records(tmp_path) if "loss" in row]
    for name in ("contrastive_loss", "mask_loss"):
        assert float(rows[-1][name]) < 0.8 * float(rows[0][name])
    from safetensors import safe_open

    with safe_open(tmp_path / "training.safetensors", "pt") as state:
        assert '"fill": "learned"' in state.metadata()["percepta_training"]
        assert "learner.mask.filling" in state.keys()  # noqa: SIM118
    with safe_open(tmp_path / "model.safetensors", "pt") as result:
        assert not [name for name in result.keys() if "filling" in name]  # noqa: SIM118


def test_a_share_of_every_source_is_copied() -> None:
    assert spread(64, 1 / 16) == [0, 16, 32, 48]
    assert spread(4, 1 / 16) == [0]
    assert spread(5, 1.0) == [0, 1, 2, 3, 4]


def test_as_many_places_are_hidden_in_every_picture() -> None:
    torch.manual_seed(0)
    hidden = draw_hidden(50, 16, 0.4)
    assert set(hidden.sum(1).tolist()) == {6}
    assert (hidden.sum(0) > 5).all()
    assert draw_hidden(1, 2, 0.01).sum() == draw_hidden(1, 2, 0.99).sum() == 1
    with pytest.raises(BadInput, match="at least two patches"):
        draw_hidden(1, 1, 0.4)


def test_models_without_a_tower_are_refused() -> None:
    with pytest.raises(BadInput, match="mask needs a model whose vision tower"):
        Learner(TinyModel(), recipe(), Ranks())


@pytest.mark.parametrize("field", [{"share": 0}, {"ratio": 1.0}, {"weight": 0}])
def test_impossible_masks_are_explained(field: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"mask: {next(iter(field))} of mask must be"):
        recipe(mask=field)
