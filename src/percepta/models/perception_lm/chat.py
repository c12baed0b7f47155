"""How a conversation about pictures becomes a row of tokens (Perception Language Model, arXiv 2504.13180).

Order of this file: messages, the template, a training example, a generation prompt, batches, packed rows.
Two forms: "plm_sft" (headers, system text, ends of turns) and "warmup" (image tokens and answers, nothing else).
Unusual: image tokens have no separator, neither before the text nor between pictures; answers are supervised with
their header and their end; a conversation that is too long loses whole turns. What a user writes is ordinary text,
even a special string; the rule "official" takes special strings, and broken rows, as the official code does.
The system text is a field: it comes with a checkpoint or from the user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, one_of, out_of_range
from percepta.models.perception_lm.tokenizer import (
    BEGIN,
    END,
    HEADER_END,
    HEADER_START,
    IMAGE,
    NEEDED_SPECIALS,
    TURN_END,
    ChatTokenizer,
    split_specials,
)

FORMS = ("plm_sft", "warmup")
RULES = ("safe", "official")
KINDS = ("image", "video", "multi_image", "text")
ROLES = ("human", "assistant")
OFFICIAL_SYSTEM_SHA256 = "790f4cfc05523b0eecbc061d3b2a427d84204164119832ccffb22deaae07cb29"
OFFICIAL_SYSTEM_LENGTH = 186
# One newline goes with a tag; the one after it is looked for first, as in the official order.
_TAGS = tuple(part for tag in ("<image>", "<video>") for part in (f"{tag}\n", f"\n{tag}", tag))

Part = str | tuple[int, ...]
"""Ordinary text, or ids as they are."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks ("human" or "assistant"), and the text, in which `<image>` marks the place of a picture."""

    role: str
    text: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise one_of("role", self.role, ROLES, owner="a message")
        if not isinstance(self.text, str):
            raise BadInput(f"text of a message must be a string; got {type(self.text).__name__}.")


@dataclass(frozen=True)
class ChatTemplate:
    """What stays the same through all conversations with one model.

    Attributes:
        tokenizer: see `ChatTokenizer`.
        system: the system text of the checkpoint; "warmup" has none.
        tokens_per_chunk: image tokens that one picture, tile or frame takes; see `chunk_tokens`.
        form: "plm_sft" or "warmup".
        rule: "safe" takes user text as text and refuses broken conversations; "official" does as the official code.
    """

    tokenizer: ChatTokenizer
    system: str
    tokens_per_chunk: int
    form: str = "plm_sft"
    rule: str = "safe"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise one_of("form", self.form, FORMS, owner="ChatTemplate")
        if self.rule not in RULES:
            raise one_of("rule", self.rule, RULES, owner="ChatTemplate")
        if self.tokens_per_chunk < 1:
            raise out_of_range("tokens_per_chunk", self.tokens_per_chunk, "1 or more", owner="ChatTemplate")
        if absent := [name for name in NEEDED_SPECIALS if name not in self.tokenizer.specials]:
            raise BadInput(f"the tokenizer of a chat must know {', '.join(NEEDED_SPECIALS)}; it lacks {absent[0]}.")

    @property
    def image_token(self) -> int:
        """The id that holds the place of a visual token."""
        return self.tokenizer.specials[IMAGE]

    @property
    def end_token(self) -> int:
        """The id that ends a conversation and fills up rows."""
        return self.tokenizer.specials[END]

    @property
    def stop_tokens(self) -> tuple[int, int]:
        """The ids that end an answer: of the whole text, and of a turn."""
        return self.end_token, self.tokenizer.specials[TURN_END]

    def header(self, role: Literal["system", "user", "assistant"]) -> list[Part]:
        """What stands before a text: who speaks, and an empty line. Nothing in the form "warmup"."""
        if self.form == "warmup":
            return []
        return [self.special(HEADER_START), role, self.special(HEADER_END), "\n\n"]

    def beginning(self) -> list[Part]:
        """What stands before the first question."""
        if self.form == "warmup":
            return []
        return [self.special(BEGIN), *self.header("system"), *self.written(self.system), self.special(TURN_END)]

    def end_of(self, role: str) -> list[Part]:
        """What stands behind a text of a role."""
        if self.form == "warmup":
            return ["\n"] if role == "assistant" else []
        return [self.special(TURN_END)]

    def special(self, name: str) -> tuple[int, ...]:
        return (self.tokenizer.specials[name],)

    def written(self, text: str) -> list[Part]:
        """A text that somebody wrote; with the rule "official" the special strings in it become ids."""
        if self.rule == "safe":
            return [text] if text else []
        pieces = split_specials(self.tokenizer.specials, text)
        return [(piece,) if isinstance(piece, int) else piece for piece in pieces]

    def images(self, chunks: int) -> tuple[int, ...]:
        """The image tokens of some chunks."""
        return (self.image_token,) * (chunks * self.tokens_per_chunk)

    def encode(self, parts: Iterable[Part]) -> list[int]:
        """Ids of a segment; neighbouring texts are joined first, as merges go across them."""
        ids: list[int] = []
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            elif part:
                ids += [*(self.tokenizer.encode(text) if text else ()), *part]
                text = ""
        return ids + (self.tokenizer.encode(text) if text else [])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special strings included."""
        return self.tokenizer.decode(ids)


def chunk_tokens(height: int, width: int, patch: int, pooling: int = 1) -> int:
    """Image tokens of a chunk of height x width pixels: whole patches, pooled `pooling` by `pooling`."""
    return (height // patch // pooling) * (width // patch // pooling)


def is_official_system(text: str) -> bool:
    """Whether a system text is the one that the published models were trained with (by length and SHA-256)."""
    return len(text) == OFFICIAL_SYSTEM_LENGTH and hashlib.sha256(text.encode()).hexdigest() == OFFICIAL_SYSTEM_SHA256


def without_tags(text: str) -> str:
    """The text without any `<image>` and `<video>`, each with one newline beside it."""
    for tag in _TAGS:
        text = text.replace(tag, "")
    return text


# Training


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as tokens.

    Attributes:
        tokens: (n,) int64; empty where not even the first question fits.
        supervised: (n,) bool, the tokens whose prediction is trained.
        pictures: (n,) bool, the places of visual tokens.
        chunks: pictures, tiles or frames that belong to it; of "text" those that are never placed.
        kind: "image", "video", "multi_image" or "text".
        turns_lost: segments (questions or answers) at the end that did not fit.
    """

    tokens: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    pictures: NDArray[np.bool_]
    chunks: int
    kind: str
    turns_lost: int = 0

    @property
    def trains(self) -> bool:
        """Whether anything is supervised; rows without are to be counted and left out, as their loss is no number."""
        return bool(self.supervised[1:].any())

    @property
    def inputs(self) -> int:
        """Places that it takes in a row: the last token is predicted only."""
        return max(len(self.tokens) - 1, 0)


