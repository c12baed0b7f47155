"""Token merging in timm's models: equal without merging, lossless on duplicates, fewer tokens, or a clear refusal."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import create_rope_embed
from timm.models import beit, deit, eva, vision_transformer, vision_transformer_relpos
from timm.models._registry import _model_entrypoints
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import percepta
from percepta.errors import BadInput
from percepta.speedups.adapters import adapter_for
from percepta.speedups.adapters.foreign import rotated, rotation_at
from percepta.speedups.adapters.timm import coordinates, frequencies, rotates_halves
from tests.parity.test_perception_encoder import peer_and_ours

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5}
ROPE: dict[str, Any] = dict(SMALL, use_rot_pos_emb=True, num_reg_tokens=2)


def vit(**options: Any) -> nn.Module:
    return vision_transformer.VisionTransformer(**(SMALL | options))


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "vit with registers, layer scale, norms of queries and keys": lambda: vit(
        reg_tokens=3, no_embed_class=True, init_values=1e-5, qk_norm=True
    ),
    "vit, mean": lambda: vit(class_token=False, global_pool="avg"),
    "vit, maximum": lambda: vit(global_pool="max", pre_norm=True),
    "vit, mean and maximum with prefix": lambda: vit(global_pool="avgmax", pool_include_prefix=True),
    "vit, attention pooling": lambda: vit(class_token=False, global_pool="map"),
    "vit, refined pooling": lambda: vit(global_pool="prr", pool_include_prefix=True),
    "vit, any size": lambda: vit(dynamic_img_size=True, dynamic_img_pad=True),
    "vit, norms behind": lambda: vit(block_fn=vision_transformer.ResPostBlock, init_values=0.1),
    "vit, two of each": lambda: vit(block_fn=vision_transformer.ParallelThingsBlock),
    "vit, both at once": lambda: vit(block_fn=vision_transformer.ParallelScalingBlock, qkv_bias=False, qk_norm=True),
    "vit, differences": lambda: vit(attn_layer="diff"),
    "deit, distilled": lambda: deit.VisionTransformerDistilled(**SMALL),
    "eva": lambda: eva.Eva(**SMALL, init_values=0.1, global_pool="avg"),
    "beit": lambda: beit.Beit(**SMALL, init_values=0.1),
    "beit, gated MLP": lambda: beit.Beit(**SMALL, swiglu_mlp=True, scale_mlp=True, global_pool="token"),
}
ROTARY: dict[str, Callable[[], nn.Module]] = {
    "eva02": lambda: eva.Eva(**ROPE, ref_feat_shape=(2, 2), swiglu_mlp=True, scale_mlp=True, qkv_fused=False),
    "eva02, one norm more": lambda: eva.Eva(**ROPE, scale_attn_inner=True, qkv_bias=False, use_post_norm=True),
    "pe": lambda: eva.Eva(
        **ROPE,
        attn_type="rope",
        use_pre_transformer_norm=True,
        rope_grid_indexing="xy",
        rope_grid_offset=1.0,
        global_pool="map",
        dynamic_img_size=True,
    ),
    "rope-vit": lambda: eva.Eva(**ROPE, attn_type="rope", rope_type="mixed", rope_grid_indexing="xy"),
    "dinov3": lambda: eva.Eva(
        **ROPE, attn_type="rope", rope_type="dinov3", rope_rotate_half=True, dynamic_img_size=True, init_values=1e-5
    ),
    "sapiens": lambda: eva.Eva(
        **ROPE, attn_type="rope", rope_type="dinov3", qkv_fused=False, num_kv_heads=2, qk_norm=True, init_values=0.1
    ),
    "mrope": lambda: eva.Eva(**ROPE, attn_type="rope", rope_type="mrope"),
}
ALL = PLAIN | ROTARY


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model with parameters that all matter."""
    torch.manual_seed(0)
    model = ALL[name]().eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def pictures(size: int = 32, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", ALL)
def test_fewer_tokens_and_back(name: str) -> None:
    model, x = built(name), pictures()
    plain, attributes, keys = model(x), set(vars(model)), list(model.state_dict())
    assert percepta.merge_tokens(model, r=0).trace(x).size is None
    assert set(vars(model)) == attributes
    assert torch.equal(model(x), plain)
    merged = percepta.merge_tokens(model, schedule=[3, 2, 2], last_block=True)
    tokens = merged.trace(x)
    assert tokens.x.shape[1] == merged.tokens[-1] == 16 + model.num_prefix_tokens - 7
    assert torch.equal(tokens.size.sum(dim=1), torch.full((2,), 16.0 + model.num_prefix_tokens))
    assert tokens.size[:, : model.num_prefix_tokens].eq(1).all()
    assert list(model.state_dict()) == keys
    assert model(x).shape == plain.shape
    assert not torch.allclose(model(x), plain, atol=1e-5)
    merged.remove()
    assert set(vars(model)) == attributes
    assert torch.equal(model(x), plain)


def patterned(model: Any) -> Tensor:
    """Pictures of 8 patches, each twice in a row, and no positions that could tell the two apart."""
    with torch.no_grad():
        if getattr(model, "pos_embed", None) is not None:
            model.pos_embed.zero_()
        if hasattr(getattr(model, "rope", None), "freqs"):
            model.rope.freqs.zero_()
        if hasattr(getattr(model, "rope", None), "periods"):
            model.rope.periods.fill_(1e30)
    patches = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = patches.repeat_interleave(2, dim=2).unflatten(2, (4, 4))  # (B, 3, rows, columns, 8, 8)
    return grid.permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 32, 32)


