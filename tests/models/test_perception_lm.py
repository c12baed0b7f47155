"""The Perception Language Model: sizes, names, stitching, packed documents, refusals, halves of other models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import percepta
from percepta.checkpoints import read_tensors
from percepta.errors import BadInput, CheckpointMismatch
from percepta.models.perception_encoder import PerceptionEncoderConfig
from percepta.models.perception_lm import MediaLayout, PerceptionLM, PerceptionLMConfig, build, layouts, merge_visual
from percepta.models.perception_lm.config import DecoderConfig, hidden_width
from percepta.models.perception_lm.keys import halves_of_pairs, pairs_of_halves
from percepta.models.perception_lm.projector import average
from percepta.models.perception_lm.starting import start_decoder, start_vision
from tests.models.perception_lm_tiny import IMAGE, SETTINGS, TEXT, TINY, VISION, chunks, tiny_config, tiny_model

KEYS = Path(os.environ.get("PERCEPTA_KEYS", Path(__file__).parents[3] / "shared" / "specs" / "keys"))
COUNTS = {"plm-1b": 478, "plm-3b": 586, "plm-8b": 957}
PARTS = {
    "plm-1b": (291_415_040, 6_295_552, 1_235_814_400),
    "plm-3b": (291_415_040, 12_589_056, 3_212_749_824),
    "plm-8b": (1_740_922_624, 23_076_864, 8_030_261_248),
}
PER_CHUNK = 4


@pytest.fixture(scope="module")
def model() -> PerceptionLM:
    return tiny_model()


def close(first: torch.Tensor, second: torch.Tensor, limit: float = 2e-5) -> None:
    assert first.shape == second.shape
    first, second = first.detach(), second.detach()
    assert float((first - second).abs().max()) <= limit * max(1.0, float(second.abs().max()))


def rows(*tokens: list[int]) -> torch.Tensor:
    longest = max(map(len, tokens))
    return torch.tensor([row + [0] * (longest - len(row)) for row in tokens])


def layout_of(tokens: torch.Tensor, given: tuple[int, ...], kinds: tuple[str, ...], **more: Any) -> MediaLayout:
    marked = tokens == IMAGE
    return MediaLayout(torch.where(marked, marked.cumsum(dim=1) - 1, -1), given, kinds, **more)


@pytest.mark.parametrize("name", COUNTS)
def test_official_parameters_and_keys(name: str) -> None:
    model, card = percepta.build(name, device="meta"), percepta.describe(name)
    assert sum(value.numel() for value in model.parameters()) == card.parameters
    vision, projector, decoder = (
        sum(value.numel() for value in part.parameters()) for part in (model.vision, model.projector, model.decoder)
    )
    head = 0 if model.head is None else model.head.weight.numel()
    assert (vision, projector, decoder + head) == PARTS[name]
    derived = layouts(model.config)["official"].to_foreign(model.state_dict())
    assert ("output.tied_module.weight" in derived) == model.config.text.tied
    if KEYS.is_dir():
        sheet = json.loads((KEYS / f"perception-lm-{name.removeprefix('plm-')}.json").read_text())
        assert {key: list(value.shape) for key, value in derived.items()} | sheet["keys"] == sheet["keys"]
        derived.pop("output.tied_module.weight", None)
        assert not {*sheet["keys"]} - {*derived, "output.tied_module.weight"}
    back, left = layouts(model.config)["official"].to_native(derived)
    assert not left
    assert {key: value.shape for key, value in back.items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["native", "official", "transformers"])
def test_values_survive_every_layout(layout: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tied=tied)
    file = percepta.save(model, tmp_path / "model.pt", layout=layout)
    settings = TINY | {"text": TINY["text"] | {"tied": tied}}
    loaded = percepta.load("plm-1b", weights=file, **settings)
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


def test_a_saved_model_opens_by_its_file(model: PerceptionLM, tmp_path: Path) -> None:
    file = percepta.save(model, tmp_path / "tiny.safetensors")
    loaded = percepta.load(file)
    assert loaded.config == model.config
    assert torch.equal(loaded.decoder.norm.weight, model.decoder.norm.weight)


def test_a_tied_head_may_be_absent_and_several_files_are_one(model: PerceptionLM, tmp_path: Path) -> None:
    state = layouts(model.config)["official"].to_foreign(model.state_dict())
    alias = state.pop("output.tied_module.weight")
    assert torch.equal(alias, state["tok_embeddings.weight"])
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2])):
        torch.save({"model": {name: state[name] for name in part}}, tmp_path / f"consolidated.0{number}.pth")
    loaded = percepta.load("plm-1b", weights=tmp_path, **TINY)
    assert torch.equal(loaded.decoder.embed_tokens.weight, model.decoder.embed_tokens.weight)


def test_rows_of_queries_change_places_and_come_back() -> None:
    weight = torch.arange(2 * 6 * 3.0).reshape(12, 3)
    turned = halves_of_pairs(weight, 2)
    assert turned[:6, 0].div(3).tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(pairs_of_halves(turned, 2), weight)


@torch.no_grad()
def test_a_batch_of_mixed_media_gives_each_row_its_own(model: PerceptionLM) -> None:
    first = [1, *[IMAGE] * 2 * PER_CHUNK, 7, 8]
    second = [1, 2, 3, 4]
    third = [5, *[IMAGE] * PER_CHUNK, 9, *[IMAGE] * PER_CHUNK, 6]
    tokens = rows(first, second, third)
    pictures = chunks(5)
    got = model(tokens, pictures, layout_of(tokens, (2, 1, 2), ("video", "text", "multi_image")))
    for row, (alone, media) in enumerate(((first, pictures[:2]), (second, None), (third, pictures[3:]))):
        single = rows(alone)
        layout = None if media is None else layout_of(single, (len(media),), ("image",))
        close(got[row, : len(alone)], model(single, media, layout)[0])


@torch.no_grad()
def test_encoded_media_serve_as_well_and_their_order_matters(model: PerceptionLM) -> None:
    tokens = rows([1, *[IMAGE] * 2 * PER_CHUNK, 7])
    layout, pictures = layout_of(tokens, (2,), ("image",)), chunks(2)
    got = model(tokens, pictures, layout)
    assert torch.equal(got, model(tokens, model.encode_media(pictures), layout))
    assert not torch.allclose(got[:, -1], model(tokens, pictures.flip(0), layout)[:, -1], atol=1e-4)


@torch.no_grad()
def test_packed_documents_equal_separate_runs(model: PerceptionLM) -> None:
    documents = [[1, *[IMAGE] * PER_CHUNK, 7, 8], [4, 5, 6], [9, *[IMAGE] * PER_CHUNK, 3]]
    tokens = torch.tensor([[token for document in documents for token in document] + [0, 0]])
    numbers = [number for number, document in enumerate(documents) for _ in document] + [3, 3]
    pictures = chunks(2)
    packed = model(tokens, pictures, layout_of(tokens, (2,), ("image",), documents=torch.tensor([numbers])))
    start, media = 0, list(pictures.split(1))
    for document in documents:
        single = rows(document)
        own = media.pop(0) if IMAGE in document else None
        layout = None if own is None else layout_of(single, (1,), ("image",))
        close(packed[0, start : start + len(document)], model(single, own, layout)[0])
        start += len(document)
    whole = model(tokens, pictures, layout_of(tokens, (2,), ("image",)))
    assert not torch.allclose(whole[0, 7:10], packed[0, 7:10], atol=1e-3)


def test_gradients_flow_through_packed_documents(model: PerceptionLM) -> None:
    tokens = torch.tensor([[1, *[IMAGE] * PER_CHUNK, 7, 4, 5]])
    layout = layout_of(tokens, (1,), ("image",), documents=torch.tensor([[0] * 6 + [1] * 2]))
    trained = tiny_model().train()
    trained.set_grad_checkpointing()
    trained(tokens, chunks(1), layout)[0, 5].sum().backward()
    assert float(trained.vision.patches.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert float(trained.decoder.embed_tokens.weight.grad[4:6].abs().max()) > 0  # the tied head
    plain = tiny_model().train()
    plain(tokens, chunks(1), layout)[0, 5].sum().backward()
    close(trained.vision.patches.weight.grad, plain.vision.patches.weight.grad)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_row_cut_inside_its_media_takes_what_it_has_places_for(model: PerceptionLM) -> None:
    whole = rows([1, *[IMAGE] * 2 * PER_CHUNK, 7])
    pictures = chunks(3)
    cut = torch.cat([whole[:, :7], rows([1, *[IMAGE] * PER_CHUNK, 4, 4])])
    got = model(cut, pictures, layout_of(cut, (2, 1), ("video", "image")))
    close(got[0], model(whole, pictures[:2], layout_of(whole, (2,), ("video",)))[0, :7])
    second = cut[1:]
    close(got[1], model(second, pictures[2:], layout_of(second, (1,), ("image",)))[0])


def test_what_does_not_fit_is_refused(model: PerceptionLM) -> None:
    tokens = rows([1, *[IMAGE] * PER_CHUNK, 7])
    with pytest.raises(BadInput, match="must mark 8 places"):
        model(tokens, chunks(2), layout_of(tokens, (2,), ("image",)))
    with pytest.raises(BadInput, match="2 chunks; got the visual tokens of 1"):
        model(tokens, chunks(1), layout_of(tokens, (2,), ("image",)))
    with pytest.raises(BadInput, match="square pictures"):
        model.encode_media(torch.zeros(1, 3, 32, 48))
    with pytest.raises(BadInput, match="square grid"):
        average(torch.zeros(1, 6, 8), 2)
    with pytest.raises(BadInput, match="up to 96 tokens; got one of 97"):
        model(torch.ones(1, 97, dtype=torch.int64))
    with pytest.raises(BadInput, match="post_norm=False"):
        percepta.build("plm-nano", device="meta", vision={"post_norm": True})
    with pytest.raises(BadInput, match="need a layout"):
        model(tokens, chunks(1))


@pytest.mark.parametrize(
    ("name", "depth", "class_token", "multiplier", "multiple", "scale"),
    [
        ("plm-1b", 23, True, 1.5, 256, 32.0),
        ("plm-3b", 23, True, 1.0, 256, 32.0),
        ("plm-8b", 47, False, 1.3, 1024, 1.0),
    ],
)
def test_published_models_have_the_published_rules(
    name: str, depth: int, class_token: bool, multiplier: float, multiple: int, scale: float
) -> None:
    """What no shape tells: Llama 3.1 slows its frequencies down and PLM-8B does not; the code's own default for the
    fastest that stay is 32, the models' is 4."""
    config = percepta.build(name, device="meta").config
    text, vision = config.text, config.vision
    assert (text.rope_scale, text.rope_theta) == (scale, 500_000.0)
    assert (text.rope_low, text.rope_high, text.rope_original_length) == (1.0, 4.0, 8192)
    assert text.hidden == hidden_width(text.width, multiplier, multiple)
    assert (text.norm_eps, text.max_length, text.tied) == (1e-5, 11_520, name != "plm-8b")
    assert (vision.depth, vision.class_token, vision.layer_scale, vision.drop_path) == (depth, class_token, 0.1, 0.1)
    assert (vision.pooling, vision.post_norm, vision.image_size, config.pooling) == ("none", False, 448, 2)
    assert (config.image_token, config.stop_tokens, config.pad_token) == (128_002, (128_001, 128_009), 128_001)
    assert config.tokens_per_chunk == 256


