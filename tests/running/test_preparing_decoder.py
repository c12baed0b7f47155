"""Prepared decoder layers: the same results, and back again."""

from __future__ import annotations

import copy

import torch

from percepta.models.perception_lm import GenerationSettings, MediaLayout
from percepta.running.preparing import prepare, summary, unprepare
from percepta.running.preparing_decoder import PreparedDecoderLayer, decoder_layer_of
from tests.models.perception_lm_tiny import IMAGE, chunks, prompt, tiny_model


def test_a_prepared_model_gives_the_same_logits_and_answers() -> None:
    plain = tiny_model(seed=2)
    fast = prepare(copy.deepcopy(plain), choose=lambda kind, shape, dtype: "packed" if kind != "attention" else "fused")
    assert sum(type(part) is PreparedDecoderLayer for part in fast.modules()) == 3
    assert "3 decoder layers" in summary(fast)
    tokens = torch.tensor([[1, *[IMAGE] * 4, 7, 4, 5, 6]])
    marked = tokens == IMAGE
    position = torch.where(marked, marked.cumsum(dim=1) - 1, -1)
    documents = torch.tensor([[0] * 6 + [1] * 3])
    for layout in (MediaLayout(position, (1,), ("image",)), MediaLayout(position, (1,), ("image",), documents)):
        with torch.no_grad():
            got, want = fast(tokens, chunks(1), layout), plain(tokens, chunks(1), layout)
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    asked, media = [prompt([1], 8, [7]), prompt([3, 4])], [chunks(2), None]
    answers = [model.generate(asked, media, GenerationSettings(max_tokens=8)) for model in (fast, plain)]
    assert [answer.tokens for answer in answers[0]] == [answer.tokens for answer in answers[1]]


def test_it_trains_plainly_saves_the_same_keys_and_goes_back() -> None:
    plain = tiny_model(seed=2)
    layers = list(plain.decoder.layers)
    keys = list(plain.state_dict())
    fast = prepare(plain)
    assert list(fast.state_dict()) == keys
    fast.train()
    loss = fast(torch.arange(1, 9)[None])[0, -1].square().sum()
    loss.backward()
    assert layers[0].mlp.down_proj.weight.grad is not None
    unprepare(fast)
    assert list(fast.decoder.layers) == layers


def test_a_llama_with_other_attention_stays_as_it_is() -> None:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    assert decoder_layer_of(LlamaModel(config).layers[0]) is None
