"""A folder of labelled pictures: one sub-folder for each class, its name is the class name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from percepta.errors import BadMedia

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """What a labelled folder holds; pictures are read by their users.

    Attributes:
        paths: sorted by class, then by name.
        labels: (N,) int64, indices into `names`.
        names: class names; `_` and `-` in the folder's name become spaces.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


def list_picture_folder(folder: str | Path) -> PictureFolder:
    """Pictures below the sub-folders of `folder`; hidden names are skipped.

    Raises:
        BadMedia: no such folder, or no picture in any sub-folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise BadMedia(f"a labelled folder must have one sub-folder of pictures for each class; {folder} is no folder.")
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str] = []
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith("."):
            continue
        found = [path for path in sorted(child.rglob("*")) if _is_picture(path)]
        if found:
            labels += [len(names)] * len(found)
            paths += found
            names.append(child.name.replace("_", " ").replace("-", " "))
    if not paths:
        raise BadMedia(f"{folder} must have one sub-folder of pictures for each class; no picture was found in any.")
    return PictureFolder(tuple(paths), np.asarray(labels, np.int64), tuple(names))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
