"""How likely an object of a picture is what was asked for, from its cosine with the words and from what it is.

A logistic regression over five numbers: the cosine, the mean and spread of the object's cosines with the neutral texts
(an object that is close to any words is close to these too), the IoU that the mask's model predicts, and the logarithm
of the object's share of the picture. It is fitted once for an encoder's weights (`fit_words`), on candidates of scenes
with and without what was asked for; each counts by the inverse of its place, as people read answers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.calibration.prior import ENVIRONMENT, FOLDER
from percepta.errors import BadInput, wrong_shape

SCHEMA = 1
LIKELY = 0.5
INPUTS = ("cosine", "neutral mean", "neutral spread", "predicted IoU", "log share")
Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WordsPrior:
    """The fitted curve.

    Attributes:
        model: the encoder's name; weights: the hash of its weights (`running.fingerprint.weights_hash`).
        masks: the name of the model whose masks it was fitted on.
        centre, spread: of the `INPUTS`, by which they are standardised.
        slopes, constant: of the regression; the slope of the cosine is above 0.
        fitted_on: in one line for people.
    """

    model: str
    weights: str
    masks: str
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    slopes: tuple[float, ...]
    constant: float
    fitted_on: str = ""

    def __post_init__(self) -> None:
        for name in ("centre", "spread", "slopes"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            if len(getattr(self, name)) != len(INPUTS):
                raise BadInput(f"{name} of WordsPrior must be {len(INPUTS)} numbers; got {len(getattr(self, name))}.")
        if not (self.slopes[0] > 0 and min(self.spread) > 0):
            raise BadInput("WordsPrior needs a rising slope of the cosine and spreads above 0.")

    def probability(self, inputs: Table) -> Table:
        """(N, 5) → (N,) from 0 to 1."""
        if inputs.ndim != 2 or inputs.shape[1] != len(INPUTS):
            raise wrong_shape("inputs", inputs.shape, f"(N, {len(INPUTS)})", "WordsPrior")
        standard = (inputs - np.array(self.centre)) / np.array(self.spread)
        logits = self.constant + standard @ np.array(self.slopes)
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))), np.float64)

    def write(self, path: str | Path) -> Path:
        """Write as JSON; returns the path."""
        path = Path(path)
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> WordsPrior:
        """Read what `write` wrote. Raises BadInput for another file or schema."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record.pop("schema") != SCHEMA:
                raise BadInput(f"{str(path)!r} must have schema {SCHEMA}; fit it again.")
            return cls(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{str(path)!r} must be a file written by WordsPrior.write; it is none.") from error


def region_inputs(cosines: Any, neutral: Any, iou: Any, share: Any) -> Table:
    """(N, 5), the `INPUTS` of N objects: cosines (N,), neutral (N, 2), predicted IoU (N,), shares of pictures (N,)."""
    columns = [cosines, neutral[:, 0], neutral[:, 1], iou, np.log(np.maximum(share, 1e-6))]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def load_words_prior(model: str) -> WordsPrior | None:
    """The packaged curve of an encoder, or None; a folder named by PERCEPTA_PRIORS is looked into first.

    The caller compares `weights`.
    """
    if not model or Path(model).name != model:
        return None
    own = os.environ.get(ENVIRONMENT)
    for folder in (*((Path(own).expanduser(),) if own else ()), FOLDER):
        path = folder / f"{model}.words.json"
        if path.is_file():
            return WordsPrior.read(path)
    return None


def fit_words(
    tables: list[Table], right: list[NDArray[np.bool_]], model: str, weights: str, masks: str, fitted_on: str
) -> WordsPrior:
    """Fit the curve.

    Args:
        tables: (n, 5) inputs of the candidates of each question.
        right: (n,) whether each is what was asked for.

    Raises: BadInput where nothing is right, nothing is wrong, or the cosine says nothing.
    """
    from sklearn.linear_model import LogisticRegression

    inputs, outcome = np.concatenate(tables), np.concatenate(right)
    if len(set(outcome.tolist())) < 2:
        raise BadInput("fit_words needs candidates that are right and others that are wrong.")
    places = [np.empty(len(table)) for table in tables]
    for table, place in zip(tables, places, strict=True):
        place[np.argsort(-table[:, 0])] = np.arange(1, len(table) + 1)
    centre, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-6)
    solver = LogisticRegression(C=100.0, max_iter=1000)
    solver.fit((inputs - centre) / spread, outcome, sample_weight=1 / np.concatenate(places))
    slopes, constant = solver.coef_[0], float(solver.intercept_[0])
    if not slopes[0] > 0:
        raise BadInput("the cosine must rise with what is right; in this fit it falls.")
    centre, spread, slopes = (tuple(round(float(value), 6) for value in row) for row in (centre, spread, slopes))
    return WordsPrior(model, weights, masks, centre, spread, slopes, round(constant, 6), fitted_on)