def test_branches_are_dropped_at_one_rate_in_every_block() -> None:
    """No ramp over the blocks, as most towers have; nothing is dropped outside of training."""
    torch.manual_seed(0)
    model = build(
        PerceptionLMConfig(PerceptionEncoderConfig(**VISION | {"depth": 4}), DecoderConfig(**TEXT), **SETTINGS)
    )
    assert {block.drop_path.rate for block in model.vision.blocks} == {0.1}
    pictures = chunks(1)
    assert torch.equal(model.eval().encode_media(pictures), model.encode_media(pictures))


def test_first_values_are_cut_at_three_deviations() -> None:
    fresh = tiny_model(seed=2, tied=False)
    assert fresh.head is not None
    for parameter, fan in (
        (fresh.projector.mlp.expand.weight, 32),
        (fresh.projector.mlp.expand.bias, 32),
        (fresh.projector.mlp.contract.weight, 32),
        (fresh.decoder.embed_tokens.weight, 32),
        (fresh.decoder.layers[0].self_attn.q_proj.weight, 32),
        (fresh.decoder.layers[0].mlp.down_proj.weight, 48),
        (fresh.head.weight, 32),
    ):
        unit = parameter.detach() * fan**0.5
        assert float(unit.abs().max()) <= 3 + 1e-6
        assert float(unit.std()) == pytest.approx(1, abs=0.3 if parameter.ndim == 1 else 0.08)
    assert bool((fresh.decoder.norm.weight == 1).all())


