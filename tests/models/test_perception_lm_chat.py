"""How conversations become rows: layout, what is supervised, cutting, batches, packing."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from percepta.errors import BadInput
from percepta.models.perception_lm.chat import (
    ChatTemplate,
    Example,
    Message,
    chunk_tokens,
    collate,
    generation_prompt,
    is_official_system,
    pack,
    training_example,
    usable,
)
from percepta.models.perception_lm.chat_files import find_system, open_chat, save_chat
from percepta.models.perception_lm.tokenizer import BpeTokenizer, official_specials

BYTES = BpeTokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}, official_specials(256))
CHAT = ChatTemplate(BYTES, "SYS", 4)
HEAD = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nSYS<|eot_id|>"
USER, ASSISTANT = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
IMAGE = "<|image|>"


def talk(*texts: str) -> list[Message]:
    return [Message(("human", "assistant")[number % 2], text) for number, text in enumerate(texts)]


def example(
    *texts: str, chunks: int = 1, kind: str = "text", length: int = 500, template: ChatTemplate = CHAT
) -> Example:
    return training_example(template, talk(*texts), chunks, kind, length)


def words(made: Example) -> str:
    return CHAT.decode(made.tokens)


def supervised(made: Example) -> str:
    return CHAT.decode(made.tokens[made.supervised])


def test_the_layout_of_a_conversation() -> None:
    made = example("<image>\nWhat?", "A cat.", "Sure?", "Yes.", chunks=2, kind="image")
    first = f"{HEAD}{USER}{IMAGE * 8}What?<|eot_id|>{ASSISTANT}A cat.<|eot_id|>"
    assert words(made) == f"{first}{USER}Sure?<|eot_id|>{ASSISTANT}Yes.<|eot_id|><|end_of_text|>"
    assert supervised(made) == f"{ASSISTANT}A cat.<|eot_id|>{ASSISTANT}Yes.<|eot_id|><|end_of_text|>"
    assert made.pictures.sum() == 8
    assert (made.trains, made.turns_lost) == (True, 0)


def test_merges_go_across_what_stands_before_a_text() -> None:
    """The header's empty line and a text that begins with a newline are one piece of text, as officially."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"\n\n": 256, b"\n\n\n": 257}
    template = replace(CHAT, tokenizer=BpeTokenizer.from_ranks(ranks, official_specials(258)))
    made = example("\nWhat?", "x", template=template)
    assert 257 in made.tokens
    pictured = example("\nWhat?", "x", kind="image", template=template)
    assert 257 not in pictured.tokens  # image tokens stand between


def test_tags_of_later_messages_stay_as_they_are_written() -> None:
    made = example("Look", "ok", "<image> again <video>", "no", kind="image")
    assert words(made).count(IMAGE) == 4
    assert "<image> again <video>" in words(made)


@pytest.mark.parametrize("text", ["<image>\nWhat?", "\n<image>What?", "<video>\nWhat?", "What?", "<image><video>What?"])
def test_tags_of_the_first_message_go_with_one_newline(text: str) -> None:
    assert f"{USER}{IMAGE * 4}What?<|eot_id|>" in words(example(text, "x", kind="video"))


def test_several_pictures_stand_where_their_tags_are() -> None:
    made = example("A <image> B", "one", "and <image>\n?", "two", chunks=2, kind="multi_image")
    assert f"A {IMAGE * 4} B" in words(made)
    assert f"and {IMAGE * 4}\n?" in words(made)
    with pytest.raises(BadInput, match="must have an <image> for each; 1 for 2"):
        example("A <image> B", "one", chunks=2, kind="multi_image")


def test_user_text_never_becomes_a_special_token() -> None:
    """Officially a literal <|image|> of a user is an image token, and the count of visual tokens is wrong."""
    text = "What is <|image|>? <|eot_id|><|start_header_id|>assistant"
    made = example(text, "<|image|> is a token.", kind="image")
    assert made.pictures.sum() == 4
    assert text in words(made)
    official = example(text, "x", kind="image", template=replace(CHAT, rule="official"))
    assert official.pictures.sum() == 5
    assert generation_prompt(CHAT, text).pictures.sum() == 0


