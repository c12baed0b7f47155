"""A language model that sees, with what the verbs need of it: what it is shown, what it is told, what it says.

Order of this file: how answers are drawn, the speaker, its many inputs, words to answers, an answer as it is made.
Unusual: what is seen is encoded once, however many questions are asked about it; a prompt that does not fit into the
context is refused before anything is computed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, out_of_range
from percepta.media import Source
from percepta.media.chunks import ChunkPreprocess
from percepta.models.perception_lm import Generated, GenerationSettings, encode_chunks
from percepta.models.perception_lm.chat import ChatTemplate, Prompt, generation_prompt
from percepta.results import Answer
from percepta.running.feed import Stream
from percepta.running.fingerprint import made_with
from percepta.running.loading import load
from percepta.running.modes import evaluating
from percepta.running.preparing import prepare
from percepta.tasks.asking_chat import chat_of, sight_of
from percepta.tasks.asking_int8 import hold_in_int8
from percepta.tasks.asking_media import Looking, Seen
from percepta.tasks.asking_prompts import prompts_for
from percepta.tasks.asking_words import boxes_in, in_seconds, moments_in, settled
from percepta.tasks.encoder import Encoder

NANO = "plm-nano"
MAX_TOKENS = 256
WARM = 0.7  # the temperature of several samples
PREPARED = 500_000_000  # parameters up to which faster copies of the weights are held beside them, on the CPU
SMALL_BATCH, SMALL_CHUNK = 16, 64  # chunks at once of a model whose chunks take so few tokens
TOKENS_AT_ONCE = 16_384  # of prompts that are answered together, so that many questions do not add up


@dataclass(frozen=True, slots=True)
class Drawing:
    """How answers are drawn.

    Attributes:
        samples: answers to each question.
        temperature: 0 says the likeliest word, more varies; None is 0 for one answer and 0.7 for several.
        max_tokens: of an answer; None is 256, or what the context leaves.
        seed: of what is drawn at a temperature above 0.

    Raises: BadInput for a number out of range, and for several samples that would all be the same.
    """

    samples: int = 1
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("samples", "max_tokens"):
            value = getattr(self, what)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise out_of_range(what, value, "a whole number of 1 or more")
        heat = self.temperature
        if heat is not None and not (isinstance(heat, int | float) and math.isfinite(heat) and heat >= 0):
            raise out_of_range("temperature", heat, "0 or more")
        if self.samples > 1 and heat == 0:
            raise BadInput(f"temperature must be above 0 for {self.samples} samples, which would all be the same.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise out_of_range("seed", self.seed, "a whole number")

    @property
    def heat(self) -> float:
        """The temperature."""
        return (WARM if self.samples > 1 else 0.0) if self.temperature is None else float(self.temperature)

    @property
    def settings(self) -> GenerationSettings:
        """As the model takes them."""
        return GenerationSettings(
            max_tokens=self.max_tokens, temperature=self.heat, samples=self.samples, seed=self.seed
        )


@dataclass(frozen=True, slots=True)
class View:
    """One thing to be asked about, and the questions."""

    seen: Seen
    questions: tuple[str, ...]


ViewOf = Callable[[Source], tuple[View, Tensor]]
Finish = Callable[[Source, View, list[Answer]], Any]


class Speaker:
    """A Perception Language Model with its chat.

    Args:
        model, device, dtype, weights: as of `Encoder`.
        system: another system text than the checkpoint's.
        chat: a ChatTemplate, or a file or folder that holds tokenizer and template; by default what lies beside the
            weights, is packaged, or is on the hub.
        int8: hold the language model's weights in 8 bits.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch; BadInput, also for a model that answers no questions.
    """

    def __init__(
        self,
        model: str | nn.Module,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        weights: str | Path | None = None,
        system: str | None = None,
        chat: Any = None,
        int8: bool = False,
    ) -> None:
        self.int8 = int8
        encoder = Encoder(_loaded(model, device, dtype, weights, int8), device, dtype)
        self.model: Any = encoder.model
        self.name, self.device, self.dtype, self.evaluating = (
            encoder.name, encoder.device, encoder.dtype, encoder.evaluating,
        )  # fmt: skip
        self._run = encoder.run
        if not hasattr(self.model, "encode_media"):
            raise BadInput(f"ask and caption need a model that answers, such as {NANO}; {self.name} does not.")
        self.chat: ChatTemplate = chat_of(self.model, weights, chat, system)
        self.model.chat = self.chat
        self.sight = _sight(model, weights, chat)
        self.prompts = prompts_for(self.name)
        self.limit: int = self.model.config.text.max_length

    @property
    def maker(self) -> str:
        """What answers depend on besides the question, in words on one line."""
        made = made_with(self.model)
        system = hashlib.sha256(self.chat.system.encode()).hexdigest()[:8]
        bits = ", 8 bits" if self.int8 else ""
        return f"{made['model']} ({made['weights']}, {made['dtype']}{bits}), system text {system}"

    def preprocess(self, looking: Looking) -> ChunkPreprocess:
        """The chunks of pictures and videos. Raises BadInput for a budget that is too small."""
        frames = self.sight.get("frames") if looking.frames is None else looking.frames
        tiles = self.sight.get("tiles") if looking.tiles is None else looking.tiles
        told = replace(looking, frames=frames, tiles=tiles)
        return told.preprocess(self.model.preprocess, self.chat.tokens_per_chunk, self.name)

    def encode(self, pixels: Tensor, chunk_tokens: int | None = None) -> Tensor:
        """(C, 3, S, S) → visual tokens (C, n, width), n as of `Seen.chunk_tokens`."""
        with self.evaluating():
            return encode_chunks(self.model, pixels.to(self.device, self.dtype), chunk_tokens)

    def tokens_of(self, seen: Seen) -> int:
        """Visual tokens of what is seen."""
        return seen.chunks * (seen.chunk_tokens or self.chat.tokens_per_chunk)

    def prompt(self, seen: Seen, question: str, drawing: Drawing) -> Prompt:
        """The tokens before an answer. Raises BadInput for an empty question, and for what the context cannot hold."""
        check_question(question)
        chat = self.chat if seen.chunk_tokens is None else replace(self.chat, tokens_per_chunk=seen.chunk_tokens)
        found = generation_prompt(chat, seen.worded(question), seen.chunks)
        length, left = len(found.tokens), self.limit - len(found.tokens)
        if left < 1:
            visual = self.tokens_of(seen)
            raise BadInput(
                f"{_what(seen)} with the question takes {length:,} tokens ({visual:,} of them visual), and {self.name} "
                f"holds {self.limit:,} with the answer; use fewer tiles or frames, such as visual_tokens="
                f"{max(self.chat.tokens_per_chunk, self.limit // 2)}, or fewer words."
            )
        if drawing.max_tokens is not None and drawing.max_tokens > left:
            raise BadInput(
                f"max_tokens must be at most {left:,} here: {self.name} holds {self.limit:,} tokens and the prompt "
                f"takes {length:,}; got {drawing.max_tokens:,}."
            )
        return found

    def answers(self, view: View, features: Tensor | None, drawing: Drawing) -> list[Answer]:
        """An answer to each question about what was seen, whose visual tokens are `features` (C, n, width)."""
        return self.answers_to_all([view], [features], drawing)[0]

    def answers_to_all(
        self, views: Sequence[View], features: Sequence[Tensor | None], drawing: Drawing
    ) -> list[list[Answer]]:
        """As `answers`, for several things; prompts are answered together as far as TOKENS_AT_ONCE go.

        What is drawn at a temperature depends on the question's number alone, so then each thing goes by itself.
        """
        asked = [(number, question) for number, view in enumerate(views) for question in view.questions]
        prompts = [self.prompt(views[number].seen, question, drawing) for number, question in asked]
        found: list[list[Answer]] = [[] for _ in views]
        start = 0
        while start < len(asked):
            stop, tokens = start, 0
            while stop < len(asked) and (stop == start or tokens + len(prompts[stop].tokens) <= TOKENS_AT_ONCE):
                if drawing.heat and asked[stop][0] != asked[start][0]:
                    break
                tokens += len(prompts[stop].tokens)
                stop += 1
            media = [features[number] for number, _ in asked[start:stop]]
            with self.evaluating():
                said = self.model.generate(prompts[start:stop], media, drawing.settings, self.chat.tokenizer.decode)
            for place, (number, question) in enumerate(asked[start:stop]):
                own = [one for one in said if one.prompt == place]
                found[number].append(answer_of(views[number].seen, question, own, self.tokens_of(views[number].seen)))
            start = stop
        return found

    def over(
        self,
        inputs: Any,
        view_of: ViewOf,
        finish: Finish,
        drawing: Drawing,
        batch_size: int | None = None,
        on_error: str = "collect",
    ) -> Stream[Any]:
        """Questions about each of many inputs, in order; `view_of` gives an input's view and its chunks."""

        def prepare(source: Source) -> Tensor:
            view, pixels = view_of(source)
            for question in view.questions:
                self.prompt(view.seen, question, drawing)  # what does not fit fails this input alone
            held[id(source)] = view
            return pixels

        def compute(batch: Tensor, sources: list[Source]) -> list[Any]:
            views = [held[id(source)] for source in sources]
            features = self.encode(batch.flatten(0, 1), views[0].seen.chunk_tokens).split(
                [view.seen.chunks for view in views]
            )
            told = self.answers_to_all(views, features, drawing)
            for source in sources:  # only now: a batch that does not fit into memory comes again in parts
                del held[id(source)]
            return [finish(source, view, own) for source, view, own in zip(sources, views, told, strict=True)]

        held: dict[int, View] = {}
        if batch_size is None:  # what is decoded ahead counts too: pictures in tiles are large
            batch_size = SMALL_BATCH if self.chat.tokens_per_chunk <= SMALL_CHUNK else 1
        return self._run(inputs, compute, batch_size, on_error, prepare)

    def saying(self, seen: Seen, question: str, features: Tensor | None, drawing: Drawing) -> AnswerStream:
        """One answer as it is made."""
        prompt = self.prompt(seen, question, drawing)
        return AnswerStream(self, seen, question, self._tokens(prompt, features, drawing))

    def _tokens(self, prompt: Prompt, features: Tensor | None, drawing: Drawing) -> Iterator[Any]:
        with evaluating(self.model):  # its modes alone: what is switched between two tokens would hold for the caller
            yield from self.model.stream([prompt], [features], drawing.settings, self.chat.tokenizer.decode)