def test_pooling_is_the_mean_of_squares() -> None:
    tokens = torch.arange(16.0).reshape(1, 16, 1)
    assert average(tokens, 2)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert average(tokens, 1) is tokens
    assert average(tokens, 3)[0, :, 0].tolist() == [7.5]  # the whole grid: a plain step of 3 would lose its edge
    odd = torch.arange(25.0).reshape(1, 25, 1)
    assert average(odd, 2)[0, :, 0].tolist() == [6.0, 8.0, 16.0, 18.0]  # squares of 3 that share the middle


def test_a_budget_averages_the_most_similar_tokens_in_the_order_of_the_picture() -> None:
    tokens = torch.eye(6)[[0, 1, 1, 2, 3, 1, 4, 5]][None] + 0.0
    merged = merge_visual(tokens, 6)
    assert merged[0].argmax(dim=1).tolist() == [0, 1, 2, 3, 4, 5]
    close(merged[0], torch.eye(6))
    assert merge_visual(tokens, 8) is tokens
    random = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    close(merge_visual(random, 1)[:, 0], random.mean(dim=1))
    with pytest.raises(BadInput, match="1 to 8"):
        merge_visual(tokens, 9)


@torch.no_grad()
def test_fewer_visual_tokens_answer_shorter_prompts(model: PerceptionLM) -> None:
    pictures = chunks(3)
    visual = model.encode_media(pictures, visual_tokens=2)
    assert visual.shape == (3, 2, 32)
    tokens = rows([1, *[IMAGE] * 6, 7])
    logits = model(tokens, visual, layout_of(tokens, (3,), ("video",)))
    assert logits.shape == (1, 8, 64)
    assert torch.equal(model.encode_media(pictures, PER_CHUNK), model.encode_media(pictures))