@pytest.mark.parametrize("name", [*PLAIN, "rope-vit", "dinov3"])
def test_duplicates_are_lossless(name: str) -> None:
    model = built(name, torch.float64)
    x = patterned(model)
    plain, features = model(x), model.forward_features(x)
    percepta.merge_tokens(model, schedule=[5], proportional=True)
    assert (model(x) - plain).abs().max() < 1e-5 * plain.abs().max()  # sums of a merge are float32
    assert (model.forward_features(x) - features).abs().max() < 1e-5 * features.abs().max()
    percepta.merge_tokens(model, schedule=[5], proportional=False)
    assert (model.forward_features(x) - features).abs().max() > 1e-4 * features.abs().max()


@pytest.mark.parametrize("name", ["vit, mean", "deit, distilled", "beit", "pe", "rope-vit"])
def test_intermediates_at_their_places(name: str) -> None:
    model, x = built(name), pictures()
    merged = percepta.merge_tokens(model, schedule=[4, 3], last_block=True)
    final, maps = model.forward_intermediates(x, indices=[1, -1])
    assert [entry.shape for entry in maps] == [(2, 32, 4, 4)] * 2
    tokens = merged.trace(x)
    last = torch.stack([row[group] for row, group in zip(tokens.x, tokens.group)])
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), last[:, model.num_prefix_tokens :])
    torch.testing.assert_close(final, model.forward_features(x))
    (only,) = model.forward_intermediates(x, 1, stop_early=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(only, last[:, model.num_prefix_tokens :])
    pairs = model.forward_intermediates(x, [0], return_prefix_tokens=True, intermediates_only=True)
    assert len(pairs[0]) == 2 if model.num_prefix_tokens else pairs[0].shape == (2, 32, 4, 4)
    with pytest.raises(BadInput, match="indices"):
        model.forward_intermediates(x, indices=[7])


@pytest.mark.parametrize("name", [pytest.param("deit, distilled", marks=pytest.mark.slow), "rope-vit"])
def test_compiles_whole_and_follows_copies(name: str) -> None:
    model, x = built(name), pictures()
    merged = percepta.merge_tokens(model, r=2)
    wanted = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), wanted)
    twin = copy.deepcopy(model)
    merged.remove()
    assert torch.equal(twin(x), wanted)
    assert not torch.equal(model(x), wanted)


