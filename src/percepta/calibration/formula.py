"""From cosines to probabilities: how likely an entry of a folder shows what was asked for.

A cosine means nothing by itself. A photograph and its caption may meet at 0.7 where a drawing and its caption meet at
0.9; in a folder of 2,000 something scores high by chance, in one of 20 hardly; and some pictures are close to any
words at all. So the cosine s_i of entry i is read against three backgrounds:

* **This question over this folder, below.** The location m is the median of all s, the scale d the distance from the
  median down to the 20 % quantile, in units of a normal distribution. Both look at the lower half only, so that what
  matches does not move them as long as it is less than half of the folder. They are shrunk towards the prior of the
  model (m_0, d_0), which counts as w entries:

      m = (N median + w m_0) / (N + w)        d² = (N scale² + w d_0²) / (N + w)

  A folder of one picture has no background of its own and gets the prior's.
* **This question over this folder, above**: u, the mean of the best ⌈√N⌉ scores. A single score of 0.7 among many of
  0.3 and one among many of 0.69 are different things; which of the two is the match depends on the other inputs.
* **This entry before any question**: mean a_i and spread b_i of its cosines with the neutral texts.
* **The size** of the folder, log N.

With x = (s_i, m, d, u, log N, a_i, b_i), each standardised by its mean and spread in the fit, the probability is

      p_i = 1 / (1 + exp(-(c + l·x + Σ_h v_h tanh(w_h·x + b_h))))

a logistic regression with H rounded steps. Of l, w_h and v_h, what multiplies the score is never negative; hence
among entries that are alike to the neutral texts, a higher score never has the lower probability.
The numbers c, l, v, w, b are fitted once per model (`fit_prior`) on folders of all sizes, half of whose questions have
no answer in them. An answer is therefore "likely" (0.5) where, among such folders and questions, half of the entries
that look like this one are right. Inputs beyond the fitted range count as its end; a folder larger than the largest
of the fit by a factor f has its odds divided by f, as if no more entries were right in it.
If everything matches, m and u are large, but so are all s: the fit has seen folders of one class, and says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from percepta.calibration.neutral import summarise
from percepta.calibration.prior import INPUTS, Background, Prior
from percepta.errors import BadInput, one_of, wrong_shape

SCORE, SHARED, LOG_SIZE, NEUTRAL = 0, slice(1, 5), 4, (5, 6)  # places among the inputs
LOWER, NORMAL = 0.2, 0.8416212  # the lower quantile, and its distance from the median of a normal distribution


def probabilities(scores: Any, neutral: Any, prior: Prior, question: str = "words") -> NDArray[np.float64]:
    """How likely each entry shows what was asked for.

    Args:
        scores: (N,) cosines of one question with every entry of the folder, not only the best: they are the background.
        neutral: (N, K) cosines of the entries with `neutral_texts()`, or (N, 2) what `summarise` made of them.
        prior: of the model (`load_prior`).
        question: "words" or "picture".

    Returns: (N,) float64 from 0 to 1.

    Raises: BadInput for NaN, other shapes, or a picture where the prior knows words alone.
    """
    background = background_of(prior, question)
    cosines = _row(scores)
    if not len(cosines):
        return np.zeros(0, np.float64)
    table = inputs(cosines, neutral, background)
    return np.asarray(1.0 / (1.0 + np.exp(-_logits(table, background))), np.float64)


def inputs(scores: NDArray[np.float32], neutral: Any, background: Background) -> NDArray[np.float32]:
    """(N, 7): the inputs of each entry, as they are."""
    summary = np.asarray(neutral) if getattr(neutral, "shape", (0, 0))[-1] == 2 else summarise(neutral)
    if summary.shape != (len(scores), 2):
        raise wrong_shape("neutral", summary.shape, f"({len(scores)}, 2), one row for each score")
    if np.isnan(summary).any():
        raise BadInput("neutral must be numbers; some are NaN.")
    location, scale = shrunk(scores, background.location, background.scale, background.weight)
    table = np.empty((len(scores), len(INPUTS)), np.float32, order="F")  # worked through column by column
    table[:, SCORE], table[:, LOG_SIZE], table[:, NEUTRAL] = scores, np.log(len(scores)), summary
    table[:, 1], table[:, 2], table[:, 3] = location, scale, upper(scores)
    return table


def shrunk(scores: NDArray[np.float32], location: float, scale: float, weight: float) -> tuple[float, float]:
    """Location and scale of the background of one question, shrunk towards the prior's."""
    count = len(scores)
    low, middle = (float(value) for value in np.quantile(scores, (LOWER, 0.5)))
    own = (middle - low) / NORMAL
    shared = (count * middle + weight * location) / (count + weight)
    return shared, float(np.sqrt((count * own**2 + weight * scale**2) / (count + weight)))


def upper(scores: NDArray[np.float32]) -> float:
    """The mean of the best ⌈√N⌉ scores."""
    best = math.isqrt(len(scores) - 1) + 1
    return float(np.partition(scores, len(scores) - best)[-best:].mean(dtype=np.float64))


def _logits(table: NDArray[np.float32], background: Background) -> NDArray[np.float64]:
    low, high = np.array(background.low, np.float32), np.array(background.high, np.float32)
    beyond = max(float(table[0, LOG_SIZE]) - float(high[LOG_SIZE]), 0.0)
    low[SCORE], high[SCORE] = -np.inf, np.inf
    centre, spread = np.array(background.centre, np.float32), np.array(background.spread, np.float32)
    slopes, bends = np.array(background.slopes, np.float32), np.array(background.bends, np.float32)

    # What is the same for the whole folder is added up once; elementwise sums treat equal entries equally.
    shared = ((np.clip(table[0], low, high) - centre) / spread)[SHARED]
    own = {
        number: (np.clip(table[:, number], low[number], high[number]) - centre[number]) / spread[number]
        for number in (SCORE, *NEUTRAL)
    }

    def line(constant: float, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.full(len(table), constant + float(shared @ weights[SHARED]), np.float32)
        for number, column in own.items():
            found += weights[number] * column
        return found

    total = line(background.constant, slopes)
    for bend, offset, height in zip(bends, background.offsets, background.heights, strict=True):
        total += np.float32(height) * np.tanh(line(offset, bend))
    return np.clip(total.astype(np.float64) - beyond, -50, 50)


def background_of(prior: Prior, question: str) -> Background:
    """The curve for a kind of question. Raises BadInput where the prior has none."""
    if question not in ("words", "picture"):
        raise one_of("question", question, ("words", "picture"), "probabilities")
    found = prior.words if question == "words" else prior.picture
    if found is None:
        raise BadInput(f"the prior of {prior.model} knows questions in words alone; a picture is uncalibrated.")
    return found


def _row(scores: Any) -> NDArray[np.float32]:
    if hasattr(scores, "detach"):
        scores = scores.detach().cpu().float().numpy()
    row = np.asarray(scores, np.float32)
    if row.ndim != 1:
        raise wrong_shape("scores", row.shape, "(N,)")
    if np.isnan(row).any():
        raise BadInput(f"scores must be numbers; {int(np.isnan(row).sum())} of {len(row)} are NaN.")
    return row