@torch.no_grad()
def test_lower_precision_turns_by_exact_angles(model: PerceptionLM) -> None:
    low = tiny_model().to(torch.bfloat16)
    assert low.decoder.rotary_emb.frequencies.dtype == torch.float32
    tokens = torch.arange(1, 40)[None]
    want, got = model(tokens), low(tokens).float()
    assert float((got - want).norm() / want.norm()) < 0.02


def test_a_tower_begins_from_an_encoder_of_another_size(tmp_path: Path) -> None:
    sizes = {key: VISION[key] for key in ("patch_size", "width", "heads")}
    encoder = percepta.build("pe-core-nano", image_size=24, depth=3, output_dim=16, pooling_heads=2, **sizes)
    file = percepta.save(encoder, tmp_path / "core.pt", layout="official")
    model = percepta.build("plm-nano", **TINY)
    kept = start_vision(model, read_tensors(file))
    assert sorted(kept) == sorted(f"blocks.{block}.scale{number}.gamma" for block in range(2) for number in (1, 2))
    assert torch.equal(model.vision.blocks[1].mlp.expand.weight, encoder.vision.blocks[1].mlp.expand.weight)
    assert torch.equal(model.vision.positions[0], encoder.vision.positions[0])
    assert model.vision.positions.shape == (17, 24)
    grid = encoder.vision.positions[1:].T.reshape(1, 24, 3, 3)
    fitted = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bilinear", align_corners=False)
    close(model.vision.positions[1:], fitted[0].flatten(1).T)
    close(model.vision.blocks[0].scale1.gamma, torch.full((24,), 0.1))
    with pytest.raises(CheckpointMismatch, match="missing"):
        start_vision(model, {"visual.conv1.weight": torch.zeros(24, 3, 8, 8)})


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_a_decoder_begins_from_a_llama(layout: str) -> None:
    source = tiny_model(seed=5)
    table = layouts(source.config)[layout].to_foreign(source.state_dict())
    prefix = {"official": "", "transformers": "model.language_model."}[layout]
    words = {
        ("" if layout == "official" else "model.") + key.removeprefix(prefix): value
        for key, value in table.items()
        if key.startswith(prefix or ("tok_", "layers.", "norm."))
    }
    words["rope.freqs" if layout == "official" else "lm_head.weight"] = torch.zeros(3)
    model = tiny_model(seed=6)
    start_decoder(model, words)
    for name, value in source.decoder.state_dict().items():
        assert torch.equal(model.decoder.state_dict()[name], value), name
    with pytest.raises(CheckpointMismatch):
        start_decoder(model, {key: value for key, value in words.items() if "layers.1" not in key})


def test_the_config_checks_itself() -> None:
    assert tiny_config().tokens_per_chunk == PER_CHUNK
    with pytest.raises(BadInput, match="kv_heads must divide heads"):
        tiny_config(kv_heads=3)
    with pytest.raises(BadInput, match="a special token"):
        tiny_config(vocabulary=40)
    with pytest.raises(BadInput, match="kind of a row"):
        MediaLayout(torch.zeros(1, 2), (0,), ("picture",))
