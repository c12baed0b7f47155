"""Calibration: scores that mean something. So far, how likely a hit of a search shows what was asked for.

Order of reading: formula, neutral, prior, fitting. `python -m percepta.calibration` fits a prior.
"""

from __future__ import annotations

from percepta.calibration.fitting import fit_background, fit_prior
from percepta.calibration.formula import probabilities
from percepta.calibration.judging import judge
from percepta.calibration.neutral import neutral_texts, summarise
from percepta.calibration.prior import Background, Prior, load_prior

__all__ = [
    "Background",
    "Prior",
    "fit_background",
    "fit_prior",
    "judge",
    "load_prior",
    "neutral_texts",
    "probabilities",
    "summarise",
]
