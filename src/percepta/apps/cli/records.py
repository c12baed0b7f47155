"""Label files that grow while the work goes on: CSV or JSON lines, and going on with one that was cut short.

Unusual: all rows of an input are written at once; on resuming, rows of an input that were cut off in the middle are
dropped and that input is done again. What a file was begun with stands beside it until it is complete, in
.NAME.settings.json, since a table has no place for it.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from percepta.errors import BadInput
from percepta.results import Labels
from percepta.results.formats.table import rows, safe_cell, to_csv

COLUMNS = ("source", "rank", "label", "score", "score_kind")


class LabelFile:
    """One output of classify.

    Args:
        path: ends in .csv for a table, in anything else for JSON lines.
        labels: the labels of this run; a file that is resumed must have the same.
        resume: keep what is there.
        settings: JSON-ready, what else the scores depend on, such as the model.

    Attributes:
        seen: sources that the file holds already.

    Raises: BadInput where a file to be resumed is of another run.
    """

    def __init__(
        self, path: Path, labels: Sequence[str], resume: bool = False, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.table = path, path.suffix.lower() == ".csv"
        self.settings = path.with_name(f".{path.name}.settings.json")
        self.seen: set[str] = set()
        kept = ""
        if resume and path.exists():
            self._check_settings(dict(settings or {}))
            kept = self._read_back(set(labels))
        # Beside the file and then in its place, so that nothing is lost if this run is killed right here.
        begun = path.with_name(f".{path.name}.begun")
        begun.write_text(kept or (",".join(COLUMNS) + "\n" if self.table else ""), encoding="utf-8", newline="")
        self.settings.write_text(json.dumps(dict(settings or {})), encoding="utf-8")
        begun.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8", newline="")

    def holds(self, source: str) -> bool:
        """Whether a source was done before."""
        return str(safe_cell(source) if self.table else source) in self.seen

    def write(self, labels: Labels) -> None:
        """Add one result."""
        if self.table:
            self._file.write(to_csv(rows(labels), COLUMNS).split("\n", 1)[1])
        else:
            self._file.write(json.dumps(labels.to_dict()) + "\n")
        self._file.flush()

    def complete(self) -> None:
        """All inputs are done: what the file was begun with is needed no more."""
        self._file.flush()
        self.settings.unlink(missing_ok=True)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        try:
            before = json.loads(self.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # complete, or of an older version: the labels alone can tell
            return
        for name in settings:
            if before.get(name) != settings[name]:
                raise BadInput(
                    f"{str(self.path)!r} was begun with {name} {before.get(name)!r} and now it is {settings[name]!r}; "
                    "resume with the same, or pass --overwrite."
                )

    def _read_back(self, labels: set[str]) -> str:
        text = self.path.read_text(encoding="utf-8")
        kept, found = self._table(text, len(labels)) if self.table else self._lines(text)
        if found and found != labels:
            raise BadInput(f"{str(self.path)!r} holds other labels; resume with the same ones, or pass --overwrite.")
        return kept

    def _table(self, text: str, count: int) -> tuple[str, set[str]]:
        complete = text[: text.rfind("\n") + 1]
        entries = [row for row in csv.DictReader(complete.splitlines(keepends=True)) if None not in row.values()]
        if entries and set(entries[0]) != set(COLUMNS):
            raise BadInput(f"{str(self.path)!r} is no label table of percepta; pass --overwrite to replace it.")
        numbers = Counter(row["source"] for row in entries)
        whole = [row for row in entries if numbers[row["source"]] >= count]
        self.seen = {row["source"] for row in whole}
        lines = [_csv_line([row[name] for name in COLUMNS]) for row in whole]
        return ",".join(COLUMNS) + "\n" + "".join(lines), {row["label"].removeprefix("'") for row in whole}

    def _lines(self, text: str) -> tuple[str, set[str]]:
        kept, found = [], set()
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                names = {label["name"] for label in entry["labels"]}
            except (ValueError, KeyError, TypeError):
                continue
            kept.append(line + "\n")
            self.seen.add(entry["source"])
            found |= names
        return "".join(kept), found

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _csv_line(cells: list[str]) -> str:
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
