"""A Perception Language Model as what protocols of answers ask: frames and prompts in, words out.

Unusual: questions about the same frames go in together, so that a picture is encoded once, and so is what its prompts
have in common; each question keeps its own limit of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from percepta.errors import BadInput
from percepta.evaluation.videobench_asking import Asked
from percepta.tasks.asking import Drawing, View
from percepta.tasks.asking_media import Looking, Seen


class SpeakerAnswers:
    """Answers to many questions about frames, word for word as the model said them.

    Args:
        speaker: of `percepta.tasks.asking`.
        chunk_tokens: tokens of each picture or frame, the most similar ones averaged; None keeps all.
    """

    def __init__(self, speaker: Any, chunk_tokens: int | None = None) -> None:
        self.speaker, self.name, self.chunk_tokens = speaker, speaker.maker, chunk_tokens
        self._preprocess = speaker.preprocess(Looking())

    def many(self, asked: Sequence[Asked]) -> list[str]:
        """One answer a question; an answer is shorter than it may be where the context leaves no more."""
        groups = [list(group) for _, group in groupby(asked, key=lambda one: id(one.frames))]
        if not groups:
            return []
        pixels = [self._pixels(group[0]) for group in groups]
        features = self.speaker.encode(torch.cat(pixels), self.chunk_tokens).split([len(part) for part in pixels])
        seen = [self._seen(group[0]) for group in groups]
        places = [(number, one) for number, group in enumerate(groups) for one in group]
        limits = [self._limit(seen[number], one) for number, one in places]
        said = [""] * len(places)
        for limit in sorted(set(limits)):
            rows = [row for row, own in enumerate(limits) if own == limit]
            about = [list(together) for _, together in groupby(rows, key=lambda row: places[row][0])]
            numbers = [places[together[0]][0] for together in about]
            views = [
                View(seen[number], tuple(places[row][1].prompt for row in together))
                for number, together in zip(numbers, about, strict=True)
            ]
            drawing = Drawing(temperature=0, max_tokens=limit)
            answers = self.speaker.answers_to_all(views, [features[number] for number in numbers], drawing)
            for row, answer in zip(rows, (one for own in answers for one in own), strict=True):
                said[row] = answer.said
        return said

    def refusal(self, one: Asked) -> str:
        """Why a question cannot be asked, such as a prompt that leaves no room for an answer; "" where it can."""
        try:
            self._limit(self._seen(one), one)
        except BadInput as error:
            return str(error)
        return ""

    def _seen(self, one: Asked) -> Seen:
        return Seen("", "video", len(one.frames), chunk_tokens=self.chunk_tokens)

    def _pixels(self, one: Asked) -> Tensor:
        frames = list(one.frames)
        prepare = replace(self._preprocess, frames=len(frames)).video if one.as_video else self._preprocess.images
        pixels: Tensor = prepare(frames).pixels
        return pixels

    def _limit(self, seen: Seen, one: Asked) -> int:
        prompt = self.speaker.prompt(seen, one.prompt, Drawing())
        return min(one.max_new_tokens, self.speaker.limit - len(prompt.tokens))
