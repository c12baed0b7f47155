"""The protocol of objects by words for a promptable model and the packaged encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from percepta import evaluation
from percepta.evaluation import Evaluation, Protocol
from percepta.results import Masks
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.vos import at_work
from percepta.tasks.words import WordFinder


def run_scenes_words(protocol: Protocol, batches: Batches) -> Evaluation:
    """Objects of generated scenes by words."""
    with at_work(batches, protocol.name) as (segmenter, told):
        finder = WordFinder(segmenter)

        def find(picture: Any, texts: Sequence[str]) -> list[Masks]:
            candidates = finder.candidates(torch.from_numpy(picture.copy()).permute(2, 0, 1))
            return [finder.ask(candidates, text) for text in texts]

        return evaluation.evaluate_scenes_words(find, protocol, told)
