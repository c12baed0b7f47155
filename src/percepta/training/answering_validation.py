"""Held-out answers: whether the whole answer would be said, for each kind of question.

Unusual: nothing is generated. An answer comes out word for word under greedy decoding exactly if each of its tokens is
the likeliest after those before it, and that one forward pass tells for all questions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from percepta.running.modes import evaluating
from percepta.training.sources import Part

AT_ONCE = 16
"""Held-out samples that are scored in one go."""


def pieces(part: Part) -> Iterator[Part]:
    """A part as parts of at most `AT_ONCE` samples."""
    assert part.dialogues is not None
    counts = part.chunks or (1,) * len(part)  # rows of `pictures` for each sample
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    for first in range(0, len(part), AT_ONCE):
        last = min(first + AT_ONCE, len(part))
        yield replace(
            part,
            pictures=part.pictures[starts[first] : starts[last]],
            dialogues=part.dialogues[first:last],
            chunks=None if part.chunks is None else part.chunks[first:last],
            media=None if part.media is None else part.media[first:last],
        )


def validate_answers(
    model: Any,
    parts: Sequence[Part],
    prepared: Callable[[Part], tuple[Any, list[str]]],
    logits_of: Callable[[Any, Any], Tensor],
) -> dict[str, float]:
    """For each source the share of answers that come out word for word, over all and by kind, and the token loss."""
    found: dict[str, float] = {}
    with evaluating(model), torch.inference_mode():
        for part in parts:
            right: dict[str, list[float]] = {}
            losses: list[Tensor] = []
            for piece in pieces(part):
                inputs, kinds = prepared(piece)
                if not len(inputs.row.targets):
                    continue
                logits = logits_of(model, inputs).float()
                losses.append(torch.nn.functional.cross_entropy(logits, inputs.row.targets, reduction="none").cpu())
                same = (logits.argmax(1) == inputs.row.targets).float()
                whole = torch.ones(len(kinds), device=same.device)
                whole.scatter_reduce_(0, inputs.row.branch, same, "amin")
                for kind, value in zip(kinds, whole.tolist(), strict=True):
                    right.setdefault(kind, []).append(value)
            if not losses:
                continue
            every = [value for values in right.values() for value in values]
            found[f"{part.source}.exact"] = round(sum(every) / len(every), 5)
            found[f"{part.source}.loss"] = round(torch.cat(losses).mean().item(), 5)
            for kind, values in sorted(right.items()):
                found[f"{part.source}.{kind}"] = round(sum(values) / len(values), 5)
    return found