@pytest.mark.parametrize("name", ["vit", "rope-vit", "beit"])
def test_gradients_with_checkpoints_are_the_same(name: str) -> None:
    model, x = built(name).train(), pictures()
    percepta.merge_tokens(model, r=3)
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        found.append({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
    assert all(torch.allclose(found[0][key], found[1][key], rtol=1e-4, atol=1e-6) for key in found[0])
    assert found[0]["blocks.0.attn.proj.weight"].abs().sum() > 0


@pytest.mark.parametrize("kind", ["cat", "mixed", "dinov3", "mrope"])
@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_rotations_at_places(kind: str, indexing: str) -> None:
    """On the grid as timm rotates; between two places by the mean of their angles."""
    if kind == "mrope" and indexing == "xy":
        return  # timm has none
    options: dict[str, Any] = {"rope_type": kind, "dim": 64, "num_heads": 2, "grid_indexing": indexing}
    options |= {"cat": {"in_pixels": False, "ref_feat_shape": (5, 7)}, "mixed": {"depth": 2}}.get(kind, {})
    rope, grid = create_rope_embed(**options), (3, 4)
    own = rope.get_embed(grid)[1] if kind == "mixed" else rope.get_embed(grid)
    places, turns = coordinates(rope, grid, torch.device("cpu")), frequencies(rope, 1)
    rotation = rotation_at(places[None], turns, 0, rotates_halves(rope))
    ours = torch.cat([rotation.sine, rotation.cosine], dim=-1)[0]
    torch.testing.assert_close(ours, own.expand_as(ours), rtol=0, atol=2e-6)
    x = torch.randn(1, 2, 12, 32)
    torch.testing.assert_close(rotated(x, rotation)[0, 0].norm(dim=-1), x[0, 0].norm(dim=-1))
    middle = rotation_at(places[None, :2].mean(dim=1, keepdim=True), turns, 0, rotates_halves(rope))
    first, second = (torch.complex(part[..., i, :], other[..., i, :]) for i in (0, 1) for part, other in [rotation[:2]])
    torch.testing.assert_close(torch.complex(*middle[:2])[..., 0, :] ** 2, first * second, rtol=0, atol=1e-5)


def test_places_that_move_in_training() -> None:
    torch.manual_seed(0)
    options = {"attn_type": "rope", "rope_type": "dinov3", "rope_rescale_coords": 2.0, "rope_jitter_coords": 1.5}
    model, x = eva.Eva(**ROPE, **options, rope_shift_coords=0.2).eval(), pictures()
    percepta.merge_tokens(model, r=2)
    assert torch.equal(model(x), model(x))
    rope = model.rope.train()
    still, moved = (coordinates(rope.train(mode), (4, 4), torch.device("cpu")) for mode in (False, True))
    assert not torch.equal(still, moved)
    slope = (moved[1:] - moved[:1]) / (still[1:] - still[:1]).where(still[1:] != still[:1], torch.inf)
    assert 0.3 < float(slope.max()) < 3.1  # one stretch for all places
    dropping = eva.Eva(**ROPE, patch_drop_rate=0.5)
    percepta.merge_tokens(dropping, r=2)
    with pytest.raises(BadInput, match="patch_drop_rate"):
        dropping.train()(x)


def test_other_sizes_and_features_only() -> None:
    model = built("pe")
    percepta.merge_tokens(model, r=2)
    assert model(pictures(48)).shape == (2, 5)
    getter = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=64, features_only=True).eval()
    percepta.merge_tokens(getter, schedule=[3, 2])
    assert [entry.shape for entry in getter(pictures(64))] == [(2, 192, 4, 4)] * 3


def test_costs_are_counted() -> None:
    vit_b = timm.create_model("vit_base_patch16_224")
    adapter = adapter_for(vit_b)
    assert adapter.shape().total([0] * 12) / 1e9 == pytest.approx(17.56, abs=0.03)  # the sheet's table
    assert adapter.shape().total([16] * 12) / 1e9 == pytest.approx(8.77, abs=0.03)
    assert not adapter.last_block_matters
    assert not adapter_for(timm.create_model("vit_base_patch16_224.mae", depth=1)).proportional
    pooled = built("vit, attention pooling")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        pooled(pictures()[:1])
    assert adapter_for(pooled).shape().total([0] * 3) == counter.get_total_flops() // 2


@torch.no_grad()
def test_pe_merges_as_in_our_tower(tmp_path: Path) -> None:
    """The same weights, two implementations of merging: of ours and around timm's."""
    peer, ours = peer_and_ours(
        "pe-core-t16-384", "vit_pe_core_tiny_patch16_384", tmp_path, depth=3, position_rule="timm"
    )
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    first, second = (percepta.merge_tokens(model, r=6) for model in (peer, ours))
    theirs, mine = first.trace(x), second.trace(x)
    assert torch.equal(theirs.group, mine.group)
    torch.testing.assert_close(theirs.x, mine.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(peer(x), ours(x), rtol=1e-4, atol=1e-4)


# Refusals


def relative() -> nn.Module:
    return beit.Beit(**SMALL, use_rel_pos_bias=True)


class Rewritten(vision_transformer.VisionTransformer):
    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return super().forward_features(x.flip(-1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (relative, "each pair of places"),
        (lambda: beit.Beit(**SMALL, use_shared_rel_pos_bias=True), "each pair of places"),
        (lambda: vision_transformer_relpos.VisionTransformerRelPos(**SMALL), "each pair of places"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1)), "in windows"),
        (lambda: timm.create_model("samvit_base_patch16_224", depth=1), "windows"),
        (lambda: timm.create_model("hiera_tiny_224"), "pooled on a grid"),
        (lambda: timm.create_model("resnet18"), "none of timm's"),
        (lambda: vit(block_fn=vision_transformer.DiffParallelScalingBlock), "DiffParallelScalingBlock"),
        (lambda: Rewritten(**SMALL), "of its own"),
        (lambda: nn.Linear(2, 2), "vision models of percepta, timm and transformers"),
    ],
)
def test_refusals(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        percepta.merge_tokens(make(), r=2)


def test_a_subclass_with_the_same_trunk_works() -> None:
    class Own(vision_transformer.VisionTransformer):
        def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
            return 2 * super().forward(x)

    merged = percepta.merge_tokens(Own(**SMALL).eval(), r=2)
    assert merged.trace(pictures()).x.shape[1] == 13


@pytest.mark.parametrize("change", ["block", "attention", "trunk"])
def test_what_changed_in_timm_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it makes almost no difference with the weights at hand."""
    model = vit(init_values=1e-9)
    kind = {"block": vision_transformer.Block, "attention": type(model.blocks[0].attn), "trunk": type(model)}[change]
    name = "forward_features" if change == "trunk" else "forward"
    own = getattr(kind, name)
    if change == "trunk":
        monkeypatch.setattr(kind, name, lambda self, x, **options: own(self, x, **options).roll(1, 1))
    else:
        monkeypatch.setattr(kind, name, lambda self, x, **options: own(self, 1.01 * x, **options))
    with pytest.raises(BadInput, match="differ"):
        percepta.merge_tokens(model, r=2)
    assert "forward_features" not in vars(model)


def test_masks_and_hooks_are_refused_while_merging() -> None:
    model, x = built("vit"), pictures()
    merged = percepta.merge_tokens(model, r=2)
    with pytest.raises(BadInput, match="causal"):
        model(x, is_causal=True)
    hook = model.blocks[1].register_forward_hook(lambda *_: None)
    with pytest.raises(BadInput, match="hook"):
        model(x)
    merged.remove()
    model(x)
    hook.remove()
    model.forward_features = lambda x, **_: x
    with pytest.raises(BadInput, match="of its own"):
        percepta.merge_tokens(model, r=2)
    with pytest.raises(BadInput, match="meta device"), torch.device("meta"):
        percepta.merge_tokens(vit(), r=2)


# The walk over timm's names

PATTERNS = ("*vit*", "*eva*", "deit*", "beit*")
SUPPORTED = ("vision_transformer", "vision_transformer_hybrid", "vitamin", "deit", "eva", "beit")
SIZES = "tiny|small|little|medium|base|betwixt|large|huge|giant|giantopt|gigantic|enormous|xlarge|xsmall|so|wee|m|b|xp"


KNOWN_REASONS = (
    "it is none of timm's VisionTransformer, VisionTransformerDistilled, Eva and Beit.",
    "its attention adds a bias for each pair of places, and a merged token has many.",
    "its attention is in windows and adds a bias for each pair of places.",
    "its pictures come in mixed sizes, with masks.",
    "it is made of timm.models.vision_transformer.DiffParallelScalingBlock, unknown to percepta.",
)


def module_of(name: str) -> str:
    return str(_model_entrypoints[name].__module__.rpartition(".")[2])


def all_names() -> list[str]:
    return sorted({name for pattern in PATTERNS for name in timm.list_models(pattern)})


def one_of_each() -> list[str]:
    """One name of each family: what is left of a name without sizes and numbers; of other modules one name each."""
    found: dict[str, str] = {}
    for name in all_names():
        module = module_of(name)
        bare = re.sub(r"\d+", "", re.sub(rf"(?<=_)({SIZES})\d*(?=_|$)", "", name))
        found.setdefault(f"{module}:{bare}" if module in SUPPORTED else module, name)
    return list(found.values())


def shallow(name: str, **more: Any) -> nn.Module:
    """A model of this name with two blocks where it can be told so; on the meta device where it is not vision only."""
    heads = {"num_kv_heads": 2} if "sapiens" in name else {}
    if module_of(name) not in SUPPORTED:
        with torch.device("meta"):
            return timm.create_model(name)
    for options in ({**more, **heads, "depth": 2}, {**heads, "depth": 2}):
        try:
            return timm.create_model(name, num_classes=3, **options)
        except (TypeError, AssertionError):  # hybrids fix their widths
            continue
    raise AssertionError(f"{name} cannot be built with two blocks")


def outcome(model: nn.Module) -> str:
    """ "merges", where equality without merging and fewer tokens with it were found by the check, or the reason."""
    try:
        merged = percepta.merge_tokens(model, schedule=[2, 0])
    except BadInput as error:
        model_name, _, reason = str(error).partition(": ")
        return reason if model_name.endswith(type(model).__name__) else f"a message without the model's name: {error}"
    whole = merged._adapter.shape().tokens
    return "merges" if merged.tokens == [whole - 2, whole - 2] else "merges another number"


def walk(names: list[str], **more: Any) -> Counter[str]:
    """How many names merge, and how many do not for which reason; no other outcome is allowed."""
    counts = Counter(outcome(shallow(name, **more)) for name in names)
    for reason, count in counts.most_common():
        print(f"{count:4} {reason}")  # shown by pytest -rP
    assert set(counts) <= {"merges", *KNOWN_REASONS}
    return counts


def test_one_name_of_each_family_merges_or_says_why_not() -> None:
    counts = walk(one_of_each(), embed_dim=64, num_heads=4)
    assert counts["merges"] >= 40
    assert sum(counts.values()) == len(one_of_each())


@pytest.mark.slow
def test_every_name_merges_or_says_why_not() -> None:
    """At its own widths, but for those of billions of parameters."""
    names = all_names()
    large = [name for name in names if re.search("giant|gigantic|enormous|[57]b", name)]
    counts = walk(sorted(set(names) - set(large))) + walk(large, embed_dim=256, num_heads=4)
    assert counts["merges"] >= 250
    assert sum(counts.values()) == len(names)
