"""Points, boxes and masks as people type them, for the verbs that cut out and follow objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.errors import BadInput

NANO, ENCODER = "sam2-nano", "pe-core-nano"

Points = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="X,Y[,LABEL[,OBJECT]]",
        help="A click in pixels: label 1 inside (else 0), object 1 unless said. Repeatable.",
    ),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A box in pixels; each is an object. Repeatable."),
]
MaskFiles = Annotated[
    list[Path] | None,
    typer.Option("--mask", metavar="FILE", help="A picture of a mask, bright inside; each is an object. Repeatable."),
]

Text = Annotated[str | None, typer.Option("--text", metavar="WORDS", help="What to look for; may find nothing.")]
EncoderName = Annotated[str, typer.Option("--encoder", metavar="NAME", help="What knows words, for --text.")]


def prompts(points: Sequence[str] | None, boxes: Sequence[str] | None, masks: Sequence[Path] | None) -> dict[str, Any]:
    """The arguments points, labels, boxes and masks of the Python verbs. Raises BadInput."""
    places, labels = _clicks(points or ())
    frames = [_numbers("--box", text, (4, 4)) for text in boxes or ()]
    return {
        "points": places or None,
        "labels": labels or None,
        "boxes": frames or None,
        "masks": [str(mask) for mask in masks] if masks else None,
    }


def clicks_of(given: dict[str, Any]) -> list[tuple[float, float, int]]:
    """(x, y, label) of all clicks, to be painted."""
    return [
        (x, y, label)
        for places, labels in zip(given["points"] or (), given["labels"] or (), strict=True)
        for (x, y), label in zip(places, labels, strict=True)
    ]


def _clicks(points: Sequence[str]) -> tuple[list[list[tuple[float, float]]], list[list[int]]]:
    """Places and labels of each object, in the order of their numbers."""
    objects: dict[int, list[tuple[float, float, int]]] = {}
    for text in points:
        numbers = _numbers("--point", text, (2, 4))
        label, number = ([*numbers[2:], 1.0, 1.0][0], 1.0) if len(numbers) < 4 else (numbers[2], numbers[3])
        if label not in (0, 1) or number != int(number) or number < 1:
            raise BadInput(f"--point must be X,Y, then a label 0 or 1, then the object's number from 1; got {text!r}.")
        objects.setdefault(int(number), []).append((numbers[0], numbers[1], int(label)))
    if sorted(objects) != list(range(1, len(objects) + 1)):
        raise BadInput(f"objects of --point must be numbered 1, 2, ...; got {', '.join(map(str, sorted(objects)))}.")
    ordered = [objects[number] for number in sorted(objects)]
    return (
        [[(x, y) for x, y, _ in clicks] for clicks in ordered],
        [[label for *_, label in clicks] for clicks in ordered],
    )


def _numbers(option: str, text: str, counts: tuple[int, int]) -> list[float]:
    wanted = f"{counts[0]} numbers" if counts[0] == counts[1] else f"{counts[0]} to {counts[1]} numbers"
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not counts[0] <= len(numbers) <= counts[1]:
        raise BadInput(f"{option} must be {wanted} with commas; got {text!r}.")
    return numbers
