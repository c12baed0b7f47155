"""One self-contained HTML page: what was asked, what was found, what failed, and what the model is.

Unusual: styles and pictures stand in the file itself, nothing is fetched, no script runs.
"""

from __future__ import annotations

from percepta.apps.report.page import Page
from percepta.apps.report.pages import LabelPage, LayerPage, SearchPage

__all__ = ["LabelPage", "LayerPage", "Page", "SearchPage"]