class AnswerStream:
    """The pieces of one answer, in which frames of a video stand as seconds; iterate once.

    Together they are the text of `answer`, which is there at the end; asking for it earlier goes on to the end.
    """

    def __init__(self, speaker: Speaker, seen: Seen, question: str, tokens: Iterator[Any]) -> None:
        self._speaker, self._seen, self._question, self._tokens = speaker, seen, question, tokens
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._said, self._shown = "", ""
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        for _ in self:
            continue
        assert self._answer is not None
        return self._answer

    def close(self) -> None:
        """Stop; no more tokens are made."""
        close = getattr(self._tokens, "close", None)
        if close is not None:
            close()

    def __iter__(self) -> Iterator[str]:
        if self._answer is not None:
            return
        end = "length"
        for token in self._tokens:
            self._ids.append(token.token)
            self._logprobs.append(token.logprob)
            self._said += token.text
            end = token.end or end
            sure = self._said if token.end else settled(self._said, self._seen.timeline)
            text = in_seconds(sure.strip(), self._seen.timeline)
            if len(text) > len(self._shown):
                piece, self._shown = text[len(self._shown) :], text
                yield piece
        made = Generated(0, 0, tuple(self._ids), self._said, end, tuple(self._logprobs))
        self._answer = answer_of(self._seen, self._question, [made], self._speaker.tokens_of(self._seen))


