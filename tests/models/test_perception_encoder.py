"""Properties of the Perception Encoder that hold whatever its weights are."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import percepta
from percepta.errors import BadInput
from percepta.layers import grid_rotation, rotate
from percepta.models.perception_encoder import PerceptionEncoderConfig, Tokenizer, VisionTower
from tests.battery import check_encoder, close, pictures, small

ENCODERS = ["pe-core-t16-384", "pe-core-g14-448", "pe-lang-l14-448", "pe-lang-g14-448-tiling", "pe-spatial-t16-512"]


@pytest.mark.parametrize("name", ENCODERS)
def test_battery(name: str, tmp_path: Path) -> None:
    check_encoder(name, tmp_path)


@torch.no_grad()
def test_forward_is_the_official_forward() -> None:
    core, lang = small("pe-core-t16-384"), small("pe-lang-l14-448")
    x = pictures(2, 3, 32, 32)
    tokens = core.tokenize(["a cat", "two dogs"])
    images, texts, scale = core(x, tokens)
    close(images, F.normalize(core.encode_image(x), dim=-1))
    close(texts, core.encode_text(tokens, normalize=True))
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert core(x)[1] is None
    assert core(text=tokens)[0] is None
    assert lang(x).shape == (2, 17, 48)  # nothing is pooled: the class token stays in front
    assert torch.equal(lang(x), lang.intermediates(x, [-1], prefix=True)[0])


@torch.no_grad()
def test_positions_may_shift_without_a_class_token() -> None:
    query, key = torch.randn(2, 1, 6, 2, 16), torch.randn(2, 1, 6, 2, 16)
    angles = torch.rand(6, 8) * 5
    shift = torch.rand(8)
    for table in (angles, torch.polar(torch.ones_like(angles), angles)):
        moved = angles + shift
        moved = torch.polar(torch.ones_like(moved), moved) if table.is_complex() else moved
        plain = torch.einsum("...nhd,...mhd->...hnm", *(rotate(x, table[:, None]) for x in (query, key)))
        other = torch.einsum("...nhd,...mhd->...hnm", *(rotate(x, moved[:, None]) for x in (query, key)))
        close(other, plain)


def test_complex_and_real_rotations_agree() -> None:
    x = torch.randn(2, 15, 3, 18)
    angles = grid_rotation(3, 5, 18, device=torch.device("meta"))
    assert not angles.is_complex()
    table = grid_rotation(3, 5, 18, device=torch.device("cpu"))
    real = rotate(x, table.angle()[:, None])
    close(rotate(x, table[:, None]), real, 1e-6)
    assert torch.equal(real[..., 16:], x[..., 16:])  # head_dim 18: the last two channels pass through


@torch.no_grad()
def test_permuted_patches_with_their_positions_give_permuted_tokens() -> None:
    model = small("pe-lang-g14-448")
    x = pictures(1, 3, 32, 32)
    tokens, (rows, columns) = model.embed(x)
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(3))
    rotation = grid_rotation(rows, columns, 16, device=x.device)
    from percepta.layers import Tokens

    plain, moved = Tokens(tokens), Tokens(tokens[:, order])
    for block in model.blocks:
        plain, moved = block(plain, rotation), block(moved, rotation[order])
    close(moved.x, plain.x[:, order])


@torch.no_grad()
def test_video_protocols() -> None:
    model = small("pe-core-t16-384")
    still = pictures(2, 3, 32, 32)
    clip = still[:, None].expand(-1, 4, -1, -1, -1)
    close(model.encode_video(clip), model.encode_image(still))
    close(model.encode_video(clip, normalize=True), model.encode_image(still, normalize=True))
    frames = pictures(1, 3, 3, 32, 32)
    raw, unit = model.encode_video(frames)[0], model.encode_video(frames, normalize=True)[0]
    close(raw, model.encode_image(frames[0]).mean(0))
    close(unit, model.encode_image(frames[0], normalize=True).mean(0))
    assert unit.norm() < 1 - 1e-6  # the mean of unit vectors is not scaled again


@torch.no_grad()
def test_padding_a_text_changes_nothing() -> None:
    model = small("pe-core-t16-384")
    tokens = model.tokenize(["a red boat", "snow"])
    length = int(tokens.argmax(dim=1).max()) + 1
    close(model.encode_text(tokens[:, :length]), model.encode_text(tokens))


@torch.no_grad()
def test_the_text_half_gives_the_same_vectors_for_texts_of_any_length() -> None:
    core = small("pe-core-t16-384")
    tokens = core.tokenize(["a cat", "", "two dogs and a very long story about them in the snow"])
    half = core.text_half()
    assert not [name for name in half.state_dict() if name.startswith("vision")]
    assert half.text is core.text
    for rows in (tokens, tokens[:1], tokens[1:2]):
        close(half.encode_text(rows, normalize=True), core.encode_text(rows, normalize=True))
    assert torch.equal(half.tokenize("a cat"), tokens[:1])


def test_long_texts_are_cut_with_a_warning() -> None:
    model = small("pe-core-t16-384")
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 32 tokens"):
        tokens = model.tokenize(["word " * 50, "a cat"])
    assert tokens.shape == (2, 32)
    assert tokens[0, -1] == Tokenizer().end_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.tokenize("").tolist()[0][:3] == [49406, 49407, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.intermediates(pictures(1, 3, 32, 32), [3]), "layer of pe-core-t16-384 must be 0 to 2 or"),
        (lambda m: m.intermediates(pictures(1, 3, 32, 32), []), "at least one block"),
        (lambda m: m.intermediates(pictures(1, 3, 32, 32), [0], layout="CHW"), "must be one of NLC, NCHW, NHWC"),
        (lambda m: m.intermediates(pictures(1, 3, 32, 32), [0], layout="NCHW", prefix=True), "needs layout='NLC'"),
        (lambda m: m.encode_image(pictures(3, 32, 32)), r"shape \(B, 3, H, W\)"),
        (lambda m: m.encode_image(pictures(1, 1, 32, 32)), r"shape \(B, 3, H, W\)"),
        (lambda m: m.encode_image(pictures(1, 3, 4, 32)), "at least 8"),
        (lambda m: m.encode_image([]), "at least one tensor"),
        (lambda m: m.encode_image([[1.0]]), "must be tensors"),
        (lambda m: m.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "floating-point tensor"),
        (lambda m: m.encode_video(pictures(1, 3, 32, 32)), r"\(B, T, 3, H, W\)"),
        (lambda m: m.encode_text(torch.zeros(1, 33, dtype=torch.long)), "n from 1 to 32"),
        (lambda m: m.tokenize([3]), "texts must be strings"),
    ],
)
def test_wrong_calls_get_one_sentence(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=words) as caught:
        call(small("pe-core-t16-384"))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 50, "heads": 4},
        {"width": 30, "heads": 3, "pooling_heads": 8},
        {"pooling": "mean"},
        {"pooling": "class", "class_token": False},
        {"depth": 0},
        {"depth": 2.0},
        {"drop_path": 1.0},
        {"image_size": 8, "patch_size": 16},
        {"position_rule": "open"},
    ],
)
def test_impossible_configs_are_refused(fields: dict) -> None:
    with pytest.raises(BadInput):
        PerceptionEncoderConfig(**fields)


def test_pooling_heads_matter_only_where_attention_pools() -> None:
    VisionTower(PerceptionEncoderConfig(width=30, heads=3, depth=1, pooling="average", pooling_heads=8))


@torch.no_grad()
def test_rope_can_be_left_out() -> None:
    model = small("pe-spatial-t16-512", rope=False, absolute_positions=False)
    x = pictures(1, 3, 32, 32)
    (tokens,) = model.intermediates(x, [-1])
    flipped = x.unflatten(-1, (4, 8)).flip(-2).flatten(-2)  # patches in another order, nothing tells where they are
    (other,) = model.intermediates(flipped, [-1])
    close(other.unflatten(1, (4, 4)).flip(2).flatten(1, 2), tokens)


def test_drop_path_acts_in_training_alone() -> None:
    model = small("pe-lang-l14-448", drop_path=0.5)
    x = pictures(4, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_merged_tokens_weigh_what_they_stand_for() -> None:
    """Two equal tokens merged into one of size two give the same attention and pooling."""
    from percepta.layers import AttentionPooling, Tokens
    from percepta.layers.attention import Attention, Mlp
    from percepta.layers.block import Block
    from percepta.layers.token_merging import log_size

    torch.manual_seed(0)
    block, pool = Block(24, Attention(24, 3), Mlp(24, 48)), AttentionPooling(24, 4)
    x = torch.randn(2, 5, 24)
    x[:, 4] = x[:, 3]
    size = torch.tensor([[1.0, 1, 1, 2]]).expand(2, -1)
    merged = Tokens(x[:, :4], size, bias=log_size(size, x.dtype))
    plain, short = block(Tokens(x)), block(merged)
    close(short.x, plain.x[:, :4])
    close(pool(short.x, short.size), pool(plain.x))


def test_logit_scale_starts_at_the_usual_temperature() -> None:
    assert small("pe-core-t16-384").logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_every_card_matches_its_model() -> None:
    for name in percepta.list_models():
        model = percepta.build(name, device="meta")
        assert sum(p.numel() for p in model.parameters()) == percepta.describe(name).parameters
