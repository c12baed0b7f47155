"""What was said of objects in a video, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from percepta.results.masks import compress, decode, decompress, encode
from percepta.tasks.segment import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Something that was said of an object: a prompt, or that the prompts of a frame are taken back (None).

    Attributes:
        serial: increases.
        visited: whether the frame had been tracked by then, so that the prompt corrects a result.
    """

    serial: int
    frame: int
    object: int
    prompt: Prompt | None
    visited: bool


def frames_of(said: Sequence[Said], number: int) -> list[int]:
    """The frames, in order, in which something still holds of an object."""
    holds: dict[int, bool] = {}
    for one in said:
        if one.object == number:
            holds[one.frame] = one.prompt is not None
    return sorted(frame for frame, held in holds.items() if held)


def to_json(said: Said) -> dict[str, Any]:
    """JSON-ready; a mask as run lengths."""
    entry: dict[str, Any] = {"serial": said.serial, "frame": said.frame, "object": said.object, "visited": said.visited}
    if said.prompt is None:
        return entry | {"prompt": None}
    prompt = said.prompt
    mask = None if prompt.mask is None else compress(encode(prompt.mask))
    given = {"points": prompt.points.tolist(), "labels": prompt.labels.tolist(), "box": prompt.box, "mask": mask}
    return entry | {"prompt": given}


def from_json(entry: dict[str, Any], size: tuple[int, int]) -> Said:
    """The inverse of `to_json`, in a video of this (height, width)."""
    given, prompt = entry["prompt"], None
    if given is not None:
        points = np.array(given["points"], np.float32).reshape(-1, 2)
        box = None if given["box"] is None else tuple(given["box"])
        mask = None if given["mask"] is None else decode(decompress(given["mask"]), size)
        prompt = Prompt(points, np.array(given["labels"], np.int64), box, mask)
    return Said(entry["serial"], entry["frame"], entry["object"], prompt, entry["visited"])