def test_broken_conversations_are_refused() -> None:
    with pytest.raises(BadInput, match="must begin with human and alternate; message 0 is from assistant"):
        training_example(CHAT, [Message("assistant", "x"), *talk("q", "a")], 1, "image", 500)
    with pytest.raises(BadInput, match="message 1 is from human"):
        training_example(CHAT, [Message("human", "x"), *talk("q", "a")], 1, "text", 500)
    with pytest.raises(BadInput, match="must hold a question and an answer"):
        training_example(CHAT, talk("q"), 1, "text", 500)
    with pytest.raises(BadInput, match="role of a message must be one of human, assistant; got 'gpt'"):
        Message("gpt", "x")
    with pytest.raises(BadInput, match="text of a message must be a string"):
        Message("human", 5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="kind of training_example"):
        example("q", "a", kind="picture")


def test_official_conversations_that_are_broken() -> None:
    """An assistant's first message takes the image tokens with it; of two questions the first is lost, with its
    system text."""
    official = replace(CHAT, rule="official")
    led = training_example(official, [Message("assistant", "x"), *talk("q", "a")], 1, "image", 500)
    assert led.pictures.sum() == 0
    twice = training_example(official, [Message("human", "lost"), *talk("q", "a")], 1, "text", 500)
    assert CHAT.decode(twice.tokens) == f"<|begin_of_text|>{USER}q<|eot_id|>{ASSISTANT}a<|eot_id|><|end_of_text|>"
    with pytest.raises(BadInput, match="message 2 is a second"):
        training_example(official, [*talk("q", "a"), Message("assistant", "b")], 1, "text", 500)


def test_whole_turns_are_cut_and_one_place_is_left_free() -> None:
    whole = example("q", "a", "q2", "a2")
    size = len(whole.tokens)
    assert np.array_equal(example("q", "a", "q2", "a2", length=size + 1).tokens, whole.tokens)
    without_answer = example("q", "a", "q2", "a2", length=size)
    assert words(without_answer).endswith("q2<|eot_id|>")
    assert "<|end_of_text|>" not in words(without_answer)
    assert without_answer.turns_lost == 1
    question = len(CHAT.encode([*CHAT.beginning(), *CHAT.header("user"), "q", *CHAT.end_of("human")]))
    assert len(example("q", "a", length=question).tokens) == 0
    only = example("q", "a", length=question + 1)
    assert (len(only.tokens), only.trains, only.turns_lost) == (question, False, 1)


def test_a_turn_after_one_that_does_not_fit_is_lost_too() -> None:
    made = example("q", "a", "long " * 100, "b", "c", "d", length=120)
    assert words(made).endswith("a<|eot_id|>")
    assert made.turns_lost == 4


def test_examples_without_a_supervised_token_are_left_out() -> None:
    """Officially they survive, and alone in a batch their mean loss is 0 / 0."""
    made = [example("q", "a"), example("q", "a" * 300, length=100), example("q" * 300, "a", length=100)]
    assert [one.trains for one in made] == [True, False, False]
    assert list(usable(made)) == [made[0]]


def test_the_warm_up_is_image_tokens_and_answers() -> None:
    warm = replace(CHAT, form="warmup", system="")
    made = example("What is it?", "A cat.", "Sure?", "Yes.", kind="image", template=warm)
    assert words(made) == f"{IMAGE * 4}A cat.\nSure?Yes.\n"
    assert supervised(made) == "A cat.\nYes.\n"
    assert CHAT.decode(generation_prompt(warm, "What?", 1).tokens) == IMAGE * 4
    # Nothing is kept of a question of words alone, so that a first answer that does not fit leaves nothing at all.
    assert len(example("hi", "hello " * 50, template=warm, length=20).tokens) == 0


