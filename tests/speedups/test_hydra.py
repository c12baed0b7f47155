from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import percepta
from percepta.errors import BadInput
from percepta.layers import Attention
from percepta.layers.hydra import HydraAttention, hydra
from percepta.running.preparing import prepare
from percepta.speedups import attribution, chosen_blocks, hydra_attention
from percepta.speedups.hydra import TimmHydraAttention


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ours(**options: Any) -> Any:
    torch.manual_seed(0)
    return percepta.build("pe-core-nano", **{"depth": 4, "text": None, **options}).eval()


def vit(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 4, "num_classes": 5}
    model = timm.create_model(name, **{**settings, **options}).eval()
    nn.init.normal_(model.head.weight)
    return model


PICTURES = {"ours": (2, 3, 64, 64), "timm": (2, 3, 32, 32)}


def build(kind: str) -> tuple[Any, Tensor]:
    return (ours() if kind == "ours" else vit()), numbers(*PICTURES[kind], seed=1)


@pytest.mark.parametrize(
    ("blocks", "depth", "expected"),
    [
        ("all", 3, (0, 1, 2)),
        ("back:2", 6, (4, 5)),
        ("front:2", 6, (0, 1)),
        ("interleave:2", 6, (2, 5)),
        ("interleave:6", 12, (1, 3, 5, 7, 9, 11)),
        ("interleave:5", 12, (1, 3, 6, 8, 11)),
        ("interleave:3", 3, (0, 1, 2)),
        ("back:0", 6, ()),
        ("interleave:0", 6, ()),
        ([], 6, ()),
        ([-1, 0], 6, (0, 5)),
    ],
)
def test_placements(blocks: Any, depth: int, expected: tuple[int, ...]) -> None:
    assert chosen_blocks(blocks, depth) == expected
    assert chosen_blocks(blocks) == ()


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ("last:2", "blocks must be 'all', 'back:k'"),
        ("back", "blocks must be"),
        ("back:-1", "blocks must be"),
        (2, "blocks must be"),
        ([True], "blocks must be"),
        ("back:7", "k of 'back:7' must be 0 to 6"),
        ([6], "a block index must be 0 to 5 or -6 to -1; got 6"),
        ([5, -1], "each block once"),
    ],
)
def test_impossible_placements_are_named(blocks: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        chosen_blocks(blocks, 6)


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_a_removed_conversion_leaves_no_trace(kind: str) -> None:
    model, picture = build(kind)
    before, state = model(picture), model.state_dict()
    modules = [id(module) for module in model.modules()]
    conversion = hydra_attention(model, "back:2")
    assert conversion.blocks == (2, 3)
    converted = model(picture)
    assert not torch.allclose(converted, before, atol=1e-3)
    assert list(model.state_dict()) == list(state)
    assert all(model.state_dict()[key].data_ptr() == state[key].data_ptr() for key in state)
    conversion.remove()
    conversion.remove()
    assert torch.equal(model(picture), before)
    assert [id(module) for module in model.modules()] == modules


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_nothing_chosen_changes_nothing(kind: str) -> None:
    model, picture = build(kind)
    before = model(picture)
    conversion = hydra_attention(model, [])
    assert torch.equal(model(picture), before)
    assert (conversion.blocks, conversion.macs_saved()) == ((), 0)


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_state_dicts_fit_both_ways_and_copies_are_whole(kind: str) -> None:
    model, picture = build(kind)
    other, _ = build(kind)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    hydra_attention(model, "all")
    model.load_state_dict(other.state_dict())
    hydra_attention(other, "all")
    assert torch.equal(model(picture), other(picture))
    other.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    nn.init.zeros_(next(model.blocks[0].parameters()))
    assert torch.equal(twin(picture), other(picture))
    assert not torch.equal(twin(picture), model(picture))


def test_a_converted_block_of_ours_computes_hydra() -> None:
    model = ours(rope=False)
    hydra_attention(model, [3])
    attention = model.blocks[3].attention
    assert isinstance(attention, HydraAttention)
    x = numbers(2, 5, model.config.width)
    q, k, v = attention.qkv(x).chunk(3, -1)
    torch.testing.assert_close(attention(x)[0], attention.proj(hydra(q, k, v)))
    assert [type(block.attention) for block in model.blocks[:3]] == [Attention] * 3


def test_rotary_positions_are_dropped_and_said_so() -> None:
    model = ours()
    conversion = hydra_attention(model, "back:1")
    assert conversion.unrotated == conversion.blocks == (3,)
    assert hydra_attention(ours(rope=False), "back:1").unrotated == ()
    x, rotation = numbers(1, 17, model.config.width), numbers(17, 4)
    attention = model.blocks[3].attention
    assert torch.equal(attention(x, rotation)[0], attention(x)[0])


def test_the_vision_tower_of_a_whole_model_is_converted() -> None:
    model = percepta.load("pe-core-nano")
    conversion = hydra_attention(model)
    depth = model.config.depth
    assert conversion.blocks == (depth - 2, depth - 1)
    assert isinstance(model.vision.blocks[-1].attention, HydraAttention)
    assert all(type(block.attention) is Attention for block in model.text.blocks)
    assert hydra_attention(model.text, [-1]).tokens == model.config.text.context_length
    assert model.text.blocks[-1].attention.causal


def test_it_counts_the_work_that_is_gone() -> None:
    conversion = hydra_attention(vit(img_size=224, patch_size=16, depth=3), "back:2")
    assert conversion.tokens == 197
    assert conversion.macs_saved() == 2 * (2 * 197**2 * 24 - 2 * 197 * 24)
    assert conversion.macs_saved(10) == 2 * 2 * 24 * 90
    model = ours()
    assert hydra_attention(model, [0]).tokens == model.config.prefix + model.config.grid**2


def test_every_part_of_a_timm_block_but_attention_stays() -> None:
    """Layer scale, no class token, a projection with dropout: the block is timm's own."""
    model = vit("deit3_small_patch16_224", proj_drop_rate=0.5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    hydra_attention(model, [0], kernel="mean", normalise="mean")
    block, x = model.blocks[0], numbers(2, 17, 24)
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    middle = x + block.ls1(block.attn.proj(hydra(q, k, v, kernel="mean", normalise="mean")))
    torch.testing.assert_close(block(x), middle + block.ls2(block.mlp(block.norm2(middle))))
    assert block.attn.proj_drop.p == 0.5


def test_timm_blocks_pass_masks_and_sizes() -> None:
    model = vit()
    hydra_attention(model, [0])
    attention, x = model.blocks[0].attn, numbers(2, 6, 24)
    keep = torch.tensor([[True] * 4 + [False] * 2] * 2)
    masked = attention(x, attn_mask=keep[:, None, None])
    torch.testing.assert_close(masked[:, :4], attention(x[:, :4]))
    sizes = torch.tensor([[1.0, 2.0, 1.0]] * 2).log()[:, None, None]
    torch.testing.assert_close(attention(x[:, :3], attn_mask=sizes)[:, 1], attention(x[:, [0, 1, 1, 2]])[:, 1])
    torch.testing.assert_close(attention(x, is_causal=True)[:, :3], attention(x[:, :3], is_causal=True))
    with pytest.raises(BadInput, match="logarithm of token sizes"):
        attention(x, attn_mask=torch.zeros(6, 6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("beit_base_patch16_224", {}),
        ("eva02_tiny_patch14_224", {"patch_size": 8}),
        ("vit_relpos_small_patch16_224", {}),
        ("vit_tiny_patch16_224", {"qk_norm": True}),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}),
    ],
)
def test_attention_with_more_in_it_is_refused(name: str, options: dict) -> None:
    model = vit(name, **options)
    modules = list(model.modules())
    with pytest.raises(BadInput, match="Hydra attention has no place for what"):
        hydra_attention(model, "back:2")
    assert list(model.modules()) == modules


