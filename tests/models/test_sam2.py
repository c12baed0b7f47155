"""SAM 2 on pictures: sizes, prompts, layouts, and what the published code refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import percepta
from percepta.errors import BadInput, PerceptaError
from percepta.models.sam2 import layouts
from tests.models.sam2_tiny import TINY, tiny_model

KEYS = Path(os.environ.get("PERCEPTA_KEYS", Path(__file__).parents[3] / "shared" / "specs" / "keys"))
OFFICIAL = list(percepta.list_models("sam2*-hiera-*"))
COUNTS = {"tiny": 471, "small": 519, "base-plus": 615, "large": 903}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def features(model: Any) -> Any:
    with torch.no_grad():
        return model.encode_image(pictures(2))


def pictures(count: int, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    assert first.shape == second.shape
    assert torch.allclose(first, second, atol=1e-4), (first - second).abs().max()


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_parameters_and_keys(name: str) -> None:
    model, card = percepta.build(name, device="meta"), percepta.describe(name)
    assert sum(value.numel() for value in model.parameters()) == card.parameters
    table = layouts(model.config)["official"]
    derived = table.to_foreign(model.state_dict())
    size = name.split("-hiera-")[1]
    assert len(derived) == COUNTS[size] - (0 if name.startswith("sam2.1") else 3)
    if KEYS.is_dir():
        expected = json.loads((KEYS / f"{card.aliases[0].replace('.', '_')}.json").read_text())["keys"]
        assert {key: list(value.shape) for key, value in derived.items()} == expected


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_values_survive_every_layout(model: Any, layout: str, tmp_path: Path) -> None:
    file = percepta.save(model, tmp_path / "model.pt", layout=layout)
    loaded = percepta.load("sam2.1-hiera-tiny", weights=file, **TINY)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_the_official_wrapper_is_opened_and_another_version_is_refused(model: Any, tmp_path: Path) -> None:
    state = layouts(model.config)["official"].to_foreign(model.state_dict())
    torch.save({"model": state}, tmp_path / "checkpoint.pt")
    percepta.load("sam2.1-hiera-tiny", weights=tmp_path / "checkpoint.pt", **TINY)
    with pytest.raises(PerceptaError, match=r"no_obj_embed_spatial|absent"):
        percepta.load("sam2-hiera-tiny", weights=tmp_path / "checkpoint.pt", **TINY)


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 96, 160])
def test_any_image_size_that_windows_tile(side: int) -> None:
    """The published predictor has the sizes of 1024 pixels written into it."""
    other = tiny_model(image_size=side)
    found = other.predict(other.encode_image(pictures(1, side)), torch.tensor([[[3.0, 5.0]]]), torch.ones(1, 1))
    assert found.logits.shape == (1, 3, side // 4, side // 4)
    assert torch.isfinite(found.logits).all()


def test_sizes_that_windows_cannot_tile_are_refused(model: Any) -> None:
    with pytest.raises(BadInput, match="multiple of 32"):
        percepta.build("sam2.1-hiera-tiny", **{**TINY, "image_size": 100})
    with pytest.raises(BadInput, match="pictures"):
        model.encode_image(torch.zeros(1, 3, 48, 48))


@torch.no_grad()
def test_prompts_of_one_picture_equal_prompts_one_by_one(model: Any, features: Any) -> None:
    points, labels = torch.rand(9, 2, 2) * 64, torch.randint(0, 2, (9, 2))
    masks = torch.randn(9, 1, 16, 16)
    for extra in ({}, {"masks": masks}):
        together = model.predict(features[0], points, labels, **extra)
        for row in range(9):
            own = {name: value[row : row + 1] for name, value in extra.items()}
            alone = model.predict(features[0], points[row : row + 1], labels[row : row + 1], **own)
            for whole, single in zip(together, alone, strict=True):
                close(whole[row : row + 1], single)


@torch.no_grad()
def test_pictures_together_equal_pictures_apart(model: Any, features: Any) -> None:
    boxes = torch.tensor([[4.0, 5.0, 40.0, 50.0], [10.0, 3.0, 60.0, 30.0], [1.0, 1.0, 20.0, 20.0]])
    which = torch.tensor([1, 0, 1])
    together = model.predict(features, boxes=boxes, which=which, multimask=False)
    for row, picture in enumerate(which.tolist()):
        alone = model.predict(features[picture], boxes=boxes[row : row + 1], multimask=False)
        close(together.logits[row : row + 1], alone.logits)


@torch.no_grad()
def test_many_prompts_are_decoded_in_parts(features: Any, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    points, labels = torch.rand(11, 1, 2) * 64, torch.ones(11, 1)
    whole = model.predict(features[1], points, labels)
    monkeypatch.setattr("percepta.models.sam2.model.TOGETHER", 4 * 4 * 4)
    for first, second in zip(whole, model.predict(features[1], points, labels), strict=True):
        close(first, second)


@torch.no_grad()
def test_shared_pictures_cost_less(model: Any, features: Any) -> None:
    def cost(**given: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            model.predict(points=torch.ones(8, 1, 2), labels=torch.ones(8, 1), **given)
        return int(counter.get_total_flops())

    assert cost(features=features[0]) < 0.95 * cost(features=features, which=torch.tensor([0, 1] * 4))


@torch.no_grad()
def test_a_box_is_two_points_in_front_of_the_clicks(model: Any, features: Any) -> None:
    boxes, points = torch.tensor([[4.0, 5.0, 40.0, 50.0]]), torch.tensor([[[20.0, 20.0]]])
    boxed = model.predict(features[0], points, torch.ones(1, 1), boxes=boxes)
    corners = torch.cat([boxes.view(1, 2, 2), points], dim=1)
    close(boxed.logits, model.predict(features[0], corners, torch.tensor([[2, 3, 1]])).logits)


@torch.no_grad()
def test_qualities_are_shares_and_one_mask_is_one_of_the_four(model: Any, features: Any) -> None:
    points, labels = torch.rand(4, 1, 2) * 64, torch.ones(4, 1)
    three = model.predict(features[0], points, labels)
    assert ((three.iou >= 0) & (three.iou <= 1)).all()
    unsteady = tiny_model(stability_threshold=1.1)
    best = unsteady.predict(unsteady.encode_image(pictures(1)), points, labels, multimask=False)
    again = unsteady.predict(unsteady.encode_image(pictures(1)), points, labels)
    rows = torch.arange(4)
    close(best.logits[:, 0], again.logits[rows, again.iou.argmax(1)])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"points": torch.zeros(1, 1, 2)}, "come together"),
        ({"points": torch.zeros(1, 2), "labels": torch.zeros(1)}, r"\(N, P, 2\)"),
        ({"boxes": torch.zeros(1, 3)}, r"\(N, 4\)"),
        ({"masks": torch.zeros(2, 1, 8, 8)}, "masks"),
        ({"points": torch.zeros(2, 1, 2), "labels": torch.zeros(2, 1), "boxes": torch.zeros(1, 4)}, "as many prompts"),
    ],
)
def test_bad_prompts(model: Any, features: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        model.predict(features[0], **given)


def test_prompts_must_say_which_of_several_pictures(model: Any, features: Any) -> None:
    with pytest.raises(BadInput, match="3 prompts need 1 or 3 pictures"):
        model.predict(features, boxes=torch.ones(3, 4))


@pytest.mark.parametrize(
    "overrides",
    [
        {"memory_precision": "int8"},
        {"width": 36},
        {"decoder_inner": 15},
        {"memories": 0},
        {"pointers": 0},
        {"trunk": {**TINY["trunk"], "windows": (8, 4)}},
        {"trunk": {**TINY["trunk"], "global_blocks": (1,)}},
    ],
)
def test_impossible_configs(overrides: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        percepta.build("sam2.1-hiera-tiny", **{**TINY, **overrides})


@torch.no_grad()
def test_memory_attention_mixes_before_it_projects(model: Any) -> None:
    """The way without gradients equals the one with them, where values are projected first."""
    memory, position = torch.randn(2, 34, 16), torch.randn(2, 34, 16)
    x, code = torch.randn(2, 16, 32), torch.randn(1, 16, 32)
    mixed_first = model.memory_attention(x, code, memory, position, 2)
    with torch.enable_grad():
        projected_first = model.memory_attention(x, code, memory, position, 2)
    close(mixed_first, projected_first.detach())


def test_everything_learns() -> None:
    """Every parameter but one table that the released switches never use gets a gradient."""
    model = tiny_model().train()
    features = model.encode_image(pictures(1))
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 10:40, 10:40] = True
    given = model.mask_heads(features, mask)
    points, labels = torch.tensor([[[9.0, 9.0], [3.0, 3.0], [40.0, 40.0], [5.0, 5.0]]]), torch.tensor([[1, 0, 3, 2]])
    clicked = model.heads(model.unconditioned(features), features, points, labels, given.logits, multimask=True)
    absent = torch.full_like(clicked.object_score, -1.0)
    from percepta.models.sam2 import Recollection

    memories = [
        (model.remember(features.coarse, heads.candidates[:, :1], score, prompted=True), row)
        for heads, score, row in ((given, given.object_score, 6), (clicked, absent, 0))
    ]
    seen = Recollection(memories, [(given.pointer, 1), (clicked.pointer, 2), (model.no_pointer, 3)])
    heads = model.heads(model.condition(features.coarse, [seen], 16), features)
    total = sum(part.float().square().mean() for part in (*heads, *clicked, *given))
    for row in range(7):
        total = total + model.memory_times[row].sum()
    total.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == ["no_memory_code"]
