"""Hiera and its windowed form (arXiv 2306.00989, 2311.05613)."""

from percepta.models.hiera.trunk import HieraDet, TrunkConfig

__all__ = ["HieraDet", "TrunkConfig"]
