"""DAVIS 2017 as it is published: JPEGImages, Annotations and ImageSets in one folder (arXiv 1704.00675)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.datasets.vos import listed, read_labels
from percepta.errors import BadInput, BadMedia
from percepta.media import open_picture


@dataclass(frozen=True, slots=True, eq=False)
class DavisSequence:
    """The frames of one video and their masks, read on demand.

    Attributes:
        name: such as "bike-packing".
        frames: files of the pictures, in order.
        annotations: files of the masks, one a frame.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        picture = open_picture(self.frames[0])
        return picture.height, picture.width

    def pictures(self, size: tuple[int, int]) -> np.ndarray:
        """(T, height, width, 3) uint8, bilinearly resized. Raises BadMedia for a frame that cannot be read."""
        found = []
        for path in self.frames:
            picture = open_picture(path).convert("RGB")
            found.append(np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)))
        return np.stack(found)

    def masks(self) -> NDArray[np.int64]:
        """(T, H, W) numbers of objects at the size of the files, 0 for none.

        Raises: BadMedia for a mask that cannot be read, or of another size than the first.
        """
        found: list[NDArray[np.int64]] = []
        for path in self.annotations:
            mask = read_labels(path, self.name).astype(np.int64)
            if found and mask.shape != found[0].shape:
                raise BadMedia(f"masks of {self.name} must have one size; {path.name} has {mask.shape[::-1]}.")
            found.append(mask)
        return np.stack(found)


def read_davis(
    root: str | Path, split: str = "val", year: str = "2017", resolution: str = "480p"
) -> tuple[DavisSequence, ...]:
    """The sequences of a split, in the order of its list.

    Args:
        root: the folder with JPEGImages, Annotations and ImageSets.
        split: such as "val" or "train".
        year: of the list, "2017" (objects apart) or "2016".
        resolution: "480p" or "Full-Resolution".

    Raises:
        BadInput: another layout, or no such split. BadMedia: a sequence without frames or with frames without masks.
    """
    root = Path(root).expanduser()
    listing = root / "ImageSets" / year / f"{split}.txt"
    if not listing.is_file():
        raise BadInput(
            f"{str(root)!r} must hold JPEGImages, Annotations and ImageSets of DAVIS; ImageSets/{year}/{split}.txt is "
            "not there."
        )
    return tuple(_sequences(root, listed(listing), resolution))


def _sequences(root: Path, names: list[str], resolution: str) -> Iterator[DavisSequence]:
    for name in names:
        frames = tuple(sorted((root / "JPEGImages" / resolution / name).glob("*.jpg")))
        annotations = tuple(root / "Annotations" / resolution / name / f"{frame.stem}.png" for frame in frames)
        if len(frames) < 3:
            raise BadMedia(
                f"the sequence {name} needs at least 3 frames in JPEGImages/{resolution}; got {len(frames)}."
            )
        missing = [path.name for path in annotations if not path.is_file()]
        if missing:
            raise BadMedia(f"the sequence {name} needs a mask for each frame; {missing[0]} is not there.")
        yield DavisSequence(name, frames, annotations)
