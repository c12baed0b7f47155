"""Pictures and videos in and out, seen the right way up.

Unusual: the type of a file is told by its content, never by its name; everything that is wrong with a file comes out
as one sentence (`BadMedia`, or a `Failure` from `collect`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percepta.media.drawing import contact_sheet, draw_boxes, draw_masks, pca_picture, thumbnail
    from percepta.media.inputs import Source, collect
    from percepta.media.pictures import open_picture
    from percepta.media.preprocess import Preprocess
    from percepta.media.sampling import sample_frames
    from percepta.media.sniffing import kind_of
    from percepta.media.videos import VideoReader, open_video
    from percepta.media.writing import write_gif, write_video

_HOMES = {
    "Preprocess": "preprocess",
    "Source": "inputs",
    "VideoReader": "videos",
    "collect": "inputs",
    "contact_sheet": "drawing",
    "draw_boxes": "drawing",
    "draw_masks": "drawing",
    "kind_of": "sniffing",
    "open_picture": "pictures",
    "open_video": "videos",
    "pca_picture": "drawing",
    "sample_frames": "sampling",
    "thumbnail": "drawing",
    "write_gif": "writing",
    "write_video": "writing",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
