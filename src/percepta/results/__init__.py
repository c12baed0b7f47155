"""What comes back from a verb: small frozen records over numpy arrays, one file a kind.

Unusual: nothing here knows torch, a model or a file format (the formats stand in `formats/`); every record carries
the name of its source and gives JSON-ready values by `to_dict()`.
"""

from __future__ import annotations

from percepta.results.answer import Answer
from percepta.results.boxes import Boxes
from percepta.results.duplicates import DuplicateGroup, Duplicates
from percepta.results.failures import Failure
from percepta.results.hits import Hit, Hits
from percepta.results.labels import Labels
from percepta.results.masks import Masks
from percepta.results.tracks import Tracks
from percepta.results.vectors import Embedding, FeatureMap

__all__ = [
    "Answer",
    "Boxes",
    "DuplicateGroup",
    "Duplicates",
    "Embedding",
    "Failure",
    "FeatureMap",
    "Hit",
    "Hits",
    "Labels",
    "Masks",
    "Tracks",
]
