"""How the next token is chosen: the most likely one, or drawn from what a few rules leave.

The rules are transformers' logits processors. Unusual: every row draws from its own seeded source, so a sample does not
depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from percepta.errors import BadInput, out_of_range

DEFAULT_LENGTH = 256


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How to go on with a prompt.

    Attributes:
        max_tokens: the most tokens of an answer; None for 256, or fewer where the context ends before.
        temperature: 0 takes the most likely token; above, logits are divided by it and a token is drawn.
        top_p: draw among the fewest tokens whose probabilities sum to this, 0 to 1.
        top_k: draw among so many of the most likely tokens.
        repetition_penalty: above 1, tokens that occur in the prompt or the answer become less likely.
        samples: answers to each prompt, whose first pass they share; more than one needs a temperature.
        seed: of the draws.
        until: an answer ends before the first of these strings.
        stop_on_first_token: whether a stop token ends an answer that has not begun; the official code goes on.
        prompt_logprobs: whether to give the log-probability of every token of the prompt.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    samples: int = 1
    seed: int = 0
    until: tuple[str, ...] = ()
    stop_on_first_token: bool = True
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "until", tuple(text for text in self.until if text))
        for name in ("max_tokens", "top_k", "samples"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise out_of_range(name, value, "a whole number of at least 1", "GenerationSettings")
        if not self.temperature >= 0:
            raise out_of_range("temperature", self.temperature, "0 or more", "GenerationSettings")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise out_of_range("top_p", self.top_p, "above 0, up to 1", "GenerationSettings")
        if not self.repetition_penalty > 0:
            raise out_of_range("repetition_penalty", self.repetition_penalty, "above 0", "GenerationSettings")
        if self.samples > 1 and not self.temperature:
            raise BadInput(f"{self.samples} samples at temperature 0 would all be equal; pass a temperature above 0.")


class Sampler:
    """Chooses next tokens for rows that come and go."""

    def __init__(self, settings: GenerationSettings) -> None:
        self.settings = settings
        self.rules = _rules(settings)
        self.sources: dict[tuple[int, int], torch.Generator] = {}

    def choose(self, logits: Tensor, said: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]]) -> list[int]:
        """The next token of each row.

        Args:
            logits: (B, vocabulary).
            said: all tokens of each row so far.
            rows: (prompt, sample) of each row, which name its source of draws.
        """
        scores = logits.float()
        if self.rules:
            longest = max(map(len, said))
            filled = [[*tokens, *[tokens[0]] * (longest - len(tokens))] for tokens in said]  # one that occurs anyway
            scores = self.rules(torch.tensor(filled, device=logits.device), scores)
        if not self.settings.temperature:
            chosen: list[int] = scores.argmax(dim=-1).tolist()
            return chosen
        chances = scores.softmax(dim=-1).cpu()
        return [int(torch.multinomial(chances[n], 1, generator=self._source(row))) for n, row in enumerate(rows)]

    def _source(self, row: tuple[int, int]) -> torch.Generator:
        if row not in self.sources:
            prompt, sample = row
            number = (self.settings.seed * 1_000_003 + prompt) * 1_000_003 + sample
            self.sources[row] = torch.Generator().manual_seed(number % 2**63)
        return self.sources[row]


def _rules(settings: GenerationSettings) -> Any:
    from transformers.generation import logits_process as rules

    found = rules.LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        found.append(rules.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature and settings.temperature != 1.0:
        found.append(rules.TemperatureLogitsWarper(settings.temperature))
    if settings.temperature and settings.top_k is not None:
        found.append(rules.TopKLogitsWarper(settings.top_k))
    if settings.temperature and settings.top_p is not None and settings.top_p < 1:
        found.append(rules.TopPLogitsWarper(settings.top_p))
    return found
