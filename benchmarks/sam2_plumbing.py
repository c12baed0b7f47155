"""Official sizes of SAM 2 on real photographs and videos under seeded weights: does everything fit, and how long?

    python benchmarks/sam2_plumbing.py --media photos-and-videos/ [--models sam2.1-hiera-tiny] [--frames 6] [--out cut/]

The weights are random, so the masks mean nothing; what is shown is that the verbs run at the sizes of the official
models. Every picture of the folder gets a click, two boxes and "everything" on a small grid; every video a point and a
box in its first frame, followed for some frames. Prints seconds and the peak memory of the process; --out keeps what
was drawn.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import percepta
from percepta.media import draw_objects, open_picture

GRID = {"points_per_side": 4, "points_per_batch": 16, "iou_threshold": 0.0, "stability_threshold": 0.0}


def seeded(name: str) -> Any:
    """A model of this name with weights of seed 0."""
    torch.manual_seed(0)
    return percepta.build(name).eval()


def told(what: str, run: Callable[[], Any]) -> Any:
    """Run something and print how long it took and the most memory so far."""
    start = time.perf_counter()
    found = run()
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {what:44} {seconds:7.2f} s   peak {peak:5.2f} GiB", flush=True)
    return found


def cut(model: Any, path: Path, out: Path | None) -> None:
    """All kinds of prompts on one picture."""
    picture = open_picture(path).convert("RGB")
    width, height = picture.size
    boxes = [(width * 0.1, height * 0.2, width * 0.5, height * 0.8), (width * 0.5, height * 0.1, width * 0.9, height)]
    ways = {
        "a click": {"points": [(width / 2, height / 2)]},
        "two boxes": {"boxes": boxes},
        "everything, 4 x 4 clicks": {"everything": GRID},
    }
    for name, asked in ways.items():
        masks = told(f"{path.name} {width} x {height}, {name}", partial(percepta.segment, path, model=model, **asked))
        assert masks.size == (height, width)
        if out is not None:
            draw_objects(picture, masks).save(out / f"{path.stem}-{name.split()[-1]}.png")


def follow(model: Any, path: Path, frames: int) -> None:
    """Two objects through the first frames of a video."""
    with percepta.track(path, model=model) as video:
        height, width = video.frames.size
        video.add_point(frame=0, xy=(width / 2, height / 2))
        video.add_box(frame=0, box=(width * 0.1, height * 0.1, width * 0.4, height * 0.9))
        what = f"{path.name} {width} x {height}, 2 objects, {frames} frames"
        found = told(what, lambda: list(video.run(until=frames)))
    assert [result.frame for result in found] == list(range(len(found)))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--media", type=Path, required=True, help="folder of pictures and videos")
    parser.add_argument("--only", nargs="*", default=["truck", "cars", "groceries", "dog", "juggle", "blocks"])
    parser.add_argument("--models", nargs="*", default=["sam2.1-hiera-tiny", "sam2.1-hiera-large"])
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    files = [path for path in sorted(given.media.iterdir()) if any(word in path.stem for word in given.only)]
    for name in given.models:
        print(f"{name}, seeded weights, {torch.get_num_threads()} threads")
        model = seeded(name)
        for path in files:
            if path.suffix == ".mp4":
                follow(model, path, given.frames)
            else:
                cut(model, path, given.out)


if __name__ == "__main__":
    main()
