"""Pictures and videos in and out, seen the right way up.

Unusual: the type of a file is told by its content, never by its name; everything that is wrong with a file comes out
as one sentence (`BadMedia`, or a `Failure` from `collect`). Names are loaded on first use, so that looking at pictures
needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percepta.media.chunks import ChunkPreprocess, Chunks
    from percepta.media.clip_frames import frame_indices
    from percepta.media.drawing import contact_sheet, draw_boxes, draw_masks, pca_picture, thumbnail
    from percepta.media.frames import Frames, open_frames
    from percepta.media.inputs import Source, collect
    from percepta.media.overlays import VideoParts, draw_objects
    from percepta.media.pictures import open_picture
    from percepta.media.preprocess import Preprocess
    from percepta.media.regions import read_regions, red_box, region_text
    from percepta.media.sampling import sample_frames
    from percepta.media.sniffing import kind_of
    from percepta.media.tiling import TileGrid, tile_grid
    from percepta.media.videos import VideoReader
    from percepta.media.writing import write_gif, write_video

__all__ = [
    "ChunkPreprocess",
    "Chunks",
    "Frames",
    "Preprocess",
    "Source",
    "TileGrid",
    "VideoParts",
    "VideoReader",
    "collect",
    "contact_sheet",
    "draw_boxes",
    "draw_masks",
    "draw_objects",
    "frame_indices",
    "kind_of",
    "open_frames",
    "open_picture",
    "pca_picture",
    "read_regions",
    "red_box",
    "region_text",
    "sample_frames",
    "thumbnail",
    "tile_grid",
    "write_gif",
    "write_video",
]

_HOMES = {
    "chunks": ("ChunkPreprocess", "Chunks"),
    "clip_frames": ("frame_indices",),
    "drawing": ("contact_sheet", "draw_boxes", "draw_masks", "pca_picture", "thumbnail"),
    "frames": ("Frames", "open_frames"),
    "inputs": ("Source", "collect"),
    "overlays": ("VideoParts", "draw_objects"),
    "pictures": ("open_picture",),
    "preprocess": ("Preprocess",),
    "regions": ("read_regions", "red_box", "region_text"),
    "sampling": ("sample_frames",),
    "sniffing": ("kind_of",),
    "tiling": ("TileGrid", "tile_grid"),
    "videos": ("VideoReader",),
    "writing": ("write_gif", "write_video"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
