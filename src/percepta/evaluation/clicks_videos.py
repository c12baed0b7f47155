"""Clicks through videos: how good masks become when the worst frames are clicked, and what time that would take.

The interactive protocols of SAM 2 (arXiv 2408.00714, §6.1 and appendix F): offline in repeated passes, online in one.
Order of this file: protocol, time, offline, online, a data set.
Unusual: all objects of a video are corrected in the same passes, each on its own frames, since they are independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.evaluation.metrics import Points
from percepta.evaluation.protocols import Evaluation, Measure, Protocol
from percepta.evaluation.regions import Dense, VideoScore, jaccard
from percepta.evaluation.tallies import Tally, ratio
from percepta.evaluation.vos import (
    Size,
    StartSession,
    Video,
    Watch,
    checked_size,
    click,
    followed,
    jf_tallies,
    packed,
    score_packed,
    shared_settings,
    tally_measure,
)
from percepta.results import Failure
from percepta.results.masks import Counts, decode

MODES = ("offline", "online")
CLICK_SECONDS, LOCATE_SECONDS = 1.5, 1.0
EXAMINE_SECONDS, EXAMINED_FRAMES = 30.0, 300
PAUSE_BELOW = 0.75


def vos_interactive_protocol(
    data: str = "masks of objects in videos",
    split: str | None = None,
    mode: str = "offline",
    frames: int = 8,
    clicks: int = 3,
    pause: float = PAUSE_BELOW,
) -> Protocol:
    """J&F after 1 to `frames` clicked frames an object.

    Args:
        mode: "offline": after each pass through the video the frame of the lowest IoU is clicked; "online": one pass,
            paused where the IoU falls below `pause`.
        frames: the most frames of an object that are clicked.
        clicks: on each of them.

    Raises: BadInput for another mode, or numbers out of range.
    """
    if mode not in MODES:
        raise one_of("mode", mode, MODES, "vos-interactive")
    for name, value in (("frames", frames), ("clicks", clicks)):
        if value < 1:
            raise out_of_range(name, value, "1 or more", "vos-interactive")
    return Protocol(
        "vos-interactive",
        {
            "data": data,
            "split": split,
            "resolution": "480p",
            "mode": mode,
            "clicked frames": frames,
            "clicks a frame": clicks,
            "pause below": pause,
            **shared_settings(),
            "skipped": "no frame",
            "overlap": "allowed",
            "seconds": f"a click {CLICK_SECONDS:g}, a frame to locate the object {LOCATE_SECONDS:g}, "
            f"{EXAMINED_FRAMES} frames to examine {EXAMINE_SECONDS:g} (offline: every pass; online: once)",
        },
    )


def annotation_seconds(mode: str, video_frames: int, frames: Points, clicks: Points) -> Points:
    """The time that one would have taken, by the published model.

    Args:
        mode: one of `MODES`.
        video_frames: how long the video is.
        frames, clicks: how many frames were clicked, and how many clicks were made in all.
    """
    examine = EXAMINE_SECONDS * video_frames / EXAMINED_FRAMES
    passes = frames if mode == "offline" else 1.0
    return np.asarray(examine * passes + LOCATE_SECONDS * frames + CLICK_SECONDS * clicks, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What some clicked frames gave.

    Attributes:
        score: of the whole video.
        frames, clicks: by object, how many frames were clicked and how many clicks made.
    """

    score: VideoScore
    frames: dict[int, int]
    clicks: dict[int, int]


@dataclass(slots=True)
class _Work:
    """One video with what was clicked and found so far."""

    video: Video
    size: Size
    firsts: dict[int, int] = field(default_factory=dict)
    found: dict[int, dict[int, Counts]] = field(default_factory=dict)
    frames: dict[int, int] = field(default_factory=dict)
    clicks: dict[int, int] = field(default_factory=dict)

    def guess(self, frame: int, number: int) -> Dense:
        runs = self.found.get(frame, {}).get(number)
        return np.zeros(self.size, bool) if runs is None else decode(runs, self.size)

    def count(self, number: int, clicks: int) -> None:
        self.frames[number] = self.frames.get(number, 0) + 1
        self.clicks[number] = self.clicks.get(number, 0) + clicks

    def round(self) -> Round:
        score = score_packed(self.video, self.found, self.size, skip_ends=False)
        return Round(score, dict(self.frames), dict(self.clicks))


def click_offline(
    start: StartSession, video: Video, frames: int = 8, clicks: int = 3, watch: Watch | None = None
) -> list[Round]:
    """Passes through a video; before each, every object is clicked on its worst frame (first, where it appears).

    Args:
        start: makes a session; asked for memory="all", so that a correction goes on from what was seen of its frame.
        frames: passes.

    Returns:
        One round a pass. Raises: BadMedia for a frame or mask that cannot be read.
    """
    session, work = start(video, memory="all"), _Work(video, checked_size(video))
    truths = {frame: packed(video.objects(frame)) for frame in video.annotated}
    for frame, shown in truths.items():
        for number in shown:
            work.firsts.setdefault(number, frame)
    rounds: list[Round] = []
    while work.firsts and len(rounds) < frames:
        wrong = {number: _worst(work, truths, number) if rounds else first for number, first in work.firsts.items()}
        if all(frame is None for frame in wrong.values()):
            return rounds + [rounds[-1]] * (frames - len(rounds))
        for number, place in wrong.items():
            if place is not None:
                runs = truths[place].get(number)
                truth = np.zeros(work.size, bool) if runs is None else decode(runs, work.size)
                work.count(number, click(session, place, number, truth, work.guess(place, number), clicks)[1])
        for one in map(followed, session.propagate(start=min(work.firsts.values()))):
            if one.frame in truths:
                work.found[one.frame] = packed(one.masks(overlap=True))
            if watch is not None:
                watch(1)
        rounds.append(work.round())
    return rounds


