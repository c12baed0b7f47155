"""Percepta: seeing, segmenting, describing and reasoning behind one front door.

Everything here is loaded on first use: `import percepta` brings neither torch nor any model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from percepta.catalog import describe, list_models
    from percepta.errors import (
        BadInput,
        BadMedia,
        CheckpointMismatch,
        MissingExtra,
        MissingWeights,
        PerceptaError,
        UnknownModel,
    )
    from percepta.merging.trunks import load_merged
    from percepta.running.export import export
    from percepta.running.loading import build, load, save
    from percepta.running.preparing import prepare, unprepare
    from percepta.speedups.diffusion import merge_diffusion_tokens
    from percepta.speedups.hydra import hydra_attention
    from percepta.speedups.merging import merge_tokens
    from percepta.tasks.ask import ask
    from percepta.tasks.caption import caption
    from percepta.tasks.classify import classify
    from percepta.tasks.embed import embed
    from percepta.tasks.evaluate import evaluate
    from percepta.tasks.features import features
    from percepta.tasks.indexing import index
    from percepta.tasks.indexing.duplicates import duplicates
    from percepta.tasks.merge import merge
    from percepta.tasks.search import search
    from percepta.tasks.segment import segment
    from percepta.tasks.select import select_layers, select_models
    from percepta.tasks.speeding import speedup
    from percepta.tasks.track import track

_HOME = {
    "describe": "catalog",
    "list_models": "catalog",
    "BadInput": "errors",
    "BadMedia": "errors",
    "CheckpointMismatch": "errors",
    "MissingExtra": "errors",
    "MissingWeights": "errors",
    "PerceptaError": "errors",
    "UnknownModel": "errors",
    "export": "running.export",
    "build": "running.loading",
    "load": "running.loading",
    "save": "running.loading",
    "prepare": "running.preparing",
    "unprepare": "running.preparing",
    "load_merged": "merging.trunks",
    "merge_diffusion_tokens": "speedups.diffusion",
    "hydra_attention": "speedups.hydra",
    "merge_tokens": "speedups.merging",
    "ask": "tasks.ask",
    "caption": "tasks.caption",
    "classify": "tasks.classify",
    "embed": "tasks.embed",
    "evaluate": "tasks.evaluate",
    "duplicates": "tasks.indexing.duplicates",
    "features": "tasks.features",
    "index": "tasks.indexing",
    "merge": "tasks.merge",
    "search": "tasks.search",
    "segment": "tasks.segment",
    "select_layers": "tasks.select",
    "select_models": "tasks.select",
    "speedup": "tasks.speeding",
    "track": "tasks.track",
}

__all__ = [
    "BadInput",
    "BadMedia",
    "CheckpointMismatch",
    "MissingExtra",
    "MissingWeights",
    "PerceptaError",
    "UnknownModel",
    "ask",
    "build",
    "caption",
    "classify",
    "describe",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "features",
    "hydra_attention",
    "index",
    "list_models",
    "load",
    "load_merged",
    "merge",
    "merge_diffusion_tokens",
    "merge_tokens",
    "prepare",
    "save",
    "search",
    "segment",
    "select_layers",
    "select_models",
    "speedup",
    "track",
    "unprepare",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'percepta' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"percepta.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