def training_example(
    template: ChatTemplate, messages: Sequence[Message], chunks: int, kind: str, length: int
) -> Example:
    """The tokens of a conversation, cut after the last turn that fits.

    Args:
        chunks: pictures, tiles or frames; with "multi_image" one for each `<image>`. Of "text" any number.
        kind: "image", "video", "multi_image" or "text".
        length: tokens L of a row; a conversation keeps segments while one place is left free.

    Raises:
        BadInput: an unknown kind, no answer, and with the rule "safe" also turns that do not alternate from "human" on,
            or tags that are not as many as pictures.
    """
    if kind not in KINDS:
        raise one_of("kind", kind, KINDS, owner="training_example")
    turns = _pairs(messages, template.rule)
    ids: list[int] = []
    supervised: list[bool] = []
    places = _placed(template, messages, 0 if kind == "text" else chunks, kind)
    lost = 0
    for number, (question, answer) in enumerate(turns):
        asked = [*template.header("user"), *places[question], *template.end_of("human")]
        replied = [
            *template.header("assistant"),
            *template.written(messages[answer].text),
            *template.end_of("assistant"),
        ]
        if number == 0:
            asked = [*_begun(template, messages, question), *asked]
        if number == len(turns) - 1 and template.form == "plm_sft":
            replied.append(template.special(END))
        for segment, trained in ((asked, False), (replied, True)):
            new = template.encode(segment)
            if lost or len(ids) + len(new) + 1 > length:
                lost += 1
                if not ids:
                    return _example(template, [], [], chunks, kind, 2 * len(turns))
            else:
                ids += new
                supervised += [trained] * len(new)
    return _example(template, ids, supervised, chunks, kind, lost)


def _example(
    template: ChatTemplate, ids: list[int], supervised: list[bool], chunks: int, kind: str, lost: int
) -> Example:
    tokens = np.array(ids, np.int64)
    return Example(tokens, np.array(supervised, bool), tokens == template.image_token, chunks, kind, lost)


