"""What every score takes: features, targets of three kinds, source probabilities; checked in one place.

Order of this file: targets, features, probabilities.
Unusual: the kind of the targets follows from their form (class names or whole numbers; rows of zeros and ones; real
numbers), and `as_targets` says it outright where the form does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape

Matrix = NDArray[np.float64]
Rows = NDArray[np.int64]
Kind = Literal["classes", "multi-label", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES, MULTI_LABEL, REGRESSION = KINDS


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the samples are labelled with.

    Attributes:
        kind: "classes" (one a sample), "multi-label" (any number a sample) or "regression".
        values: (n,) int64 class numbers; (n, m) float64 of zeros and ones; or (n, m) float64.
        width: the columns of the one-hot form, or m. It may exceed the number of classes that are present.
    """

    kind: Kind
    values: NDArray[Any]
    width: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def numbers(self) -> Rows:
        """(n,) int64 class numbers. Raises BadInput for other kinds."""
        if self.kind != CLASSES:
            raise BadInput(f"this score takes one class for each sample; got {self.kind} targets.")
        return np.asarray(self.values, np.int64)

    @property
    def table(self) -> Matrix:
        """(n, width) float64: one-hot rows of classes, or the values as they are."""
        if self.kind == CLASSES:
            return np.asarray(np.eye(self.width)[self.values])
        return np.asarray(self.values, np.float64)

    def take(self, rows: Rows) -> Targets:
        """The targets of some samples, with the width kept."""
        return Targets(self.kind, self.values[rows], self.width)


def as_targets(targets: Any, kind: str | None = None, classes: int | None = None) -> Targets:
    """Targets in their checked form; `Targets` are handed through.

    Args:
        targets: (n,) class names or whole numbers; (n, m) zeros and ones, one column a label; (n,) or (n, m) real
            numbers. Arrays, tensors or lists.
        kind: one of `KINDS`; None goes by the form.
        classes: how many classes there are, where some may be missing; then the class numbers are 0 to classes - 1 and
            stay. None counts the ones present, in sorted order.

    Raises:
        BadInput: missing labels, one class only, no two samples of one class, an unknown kind, another shape.
    """
    if isinstance(targets, Targets):
        return targets
    values = np.asarray(targets.detach().cpu() if hasattr(targets, "detach") else targets)
    if kind is not None and kind not in KINDS:
        raise one_of("kind", kind, KINDS, "the targets")
    if values.ndim not in (1, 2) or not values.size:
        raise wrong_shape("targets", values.shape, "(n,) or (n, m) with n of at least 1")
    _refuse_missing(values)
    found = kind or _kind_of(values)
    if found == CLASSES:
        return _classes(values, classes)
    table = values[:, None] if values.ndim == 1 else values
    try:
        table = table.astype(np.float64)
    except ValueError as error:
        raise BadInput(f"{found} targets must be numbers; {error}.") from error
    if found == MULTI_LABEL:
        if not np.isin(table, (0, 1)).all():
            raise BadInput("multi-label targets must be rows of zeros and ones; got other numbers.")
        return Targets(MULTI_LABEL, table, table.shape[1])
    if not np.isfinite(table).all():
        raise BadInput("regression targets must be finite numbers; got infinity.")
    if (table == table[0]).all():
        raise BadInput("regression targets must differ between samples; all are the same.")
    return Targets(REGRESSION, table, table.shape[1])


def as_features(features: Any, count: int | None = None, what: str = "features") -> Matrix:
    """(n, d) float64 of an array, a tensor on any device, or a list.

    Args:
        count: the number of samples that there must be; None takes any from 2.
        what: their name in messages.

    Raises:
        BadInput: another shape, NaN or infinity, rows that are all the same.
    """
    values = np.asarray(features.detach().cpu() if hasattr(features, "detach") else features, np.float64)
    if values.ndim != 2 or len(values) < 2 or not values.shape[1]:
        raise wrong_shape(what, values.shape, "(n, d) with n of at least 2 and d of at least 1")
    if count is not None and len(values) != count:
        raise BadInput(f"{what} and targets must be of the same samples; got {len(values)} rows and {count} targets.")
    # A sum is finite only where all its numbers are; the rows are looked at where it is not.
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise BadInput(f"{what} must be finite numbers; {bad} of {len(values)} rows hold NaN or infinity.")
    if (values[0] == values[-1]).all() and (values == values[0]).all():
        raise BadInput(f"{what} must differ between samples; all {len(values)} rows are the same.")
    return values


def as_probabilities(probabilities: Any, count: int) -> Matrix:
    """(n, z) float64 rows that sum to 1. Raises BadInput for anything else."""
    given = probabilities.detach().cpu() if hasattr(probabilities, "detach") else probabilities
    values = np.asarray(given, np.float64)
    if values.ndim != 2 or len(values) != count or not values.shape[1]:
        raise wrong_shape("probabilities", values.shape, f"({count}, z), one column a class of the source")
    if not np.isfinite(values).all() or (values < 0).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        raise BadInput("probabilities must be rows of numbers from 0 that sum to 1; apply the softmax first.")
    return values


def _kind_of(values: NDArray[Any]) -> Kind:
    if values.ndim == 1:
        return REGRESSION if values.dtype.kind == "f" else CLASSES
    return MULTI_LABEL if values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all() else REGRESSION


def _classes(values: NDArray[Any], classes: int | None) -> Targets:
    if values.ndim != 1:
        raise wrong_shape("targets of the kind classes", values.shape, "(n,), one class for each sample")
    if values.dtype.kind == "f" and (values == np.round(values)).all():
        values = values.astype(np.int64)
    names = values.astype(str) if values.dtype.kind == "O" else values
    present, numbers = np.unique(names, return_inverse=True)
    if len(present) < 2:
        raise BadInput(f"a score needs at least two classes; all {len(values)} samples are of the class {present[0]}.")
    if len(present) >= len(values):
        raise BadInput(
            f"a score needs more samples than classes; got {len(values)} samples of {len(present)} classes, no two of "
            "one class."
        )
    if classes is None:
        return Targets(CLASSES, numbers.astype(np.int64), len(present))
    if values.dtype.kind not in "biu" or int(values.max()) >= classes:
        raise out_of_range("class numbers", present[-1].item(), f"whole numbers from 0 to {classes - 1}", "the targets")
    return Targets(CLASSES, values.astype(np.int64), classes)


def _refuse_missing(values: NDArray[Any]) -> None:
    """Labels that are NaN, None, empty, or (of whole numbers in one column) below 0, the usual sign of none."""
    if values.dtype.kind == "f":
        missing = np.isnan(values)
    elif values.dtype.kind == "O":
        missing = np.vectorize(lambda one: one is None or one == "" or one != one, otypes=[bool])(values)
    elif values.dtype.kind in "US":
        missing = values == np.zeros(1, values.dtype)
    else:
        missing = (values < 0) & (values.ndim == 1)
    rows = np.flatnonzero(missing.reshape(len(values), -1).any(axis=1))
    if len(rows):
        raise BadInput(
            f"labels are missing for {len(rows)} of {len(values)} samples, the first at row {rows[0]}; leave those "
            "samples out, or label them."
        )
