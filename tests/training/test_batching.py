from __future__ import annotations

import numpy as np
import torch
from doubles import TinyModel

from percepta.training.batching import Tokens, heldout_inputs, make_inputs
from percepta.training.data import Batch
from percepta.training.recipe import AugmentRecipe
from percepta.training.sources import Part


def part(source: str, captions: list[str], negatives: list[str] | None = None, side: int = 32) -> Part:
    pixels = np.random.default_rng(len(captions)).integers(0, 256, (len(captions), side, side, 3), dtype=np.uint8)
    return Part(source, pixels, captions, AugmentRecipe(), negatives)


def test_each_caption_is_encoded_once() -> None:
    model = TinyModel()
    batch = Batch(
        0,
        (
            part("a", ["a cat", "a dog", "a cat"]),
            part("b", ["red left of blue", "a dog"], ["blue left of red", "a cat"], 64),
        ),
    )
    inputs = make_inputs(batch, 16, Tokens(model.tokenize), seed=0)
    assert inputs.pictures.shape == (5, 3, 16, 16)
    assert inputs.caption_ids.tolist() == [0, 1, 0, 2, 1]
    assert inputs.negative_ids is not None
    assert inputs.negative_mask is not None
    assert inputs.negative_mask.tolist() == [False, False, False, True, True]
    assert inputs.negative_ids.tolist()[3:] == [3, 0]
    rows = model.tokenize(["a cat", "a dog", "red left of blue", "blue left of red"])
    assert torch.equal(inputs.tokens, rows[:, :5])
    assert rows[:, 5:].count_nonzero() == 0


def test_without_hard_negatives_there_are_no_ids() -> None:
    batch = Batch(0, (part("b", ["x", "y"], ["p", "q"]),))
    inputs = make_inputs(batch, 16, Tokens(TinyModel().tokenize), 0, hard_negatives=False)
    assert inputs.negative_ids is None
    assert len(inputs.tokens) == 2


def test_captions_are_tokenised_once() -> None:
    asked: list[str] = []

    def tokenize(texts: list[str]) -> torch.Tensor:
        asked.extend(texts)
        return TinyModel().tokenize(texts)

    tokens = Tokens(tokenize)
    tokens(["a", "b", "a"])
    tokens(["b", "c"])
    assert asked == ["a", "b", "c"]


def test_cut_token_rows_give_the_same_embedding() -> None:
    import percepta

    torch.manual_seed(0)
    model = percepta.build("pe-core-nano", depth=1).eval()
    captions = ["a cat", "a small red cube left of a big blue ball"]
    short = Tokens(model.tokenize)(captions)
    assert short.shape[1] < model.config.text.context_length
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(short), model.encode_text(model.tokenize(captions)))


def test_held_out_pictures_are_not_varied() -> None:
    inputs = heldout_inputs(part("a", ["x"]), 32, Tokens(TinyModel().tokenize))
    assert inputs.pictures.min() >= -1
    assert torch.equal(inputs.pictures, heldout_inputs(part("a", ["x"]), 32, Tokens(TinyModel().tokenize)).pictures)
