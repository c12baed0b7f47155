"""Video object segmentation: prompt each object where it first appears, follow it, and score J&F.

The semi-supervised protocol of DAVIS, MOSE, LVOS and SA-V, and its forms with clicks or a box in the first frame
(SAM 2, arXiv 2408.00714, §6 and appendix F). Order of this file: protocol, following objects, one video, a data set.
Unusual: an object that appears later joins the same session at its first frame. Objects are independent of each other,
so that equals a run of its own; nothing is read or kept but the frame at hand, and masks as run lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.evaluation.protocols import Baseline, Evaluation, Measure
from percepta.evaluation.protocols import Protocol as Rules
from percepta.evaluation.regions import BOUNDARY_TOLERANCE, Dense, Labels, VideoScore, score_video
from percepta.evaluation.tallies import Tally, ratio
from percepta.layers.regions import error_centres
from percepta.results import Failure
from percepta.results.masks import Counts, decode, encode

PROMPTS = ("mask", "box", "1 click", "3 clicks", "5 clicks")
KEPT = "first mask kept"
Size = tuple[int, int]


class Video(Protocol):
    """What a video must offer; `percepta.datasets.vos.MaskedVideo` does."""

    @property
    def name(self) -> str: ...

    @property
    def annotated(self) -> Sequence[int]:
        """The frames that have masks."""

    def __len__(self) -> int: ...

    def picture(self, frame: int) -> Any:
        """What the model's preprocessing takes."""

    def size(self) -> Size:
        """Height and width."""

    def masks(self, frame: int) -> Labels | dict[int, Dense]:
        """(H, W) numbers of objects, or masks by object."""

    def objects(self, frame: int) -> dict[int, Dense]:
        """The masks that are not empty, by object."""


StartSession = Callable[..., Any]
"""(video, **settings) → a session over its frames, as `Sam2.session` makes it (of any size, at the size of the video):
`add_points`, `add_box`, `add_mask` and `propagate`. Settings are those of the session, such as memory="all"."""
Watch = Callable[[int], None]
"""Told how many frames were done."""


def vos_protocol(data: str = "masks of objects in videos", split: str | None = None, prompt: str = "mask") -> Rules:
    """J&F of objects that are prompted in the first frame that shows them.

    Args:
        data: the layout of the data.
        split: such as "val"; None is the only one, or "val".
        prompt: one of `PROMPTS`.
    """
    if prompt not in PROMPTS:
        raise one_of("prompt", prompt, PROMPTS, "vos")
    return Rules(
        "vos",
        {
            "data": data,
            "split": split,
            "resolution": "480p",
            "prompt": prompt,
            **shared_settings(),
            "skipped": "the first and the last annotated frame",
            "overlap": "numbers in one mask: each pixel to the largest logit; a folder an object: allowed",
        },
    )