def test_what_cannot_be_converted_is_named() -> None:
    with pytest.raises(BadInput, match=r"needs an encoder of ours or a timm-like ViT .* got torch.nn.modules.linear"):
        hydra_attention(nn.Linear(2, 2))
    model = vit()
    conversion = hydra_attention(model, "back:1")
    with pytest.raises(BadInput, match="block 3 has Hydra attention already"):
        hydra_attention(model, "back:2")
    assert not isinstance(model.blocks[2].attn, TimmHydraAttention)
    with pytest.raises(BadInput, match="kernel of Hydra attention must be one of"):
        hydra_attention(model, [0], kernel="softmax")
    model.blocks[3].attn = nn.Identity()
    with pytest.raises(BadInput, match="block 3 no longer holds the Hydra attention"):
        conversion.remove()


def test_token_merging_may_come_before_or_after_in_models_of_ours() -> None:
    first, picture = build("ours")
    second, _ = build("ours")
    percepta.merge_tokens(first, r=6)
    merged = first(picture)
    conversion = hydra_attention(first, "back:2")
    hydra_attention(second, "back:2")
    converted = second(picture)
    percepta.merge_tokens(second, r=6)
    assert torch.equal(first(picture), second(picture))
    percepta.merge_tokens(second, r=0)
    assert torch.equal(second(picture), converted)
    conversion.remove()
    assert torch.equal(first(picture), merged)


