"""Answers of a model on disk, each written as it is made, so that an evaluation goes on where it was killed.

A folder belongs to one protocol and one model. Unusual: an answer is found by a number and a hash of what was asked; if
that changes, it is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from percepta.errors import BadInput
from percepta.evaluation.protocols import Protocol
from percepta.evaluation.videobench_asking import AnswerOne, AnswersMany, Asked, answers
from percepta.tasks.judges import append_line, read_lines

SCHEMA = 1


def claim(folder: Path, protocol: Protocol, model: str) -> None:
    """Make a folder that of one run, by its file run.json.

    Args:
        model: what names the model and its weights.

    Raises: BadInput where the folder holds a run of another protocol or model.
    """
    mine = {"schema": SCHEMA, "protocol": protocol.to_dict(), "model": model}
    path = folder / "run.json"
    if not path.is_file():
        write_whole(path, json.dumps(mine, indent=2) + "\n")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = {}
    if differs := [name for name, value in mine.items() if known.get(name) != value]:
        raise BadInput(
            f"{folder} holds a run with another {' and '.join(differs)}; choose another folder with run "
            "(on the command line --run), or remove it."
        )


class KeptAnswers:
    """The answers in a file of JSON lines.

    Args:
        path: made with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = {str(record["uid"]): record for record in read_lines(path)}

    def get(self, uid: str, key: str) -> str | None:
        """The answer to a question if it was asked in the same words about the same thing."""
        record = self._known.get(uid)
        return None if record is None or record["key"] != key else str(record["prediction"])

    def keep(self, uid: str, key: str, words: str) -> None:
        """Write an answer down."""
        append_line(self.path, {"uid": uid, "key": key, "prediction": words})


class Recalling:
    """A model that is not asked again what a file holds already; questions are numbered in their order.

    Args:
        model: what answers.
        kept: its answers so far.
    """

    def __init__(self, model: AnswerOne | AnswersMany, kept: KeptAnswers) -> None:
        self.model, self.kept, self.asked = model, kept, 0
        self._hashed: tuple[Any, str] = (None, "")

    def many(self, asked: Sequence[Asked]) -> list[str]:
        """One answer a question."""
        numbered = [(str(self.asked + place), self._key(one)) for place, one in enumerate(asked)]
        self.asked += len(asked)
        said = [self.kept.get(*place) for place in numbered]
        left = [place for place, words in enumerate(said) if words is None]
        together = [left] if hasattr(self.model, "many") else [[place] for place in left]
        for places in filter(None, together):
            for place, words in zip(places, answers(self.model, [asked[place] for place in places]), strict=True):
                self.kept.keep(*numbered[place], words)
                said[place] = words
        return [str(words) for words in said]

    def _key(self, one: Asked) -> str:
        if self._hashed[0] is not one.frames:  # questions about the same frames come one after the other
            frames = np.ascontiguousarray([np.asarray(frame) for frame in one.frames])
            self._hashed = one.frames, hashlib.sha256(repr(frames.shape).encode() + frames.tobytes()).hexdigest()
        told = [self._hashed[1], one.prompt, one.max_new_tokens, one.as_video]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def recalling(model: Any, name: str, protocol: Protocol, folder: Path | None) -> Any:
    """The model itself, or with a folder one that goes on from the answers there.

    Raises: as `claim`.
    """
    if folder is None:
        return model
    claim(folder, protocol, name)
    return Recalling(model, KeptAnswers(folder / "predictions.jsonl"))


def write_whole(path: Path, text: str) -> None:
    """A file that appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="surrogatepass")
    partial.replace(path)
