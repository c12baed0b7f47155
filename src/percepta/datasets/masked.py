"""Pictures with a mask of class numbers each, in two folders: images/a.jpg and masks/a.png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.datasets.folders import PICTURE_SUFFIXES
from percepta.errors import BadInput, BadMedia
from percepta.media import open_picture

IMAGES, MASKS = "images", ("masks", "annotations")
IGNORED = 255  # what ADE20K, Pascal and Cityscapes leave out


@dataclass(frozen=True, slots=True, eq=False)
class MaskedSet:
    """Pictures and their masks, read on demand.

    Attributes:
        place: the name of the folder.
        pictures: files, in order.
        masks: files, one a picture.
    """

    place: str
    pictures: tuple[Path, ...]
    masks: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, size: tuple[int, int]) -> tuple[np.ndarray, NDArray[np.int64]]:
        """Pictures (S, H, W, 3) uint8, squashed to a size bilinearly, and class numbers (S, H, W) by nearest pixel.

        Raises: BadMedia for a file that cannot be read.
        """
        height, width = size
        pictures = np.empty((len(self), height, width, 3), np.uint8)
        numbers = np.empty((len(self), height, width), np.int64)
        for row, (picture, mask) in enumerate(zip(self.pictures, self.masks, strict=True)):
            opened = open_picture(picture).convert("RGB")
            pictures[row] = np.asarray(opened.resize((width, height), Image.Resampling.BILINEAR))
            try:
                with Image.open(mask) as seen:
                    plain = seen if seen.mode in ("P", "L", "I", "I;16") else seen.convert("L")
                    numbers[row] = np.asarray(plain.resize((width, height), Image.Resampling.NEAREST))
            except OSError as error:
                raise BadMedia(f"{mask.name} of {self.place} must be a mask as PNG; {error}.") from error
        return pictures, numbers


def open_masked(place: str | Path) -> MaskedSet:
    """The pairs of a folder.

    Args:
        place: holds images/ and masks/ (or annotations/), files of the same name but for the ending, masks as PNG
            whose pixels are class numbers.

    Raises:
        BadInput: no such folders, or no pictures. BadMedia: a picture without a mask.
    """
    root = Path(place).expanduser()
    folder = next((root / name for name in MASKS if (root / name).is_dir()), None)
    if not (root / IMAGES).is_dir() or folder is None:
        raise BadInput(
            f"{str(root)!r} must hold the folders {IMAGES} and {' or '.join(MASKS)}; at least one is missing."
        )
    pictures = _files(root / IMAGES)
    if not pictures:
        raise BadInput(f"{str(root / IMAGES)!r} must hold pictures; it has none.")
    masks = tuple((folder / picture.relative_to(root / IMAGES)).with_suffix(".png") for picture in pictures)
    missing = [mask.name for mask in masks if not mask.is_file()]
    if missing:
        raise BadMedia(f"each picture of {root.name} needs a mask; {missing[0]} is not there.")
    return MaskedSet(root.name, pictures, masks)


def classes_of(masks: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The class numbers that occur, ascending, without the ignored one. Raises BadInput for fewer than two."""
    numbers = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    found = numbers[numbers != IGNORED]
    if len(found) < 2:
        raise BadInput(f"masks must show at least two classes; got {len(found)}.")
    return found


def _files(folder: Path) -> tuple[Path, ...]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    return tuple(sorted(path for path in found if not path.name.startswith(".")))
