"""Hiera: the hierarchical vision transformer without bells and whistles (arXiv 2306.00989), and SAM 2's trunk."""

from percepta.models.hiera.config import TrunkConfig
from percepta.models.hiera.trunk import HieraDet

__all__ = ["HieraDet", "TrunkConfig"]
