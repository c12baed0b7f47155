"""Going on with prompts, token by token, for batches of any mix of pictures, videos and words.

Order of this file: what comes out, prompts and their beginnings, the loop, text from tokens.
Unusual: prompts of a batch lie one after the other, nothing is padded, so a batch costs what its prompts cost, and each
gives what it gives alone. Chunks that several prompts share (the same tensor) pass the tower once, and so does the
beginning that those prompts have in common. Memory grows with the prompt and the answer, not with the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.models.perception_lm.attending import Prompts, Step, Store
from percepta.models.perception_lm.chat import Prompt
from percepta.models.perception_lm.layout import MediaLayout, place
from percepta.models.perception_lm.sampling import DEFAULT_LENGTH, GenerationSettings, Sampler

if TYPE_CHECKING:
    from percepta.models.perception_lm.model import PerceptionLM

Decode = Callable[[Sequence[int]], str]
CHUNKS = 8  # chunks that pass the tower at once
WORDED = 256  # positions whose logits exist at once
SHARED = 16  # tokens from which on a common beginning is worth a pass of its own


@dataclass(frozen=True)
class Token:
    """One more token of an answer.

    Attributes:
        prompt, sample: whose answer, counted from 0.
        token: its id.
        logprob: its log-probability under the model, whatever rule chose it.
        text: what can be said for sure by now, "" where letters or a string to stop at may be incomplete; without a
            `decode` always "".
        end: "" while the answer goes on; else "stop token", "until" or "length".
    """

    prompt: int
    sample: int
    token: int
    logprob: float
    text: str = ""
    end: str = ""


@dataclass(frozen=True)
class Generated:
    """A whole answer.

    Attributes:
        prompt, sample: to which prompt, which of its samples.
        tokens: ids, the stop token included.
        text: in words, without the stop token; "" without a `decode`.
        end: why it ended: "stop token", "until" or "length".
        logprobs: log-probability of each token.
        prompt_logprobs: log-probability of each token of the prompt but the first, given those before it, where asked.
    """

    prompt: int
    sample: int
    tokens: tuple[int, ...]
    text: str
    end: str
    logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...] = ()


def generate(
    model: PerceptionLM,
    prompts: Sequence[Prompt],
    media: Sequence[Tensor | None],
    settings: GenerationSettings | None = None,
    decode: Decode | None = None,
) -> list[Generated]:
    """Answers to prompts: for each prompt, in order, its samples. Arguments and errors as of `stream`."""
    settings = settings or GenerationSettings()
    run = _Run(model, prompts, media, settings, decode)
    parts: dict[tuple[int, int], list[Token]] = {}
    for piece in run.tokens():
        parts.setdefault((piece.prompt, piece.sample), []).append(piece)
    return [
        Generated(
            prompt,
            sample,
            tuple(piece.token for piece in pieces),
            "".join(piece.text for piece in pieces),
            pieces[-1].end,
            tuple(piece.logprob for piece in pieces),
            run.prompt_logprobs.get(prompt, ()),
        )
        for (prompt, sample), pieces in sorted(parts.items())
    ]


def stream(
    model: PerceptionLM,
    prompts: Sequence[Prompt],
    media: Sequence[Tensor | None],
    settings: GenerationSettings | None = None,
    decode: Decode | None = None,
) -> Iterator[Token]:
    """Tokens as they are made, those of all prompts and samples in turns.

    Args:
        prompts: as `chat.generation_prompt` makes them.
        media: for each prompt its chunks, (C, 3, S, S) preprocessed, or what `encode_media` gave for them, or None.
            The same tensor several times is encoded once.
        decode: ids to text, as of a tokenizer; needed for text and for `until`.

    Raises: BadInput for a prompt that does not fit its media or, with its answer, into the model's context.
    """
    return _Run(model, prompts, media, settings or GenerationSettings(), decode).tokens()


def encode_chunks(
    model: PerceptionLM, chunks: Tensor, visual_tokens: int | None = None, at_once: int = CHUNKS
) -> Tensor:
    """`encode_media` a few chunks at a time, so memory does not grow with the tiles of a picture."""
    return torch.cat([model.encode_media(part, visual_tokens) for part in chunks.split(at_once)])


@dataclass
class _Row:
    """One answer on its way."""

    prompt: int
    sample: int
    said: list[int]
    begun: int
    text: TextOf | None

    @property
    def answer(self) -> list[int]:
        return self.said[self.begun :]


class _Run:
    """One call of `generate` or `stream`."""

    def __init__(
        self,
        model: PerceptionLM,
        prompts: Sequence[Prompt],
        media: Sequence[Tensor | None],
        settings: GenerationSettings,
        decode: Decode | None,
    ) -> None:
        if len(prompts) != len(media) or not prompts:
            raise BadInput(f"each prompt needs its media, or None; got {len(prompts)} prompts and {len(media)} media.")
        if settings.until and decode is None:
            raise BadInput("until compares text, so it needs decode, which turns ids into text.")
        self.model, self.prompts, self.media = model, list(prompts), list(media)
        self.settings, self.decode = settings, decode
        self.sampler = Sampler(settings)
        self.limits = [self._limit(prompt) for prompt in prompts]
        self.prompt_logprobs: dict[int, tuple[float, ...]] = {}

    def _limit(self, prompt: Prompt) -> int:
        """The most tokens of an answer."""
        length, context = len(prompt.tokens), self.model.config.text.max_length
        wanted = self.settings.max_tokens
        if not length:
            raise BadInput("a prompt must have at least one token; got none.")
        if length + (wanted or 1) > context:
            raise BadInput(
                f"prompt and answer must fit into {context} tokens; got a prompt of {length} and an answer of up to "
                f"{wanted or 1}; use fewer tiles, frames or words, or a smaller max_tokens."
            )
        return wanted if wanted is not None else min(DEFAULT_LENGTH, context - length)

    @torch.no_grad()
    def tokens(self) -> Iterator[Token]:
        """See `stream`."""
        store = Store(self.model.config.text.depth)
        last = self._first_pass(store)
        count = self.settings.samples
        rows = [
            _Row(number, sample, prompt.tokens.tolist(), len(prompt.tokens), self._text())
            for number, prompt in enumerate(self.prompts)
            for sample in range(count)
        ]
        if count > 1:
            store.select([number for number in range(len(self.prompts)) for _ in range(count)])
            last = last.repeat_interleave(count, dim=0)
        while True:
            logits = self.model.logits(last)
            chosen = self.sampler.choose(logits, [row.said for row in rows], [(row.prompt, row.sample) for row in rows])
            logprobs = logits.float().log_softmax(dim=-1)[range(len(rows)), chosen].tolist()
            pieces = [self._piece(row, token, value) for row, token, value in zip(rows, chosen, logprobs, strict=True)]
            yield from pieces
            going = [number for number, piece in enumerate(pieces) if not piece.end]
            if not going:
                return
            if len(going) < len(rows):
                rows = [rows[number] for number in going]
                store.select(going)
            last = self._step(store, [row.said[-1] for row in rows])

    def _text(self) -> TextOf | None:
        return None if self.decode is None else TextOf(self.decode, self.settings.until)

    def _step(self, store: Store, newest: list[int]) -> Tensor:
        """(B, width) after one more token a row."""
        model = self.model
        device = model.decoder.embed_tokens.weight.device
        step = Step(store)
        tokens = torch.tensor(newest, device=device)[:, None]
        positions = torch.tensor(store.lengths, device=device)[:, None]
        hidden = model.decode(model.decoder.embed_tokens(tokens), positions, step)
        step.done()
        return hidden[:, -1]

    def _piece(self, row: _Row, token: int, logprob: float) -> Token:
        row.said.append(token)
        answer = row.answer
        stop = token in self.model.config.stop_tokens and (len(answer) > 1 or self.settings.stop_on_first_token)
        end = "stop token" if stop else "length" if len(answer) >= self.limits[row.prompt] else ""
        text = ""
        if row.text is not None:
            text = row.text.add(() if stop else (token,), bool(end))
            if row.text.found:
                end = "until"
        return Token(row.prompt, row.sample, token, logprob, text, end)

    # The first pass

    def _first_pass(self, store: Store) -> Tensor:
        """Fill the store with all prompts; (prompts, width) after their last tokens."""
        embedded = self._embedded()
        begun = [0] * len(self.prompts)
        beginnings = [] if self.settings.prompt_logprobs else _beginnings(self.prompts, self.media)
        if beginnings:
            parts = [embedded[members[0]][:length] for members, length in beginnings]
            self._pass(store, parts, [0] * len(parts))
            order = [number for members, _ in beginnings for number in members]
            store.select([row for row, (members, _) in enumerate(beginnings) for _ in members])
            for members, length in beginnings:
                for number in members:
                    begun[number] = length
            store.select([order.index(number) for number in range(len(self.prompts))])
        rest = [part[start:] for part, start in zip(embedded, begun, strict=True)]
        hidden = self._pass(store, rest, begun)
        if self.settings.prompt_logprobs:
            for number, part in enumerate(hidden):
                self.prompt_logprobs[number] = self._logprobs(part, self.prompts[number])
        return torch.stack([part[-1] for part in hidden])

    def _pass(self, store: Store, parts: list[Tensor], begun: list[int]) -> list[Tensor]:
        """Parts (n, width) that follow on what their rows hold: their hidden states."""
        lengths = [len(part) for part in parts]
        positions = [torch.arange(start, start + n) for start, n in zip(begun, lengths, strict=True)]
        way = Prompts(store, lengths)
        row = torch.cat(parts)[None]
        hidden = self.model.decode(row, torch.cat(positions)[None].to(row.device), way)
        way.done()
        return list(hidden[0].split(lengths))

    def _embedded(self) -> list[Tensor]:
        """Each prompt (n, width) with its visual tokens."""
        model, weight = self.model, self.model.decoder.embed_tokens.weight
        known: dict[int, Tensor] = {}
        rows = []
        for prompt, chunks in zip(self.prompts, self.media, strict=True):
            tokens = torch.from_numpy(prompt.tokens).to(weight.device)[None]
            embeddings = model.decoder.embed_tokens(tokens)
            if chunks is not None:
                if id(chunks) not in known:
                    ready = chunks.to(device=weight.device, dtype=weight.dtype)
                    known[id(chunks)] = ready if chunks.ndim == 3 else encode_chunks(model, ready)
                visual = known[id(chunks)]
                marked = torch.from_numpy(prompt.pictures).to(weight.device)[None]
                position = torch.where(marked, marked.cumsum(dim=1) - 1, -1)
                if int(marked.sum()) != visual.shape[0] * visual.shape[1]:
                    raise BadInput(
                        f"a prompt must mark a place for each of its {visual.shape[0] * visual.shape[1]} visual "
                        f"tokens; it marks {int(marked.sum())}."
                    )
                embeddings = place(embeddings, visual, MediaLayout(position, (len(visual),), ("image",)))
            elif prompt.pictures.any():
                raise BadInput(f"a prompt marks {int(prompt.pictures.sum())} visual tokens, but its media are None.")
            rows.append(embeddings[0])
        return rows

    def _logprobs(self, hidden: Tensor, prompt: Prompt) -> tuple[float, ...]:
        """Log-probability of each token of a prompt but the first."""
        wanted = torch.from_numpy(prompt.tokens[1:]).to(hidden.device)
        values: list[float] = []
        for part, ids in zip(hidden[:-1].split(WORDED), wanted.split(WORDED), strict=True):
            logprobs = self.model.logits(part).float().log_softmax(dim=-1)
            values += logprobs.gather(1, ids[:, None])[:, 0].tolist()
        return tuple(values)


def _beginnings(prompts: Sequence[Prompt], media: Sequence[Tensor | None]) -> list[tuple[list[int], int]]:
    """Groups of prompts that begin alike, (their numbers, how long), where that saves a pass; [] where none do.

    Prompts about the same chunks form a group; each of the others is a group of its own, as is every prompt about
    words alone. At least one token of a prompt is left for the second pass.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for number, chunks in enumerate(media):
        groups.setdefault(("chunks", id(chunks)) if chunks is not None else ("prompt", number), []).append(number)
    if all(len(members) == 1 for members in groups.values()):
        return []
    found = []
    for members in groups.values():
        rows = [prompts[number].tokens for number in members]
        common = min(len(row) for row in rows) - 1
        while any((row[:common] != rows[0][:common]).any() for row in rows):
            common -= 1
        found.append((members, common))
    return found if all(length >= SHARED for _, length in found) else []


class TextOf:
    """Tokens of one answer to text, piece by piece.

    What may change with the next token is held back: the first bytes of a letter, and the beginning of a string to
    stop at.

    Args:
        decode: ids to text.
        until: the strings before which the text ends.
    """

    def __init__(self, decode: Decode, until: Sequence[str] = ()) -> None:
        self.decode, self.until = decode, tuple(until)
        self.ids: list[int] = []
        self.given = 0
        self.found = False

    def add(self, tokens: Sequence[int], last: bool = False) -> str:
        """The text that is sure with these tokens more; all of it with the last."""
        self.ids += tokens
        text = self.decode(self.ids)
        places = [at for at in (text.find(stop, self.given) for stop in self.until) if at >= 0]
        if places:
            self.found = True
            text = text[: min(places)]
        elif not last:
            text = self._sure(text)
        piece = text[self.given :]
        self.given += len(piece)
        return piece

    def _sure(self, text: str) -> str:
        text = text.rstrip("\ufffd")
        held = max(
            (
                length
                for stop in self.until
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )
        return text[: len(text) - held]