def test_a_model_may_be_prepared_before_or_after() -> None:
    before, picture = build("ours")
    after, _ = build("ours")
    hydra_attention(after, "back:2")
    plain = after(picture)
    prepare(after)
    prepare(before)
    hydra_attention(before, "back:2")
    for model in (before, after):
        with torch.inference_mode():
            torch.testing.assert_close(model(picture), plain, rtol=1e-5, atol=1e-5)


def test_token_merging_in_timm_is_refused_before_and_after() -> None:
    model, picture = build("timm")
    percepta.merge_tokens(model, r=2)
    with pytest.raises(BadInput, match="this model merges tokens"):
        hydra_attention(model, "back:2")
    percepta.merge_tokens(model, r=0)
    hydra_attention(model, "back:2")
    converted = model(picture)
    with pytest.raises(BadInput, match=r"token merging cannot run .*TimmHydraAttention"):
        percepta.merge_tokens(model, r=2)
    assert torch.equal(model(picture), converted)


def test_training_reaches_the_shared_weights_and_the_mode_comes_back() -> None:
    model, picture = build("ours")
    conversion = hydra_attention(model, "all")
    model.train()
    model(picture).square().mean().backward()
    gradients = [block.attention.qkv.weight.grad for block in model.blocks]
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)
    conversion.remove()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_converted_models_compile_without_graph_breaks(kind: str) -> None:
    model, picture = build(kind)
    hydra_attention(model, "back:2")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(picture), model(picture))


def test_attribution_is_the_gradient_weighted_map_of_the_class_token() -> None:
    model, picture = build("timm")
    hydra_attention(model, "back:1", normalise="mean")
    inputs: list[Tensor] = []
    handle = model.blocks[-1].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    model(picture)
    handle.remove()
    block = model.blocks[-1]
    q, k, v = block.attn.qkv(block.norm1(inputs[0])).detach().chunk(3, -1)
    heads = hydra(q, k, v, normalise="mean").requires_grad_()
    x = inputs[0] + block.attn.proj(heads)
    logits = model.forward_head(model.norm(x + block.mlp(block.norm2(x))))
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 4], heads)
    assert bool((gradient[:, 1:] == 0).all())  # the class token alone is read
    unit = nn.functional.normalize
    expected = (gradient[:, :1] * unit(q, dim=-1)[:, :1] * unit(k, dim=-1) * v).sum(-1) / 17
    found = attribution(model, picture, torch.tensor([1, 4]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert not found.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(attribution(model.requires_grad_(False), picture, torch.tensor([1, 4])), found)
    assert not model.blocks[-1].attn._forward_pre_hooks


def test_attribution_of_a_model_without_logits_takes_a_function() -> None:
    model = percepta.load("pe-core-nano")
    picture, text = numbers(2, 3, 64, 64), model.encode_text(model.tokenize("a red ball"), normalize=True).detach()
    hydra_attention(model, "back:1")
    found = attribution(model, picture, lambda output: (output[0] @ text.T)[:, 0])
    assert found.shape == (2, model.config.prefix + model.config.grid**2)
    assert bool((found.abs().sum(1) > 0).all())


def test_attribution_says_what_it_needs() -> None:
    model, picture = build("timm")
    with pytest.raises(BadInput, match="needs Hydra attention in the last block"):
        attribution(model, picture, 0)
    hydra_attention(model, "back:1")
    for index, words in ((5, "class_index must be 0 to 4"), (lambda output: output, "one a picture")):
        with pytest.raises(BadInput, match=words):
            attribution(model, picture, index)
    text = percepta.load("pe-core-nano").text
    hydra_attention(text, "back:1")
    with pytest.raises(BadInput, match="over all tokens as they are"):
        attribution(text, torch.ones(1, 4, dtype=torch.int64), 0)