def _pairs(messages: Sequence[Message], rule: str) -> list[tuple[int, int]]:
    """Numbers of the questions and of their answers."""
    if rule == "safe":
        for number, message in enumerate(messages):
            if message.role != ROLES[number % 2]:
                raise BadInput(
                    f"a conversation must begin with human and alternate; message {number} is from {message.role}."
                )
        pairs = [(number, number + 1) for number in range(0, len(messages) - 1, 2)]
    else:
        pairs, question = [], None
        for number, message in enumerate(messages):  # a second question in a row takes the place of the first
            if message.role == "human":
                question = number
            elif question is not None:
                if pairs and pairs[-1][0] == question:
                    raise BadInput(f"a conversation must have one answer to a question; message {number} is a second.")
                pairs.append((question, number))
    if not pairs:
        raise BadInput("a conversation must hold a question and an answer of the assistant; this one has no such pair.")
    return pairs


def _begun(template: ChatTemplate, messages: Sequence[Message], question: int) -> list[Part]:
    """What stands before the first answered question; officially the system text is lost with a lost question."""
    first = next(number for number, message in enumerate(messages) if message.role == "human")
    whole = template.beginning()
    return whole if question == first or template.form == "warmup" else whole[:1]


def _placed(template: ChatTemplate, messages: Sequence[Message], chunks: int, kind: str) -> dict[int, list[Part]]:
    """The text of each question with its image tokens, by the number of the message."""
    if kind == "multi_image":
        tags = sum(message.text.count("<image>") for message in messages if message.role == "human")
        if template.rule == "safe" and tags != chunks:
            raise BadInput(f"a conversation about several pictures must have an <image> for each; {tags} for {chunks}.")
        return {
            number: _in_place(template, message.text)
            for number, message in enumerate(messages)
            if message.role == "human"
        }
    placed = {number: template.written(message.text) for number, message in enumerate(messages)}
    first = template.written(without_tags(messages[0].text)) if template.form == "plm_sft" else []
    placed[0] = [template.images(chunks), *first]
    return placed


def _in_place(template: ChatTemplate, text: str) -> list[Part]:
    """The text with one chunk's image tokens for each `<image>`."""
    pieces = [template.written(piece) for piece in text.split("<image>")]
    parts = pieces[0]
    for piece in pieces[1:]:
        parts = [*parts, template.images(1), *piece]
    return parts


# Generation


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to go on with: ids (n,) int64, and the places of visual tokens (n,) bool."""

    tokens: NDArray[np.int64]
    pictures: NDArray[np.bool_]


def generation_prompt(template: ChatTemplate, question: str | Sequence[Message], chunks: int = 0) -> Prompt:
    """The tokens before an answer.

    Args:
        question: a text, or a conversation that ends with a question. The tags of its first question count: as many
            `<image>` as chunks are replaced in place, else all image tokens stand in front and tags are taken out.
        chunks: pictures, tiles or frames; 0 asks about nothing but the words.

    Raises:
        BadInput: a conversation that does not alternate from "human" to "human"; negative chunks.
    """
    if chunks < 0:
        raise out_of_range("chunks", chunks, "0 or more", owner="generation_prompt")
    messages = [Message("human", question)] if isinstance(question, str) else list(question)
    if len(messages) % 2 == 0 or any(message.role != ROLES[number % 2] for number, message in enumerate(messages)):
        raise BadInput("a conversation to go on with must alternate from human to human.")
    parts = template.beginning()
    for number, message in enumerate(messages):
        role: Literal["user", "assistant"] = "user" if message.role == "human" else "assistant"
        text = _asked(template, message.text, chunks) if number == 0 else template.written(message.text)
        parts += [*template.header(role), *text, *template.end_of(message.role)]
    tokens = np.array(template.encode([*parts, *template.header("assistant")]), np.int64)
    return Prompt(tokens, tokens == template.image_token)


def _asked(template: ChatTemplate, text: str, chunks: int) -> list[Part]:
    if text.count("<image>") == chunks or chunks == 0:
        return _in_place(template, text) if chunks else template.written(text)
    return [template.images(chunks), *(template.written(without_tags(text)) if template.form == "plm_sft" else [])]


# Batches


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples side by side, padded on the right with the end of text.

    Attributes:
        tokens: (B, L) int64.
        targets: (B, L) int64, the next token where it is supervised, else the end of text.
        supervised: (B, L) bool.
        pictures: (B, L) int64, -1 on text, else 0, 1, 2 ... through the visual tokens of a row.
        chunks: of each row. In packed rows only those that are placed count: those of "text" are left out.
        kinds: of each row; of a packed row that of its first example with pictures, else "text".
        documents: (B, L) int64, the number of the example within its row, 0, 1, ...; padding is a document of its own.
        positions: (B, L) int64, restarting with every document.
        examples: for each row the numbers of its examples, in the order in which their chunks are needed.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    pictures: NDArray[np.int64]
    chunks: tuple[int, ...]
    kinds: tuple[str, ...]
    documents: NDArray[np.int64]
    positions: NDArray[np.int64]
    examples: tuple[tuple[int, ...], ...]

    @property
    def filled(self) -> float:
        """Share of the places that hold a token of an example, 0..1."""
        return float((self.documents < self.padding[:, None]).mean())

    @property
    def padding(self) -> NDArray[np.int64]:
        """(B,) the document number of each row's padding."""
        return np.array([len(row) for row in self.examples], np.int64)


