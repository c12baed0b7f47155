"""Labels for pictures and videos, without training: the labels are texts (arXiv 2103.00020, 2504.13181)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.media import Source
from percepta.results import Labels
from percepta.running.feed import Stream
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.prompts import background, classifier, labels_of, templates_of

NONE = "none of these"


def classify(  # noqa: PLR0913 (the front door)
    inputs: Any,
    labels: str | Sequence[str],
    model: str | nn.Module = NANO,
    templates: str | Sequence[str] | None = None,
    none: bool = False,
    multi: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
) -> Stream[Labels]:
    """Score every picture and video against every label; results come as they are made, in order.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these.
        labels: texts, or one text with commas.
        model: a name or a loaded model with a text tower.
        templates: "default", "plain", "imagenet" (80), "kinetics" (28), "ucf101" (48), or texts with {}.
        none: let "none of these" win where texts that say nothing in particular fit better than every label.
        multi: several labels may hold; each gets a score of its own in 0..1, 0.5 where it fits as well as those texts.
        weights: a file or folder for the model's name.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia).

    Returns:
        A stream of Labels. Scores are softmax probabilities over the labels at the model's own logit scale, or with
        `multi` sigmoids of the scaled lead over neutral texts; neither is calibrated, and `score_kind` says so.

    Raises:
        BadInput: an empty or doubled label, a bad template, inputs that hold nothing, a model without words.
        UnknownModel, MissingWeights, CheckpointMismatch.
    """
    if not isinstance(labels, str | Sequence):
        raise BadInput(f"labels must be texts, or one text with commas; got {type(labels).__name__}.")
    names = labels_of(labels)
    chosen = templates_of(templates)
    if none and multi:
        raise BadInput("none and multi exclude each other: with multi, what nothing fits has low scores only.")
    if none and NONE in names:
        raise BadInput(f"{NONE!r} is a label already; leave it out or leave out none.")
    encoder = Encoder(model, device, dtype, weights)
    encoder.need_words("classify")
    vectors = classifier(encoder, names, chosen)
    neutral = background(encoder) if none or multi else None
    if none and neutral is not None:
        names, vectors = [*names, NONE], torch.cat([vectors, neutral])
    scorer = _Scorer(encoder, tuple(names), vectors, neutral if multi else None)
    return encoder.run(inputs, scorer, batch_size, on_error)


class _Scorer:
    """A batch to its Labels."""

    def __init__(self, encoder: Encoder, names: tuple[str, ...], vectors: Tensor, neutral: Tensor | None) -> None:
        self.encoder, self.names, self.vectors, self.neutral = encoder, names, vectors, neutral
        if neutral is None:
            self.kind = f"probability (softmax over {len(names)} labels, not calibrated)"
        else:
            self.kind = "score (sigmoid of the lead over a neutral text, each label for itself, not calibrated)"

    def __call__(self, batch: Tensor, sources: list[Source]) -> list[Labels]:
        pictures = self.encoder.embed(batch)
        logits = self.encoder.scale * pictures @ self.vectors.T
        if self.neutral is None:
            scores = logits.softmax(dim=-1)
        else:
            scores = (logits - self.encoder.scale * pictures @ self.neutral.T).sigmoid()
        rows = scores.numpy()
        return [Labels(source.name, self.names, row, self.kind) for source, row in zip(sources, rows, strict=True)]