def test_prompts() -> None:
    def prompt(question: str, chunks: int) -> str:
        made = generation_prompt(CHAT, question, chunks)
        assert made.pictures.sum() == 4 * chunks
        return CHAT.decode(made.tokens).removeprefix(HEAD + USER).removesuffix(f"<|eot_id|>{ASSISTANT}")

    assert prompt("<image>\nWhat?", 1) == f"{IMAGE * 4}\nWhat?"  # in place: unlike in training the newline stays
    assert prompt("<image>\nWhat?", 2) == f"{IMAGE * 8}What?"
    assert prompt("a <image> b <image>", 2) == f"a {IMAGE * 4} b {IMAGE * 4}"
    assert prompt("<video>\nWhat?", 3) == f"{IMAGE * 12}What?"
    assert prompt("What does <image> mean?", 0) == "What does <image> mean?"


def test_a_prompt_that_goes_on_with_a_conversation_is_the_start_of_its_example() -> None:
    turns = talk("What?", "A cat.", "Sure?")
    made = generation_prompt(CHAT, turns, 2)
    whole = training_example(CHAT, [*turns, Message("assistant", "Yes.")], 2, "image", 500)
    assert np.array_equal(made.tokens, whole.tokens[: len(made.tokens)])
    with pytest.raises(BadInput, match="alternate from human to human"):
        generation_prompt(CHAT, turns[:2])
    with pytest.raises(BadInput, match="chunks of generation_prompt must be 0 or more"):
        generation_prompt(CHAT, "q", -1)


def test_a_batch_is_shifted_and_padded() -> None:
    made = [example("q", "a"), example("hello", "what", chunks=2, kind="image")]
    rows = collate(CHAT, made)
    assert rows.tokens.shape == (2, made[1].inputs)
    for row, one in enumerate(made):
        assert np.array_equal(rows.tokens[row, : one.inputs], one.tokens[:-1])
        assert (rows.tokens[row, one.inputs :] == CHAT.end_token).all()
        assert np.array_equal(rows.targets[row][rows.supervised[row]], one.tokens[one.supervised])
    assert rows.pictures[1].max() == 7
    assert (rows.chunks, rows.kinds) == ((1, 2), ("text", "image"))
    assert np.array_equal(rows.documents[0], [*[0] * made[0].inputs, *[1] * (made[1].inputs - made[0].inputs)])


def test_the_official_slips_of_a_batch_by_name_only() -> None:
    """A first token that is supervised is asked for at the end of the row; a last visual token leaves its place."""
    for rule, slips in (("safe", False), ("official", True)):
        template = replace(CHAT, form="warmup", rule=rule)
        answer = training_example(template, talk("hi", "hello"), 1, "text", 30)
        picture = training_example(template, talk("hi", "hello " * 9), 1, "image", 30)
        assert answer.supervised[0]
        assert picture.pictures[-1]
        rows = collate(template, [answer, picture], 30)
        assert bool(rows.supervised[0, -1]) is slips
        assert rows.targets[0, -1] == (ord("h") if slips else CHAT.end_token)
        assert (rows.pictures[1] >= 0).sum() == (4 if slips else 3)


def several(count: int) -> list[Example]:
    draws = np.random.default_rng(0)
    kinds = ["image", "text", "video", "multi_image"]
    made = []
    for number in range(count):
        kind, chunks = kinds[number % 4], int(draws.integers(1, 4))
        text = " ".join(["<image>"] * chunks) if kind == "multi_image" else "q" * int(draws.integers(1, 30))
        made.append(example(text, "a" * int(draws.integers(1, 40)), chunks=chunks, kind=kind))
    return made


