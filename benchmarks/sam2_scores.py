"""Scores and masks on disk against the usual tools, alternating in one process, at equal outputs.

    python benchmarks/sam2_scores.py [--rounds 7] [--height 480] [--width 854]

J&F: each mask pair of a generated clip at the size of DAVIS, against the published way (contours dilated by a disc;
OpenCV's dilation where it is installed, scipy's else). Run lengths: masks of a picture of 12 megapixels to COCO's text
and back, against pycocotools where it is installed, else against turning the mask, as its definition says. Prints the
median of the ratios of neighbouring runs and their 10 to 90 % range.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from percepta.datasets.scenes import SceneConfig, make_clip
from percepta.evaluation import boundary_f, contours, jaccard
from percepta.results import Masks
from percepta.results.masks import compress, decompress
from preprocessing import compare

LARGE = (3000, 4000)


def optional(name: str) -> Any:
    """A module, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


CV2, COCO = optional("cv2"), optional("pycocotools.mask")


def pairs(height: int, width: int, frames: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) true masks of the objects of a clip, and the same moved by some pixels."""
    clip = make_clip(1_000_003, SceneConfig((height, width)), frames)
    truth = np.concatenate([track.visible_masks for track in clip.tracks])
    return truth, np.roll(truth, (3, 5), axis=(1, 2))


def dilated(edge: np.ndarray, disc: np.ndarray) -> np.ndarray:
    """An edge widened by a disc."""
    if CV2 is not None:
        return np.asarray(CV2.dilate(edge.astype(np.uint8), disc.astype(np.uint8)), bool)
    return np.asarray(ndimage.binary_dilation(edge, disc))


def published(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(N, 2) J and F, a mask at a time."""
    reach = math.ceil(0.008 * math.hypot(*truth.shape[1:]))
    steps = np.arange(-reach, reach + 1)
    disc = steps[:, None] ** 2 + steps[None] ** 2 <= reach**2
    rows = []
    for one, other in zip(truth, found, strict=True):
        union = (one | other).sum()
        wanted, drawn = contours(one), contours(other)
        near = [(drawn & dilated(wanted, disc)).sum(), (wanted & dilated(drawn, disc)).sum()]
        counts = [drawn.sum(), wanted.sum()]
        precision, recall = (n / c if c else 1.0 for n, c in zip(near, counts, strict=True))
        total = precision + recall
        rows.append(((one & other).sum() / union if union else 1.0, 2 * precision * recall / total if total else 0.0))
    return np.array(rows)


def discs(count: int) -> np.ndarray:
    """(N, 3000, 4000) masks of objects of all sizes."""
    random = np.random.default_rng(0)
    masks = np.zeros((count, *LARGE), bool)
    for mask in masks:
        radius = int(random.integers(20, 300))
        row, column = (int(random.integers(radius, side - radius)) for side in LARGE)
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        mask[row - radius : row + radius + 1, column - radius : column + radius + 1] = x * x + y * y <= radius * radius
    return masks


def turned(masks: np.ndarray) -> list[str]:
    """COCO's text by its definition: the mask column by column."""
    texts = []
    for mask in masks:
        flat = mask.T.reshape(-1)
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        texts.append(compress(np.concatenate([[0], runs]) if flat[0] else runs))
    return texts


def reference_texts(masks: np.ndarray) -> list[str]:
    """As people call it: each mask in the order of Fortran first."""
    if COCO is None:
        return turned(masks)
    return [COCO.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() for mask in masks]


def reference_masks(texts: list[str]) -> np.ndarray:
    """(N, H, W) from texts, in the order of rows as everything else needs them."""
    if COCO is None:
        runs = [decompress(text) for text in texts]
        return np.stack([np.repeat(np.arange(len(one)) % 2 == 1, one).reshape(LARGE[::-1]).T for one in runs])
    return np.stack([COCO.decode({"size": list(LARGE), "counts": text}) for text in texts]) != 0


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    arguments = parser.parse_args()
    truth, found = pairs(arguments.height, arguments.width)
    few = discs(20)
    texts = Masks.from_dense("a", few).to_strings()
    assert texts == reference_texts(few), "texts differ"
    assert np.array_equal(Masks.from_strings("a", LARGE, texts).dense(), reference_masks(texts)), "masks differ"
    ours = np.stack([jaccard(truth, found), boundary_f(truth, found)], axis=1)
    assert np.abs(ours - published(truth, found)).max() < 1e-12, "scores differ"
    print(f"peers: {'OpenCV' if CV2 else 'scipy'} dilation, {'pycocotools' if COCO else 'the definition'}")
    rows: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            f"J&F of {len(truth)} masks {arguments.width}x{arguments.height}",
            lambda: (jaccard(truth, found), boundary_f(truth, found)),
            lambda: published(truth, found),
        ),
        ("20 masks of 12 MP to text", lambda: Masks.from_dense("a", few).to_strings(), lambda: reference_texts(few)),
        (
            "20 texts to masks of 12 MP",
            lambda: Masks.from_strings("a", LARGE, texts).dense(),
            lambda: reference_masks(texts),
        ),
    ]
    for name, mine, theirs in rows:
        median, low, high, own, other = compare(mine, theirs, arguments.rounds)
        print(f"{name:36} {median:6.2f}x  [{low:.2f}, {high:.2f}]  {own:8.1f} against {other:8.1f} ms")


if __name__ == "__main__":
    main()
