"""The packaged knowledge of one model: how its cosines with pictures that match and that do not match are spread.

A prior belongs to the weights that it was fitted with and carries their hash; other weights under the same name are
uncalibrated. It is a small JSON file: the packaged ones lie in `priors/`, and a folder named by PERCEPTA_PRIORS is
looked into first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from percepta.calibration.neutral import VERSION
from percepta.errors import BadInput

SCHEMA = 1
FOLDER = Path(__file__).parent / "priors"
ENVIRONMENT = "PERCEPTA_PRIORS"
INPUTS = ("score", "location", "scale", "upper", "log size", "neutral mean", "neutral spread")


@dataclass(frozen=True, slots=True)
class Background:
    """The fitted curve of one kind of question; see the formula for what its numbers mean.

    Attributes:
        location, scale: of the cosines of any question with entries that do not match: the prior of the background.
        weight: how many entries it counts for.
        centre, spread: of the seven `INPUTS`, by which they are standardised.
        low, high: the range of each in the fit; beyond it an input counts as its end (the score excepted).
        constant, slopes: the linear part, (7,).
        bends, offsets, heights: H rounded steps: (H, 7), (H,), (H,).
    """

    location: float
    scale: float
    weight: float
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    constant: float
    slopes: tuple[float, ...]
    bends: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]
    heights: tuple[float, ...]

    def __post_init__(self) -> None:
        width, steps = len(INPUTS), len(self.bends)
        rows = (self.centre, self.spread, self.low, self.high, self.slopes, *self.bends)
        if any(len(row) != width for row in rows) or not len(self.offsets) == len(self.heights) == steps:
            raise BadInput(f"a background needs {width} numbers for each of its inputs and steps; some row differs.")
        numbers = np.array([self.location, self.scale, self.weight, self.constant, *self.offsets, *self.heights])
        if not (np.isfinite(numbers).all() and np.isfinite(np.array(rows)).all()):
            raise BadInput("the numbers of a background must be finite.")
        if self.scale <= 0 or self.weight <= 0 or min(self.spread) <= 0:
            raise BadInput("scale, weight and spread of a background must be above 0.")
        if min((self.slopes[0], *self.heights, *(bend[0] for bend in self.bends))) < 0:
            raise BadInput(
                "a background must not fall with the score: a slope, bend or height of the score is below 0."
            )


@dataclass(frozen=True)
class Prior:
    """What `probabilities` knows of a model.

    Attributes:
        model: its name.
        weights: `running.fingerprint.weights_hash` of the weights.
        words: for questions in words.
        picture: for questions by a picture, or None: then they are uncalibrated.
        fitted_on: what it was fitted on, in one line for people.
        thresholds: by kind of question the fixed cosine above which 5 % of the absent questions of the fit still find
            something, for "all" and by world: what this prior replaces, kept as a baseline.
        details: JSON-ready facts of the fit: folders, mix, seed, generator.
        bank: version of the neutral texts.
    """

    model: str
    weights: str
    words: Background
    picture: Background | None = None
    fitted_on: str = ""
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    bank: int = VERSION

    def write(self, path: str | Path) -> Path:
        """Write as JSON; returns the path."""
        record = {"schema": SCHEMA, **asdict(self)}
        path = Path(path)
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Prior:
        """Read what `write` wrote. Raises BadInput for no such file, another schema, or another file."""
        try:
            record = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            schema = record.pop("schema")
            if schema != SCHEMA:
                raise BadInput(f"the prior {str(path)!r} must have schema {SCHEMA}; it has {schema}: fit it again.")
            for name in ("words", "picture"):
                if name == "words" or record[name] is not None:
                    record[name] = Background(**{key: _tuples(value) for key, value in record[name].items()})
            return cls(**record)
        except BadInput:
            raise
        except OSError as error:
            raise BadInput(f"the prior {str(path)!r} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{str(path)!r} must be a prior written by Prior.write; it is none.") from error


def load_prior(model_name: str, weights_hash: str | None = None) -> Prior | None:
    """The prior of a model, or None where there is none: its questions are then uncalibrated.

    Args:
        model_name: as in `list_models()`.
        weights_hash: `running.fingerprint.weights_hash` of the weights in use; a prior of other weights does not
            count. None trusts the name.

    Raises: BadInput for a file that is no prior.
    """
    if not model_name or Path(model_name).name != model_name:
        return None
    own = os.environ.get(ENVIRONMENT)
    for folder in (*((Path(own).expanduser(),) if own else ()), FOLDER):
        path = folder / f"{model_name}.json"
        if not path.is_file():
            continue
        prior = Prior.read(path)
        if prior.bank == VERSION and weights_hash in (None, prior.weights):
            return prior
    return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
