"""Masklets of SA-V's training part: a JSON of run lengths beside each video (SAM 2, arXiv 2408.00714, appendix D).

Order of this file: the masklets of one video, reading a file, going through a folder.
Unusual: masks stand at 6 frames a second of a video of 24, so that annotation k belongs to frame 4 k; they stay the
compressed text of the file until one is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from percepta.errors import BadInput, BadMedia, one_of
from percepta.results import Masks, Tracks
from percepta.results.masks import Counts, counts_of

STEP = 4  # frames of the video from one annotation to the next
RATE = 24.0
KINDS = ("manual", "auto")
NEEDED = ("video_id", "video_height", "video_width", "video_frame_count", "masklet")


@dataclass(frozen=True, slots=True, eq=False)
class Masklets:
    """The objects of one video through its annotated frames.

    Attributes:
        name: the video, such as "sav_000001".
        kind: "manual" or "auto".
        size: (height, width) of the frames.
        frames: number of frames of the video, at 24 a second.
        codes: the run lengths as they stand in the file, by annotation and then by object.
        objects: the identity of each object.
        facts: all other fields of the file, such as masklet_stability_score.
        video: the file of the video, where it lies beside.
    """

    name: str
    kind: str
    size: tuple[int, int]
    frames: int
    codes: Sequence[Sequence[Any]]
    objects: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    video: Path | None = None

    def __len__(self) -> int:
        """How many frames have masks."""
        return len(self.codes)

    @property
    def annotated(self) -> tuple[int, ...]:
        """The frames of the video that have masks."""
        return tuple(range(0, STEP * len(self.codes), STEP))

    def masks(self, annotation: int) -> Masks:
        """The masks of one annotation, from 0 or negative from the end, one an object, the unseen ones empty.

        Raises:
            BadMedia: run lengths that cannot be read or do not fill the frame.
        """
        codes = self.codes[annotation]
        try:
            counts = tuple(self._counts(code) for code in codes)
            return Masks(self.name, self.size, counts, tuple(str(number) for number in self.objects))
        except BadInput as error:
            raise BadMedia(f"annotation {annotation} of {self.name} cannot be read: {error}") from error

    def tracks(self) -> Tracks:
        """All observations, at the numbers of their frames in the video. Raises: BadMedia as `masks`."""
        counts: list[Counts] = []
        places: list[tuple[int, int]] = []
        for number in range(len(self)):
            masks = self.masks(number)
            for row in np.flatnonzero(masks.area):
                counts.append(masks.counts[row])
                places.append((STEP * number, self.objects[row]))
        found = Masks(self.name, self.size, tuple(counts))
        frames, objects = np.array(places, np.int64).reshape(-1, 2).T
        return Tracks(self.name, frames, objects, found.boxes(), found, RATE)

    def _counts(self, code: Any) -> Counts:
        if code is None:
            return np.array([self.size[0] * self.size[1]])
        if not isinstance(code, Mapping) or "counts" not in code:
            raise BadInput(f"a mask must be run lengths with size and counts; got {str(code)[:40]!r}.")
        if "size" in code and tuple(code["size"]) != self.size:
            raise BadInput(f"a mask must have the size {self.size} of its video; got {tuple(code['size'])}.")
        return counts_of(code["counts"])


def read_masklets(path: str | Path) -> Masklets:
    """The masklets of one file, such as sav_000001_manual.json.

    Raises:
        BadMedia: a file that is not such a JSON, or whose annotations do not fit together.
    """
    path = Path(path).expanduser()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadMedia(f"{path.name} must be a JSON of masklets; {error}.") from error
    missing = [name for name in NEEDED if not isinstance(data, Mapping) or name not in data]
    if missing:
        raise BadMedia(f"{path.name} must be a JSON of masklets; it has no {', '.join(missing)}.")
    codes = data["masklet"]
    if not isinstance(codes, list) or not all(isinstance(row, list) for row in codes):
        raise BadMedia(f"masklet of {path.name} must be a list of frames, each a list of objects.")
    counts = {len(row) for row in codes}
    numbers = data.get("masklet_id") or list(range(next(iter(counts), 0)))
    if counts - {len(numbers)}:
        raise BadMedia(f"{path.name} must have a mask for each of its {len(numbers)} objects in each frame.")
    size = (int(data["video_height"]), int(data["video_width"]))
    frames = int(data["video_frame_count"])
    if STEP * (len(codes) - 1) >= frames + STEP:
        raise BadMedia(f"{path.name} has masks of {len(codes)} frames, more than every {STEP}th of {frames}.")
    kind = "auto" if path.stem.endswith("_auto") else "manual"
    facts = {name: value for name, value in data.items() if name not in NEEDED}
    video = path.with_name(f"{data['video_id']}.mp4")
    known = video if video.is_file() else None
    return Masklets(str(data["video_id"]), kind, size, frames, codes, tuple(map(int, numbers)), facts, known)


def open_masklets(root: str | Path, kind: str = "manual") -> Iterator[Masklets]:
    """The masklets of all files below a folder, one after the other, in the order of their names.

    Args:
        root: a folder with files such as sav_000001_manual.json, in sub-folders or not.
        kind: "manual" or "auto".

    Raises:
        BadInput: another kind, or no such file. BadMedia: a file that cannot be read, when its turn comes.
    """
    if kind not in KINDS:
        raise one_of("kind", kind, KINDS, "open_masklets")
    root = Path(root).expanduser()
    files = sorted(root.rglob(f"*_{kind}.json"))
    if not files:
        raise BadInput(f"{str(root)!r} must hold files such as sav_000001_{kind}.json; there is none.")
    return map(read_masklets, files)
