"""Hiera: the hierarchical vision transformer without bells and whistles (arXiv 2306.00989), and SAM 2's trunk."""

from percepta.models.hiera.config import DecoderConfig, HieraConfig, TrunkConfig
from percepta.models.hiera.keys import OFFICIAL_TRUNK, layouts, subtrees
from percepta.models.hiera.masked import Decoder, Fusion, Pretraining, random_keep
from percepta.models.hiera.model import Hiera, adopt_encoder, build
from percepta.models.hiera.positions import TablePositions, WindowPositions, table_at, to_window, window_mean
from percepta.models.hiera.trunk import HieraDet

__all__ = [
    "OFFICIAL_TRUNK",
    "Decoder",
    "DecoderConfig",
    "Fusion",
    "Hiera",
    "HieraConfig",
    "HieraDet",
    "Pretraining",
    "TablePositions",
    "TrunkConfig",
    "WindowPositions",
    "adopt_encoder",
    "build",
    "layouts",
    "random_keep",
    "subtrees",
    "table_at",
    "to_window",
    "window_mean",
]
