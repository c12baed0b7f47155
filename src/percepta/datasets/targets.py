"""Pictures with what is to be foretold of them: one class, several labels, or a number.

Order of this file: the set, opening one, a CSV of paths and labels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.datasets.captions import FILE_FIELDS, place_of
from percepta.datasets.picture_sets import Pictures, Rows, file_pictures, open_labelled
from percepta.datasets.tables import LABEL_COLUMNS
from percepta.errors import BadInput, BadMedia

CLASSES, MULTI_LABEL, REGRESSION = "classes", "multi-label", "regression"
NUMBER_COLUMNS = ("value", "number", "score", "y", *LABEL_COLUMNS)
SEPARATOR = ";"


@dataclass(frozen=True, slots=True, eq=False)
class TargetSet:
    """Pictures with their targets.

    Attributes:
        place: the name of the file or folder.
        pictures: the pictures.
        targets: (N,) int64 class numbers, (N, labels) int64 of zeros and ones, or (N,) float64.
        names: of the classes or labels; empty for numbers.
        kind: "classes", "multi-label" or "regression".
    """

    place: str
    pictures: Pictures
    targets: NDArray[Any]
    names: tuple[str, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, rows: Sequence[int] | Rows) -> TargetSet:
        """The pictures of ascending row numbers."""
        chosen = np.asarray(rows, np.int64)
        return replace(self, pictures=self.pictures.subset(chosen), targets=self.targets[chosen])


def open_targets(place: str | Path, regression: bool = False, column: str | None = None) -> TargetSet:
    """Pictures with classes, labels or numbers.

    Args:
        place: whatever `open_labelled` takes, for classes; or a .csv or .tsv file with a header, a column of paths
            (from the file's folder) and one of labels. Several labels of a picture are parted by ";".
        regression: the column holds numbers to be foretold.
        column: its name; by default the first of the usual ones.

    Raises:
        BadMedia: nothing of the kind, a label that is missing or no number, a picture with two classes.
        BadInput: one class only, no more pictures than classes, numbers that are all the same, or `regression` or
            `column` for data that are no CSV.
    """
    path = Path(place).expanduser()
    if path.suffix.lower() in (".csv", ".tsv"):
        found = _of_csv(path, regression, column)
    elif regression or column is not None:
        raise BadInput(f"regression and a column need a .csv file of paths and labels; got {str(place)!r}.")
    else:
        data = open_labelled(path)
        found = TargetSet(data.place, data.pictures, data.labels, data.names, CLASSES)
    _check(found)
    return found


def _check(data: TargetSet) -> None:
    """Raises BadInput where nothing can be learnt from the targets."""
    if data.kind == REGRESSION:
        if len(np.unique(data.targets)) < 2:
            raise BadInput(f"numbers of {data.place} must differ; all {len(data)} are the same.")
        return
    if data.kind == MULTI_LABEL:
        return
    present = np.unique(data.targets)
    if len(present) < 2:
        raise BadInput(
            f"{data.place} must hold at least two classes; all {len(data)} pictures are {data.names[present[0]]!r}."
        )
    if len(present) >= len(data):
        raise BadInput(
            f"{data.place} must hold more pictures than classes, so two of one at least; it holds {len(data)} "
            f"pictures of {len(present)} classes (for numbers to be foretold pass regression)."
        )


def _of_csv(path: Path, regression: bool, column: str | None) -> TargetSet:
    records = _records(path)
    fields = list(records[0]) if records else []
    pictures = _column(path, fields, FILE_FIELDS, "paths of pictures")
    if column is not None and column not in fields:
        raise BadMedia(f"{path} must have the column {column!r}; it has {', '.join(fields)}.")
    label = column or _column(path, fields, NUMBER_COLUMNS if regression else LABEL_COLUMNS, "labels", pictures)
    given: dict[str, str] = {}
    for number, record in enumerate(records, start=2):
        name, text = (str(record.get(field) or "").strip() for field in (pictures, label))
        if not name or not text:
            missing = "a label" if name else "a path"
            raise BadMedia(f"every row of {path} must have a path and a label; line {number} lacks {missing}.")
        if given.setdefault(name, text) != text:
            raise BadMedia(
                f"{path} must name each picture once; {name} has the labels {given[name]!r} and {text!r} (several "
                f"labels of one picture are parted by {SEPARATOR!r})."
            )
    paths = [place_of(path.parent, name) for name in given]
    targets, names, kind = _numbers(path, list(given.values())) if regression else _labels(list(given.values()))
    return TargetSet(path.name, file_pictures(paths), targets, names, kind)


def _records(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise BadMedia(f"{path} does not exist; name a CSV with paths and labels.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadMedia(f"{path} must be readable as CSV in UTF-8; it is not ({reason}).") from None
    if not rows:
        raise BadMedia(f"{path} must hold a header and a row for each picture; it holds no row.")
    return rows


def _column(path: Path, fields: Sequence[str], usual: Sequence[str], what: str, taken: str = "") -> str:
    known = {str(field).strip().lower(): field for field in fields if field is not None and field != taken}
    found = next((known[name] for name in usual if name in known), None)
    if found is None:
        named = ", ".join(str(field) for field in fields)
        raise BadMedia(f"{path} must have a column of {what}, such as {', '.join(usual[:3])}; it has {named}.")
    return found


def _labels(texts: Sequence[str]) -> tuple[NDArray[Any], tuple[str, ...], str]:
    """Class numbers, or rows of zeros and ones where any picture has several labels."""
    several = any(SEPARATOR in text for text in texts)
    parts = [[part.strip() for part in text.split(SEPARATOR) if part.strip()] for text in texts]
    names = tuple(sorted({part for entry in parts for part in entry}))
    numbers = {name: number for number, name in enumerate(names)}
    if not several:
        return np.array([numbers[entry[0]] for entry in parts], np.int64), names, CLASSES
    table = np.zeros((len(texts), len(names)), np.int64)
    for row, entry in enumerate(parts):
        table[row, [numbers[part] for part in entry]] = 1
    return table, names, MULTI_LABEL


def _numbers(path: Path, texts: Sequence[str]) -> tuple[NDArray[Any], tuple[str, ...], str]:
    values = np.empty(len(texts), np.float64)
    for row, text in enumerate(texts):
        try:
            values[row] = float(text)
        except ValueError:
            values[row] = np.nan
        if not np.isfinite(values[row]):
            raise BadMedia(f"labels of {path} must be finite numbers for regression; got {text!r}.")
    return values, (), REGRESSION
