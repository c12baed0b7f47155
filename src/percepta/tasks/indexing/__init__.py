"""The index of a folder: what it keeps, how it is made, how it is ranked."""

from __future__ import annotations

from percepta.tasks.indexing.building import Estimate, Report, index
from percepta.tasks.indexing.store import Entry, Index

__all__ = ["Entry", "Estimate", "Index", "Report", "index"]
