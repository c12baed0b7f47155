"""Videos with masks of objects, as the public sets of video segmentation are published: read frame by frame.

DAVIS (arXiv 1704.00675), MOSE (2302.01872), YouTube-VOS (1809.03327) and LVOS (2211.10181) have one paletted mask a
frame, SA-V (2408.00714) a folder of masks for each object. Order of this file: a video, masks, the layouts.
Unusual: a layout is told by the names of its folders, its lists are checked before anything is read, and a picture or
mask is opened when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percepta.errors import BadInput, BadMedia, one_of
from percepta.media import open_picture

Labels = NDArray[np.uint8]
Dense = NDArray[np.bool_]
VOID = 255  # unsure pixels; the official scores count them as background
PICTURES = (".jpg", ".jpeg")
LAYOUTS = ("davis", "mose", "sa-v")


@dataclass(frozen=True, slots=True, eq=False)
class MaskedVideo:
    """One video: pictures of its frames, and masks of some or all of them.

    Attributes:
        name: such as "bike-packing".
        frames: files of the pictures, in order.
        annotations: number of a frame → its files of masks, by object; one file of all objects stands under None.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: Mapping[int, Mapping[int | None, Path]]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def annotated(self) -> tuple[int, ...]:
        """The frames that have masks, in order."""
        return tuple(sorted(self.annotations))

    def picture(self, frame: int) -> Image.Image:
        """The RGB picture of a frame. Raises BadMedia where it cannot be read."""
        return open_picture(self.frames[frame]).convert("RGB")

    def size(self) -> tuple[int, int]:
        """Height and width of the frames. Raises BadMedia where the first one cannot be read."""
        picture = open_picture(self.frames[0])
        return picture.height, picture.width

    def masks(self, frame: int) -> Labels | dict[int, Dense]:
        """The masks of a frame that has some: (H, W) numbers of objects, 0 for none; or (H, W) masks by object.

        Raises:
            BadMedia: a file that is no mask, or of another size than the frames.
        """
        files = self.annotations[frame]
        if None in files:
            return read_labels(files[None], self.name)
        return {number: read_labels(path, self.name) > 0 for number, path in files.items() if number is not None}

    def objects(self, frame: int) -> dict[int, Dense]:
        """The masks of a frame that are not empty, by object. Raises: as `masks`."""
        found = self.masks(frame)
        if isinstance(found, dict):
            return {number: mask for number, mask in found.items() if mask.any()}
        return {number: found == number for number in np.unique(found).tolist() if number}