def shared_settings() -> dict[str, Any]:
    """Settings of all protocols that follow objects."""
    return {
        "prompted": "each object in the first annotated frame that shows it",
        "clicks": "centre of the largest error by distance to its edge, earlier logits fed back",
        "frames": "all, in order; scored are the annotated ones",
        "post-processing": "none",
        "score": "J and F by object, the mean over frames, then over objects; from the first frame in which truth or "
        f"prediction shows it; boundary {BOUNDARY_TOLERANCE}",
        "void": "background",
    }


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What a session says of one frame.

    Attributes:
        frame: its number.
        logits: (H, W) by object, for those that have been prompted.
        scores: the logit of being there, by object.
        prompted: the true masks of the objects that were prompted on this frame.
    """

    frame: int
    logits: dict[int, Tensor]
    scores: dict[int, float]
    prompted: dict[int, Dense] = field(default_factory=dict)

    def masks(self, overlap: bool = False) -> dict[int, Dense]:
        """Masks by object; unless they may overlap, each pixel to the largest logit, of equal ones the first object."""
        numbers = sorted(self.logits)
        if not numbers:
            return {}
        table = torch.stack([self.logits[number] for number in numbers])
        inside = table > 0
        if not overlap and len(numbers) > 1:
            inside &= table.argmax(dim=0) == torch.arange(len(numbers), device=table.device)[:, None, None]
        return dict(zip(numbers, inside.cpu().numpy(), strict=True))


def followed(found: Any) -> Followed:
    """The masks of a frame as a session gives them, by object."""
    scores = found.object_scores.float().reshape(-1).tolist()
    return Followed(
        int(found.frame),
        dict(zip(found.objects, found.logits.float(), strict=True)),
        dict(zip(found.objects, scores, strict=True)),
    )


def prompt_object(session: Any, frame: int, number: int, truth: Dense, how: str = "mask") -> Followed:
    """Prompt one object on one frame from its true mask; returns what the session says of that frame."""
    if how == "mask":
        return followed(session.add_mask(frame, number, torch.from_numpy(truth)))
    if how == "box":
        rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        return followed(session.add_box(frame, number, box))
    return click(session, frame, number, truth, np.zeros_like(truth), int(how.split()[0]))[0]


def click(session: Any, frame: int, number: int, truth: Dense, guess: Dense, clicks: int) -> tuple[Followed, int]:
    """Correct one object on one frame by some clicks, each in the middle of the largest error that is left.

    Args:
        truth, guess: (H, W) what is wanted, and what is corrected; they differ.
        clicks: how many at most, 1 or more; once nothing is wrong no more are made. Earlier ones on this frame stay.

    Returns:
        What the session says of that frame, and how many clicks were made.
    """
    wanted = torch.from_numpy(truth)[None]
    for made in range(1, clicks + 1):
        points, labels = error_centres(wanted, torch.from_numpy(guess)[None])
        found = followed(session.add_points(frame, number, points, labels, clear=False))
        guess = (found.logits[number] > 0).cpu().numpy()
        if made == clicks or (guess == truth).all():
            return found, made
    raise out_of_range("clicks", clicks, "1 or more", "click")


def follow(
    session: Any, video: Video, how: str = "mask", firsts: Mapping[int, Mapping[int, Dense]] | None = None
) -> Iterator[Followed]:
    """Prompt each object where it first appears, and go through the video.

    Args:
        session: a fresh one over the frames of the video.
        how: one of `PROMPTS`.
        firsts: frame → the masks of objects to be prompted there; None reads the masks of the video as it goes and
            takes each object in the first annotated frame that shows it.

    Yields: every frame from the first prompted one on. Raises: BadInput for another prompt.
    """
    if how not in PROMPTS:
        raise one_of("prompt", how, PROMPTS, "follow")
    known: set[int] = set()
    annotated = set(video.annotated if firsts is None else firsts)

    def fresh(frame: int) -> dict[int, Dense]:
        shown = video.objects(frame) if firsts is None else dict(firsts[frame])
        new = {number: mask for number, mask in shown.items() if number not in known and mask.any()}
        known.update(new)
        return new

    for start in sorted(annotated):
        if first := fresh(start):
            break
    else:
        return
    for number, mask in first.items():
        prompt_object(session, start, number, mask, how)
    for found in session.propagate(start=start):
        one = followed(found)
        if one.frame == start:
            one.prompted.update(first)
        elif one.frame in annotated:
            one.prompted.update(fresh(one.frame))
            for number, mask in one.prompted.items():
                told = prompt_object(session, one.frame, number, mask, how)
                one.logits[number], one.scores[number] = told.logits[number], told.scores[number]
        yield one


def score_followed(session: Any, video: Video, how: str = "mask", watch: Watch | None = None) -> dict[str, VideoScore]:
    """J&F of one video by the names "model" and `KEPT`; the first and last annotated frames do not count.

    Args:
        session: a fresh one over the frames of the video.
        how: one of `PROMPTS`.

    Raises:
        BadInput: fewer than 3 annotated frames. BadMedia: a frame or mask cannot be read.
    """
    annotated = list(video.annotated)
    if len(annotated) < 3:
        raise BadInput(f"a score of {video.name} needs masks in at least 3 frames; {len(annotated)} have some.")
    size, overlap = checked_size(video), isinstance(video.masks(annotated[0]), dict)
    firsts: dict[int, Counts] = {}
    found: dict[str, dict[int, dict[int, Counts]]] = {"model": {}, KEPT: {}}
    wanted = set(annotated)
    for one in follow(session, video, how):
        if watch is not None:
            watch(1)
        firsts |= packed(one.prompted)
        if one.frame in wanted:
            found["model"][one.frame] = packed(one.masks(overlap))
            found[KEPT][one.frame] = dict(firsts)
    return {name: score_packed(video, frames, size) for name, frames in found.items()}


def checked_size(video: Video) -> Size:
    """Height and width of a video. Raises: BadMedia where its masks have other ones than its frames."""
    size = video.size()
    for frame in video.annotated[:1]:
        masks = video.masks(frame)
        for mask in masks.values() if isinstance(masks, dict) else (masks,):
            if mask.shape != size:
                sides = f"{mask.shape[1]}x{mask.shape[0]}, and its frames {size[1]}x{size[0]}"
                raise BadMedia(f"the masks of {video.name} are {sides}; take frames and masks of one resolution.")
    return size


def packed(masks: Mapping[int, Dense]) -> dict[int, Counts]:
    """Masks by object as run lengths."""
    return {number: encode(mask) for number, mask in masks.items()}


def score_packed(
    video: Video, frames: Mapping[int, Mapping[int, Counts]], size: Size, skip_ends: bool = True
) -> VideoScore:
    """The score of masks as run lengths by frame and object, over the annotated frames; missing ones are empty."""
    annotated = video.annotated
    guesses = ({n: decode(runs, size) for n, runs in frames.get(frame, {}).items()} for frame in annotated)
    return score_video((video.masks(frame) for frame in annotated), guesses, skip_ends)


def evaluate_vos(
    videos: Iterable[Video],
    start: StartSession,
    protocol: Rules | None = None,
    on_error: str = "raise",
    watch: Watch | None = None,
) -> Evaluation:
    """J&F, J and F over the objects of all videos.

    Args:
        videos: read one after the other.
        start: makes a session over the frames of a video.
        on_error: "collect" leaves out videos that cannot be read and names them, "raise" raises for the first.
        watch: told of every frame.

    Raises:
        BadInput: no videos, or one with masks in fewer than 3 frames. BadMedia: a file that cannot be read.
    """
    protocol = protocol or vos_protocol()
    scores: dict[str, VideoScore] = {}
    kept: dict[str, VideoScore] = {}
    failures: list[Failure] = []
    for video in videos:
        try:
            both = score_followed(start(video), video, protocol.settings["prompt"], watch)
        except BadMedia as error:
            if on_error == "raise":
                raise
            failures.append(Failure(video.name, str(error)))
            continue
        scores[video.name], kept[video.name] = both["model"], both[KEPT]
    if not scores:
        raise BadInput(f"{protocol.name} needs at least one video that can be read; got none.")
    return Evaluation(
        protocol,
        video_measures(scores.values()),
        kept_baselines(kept.values()),
        {"videos": len(scores), "objects": int(sum(score.sums[2] for score in scores.values()))},
        tables={"videos": video_rows(scores)},
        failures=tuple(failures),
    )


def jf_tallies(scores: Iterable[VideoScore]) -> dict[str, Tally]:
    """J&F, J and F with what each video adds; redrawn are videos.

    Raises: BadInput where no video shows an object.
    """
    table = np.stack([score.sums for score in scores])
    count = int(table[:, 2].sum())
    if not count:
        raise BadInput("J&F needs at least one object in the masks of at least one video; got none.")
    sums = {"J&F": table[:, :2].mean(axis=1), "J": table[:, 0], "F": table[:, 1]}
    return {name: Tally(np.stack([values, table[:, 2]], axis=1), ratio, count) for name, values in sums.items()}


def video_measures(scores: Iterable[VideoScore], suffix: str = "") -> tuple[Measure, ...]:
    """J&F (the headline), J and F, with intervals over videos."""
    return tuple(
        tally_measure(f"{name}{suffix}", tally, headline=name == "J&F") for name, tally in jf_tallies(scores).items()
    )


def tally_measure(name: str, tally: Tally, chance: float | None = None, headline: bool = False) -> Measure:
    """A tally's value with its interval."""
    low, high = tally.interval()
    return Measure(name, tally.value, low, high, tally.count, chance, headline)


def kept_baselines(scores: Iterable[VideoScore]) -> tuple[Baseline, ...]:
    """What the first masks give that nobody moves."""
    note = "each object keeps the true mask of its first frame"
    return tuple(Baseline(KEPT, name, tally.value, note) for name, tally in jf_tallies(scores).items())


def video_rows(scores: Mapping[str, VideoScore]) -> list[dict[str, Any]]:
    """JSON-ready: J and F of each object of each video."""
    return [
        {"video": name, "object": number, "J": round(region, 6), "F": round(boundary, 6)}
        for name, score in scores.items()
        for number, (region, boundary) in score.of_objects().items()
    ]