def answer_of(seen: Seen, question: str, said: Sequence[Generated], visual_tokens: int) -> Answer:
    """The answer in what a model said, in seconds and pixels."""
    first = said[0]
    words, timeline = first.text.strip(), seen.timeline
    return Answer(
        seen.source,
        question,
        in_seconds(words, timeline),
        samples=tuple(in_seconds(one.text.strip(), timeline) for one in said),
        said=words,
        moments=moments_in(words, timeline),
        boxes=None if seen.size is None or seen.kind != "image" else boxes_in(words, seen.source, seen.size),
        frames=() if timeline is None else timeline.starts,
        span=None if timeline is None else (timeline.starts[0], timeline.end),
        finish={"stop token": "stop", "until": "text"}.get(first.end, "length"),
        visual_tokens=visual_tokens,
        logprob=sum(first.logprobs) / len(first.logprobs) if first.logprobs else None,
    )


def check_question(question: Any) -> None:
    """Raises BadInput for an empty question, or for what is no text."""
    if not isinstance(question, str):
        raise BadInput(f"a question must be a text; got {type(question).__name__}.")
    if not question.strip():
        raise BadInput("a question must have words; got an empty text.")


def speaker_of(model: Any, device: Any, dtype: Any, weights: Any, how: dict[str, Any]) -> Speaker:
    """A speaker as it is, or one made of a model. Raises BadInput for settings of one that is made already."""
    if not isinstance(model, Speaker):
        return Speaker(model, device, dtype, weights, **how)
    given = {"device": device, "dtype": dtype, "weights": weights, **how}
    told = [name for name, value in given.items() if value]
    if told:
        raise BadInput(f"{' and '.join(told)} must be given when the speaker is made, not when it is asked.")
    return model


def _loaded(model: Any, device: Any, dtype: Any, weights: Any, int8: bool) -> Any:
    """A model in hand as it is; else loaded, and prepared where that does not double the memory of a large one."""
    if isinstance(model, nn.Module):
        if int8:
            raise BadInput("int8 holds the weights of a model that is loaded by name; this one is in hand.")
        if weights is not None:
            raise BadInput("weights must be None for a model in hand; load them into it, or pass its name.")
        return model
    if not isinstance(model, str | Path) or not str(model):
        raise BadInput(f"a model must be a name, a file or a loaded model; got {model!r}.")
    place = "cpu" if device is None else device
    found = load(model, weights, device=place, dtype=dtype)
    if int8:
        hold_in_int8(found.decoder)
        if getattr(found, "head", None) is not None:
            hold_in_int8(found)
        return found
    parameters = list(found.parameters())
    small = sum(parameter.numel() for parameter in parameters) <= PREPARED
    return prepare(found) if small and parameters[0].device.type == "cpu" else found


def _sight(model: Any, weights: Any, chat: Any) -> dict[str, int]:
    """What the files of a checkpoint on this machine say of tiles and frames; nothing where there are none."""
    for place in (chat, weights, model):
        if isinstance(place, str | Path) and (path := Path(place).expanduser()).exists():
            return sight_of(path)
    return {}


def _what(seen: Seen) -> str:
    return seen.source or "the prompt"
