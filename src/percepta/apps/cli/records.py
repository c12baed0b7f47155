"""Label files that grow while the work goes on: CSV or JSON lines, and going on with one that was cut short.

Unusual: every row says what it was made with, so that rows of two models or settings never stand in one file. All rows
of an input are written at once, and only the end of a file can have been cut off: on resuming, what is whole stays as
it is, byte for byte, and the input that the end belongs to is done again.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from percepta.apps.cli.common import left_of
from percepta.errors import BadInput
from percepta.results import Labels
from percepta.results.formats.table import rows, safe_cell, to_csv

COLUMNS = ("source", "rank", "label", "score", "score_kind", "made_with")
HEADER = (",".join(COLUMNS) + "\n").encode()
_LINE = b'{"source": '  # how a line of JSON begins


class LabelFile:
    """One output of classify; nothing is changed before it is entered as a context.

    Args:
        path: ends in .csv for a table, in anything else for JSON lines.
        labels: the labels of this run; a file that is resumed must have the same.
        made_with: in words on one line, what else the scores depend on; likewise.
        resume: keep what is there.

    Attributes:
        done: how often each source stands in the file already.

    Raises: BadInput where a file to be resumed is of another run, or no file of labels.
    """

    def __init__(self, path: Path, labels: Sequence[str], made_with: str = "", resume: bool = False) -> None:
        self.path, self.table = path, path.suffix.lower() == ".csv"
        self.labels, self.made_with = [self._cell(label) for label in labels], self._cell(made_with)
        self.done: Counter[str] = Counter()
        self._kept = 0  # bytes
        if resume and path.exists():
            self._read_back(path.read_bytes())

    def todo(self, sources: Sequence[Any]) -> list[Any]:
        """The sources without those that the file holds."""
        return left_of(sources, self.done.elements(), self._cell)

    def write(self, labels: Labels) -> None:
        """Add one result."""
        if self.table:
            table = [row | {"made_with": self.made_with} for row in rows(labels)]
            text = to_csv(table, COLUMNS).split("\n", 1)[1]
        else:
            text = json.dumps(labels.to_dict() | {"made_with": self.made_with}) + "\n"
        self._file.write(text.encode())
        self._file.flush()

    def _cell(self, text: str) -> str:
        return str(safe_cell(text)) if self.table else text

    def _read_back(self, data: bytes) -> None:
        """Count what is done, and the bytes that hold it."""
        for end, entries in self._inputs_of_table(data) if self.table else self._inputs_of_lines(data):
            if {entry["label"] for entry in entries} != set(self.labels):
                raise self._other_labels()
            self.done[entries[0]["source"]] += 1
            self._kept = end

    def _inputs_of_table(self, data: bytes) -> Iterator[tuple[int, list[dict[str, str]]]]:
        """(where its last row ends, its rows) of every whole input."""
        if not data.startswith(HEADER) and not HEADER.startswith(data):
            raise self._foreign()
        lines, group = io.BytesIO(data), []
        lines.seek(len(HEADER))
        for cells in _rows(lines):
            end = lines.tell()
            if len(cells) != len(COLUMNS) or not data.endswith(b"\n", 0, end):
                if end < len(data):
                    raise self._foreign()
                return
            group.append(self._checked(dict(zip(COLUMNS, cells, strict=True))))
            if len(group) == len(self.labels):
                yield end, group
                group = []

    def _inputs_of_lines(self, data: bytes) -> Iterator[tuple[int, list[dict[str, str]]]]:
        """As of a table, but every line is an input."""
        lines = io.BytesIO(data)
        for line in lines:
            entries = _entries(line)
            if entries is None:
                if line.endswith(b"\n") or line[: len(_LINE)] != _LINE[: len(line)]:
                    raise self._foreign()
                return
            yield lines.tell(), [self._checked(entry) for entry in entries]

    def _checked(self, row: dict[str, str]) -> dict[str, str]:
        if row["label"] not in self.labels:
            raise self._other_labels()
        if row["made_with"] != self.made_with:
            raise BadInput(
                f"{str(self.path)!r} was made with {row['made_with']}, and now it is {self.made_with}; resume with the "
                "same, or pass --overwrite."
            )
        return row

    def _other_labels(self) -> BadInput:
        return BadInput(f"{str(self.path)!r} holds other labels; resume with the same ones, or pass --overwrite.")

    def _foreign(self) -> BadInput:
        return BadInput(f"{str(self.path)!r} holds more than labels of percepta; pass --overwrite to replace it.")

    def __enter__(self) -> LabelFile:
        self._file = self.path.open("r+b" if self._kept else "wb")
        self._file.truncate(self._kept)
        self._file.seek(self._kept)
        if self.table and not self._kept:
            self._file.write(HEADER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _rows(lines: io.BytesIO) -> Iterator[list[str]]:
    """The cells of every row, none for what is no row; lines are taken one by one, as a cell may hold line breaks."""
    reader = csv.reader(line.decode("utf-8", "replace") for line in lines)
    while True:
        try:
            yield next(reader)
        except csv.Error:
            yield []
        except StopIteration:
            return


def _entries(line: bytes) -> list[dict[str, str]] | None:
    """The labels of one line of JSON as rows; None where it was cut off or is something else."""
    try:
        entry = json.loads(line if line.endswith(b"\n") else b"")
        shared = {"source": entry["source"], "made_with": entry["made_with"]}
        return [shared | {"label": label["name"]} for label in entry["labels"]] or None
    except (ValueError, KeyError, TypeError):
        return None
