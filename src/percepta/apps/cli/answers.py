"""Answers and captions on the command line: printed, in a file that grows while the work goes on, as subtitles.

Unusual: every line says what it was made with, so that answers of two models, questions or settings never stand in one
file; the lines of an input are written at once, and a last one that was cut off is done again.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from percepta.apps.cli.common import left_of, shown
from percepta.errors import BadInput, one_of
from percepta.results import Answer
from percepta.results.formats.subtitles import FORMATS

_LINE = b'{"source": '  # how a line begins


class AnswerFile:
    """JSON lines of answers; nothing is changed before it is entered as a context.

    Args:
        path: of the file.
        made_with: in words on one line, what the answers depend on; a file that is resumed must say the same.
        questions: how many answers an input gets.
        resume: keep what is there.

    Raises: BadInput where a file to be resumed was made with something else, or holds something else.
    """

    def __init__(self, path: Path, made_with: str, questions: int = 1, resume: bool = False) -> None:
        self.path, self.made_with = path, made_with
        self.done: Counter[str] = Counter()
        self._kept = 0  # bytes
        if resume and path.exists():
            for end, source in self._inputs(path.read_bytes(), questions):
                self.done[source] += 1
                self._kept = end

    def todo(self, sources: Sequence[Any]) -> list[Any]:
        """The sources without those that the file holds."""
        return left_of(sources, self.done.elements())

    def write(self, answers: Sequence[Answer]) -> None:
        """Add all answers of one input."""
        lines = [json.dumps(answer.to_dict() | {"made_with": self.made_with}) + "\n" for answer in answers]
        self._file.write("".join(lines).encode())
        self._file.flush()

    def _inputs(self, data: bytes, questions: int) -> Iterator[tuple[int, str]]:
        """(where its last line ends, its name) of every whole input."""
        lines, names = io.BytesIO(data), []
        for line in lines:
            if not line.endswith(b"\n"):
                if line[: len(_LINE)] != _LINE[: len(line)]:
                    raise self._foreign()
                return
            names.append(self._source(line))
            if len(names) == questions:
                yield lines.tell(), names[0]
                names = []

    def _source(self, line: bytes) -> str:
        try:
            entry = json.loads(line)
            source, made = str(entry["source"]), entry["made_with"]
            entry["question"], entry["text"]
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None
        if made != self.made_with:
            raise BadInput(
                f"{str(self.path)!r} was made with {made}, and now it is {self.made_with}; resume with the same, or "
                "pass --overwrite."
            )
        return source

    def _foreign(self) -> BadInput:
        return BadInput(f"{str(self.path)!r} holds more than answers of percepta; pass --overwrite to replace it.")

    def __enter__(self) -> AnswerFile:
        self._file = self.path.open("r+b" if self._kept else "wb")
        self._file.truncate(self._kept)
        self._file.seek(self._kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Subtitles:
    """A file of subtitles for each of many videos, beside a file of lines.

    Args:
        out: the file of lines; captions.jsonl gets captions.srt/NAME.srt.
        kind: "srt" or "vtt".
    """

    def __init__(self, out: Path, kind: str) -> None:
        self.folder, self.ending = out.with_suffix(f".{kind}"), f".{kind}"
        self._stems: dict[str, str] = {}

    @staticmethod
    def check(kind: str) -> None:
        """Raises BadInput for another kind."""
        if f".{kind}" not in FORMATS:
            raise one_of("--subtitles", kind, [ending[1:] for ending in FORMATS])

    def name(self, sources: Sequence[Any]) -> None:
        """Give every source its file, in the order of all inputs, so that a run that goes on gives the same names."""
        for source in sources:
            name = str(getattr(source, "name", ""))
            plain_name = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in Path(name).stem)
            plain_name = plain_name.strip(" .")[:120] or "video"
            number, stem = 1, plain_name
            while stem in self._stems.values() and self._stems.get(name) != stem:
                number += 1
                stem = f"{plain_name} ({number})"
            self._stems.setdefault(name, stem)

    def write(self, answer: Answer) -> None:
        """The subtitles of one video."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save(self.folder / f"{self._stems[answer.source]}{self.ending}", answer)

    @staticmethod
    def save(path: Path, answer: Answer) -> None:
        """Write one file; it appears whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(FORMATS[path.suffix.lower()](answer), encoding="utf-8")
        partial.replace(path)


def print_answer(answer: Answer, name: bool = False, question: bool = False) -> None:
    """One answer for people: its text; where there are several inputs or questions, after their name and words."""
    head = f"{shown(answer.source)}: " if name else ""
    asked = f"{answer.question} " if question else ""
    for number, text in enumerate(answer.samples, start=1):
        count = f"({number}) " if len(answer.samples) > 1 else ""
        print(f"{head}{asked}{count}{plain(text)}", flush=True)


def plain(text: str) -> str:
    """Text of a model for a terminal: lines stay, other control characters are shown as codes."""
    return "\n".join(shown(line) for line in text.splitlines()) or "(nothing)"
