"""Generation: batches equal single prompts, shared passes, samples, streams, ends of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from percepta.errors import BadInput
from percepta.models.perception_lm import GenerationSettings, MediaLayout, PerceptionLM, TextOf
from percepta.models.perception_lm.attending import Store
from percepta.models.perception_lm.official import OFFICIAL
from tests.models.perception_lm_tiny import END, STOP, chunks, prompt, tiny_model

PER_CHUNK = 4
PICTURE = chunks(2)
PROMPTS = [prompt([1, 2], 2 * PER_CHUNK, [7, 8, 9]), prompt([3, 4, 5]), prompt([1], PER_CHUNK, [5])]
MEDIA = [PICTURE, None, chunks(1, seed=3)]


@pytest.fixture(scope="module")
def model() -> PerceptionLM:
    return tiny_model(seed=1)


def decode(ids: Sequence[int]) -> str:
    return "".join("" if number in (END, STOP) else chr(97 + number % 26) for number in ids)


def greedy(model: PerceptionLM, asked: Any, media: torch.Tensor | None, count: int) -> list[int]:
    """Without any store: the whole sequence again for every token."""
    tokens = torch.from_numpy(asked.tokens)[None]
    pictures = torch.from_numpy(asked.pictures)[None]
    for _ in range(count):
        marked = torch.cat([pictures, torch.zeros(1, tokens.shape[1] - pictures.shape[1], dtype=torch.bool)], dim=1)
        position = torch.where(marked, marked.cumsum(dim=1) - 1, -1)
        layout = None if media is None else MediaLayout(position, (len(media),), ("image",))
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens, media, layout)[:, -1:].argmax(dim=-1)], dim=1)
    return tokens[0, len(asked.tokens) :].tolist()


def test_a_mixed_batch_equals_single_prompts_and_no_store_at_all(model: PerceptionLM) -> None:
    settings = GenerationSettings(max_tokens=12)
    together = model.generate(PROMPTS, MEDIA, settings)
    for number, (asked, media) in enumerate(zip(PROMPTS, MEDIA, strict=True)):
        (alone,) = model.generate([asked], [media], settings)
        assert alone.tokens == together[number].tokens
        assert alone.logprobs == pytest.approx(together[number].logprobs, abs=1e-5)
        assert list(alone.tokens) == greedy(model, asked, media, len(alone.tokens))


def test_questions_about_one_picture_share_its_passes(model: PerceptionLM) -> None:
    opening = [1, *range(2, 20)]
    asked = [prompt(opening, 2 * PER_CHUNK, [end, end + 1]) for end in (30, 40, 50)]
    settings = GenerationSettings(max_tokens=3)
    with FlopCounterMode(display=False) as shared:
        together = model.generate(asked, [PICTURE] * 3, settings)
    with FlopCounterMode(display=False) as single:
        alone = [model.generate([each], [PICTURE], settings)[0] for each in asked]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert shared.get_total_flops() < 0.5 * single.get_total_flops()


def test_a_picture_and_words_alone_beside_it_share_what_they_can(model: PerceptionLM) -> None:
    opening = list(range(1, 20))
    asked = [prompt(opening, 2 * PER_CHUNK, [30]), prompt([*opening, 44, 45]), prompt(opening, 2 * PER_CHUNK, [50])]
    media = [PICTURE, None, PICTURE]
    settings = GenerationSettings(max_tokens=4)
    together = model.generate(asked, media, settings)
    for number in range(3):
        assert model.generate([asked[number]], [media[number]], settings)[0].tokens == together[number].tokens


def test_samples_share_the_prompt_and_do_not_depend_on_their_neighbours(model: PerceptionLM) -> None:
    settings = GenerationSettings(max_tokens=6, temperature=1.5, samples=4, seed=3)
    answers = model.generate(PROMPTS[:2], MEDIA[:2], settings)
    assert [(answer.prompt, answer.sample) for answer in answers] == [(p, s) for p in (0, 1) for s in range(4)]
    assert len({answer.tokens for answer in answers}) > 4
    again = model.generate(PROMPTS[:1], MEDIA[:1], settings)
    assert [answer.tokens for answer in again] == [answer.tokens for answer in answers[:4]]
    other = model.generate(PROMPTS[:1], MEDIA[:1], GenerationSettings(6, 1.5, samples=4, seed=4))
    assert [answer.tokens for answer in other] != [answer.tokens for answer in again]


def test_top_k_and_top_p_leave_few_and_one_of_one_is_greedy(model: PerceptionLM) -> None:
    plain = model.generate(PROMPTS[:1], MEDIA[:1], GenerationSettings(8))[0].tokens
    # Officially top-p wins where both are given; here both hold.
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"top_k": 1, "top_p": 0.999}, {"top_k": 50, "top_p": 1e-6}):
        settings = GenerationSettings(8, temperature=2.0, **narrow)  # type: ignore[arg-type]
        assert model.generate(PROMPTS[:1], MEDIA[:1], settings)[0].tokens == plain


def test_a_repetition_penalty_breaks_loops(model: PerceptionLM) -> None:
    looping = model.generate(PROMPTS[1:2], [None], GenerationSettings(40))[0].tokens
    free = model.generate(PROMPTS[1:2], [None], GenerationSettings(40, repetition_penalty=3.0))[0].tokens
    assert len(set(free)) > len(set(looping))


def test_a_stream_gives_the_same_tokens_and_text(model: PerceptionLM) -> None:
    settings = GenerationSettings(max_tokens=10)
    pieces = list(model.stream(PROMPTS, MEDIA, settings, decode))
    for answer in model.generate(PROMPTS, MEDIA, settings, decode):
        own = [piece for piece in pieces if piece.prompt == answer.prompt]
        assert tuple(piece.token for piece in own) == answer.tokens
        assert "".join(piece.text for piece in own) == answer.text == decode(answer.tokens)
        assert [piece.end for piece in own] == [""] * (len(own) - 1) + [answer.end]


def test_until_ends_an_answer_before_the_string(model: PerceptionLM) -> None:
    whole = model.generate(PROMPTS[1:2], [None], GenerationSettings(12), decode)[0].text
    stop = whole[3:5]
    answer = model.generate(PROMPTS[1:2], [None], GenerationSettings(12, until=(stop,)), decode)[0]
    assert answer.end == "until"
    assert answer.text == whole[: whole.index(stop)]


def test_text_is_held_back_until_it_is_sure() -> None:
    letters = TextOf(lambda ids: bytes(ids).decode(errors="replace"))
    assert [letters.add([byte]) for byte in "aé".encode()] == ["a", "", "é"]
    held = TextOf(lambda ids: bytes(ids).decode(), ["END"])
    assert [held.add([byte]) for byte in b"xEyENxEND"] == ["x", "", "Ey", "", "", "ENx", "", "", ""]
    assert held.found
    last = TextOf(lambda ids: bytes(ids).decode(), ["END"])
    assert last.add(list(b"xEN")) + last.add([], last=True) == "xEN"


def test_stop_tokens_end_an_answer_and_the_official_quirk_is_named(model: PerceptionLM) -> None:
    free = model.generate(PROMPTS[1:2], [None], GenerationSettings(12))[0].tokens
    for place in (0, 4):
        stopping = tiny_model(seed=1)
        object.__setattr__(stopping.config, "stop_tokens", (free[place],))
        first = free.index(free[place])
        answer = stopping.generate(PROMPTS[1:2], [None], GenerationSettings(12))[0]
        assert (answer.tokens, answer.end) == (free[: first + 1], "stop token")
        if place == 0:
            longer = stopping.generate(PROMPTS[1:2], [None], OFFICIAL)[0].tokens
            assert longer[0] == free[0]
            assert len(longer) > 1


def test_prompt_logprobs_are_those_of_the_forward(model: PerceptionLM) -> None:
    asked, media = PROMPTS[0], MEDIA[0]
    assert media is not None
    answers = model.generate(PROMPTS, MEDIA, GenerationSettings(1, prompt_logprobs=True))
    ids = torch.from_numpy(asked.tokens)[None]
    marked = torch.from_numpy(asked.pictures)[None]
    layout = MediaLayout(torch.where(marked, marked.cumsum(dim=1) - 1, -1), (2,), ("video",))
    with torch.no_grad():
        want = model(ids, media, layout)[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    assert answers[0].prompt_logprobs == pytest.approx(want.tolist(), abs=1e-5)


def test_what_cannot_be_answered_is_refused(model: PerceptionLM) -> None:
    with pytest.raises(BadInput, match="fit into 96 tokens; got a prompt of 3 and an answer of up to 94"):
        model.generate([prompt([1, 2, 3])], [None], GenerationSettings(94))
    with pytest.raises(BadInput, match="a prompt of 96"):
        model.generate([prompt([1] * 96)], [None])
    with pytest.raises(BadInput, match="8 visual tokens; it marks 4"):
        model.generate([prompt([1], 4)], [chunks(2)], GenerationSettings(2))
    with pytest.raises(BadInput, match="marks 4 visual tokens, but its media are None"):
        model.generate([prompt([1], 4)], [None], GenerationSettings(2))
    with pytest.raises(BadInput, match="needs decode"):
        model.generate([prompt([1])], [None], GenerationSettings(2, until=("a",)))
    with pytest.raises(BadInput, match="at temperature 0"):
        GenerationSettings(samples=2)
    assert len(model.generate([prompt([1] * 90)], [None])[0].tokens) <= 6


def test_the_store_grows_with_its_rows_and_not_with_the_context() -> None:
    store, layers = Store(2), 2
    parts = [torch.randn(1, 2, 5, 4), torch.randn(1, 2, 9, 4)]
    for layer in range(layers):
        store.extend(layer, parts, parts)
    store.lengths = [5, 9]
    more = torch.randn(2, 2, 1, 4)
    for _ in range(100):
        for layer in range(layers):
            keys, _ = store.add(layer, more, more)
        store.lengths = [length + 1 for length in store.lengths]
    assert keys.shape == (2, 2, 109, 4)
    assert torch.equal(keys[0, :, :5], parts[0][0])
    assert torch.equal(keys[0, :, 5:105], more[0].expand(2, 100, 4))
    assert torch.equal(keys[1, :, :9], parts[1][0])
    assert store.keys[0] is not None
    assert store.keys[0].shape[2] <= 2 * 109