def collate(template: ChatTemplate, examples: Sequence[Example], length: int | None = None) -> Rows:
    """One example a row, as the official code batches them.

    Args:
        length: places L of a row; by default those of the longest example.

    Raises:
        BadInput: no example, an empty one, or one longer than a row.
    """
    placed = [(number,) for number in range(len(examples))]
    width = length or max((example.inputs for example in examples), default=0)
    rows = _rows(template, examples, placed, width, False)
    if template.rule == "official":
        for row, example in enumerate(examples):
            _slip(rows, row, example)
    return rows


def pack(template: ChatTemplate, examples: Sequence[Example], length: int) -> Rows:
    """Several examples a row, each a document of its own: the first row with room for it takes an example.

    A function of the order of the examples alone. No token of one document predicts one of another. Attention has to
    be causal within documents and rotary positions have to be `positions`; then losses are those of single rows.

    Raises:
        BadInput: as `collate`.
    """
    placed: list[tuple[int, ...]] = []
    room: list[int] = []
    for number, example in enumerate(examples):
        row = next((row for row, free in enumerate(room) if free >= example.inputs), None)
        if row is None:
            placed.append(())
            room.append(length)
            row = len(room) - 1
        placed[row] = (*placed[row], number)
        room[row] -= example.inputs
    return _rows(template, examples, placed, length, True)


def _slip(rows: Rows, row: int, example: Example) -> None:
    """The official slips at both ends: a first token that is supervised is asked for at the end of the row, and a
    visual token that ends the example keeps its place although the token itself is gone."""
    if example.supervised[0]:
        rows.targets[row, -1], rows.supervised[row, -1] = example.tokens[0], True
    if example.pictures[-1] and example.inputs < rows.tokens.shape[1]:
        rows.pictures[row, example.inputs] = example.pictures[:-1].sum()


def usable(examples: Iterable[Example]) -> Iterator[Example]:
    """Those that train something; count what goes in and comes out to say how many were skipped."""
    return (example for example in examples if example.trains)


def _rows(
    template: ChatTemplate, examples: Sequence[Example], placed: Sequence[tuple[int, ...]], length: int, packed: bool
) -> Rows:
    _check_lengths(examples, length)
    shape = (len(placed), length)
    tokens, targets = (np.full(shape, template.end_token, np.int64) for _ in range(2))
    supervised, pictures = np.zeros(shape, bool), np.full(shape, -1, np.int64)
    documents, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, numbers in enumerate(placed):
        start = 0
        for document, number in enumerate(numbers):
            example = examples[number]
            place = slice(start, start + example.inputs)
            trained = example.supervised[1:]
            tokens[row, place] = example.tokens[:-1]
            targets[row, place] = np.where(trained, example.tokens[1:], template.end_token)
            supervised[row, place] = trained
            pictures[row, place] = np.where(example.pictures[:-1], 0, -1)
            documents[row, place], positions[row, place] = document, np.arange(example.inputs)
            start = place.stop
        documents[row, start:], positions[row, start:] = len(numbers), np.arange(length - start)
        shown = pictures[row] >= 0
        pictures[row, shown] = np.arange(shown.sum())
    chunks = tuple(sum(_placed_chunks(examples[number], packed) for number in numbers) for numbers in placed)
    kinds = tuple(next((examples[n].kind for n in row if examples[n].kind != "text"), "text") for row in placed)
    return Rows(tokens, targets, supervised, pictures, chunks, kinds, documents, positions, tuple(placed))


def _placed_chunks(example: Example, packed: bool) -> int:
    return 0 if packed and example.kind == "text" else example.chunks


def _check_lengths(examples: Sequence[Example], length: int) -> None:
    if not examples:
        raise BadInput("a batch must hold at least one example; got none.")
    for number, example in enumerate(examples):
        if not 1 <= example.inputs <= length:
            raise BadInput(
                f"an example of a batch must have 2 to {length + 1} tokens; example {number} has "
                f"{len(example.tokens)}, so leave it out or make the row longer."
            )
