"""Move a model's decision on whether an object is there: python -m percepta.tasks.fit_presence sam2-nano -o FILE

    python -m percepta.tasks.fit_presence sam2-nano --weights runs/sam2-nano/model.safetensors -o sam2-nano.safetensors

A mask is left empty where the object's score is negative. A model that sees hidden objects seldom learns a score that
orders frames well and says "there" too often; here the bias of its last layer is moved, so that the score is negative
on a given share of the frames that hide an object (generated clips from seed 950,000, which no training run sees).
Weights are written in half precision, as they are packaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import percepta
from percepta.errors import BadInput, out_of_range
from percepta.evaluation.scenes_vos import Presence, hiding_clips, presence
from percepta.running.progress import Progress
from percepta.tasks.evaluating.vos import sessions
from percepta.tasks.segment import Segmenter

FIRST_SEED, SIZE, FRAMES = 950_000, 128, 16


def told_of_clips(segmenter: Segmenter, clips: int) -> list[Presence]:
    """What the model says of all objects of the first clips that hide one."""
    start, told = sessions(segmenter), []
    with segmenter.evaluating(), Progress("clips") as progress:
        progress.start(clips)
        for clip in hiding_clips(FIRST_SEED, clips, SIZE, FRAMES):
            told.append(presence(start(clip), clip))
            progress.advance()
    return told


def threshold(told: Sequence[Presence], share: float) -> float:
    """The score below which `share` of the frames lie that hide an object.

    Raises: BadInput for a share outside 0 to 1, or where no frame hides an object.
    """
    if not 0 < share < 1:
        raise out_of_range("share", share, "between 0 and 1", "threshold")
    hidden: NDArray[np.float64] = np.concatenate([one.scores[~one.seen] for one in told])
    if not len(hidden):
        raise BadInput("threshold needs frames that hide an object; these clips have none.")
    return float(np.quantile(hidden, share))


def move(model: Any, by: float) -> None:
    """Add to the score of every object."""
    with torch.no_grad():
        model.mask_decoder.object_head.layers[-1].bias.add_(by)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m percepta.tasks.fit_presence", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", help="a name of `percepta models` that follows objects")
    parser.add_argument("-o", "--out", required=True, type=Path, help="a safetensors file")
    parser.add_argument("--weights", type=Path, help="a file with its weights")
    parser.add_argument("--hidden", type=float, default=0.85, help="share of hidden frames left empty (default 0.85)")
    parser.add_argument("--clips", type=int, default=60, help="how many clips (default 60)")
    given = parser.parse_args(arguments)
    segmenter = Segmenter(given.model, weights=given.weights)
    told = told_of_clips(segmenter, given.clips)
    least = threshold(told, given.hidden)
    seen = np.concatenate([one.scores[one.seen] for one in told])
    before, after = (float((seen < limit).mean()) for limit in (0, least))
    model = segmenter.model
    move(model, -least)
    percepta.save(model.half(), given.out)
    print(f"moved by {-least:+.3f}; seen frames left empty: {before:.1%} before, {after:.1%} after; wrote {given.out}")


if __name__ == "__main__":
    main()