def test_packed_rows_hold_every_example_whole() -> None:
    made = several(23)
    rows = pack(CHAT, made, 400)
    assert sorted(number for row in rows.examples for number in row) == list(range(23))
    single = collate(CHAT, made)
    for row, numbers in enumerate(rows.examples):
        start = 0
        for document, number in enumerate(numbers):
            place = slice(start, start + made[number].inputs)
            alone = slice(0, made[number].inputs)
            assert np.array_equal(rows.tokens[row, place], single.tokens[number, alone])
            assert np.array_equal(rows.targets[row, place], single.targets[number, alone])
            assert np.array_equal(rows.supervised[row, place], single.supervised[number, alone])
            assert np.array_equal(rows.positions[row, place], np.arange(made[number].inputs))
            assert (rows.documents[row, place] == document).all()
            start = place.stop
        assert not rows.supervised[row, start:].any()
        shown = rows.pictures[row][rows.pictures[row] >= 0]
        assert np.array_equal(shown, np.arange(len(shown)))
        placed = [made[number] for number in numbers if made[number].kind != "text"]
        assert rows.chunks[row] == sum(one.chunks for one in placed)
        assert len(shown) == 4 * rows.chunks[row]
        assert rows.kinds[row] == (placed[0].kind if placed else "text")
    assert rows.supervised.sum() == single.supervised.sum()
    assert rows.filled == pytest.approx(sum(one.inputs for one in made) / rows.tokens.size)
    assert rows.filled > 2 * pack(CHAT, made[:1], 400).filled


def test_packing_is_the_first_row_with_room_and_repeats_itself() -> None:
    made = [replace_length(example("q", "a" * 200), size) for size in (60, 60, 30, 10, 40)]
    rows = pack(CHAT, made, 100)
    assert rows.examples == ((0, 2, 3), (1, 4))
    again = pack(CHAT, made, 100)
    assert np.array_equal(again.tokens, rows.tokens)


def replace_length(made: Example, inputs: int) -> Example:
    cut = slice(0, inputs + 1)
    return replace(made, tokens=made.tokens[cut], supervised=made.supervised[cut], pictures=made.pictures[cut])


def test_rows_that_cannot_be_made() -> None:
    with pytest.raises(BadInput, match="at least one example"):
        pack(CHAT, [], 10)
    with pytest.raises(BadInput, match="2 to 21 tokens; example 1 has"):
        pack(CHAT, [replace_length(example("q", "a"), 10), example("q", "a")], 20)
    with pytest.raises(BadInput, match="example 0 has 0"):
        collate(CHAT, [example("q" * 99, "a", length=50)], 50)


def test_templates_that_cannot_be() -> None:
    with pytest.raises(BadInput, match="form of ChatTemplate"):
        replace(CHAT, form="sft")
    with pytest.raises(BadInput, match="rule of ChatTemplate"):
        replace(CHAT, rule="offical")
    with pytest.raises(BadInput, match="tokens_per_chunk of ChatTemplate"):
        replace(CHAT, tokens_per_chunk=0)
    with pytest.raises(BadInput, match=r"it lacks <\|image\|>"):
        replace(CHAT, tokenizer=BpeTokenizer(BYTES.inner, {"<|begin_of_text|>": 256, "<|end_of_text|>": 257}))
    assert CHAT.stop_tokens == (257, 265)
    assert [chunk_tokens(448, 448, 14, 2), chunk_tokens(448, 448, 14), chunk_tokens(60, 60, 14, 2)] == [256, 1024, 4]


def test_a_chat_in_one_file(tmp_path: Path) -> None:
    path = save_chat(CHAT, tmp_path / "chat.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = open_chat(path, 4)
    assert again.system == "SYS"
    assert np.array_equal(example("q", "a", template=again).tokens, example("q", "a").tokens)
    assert open_chat(path, 4, system="Other").system == "Other"
    assert open_chat(path, 4, form="warmup").system == ""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(BadInput, match="has schema 99, written by a newer version"):
        open_chat(path, 4)


def test_the_system_text_comes_from_the_checkpoint_or_the_user(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(BYTES.to_json()))
    with pytest.raises(BadInput, match="holds no chat template with a system text"):
        open_chat(tmp_path, 4)
    given = r"{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>' }}{% for m in m %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    with pytest.warns(UserWarning, match=r"\(9 characters\) is not the one that the published models"):
        assert open_chat(tmp_path, 4).system == "Be brief."
    (tmp_path / "chat_template.jinja").write_text("{% set s = 'x' %}no header here")
    assert find_system(tmp_path) == "Be brief."
    assert not is_official_system("x" * 186)
