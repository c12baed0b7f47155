"""The protocol `scenes-answers` for a model that answers.

Unusual: all questions about the same frames go in together, so that a picture is encoded once, and so is what its
prompts have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from percepta.evaluation import Evaluation, Protocol
from percepta.evaluation.scenes_answers import evaluate_scenes_answers
from percepta.evaluation.videobench_asking import Asked
from percepta.running.progress import Progress

QUESTIONS = 64
Watch = Callable[[str], Progress] | None


class SharedAnswers:
    """A Perception Language Model as what answers many questions, those about the same frames together.

    Args:
        speaker: of `percepta.tasks.asking`.
    """

    def __init__(self, speaker: Any) -> None:
        from percepta.tasks.asking_media import Looking

        self.speaker, self.name = speaker, speaker.maker
        self._preprocess = speaker.preprocess(Looking())

    def many(self, asked: Sequence[Asked]) -> list[str]:
        """One answer a question."""
        from percepta.tasks.asking import Drawing, View
        from percepta.tasks.asking_media import Seen

        groups = [list(group) for _, group in groupby(asked, key=lambda one: id(one.frames))]
        if not groups:
            return []
        pixels, views = [], []
        for group in groups:
            frames = list(group[0].frames)
            video = replace(self._preprocess, frames=len(frames)).video
            pixels.append((video if group[0].as_video else self._preprocess.images)(frames).pixels)
            views.append(View(Seen("", "video", len(pixels[-1])), tuple(one.prompt for one in group)))
        features = self.speaker.encode(torch.cat(pixels)).split([len(part) for part in pixels])
        drawing = Drawing(temperature=0, max_tokens=max(one.max_new_tokens for one in asked))
        found = self.speaker.answers_to_all(views, features, drawing)
        return [answer.said for about in found for answer in about]


def run_scenes_answers(
    protocol: Protocol, answers: Any, _: str, __: Mapping[str, Path], batch_size: int, progress: Watch
) -> Evaluation:
    """The figures of the protocol."""
    told = Progress("scenes-answers", shown=False) if progress is None else progress("evaluate scenes-answers")
    model = SharedAnswers(answers.speaker) if hasattr(answers, "speaker") else answers
    with told:
        told.start(None)
        return evaluate_scenes_answers(model, protocol, max(batch_size, QUESTIONS), told.advance)
