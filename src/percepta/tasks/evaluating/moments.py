"""The protocol `scenes-moments` for a model: videos are read and split just as an index does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from percepta.evaluation import Evaluation, Protocol, evaluate_scenes_moments, scenes_moments_protocol
from percepta.media import Source
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.indexing.moments import Moment, MomentRule, SeenVideo, look_at, mean_direction, moments_of


def scenes_moments() -> Protocol:
    """The protocol with the rule of the index."""
    return scenes_moments_protocol(moments=asdict(MomentRule()))


def run_scenes_moments(protocol: Protocol, batches: Batches) -> Evaluation:
    """The figures of one model; the frames are those of the rule, for the fixed steps too."""
    rule = MomentRule(**protocol.settings["moments"])
    with batches.watch("videos") as progress:
        progress.start(None)

        def look(file: bytes) -> SeenVideo:
            seen = look_at(batches.encoder, Source("a joined video", "video", data=file), rule)
            progress.advance()
            return seen

        def steps(seconds: float) -> Callable[[SeenVideo], list[Moment]]:
            return lambda seen: fixed_steps(seen, seconds)

        return evaluate_scenes_moments(
            look,
            lambda seen: moments_of(seen, rule),
            batches.texts,
            {f"steps of {seconds:g} s": steps(seconds) for seconds in protocol.settings["steps"]},
            protocol,
        )


def fixed_steps(seen: SeenVideo, seconds: float) -> list[Moment]:
    """The same frames in steps of so many seconds, the last one shorter; steps without a frame are left out."""
    step = np.floor(seen.times / seconds).astype(np.int64)
    return [
        Moment(
            float(number * seconds),
            float(min((number + 1) * seconds, seen.duration)),
            mean_direction(seen.vectors[step == number]),
        )
        for number in np.unique(step)
    ]
