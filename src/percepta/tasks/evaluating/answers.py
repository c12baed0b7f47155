"""The protocol `scenes-answers` for a model that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from percepta.evaluation import Evaluation, Protocol
from percepta.evaluation.scenes_answers import evaluate_scenes_answers
from percepta.running.progress import Progress
from percepta.tasks.evaluating.kept_answers import recalling

QUESTIONS = 64
Watch = Callable[[str], Progress] | None


def run_scenes_answers(
    protocol: Protocol, answers: Any, name: str, data: Mapping[str, Path], batch_size: int, progress: Watch
) -> Evaluation:
    """The figures of the protocol; what a folder holds already is not asked again."""
    answers = recalling(answers, name, protocol, data.get("run"))
    told = Progress("scenes-answers", shown=False) if progress is None else progress("evaluate scenes-answers")
    with told:
        told.start(None)
        return evaluate_scenes_answers(answers, protocol, max(batch_size, QUESTIONS), told.advance)