def _worst(work: _Work, truths: Mapping[int, Mapping[int, Counts]], number: int) -> int | None:
    """The annotated frame, from the object's first one on, with the lowest IoU; None where nothing is wrong."""
    worst, lowest = None, 1.0
    for frame, shown in truths.items():
        if frame < work.firsts[number]:
            continue
        truth = np.zeros(work.size, bool) if number not in shown else decode(shown[number], work.size)
        iou = float(jaccard(truth, work.guess(frame, number)))
        if iou < lowest:
            worst, lowest = frame, iou
    return worst


def click_online(
    start: StartSession,
    video: Video,
    frames: int = 8,
    clicks: int = 3,
    pause: float = PAUSE_BELOW,
    watch: Watch | None = None,
) -> Round:
    """One pass through a video that pauses where an object's IoU falls below `pause`, to click it there.

    Args:
        start: makes a session.
        frames: of an object that are clicked at most, the first one included.

    Raises: BadMedia for a frame or mask that cannot be read.
    """
    session, work, annotated = start(video), _Work(video, checked_size(video)), set(video.annotated)
    first = next((frame for frame in video.annotated if video.objects(frame)), None)
    if first is None:
        return work.round()

    def attend(frame: int, masks: dict[int, Dense]) -> dict[int, Dense]:
        shown = video.objects(frame)
        for number in sorted({*shown, *work.firsts}):
            fresh = work.firsts.setdefault(number, frame) == frame
            truth = shown.get(number, np.zeros(work.size, bool))
            guess = masks.get(number, np.zeros(work.size, bool))
            if work.frames.get(number, 0) < frames and (fresh or float(jaccard(truth, guess)) < pause):
                told, made = click(session, frame, number, truth, guess, clicks)
                masks[number] = told.masks(overlap=True)[number]
                work.count(number, made)
        return masks

    attend(first, {})
    for one in map(followed, session.propagate(start=first)):
        masks = one.masks(overlap=True)
        if one.frame in annotated:
            work.found[one.frame] = packed(masks if one.frame == first else attend(one.frame, masks))
        if watch is not None:
            watch(1)
    return work.round()


def evaluate_vos_interactive(
    videos: Iterable[Video],
    start: StartSession,
    protocol: Protocol | None = None,
    on_error: str = "raise",
    watch: Watch | None = None,
) -> Evaluation:
    """J&F and annotation time by the most frames of an object that are clicked; the intervals redraw videos.

    Args: as of `evaluate_vos`. Online, each number of frames is a pass of its own.

    Raises:
        BadInput: no videos, or none that shows an object. BadMedia: a file that cannot be read.
    """
    protocol = protocol or vos_interactive_protocol()
    settings = protocol.settings
    if settings["mode"] not in MODES:
        raise one_of("mode", settings["mode"], MODES, protocol.name)
    most, clicks = int(settings["clicked frames"]), int(settings["clicks a frame"])
    found: list[list[Round]] = []
    lengths: list[int] = []
    failures: list[Failure] = []
    for video in videos:
        try:
            if settings["mode"] == "offline":
                rounds = click_offline(start, video, most, clicks, watch)
            else:
                budgets = range(1, most + 1)
                rounds = [click_online(start, video, one, clicks, settings["pause below"], watch) for one in budgets]
        except BadMedia as error:
            if on_error == "raise":
                raise
            failures.append(Failure(video.name, str(error)))
            continue
        if rounds and rounds[0].frames:
            found.append(rounds)
            lengths.append(len(video))
    if not found:
        raise BadInput(f"{protocol.name} needs at least one video that can be read and shows an object; got none.")
    measures: list[Measure] = []
    for number in range(most):
        tally = jf_tallies([rounds[number].score for rounds in found])["J&F"]
        name = f"J&F, {number + 1} frame{'s' if number else ''}"
        measures.append(tally_measure(name, tally, headline=number in (0, most - 1)))
        spent = np.array(
            [_spent(rounds[number], settings["mode"], n) for rounds, n in zip(found, lengths, strict=True)]
        )
        measures.append(_seconds(f"time an object, {number + 1} frame{'s' if number else ''}", spent))
    objects = sum(len(rounds[0].frames) for rounds in found)
    details = {"videos": len(found), "objects": objects}
    return Evaluation(protocol, tuple(measures), details=details, failures=tuple(failures))


def _spent(one: Round, mode: str, length: int) -> tuple[float, float]:
    """The seconds of all objects of a video, and how many those are."""
    frames, clicks = (
        np.array([table[number] for number in one.frames], np.float64) for table in (one.frames, one.clicks)
    )
    return float(annotation_seconds(mode, length, frames, clicks).sum()), float(len(one.frames))


def _seconds(name: str, spent: Points) -> Measure:
    tally = Tally(spent, ratio, int(spent[:, 1].sum()))
    low, high = tally.interval()
    return Measure(name, tally.value, low, high, tally.count, unit="s")