def read_labels(path: Path, owner: str) -> Labels:
    """A mask (H, W) of numbers of objects from a PNG of a palette or of grey values, void as background.

    Raises: BadMedia for a file that is none, with the name of its `owner`.
    """
    try:
        with Image.open(path) as picture:
            labels = np.array(picture if picture.mode in ("P", "L", "1") else picture.convert("L"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadMedia(f"{path.name} of {owner} must be a mask as PNG; {error}.") from error
    labels[labels == VOID] = 0
    return labels


def open_vos(root: str | Path, split: str | None = None, resolution: str = "480p") -> tuple[MaskedVideo, ...]:
    """The videos of a data set, in the order of its list or of their names.

    Args:
        root: its folder: with JPEGImages, Annotations and ImageSets (DAVIS); with JPEGImages and Annotations, or train,
            valid, test that hold these (MOSE, YouTube-VOS, LVOS); with JPEGImages_24fps and Annotations_6fps, or
            sav_val and sav_test that hold these (SA-V).
        split: such as "val"; None takes "val" or "valid" where there are several.
        resolution: of DAVIS, "480p" or "Full-Resolution".

    Raises:
        BadInput: another layout, or no such split. BadMedia: a video without frames or masks, or masks without frames.
    """
    root = Path(root).expanduser()
    layout, place = _layout(root, split)
    if layout == "davis":
        return _davis(place, split or "val", resolution)
    if layout == "sa-v":
        return _sav(place)
    pictures, masks = place / "JPEGImages", place / "Annotations"
    return tuple(_with_frame_files(name, pictures / name, masks / name) for name in _folders(masks, pictures))


def layout_of(root: str | Path, split: str | None = None) -> str:
    """Which of `LAYOUTS` a folder has. Raises: BadInput for none."""
    return _layout(Path(root).expanduser(), split)[0]


def _layout(root: Path, split: str | None) -> tuple[str, Path]:
    """The layout, and the folder that holds pictures and masks."""
    if (root / "ImageSets").is_dir() and (root / "Annotations").is_dir():
        return "davis", root
    places = [root, *sorted(root.iterdir())] if root.is_dir() else []
    parts = {place.name: (layout, place) for place in places for layout in _layouts(place)}
    if not parts:
        raise BadInput(
            f"{str(root)!r} must hold videos with masks: JPEGImages and Annotations (DAVIS also ImageSets), or "
            "JPEGImages_24fps and Annotations_6fps; they are not there."
        )
    wanted = (root.name, "val", "valid", "sav_val") if split is None else (split, f"sav_{split}", *_alike(split))
    chosen = next((name for name in wanted if name in parts), None)
    if chosen is None and split is None and len(parts) == 1:
        chosen = next(iter(parts))
    if chosen is None:
        raise one_of("split", split, sorted(parts), owner=str(root))
    return parts[chosen]


def _layouts(place: Path) -> tuple[str, ...]:
    """The layouts of pictures beside masks that a folder has."""
    folders = {"mose": ("JPEGImages", "Annotations"), "sa-v": ("JPEGImages_24fps", "Annotations_6fps")}
    return tuple(layout for layout, names in folders.items() if all((place / name).is_dir() for name in names))


def _alike(split: str) -> tuple[str, ...]:
    """What other sets call a split."""
    return {"val": ("valid",), "valid": ("val", "sav_val")}.get(split, ())


def _davis(root: Path, split: str, resolution: str) -> tuple[MaskedVideo, ...]:
    lists = {path.stem: path for path in sorted((root / "ImageSets").glob("2017/*.txt"))}
    lists = lists or {path.stem: path for path in sorted((root / "ImageSets").glob("*/*.txt"))}
    if split not in lists:
        raise one_of("split", split, lists, owner=str(root / "ImageSets"))
    pictures, masks = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    return tuple(_with_frame_files(name, pictures / name, masks / name) for name in listed(lists[split]))


def _sav(root: Path) -> tuple[MaskedVideo, ...]:
    pictures, masks = root / "JPEGImages_24fps", root / "Annotations_6fps"
    lists = sorted(root.glob("*.txt"))
    names = listed(lists[0]) if len(lists) == 1 else _folders(masks, pictures)
    return tuple(_with_object_folders(name, pictures / name, masks / name) for name in names)


def listed(path: Path) -> list[str]:
    """The names of a list, one a line. Raises: BadInput for an empty one, or a name twice."""
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise BadInput(f"{str(path)!r} must name at least one video; it is empty.")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise BadInput(f"{str(path)!r} must name each video once; {twice} stands there twice.")
    return names


def _folders(masks: Path, pictures: Path) -> list[str]:
    """The videos that have masks. Raises: BadMedia for one without pictures, or none."""
    names = sorted(place.name for place in masks.iterdir() if place.is_dir())
    if not names:
        raise BadMedia(f"{str(masks)!r} must hold a folder for each video; it is empty.")
    lost = [name for name in names if not (pictures / name).is_dir()]
    if lost:
        raise BadMedia(f"the video {lost[0]} has masks but no folder in {pictures.name}.")
    return names


def _with_frame_files(name: str, pictures: Path, masks: Path) -> MaskedVideo:
    """A video with one file of masks for each frame that has some."""
    frames = _files(pictures, name)
    files: dict[int, Mapping[int | None, Path]] = {
        number: {None: path} for number, path in _placed(masks, frames, name).items()
    }
    return _checked(name, list(frames.values()), files)


def _with_object_folders(name: str, pictures: Path, masks: Path) -> MaskedVideo:
    """A video with a folder of masks for each object."""
    frames = _files(pictures, name)
    files: dict[int, dict[int | None, Path]] = {}
    for place in sorted(masks.iterdir()) if masks.is_dir() else ():
        if not place.is_dir():
            continue
        if not place.name.isdecimal():
            raise BadMedia(f"masks of {name} must lie in folders with the numbers of objects; got {place.name!r}.")
        for number, path in _placed(place, frames, name).items():
            files.setdefault(number, {})[int(place.name)] = path
    return _checked(name, list(frames.values()), files)


def _files(pictures: Path, name: str) -> dict[str, Path]:
    """The pictures of a video by the stems of their names, in order. Raises: BadMedia for none."""
    found = sorted(path for path in pictures.iterdir() if path.suffix.lower() in PICTURES) if pictures.is_dir() else []
    if not found:
        raise BadMedia(f"the video {name} needs frames as JPEG in {str(pictures)!r}; got none.")
    if all(path.stem.isdecimal() for path in found):
        found.sort(key=lambda path: int(path.stem))
    return {path.stem: path for path in found}


def _placed(masks: Path, frames: Mapping[str, Path], name: str) -> dict[int, Path]:
    """Number of a frame → its file of masks. Raises: BadMedia for a mask without a frame."""
    numbers = {stem: number for number, stem in enumerate(frames)}
    found = {}
    for path in sorted(masks.glob("*.png")):
        if path.stem not in numbers:
            raise BadMedia(f"the mask {path.name} of {name} belongs to no frame; {path.stem}.jpg is not there.")
        found[numbers[path.stem]] = path
    return found


def _checked(name: str, frames: Sequence[Path], files: Mapping[int, Mapping[int | None, Path]]) -> MaskedVideo:
    if not files:
        raise BadMedia(f"the video {name} needs at least one mask as PNG; got none.")
    return MaskedVideo(name, tuple(frames), dict(sorted(files.items())))
