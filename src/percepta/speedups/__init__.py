"""Fewer tokens and cheaper attention in models that are trained already."""

from percepta.speedups.adapters import Adapter, adapter_for
from percepta.speedups.calibration import calibrate_schedule
from percepta.speedups.cost import BlockCost, Shape, schedule_for
from percepta.speedups.diffusion import DIFFUSION_STRATEGIES, DiffusionMerging, merge_diffusion_tokens
from percepta.speedups.hydra import HydraConversion, attribution, chosen_blocks, hydra_attention
from percepta.speedups.merging import TokenMerging, merge_tokens
from percepta.speedups.strategies import STRATEGIES, Merge, Moment, Strategy

__all__ = [
    "DIFFUSION_STRATEGIES",
    "STRATEGIES",
    "Adapter",
    "BlockCost",
    "DiffusionMerging",
    "HydraConversion",
    "Merge",
    "Moment",
    "Shape",
    "Strategy",
    "TokenMerging",
    "adapter_for",
    "attribution",
    "calibrate_schedule",
    "chosen_blocks",
    "hydra_attention",
    "merge_diffusion_tokens",
    "merge_tokens",
    "schedule_for",
]
