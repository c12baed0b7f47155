"""Objects followed through a video of any length (SAM 2, arXiv 2408.00714).

Unusual: with prompts the verb gives all Tracks at once; without, a session that is a context manager, for pointing,
following, correcting and following on. Both hold a few frames in memory, whatever the length of the video.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from percepta.errors import BadInput, one_of
from percepta.media import open_frames
from percepta.results import Tracks
from percepta.running.feed import ON_ERROR
from percepta.tasks.segment import ENCODER, NANO, Segmenter, prompts_of
from percepta.tasks.sessions import VideoSession


def track(  # noqa: PLR0913 (the front door)
    video: Any,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    masks: Any = None,
    frame: int = 0,
    text: str | None = None,
    model: str | nn.Module = NANO,
    both: bool = False,
    rate: float | None = None,
    memory: str = "bounded",
    corrections: str = "stick",
    non_overlap: bool = False,
    fill_holes: int = 0,
    resume: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
    encoder: str | nn.Module = ENCODER,
) -> Tracks | VideoSession:
    """Follow objects through a video: with prompts to its end at once, without as a session to work with.

    Args:
        video: a file, a folder of pictures, a list or array of frames, or an iterator of pictures, which may be endless
            (then as a session); see `open_frames`.
        points, labels, boxes, masks: as of `segment`, in the frame number `frame`; each object gets a number from 1.
        text: what to look for, in words; what fits is followed, looked at again over time, let go where it turns out to
            be something else, and looked for again while nothing is followed. Perhaps nothing fits.
        both: with prompts, go back from `frame` to the beginning too.
        rate: frames a second of what carries no times, such as a folder.
        memory: "bounded" keeps what later frames can look at; "all" keeps everything, for a short video.
        corrections: "stick", or "official", which loses them when the frame is tracked again.
        non_overlap: give each pixel to one object at most.
        fill_holes: fill holes of up to this many pixels of a mask at a quarter of the model's input size.
        resume: a folder in which a session was saved, to go on with.
        on_error: "collect" leaves out frames that cannot be read, and warns; "raise" stops there (BadMedia).
        model, device, dtype, weights, encoder: as of `segment`.

    Returns:
        Tracks, whose scores are the probability that the object is seen, not calibrated; or a VideoSession.

    Raises:
        BadInput: a prompt outside the frame, a box without area, a frame that is not there, a setting that is none of
            these. BadMedia: the video cannot be read. UnknownModel, MissingWeights, CheckpointMismatch.
    """
    prompts = prompts_of(points, labels, boxes, masks)
    if text is not None and prompts:
        raise BadInput("track needs points, boxes or masks, or text, not both.")
    segmenter = Segmenter(model, device, dtype, weights)
    settings = {"memory": memory, "corrections": corrections, "non_overlap": non_overlap, "fill_holes": fill_holes}
    session = _open(segmenter, video, rate, settings, on_error, resume)
    if text is None and not prompts:
        return session
    with session:
        if text is not None and not look_for(session, text, encoder) and session.frames.length is not None:
            return session.tracks()  # nothing fits anywhere
        return _all(session, prompts, frame, both)


def look_for(session: VideoSession, text: str, encoder: str | nn.Module = ENCODER) -> bool:
    """Point at what fits words, and look again while it is followed (`session.watch`); whether anything fits so far.

    Raises: BadInput for an encoder without words.
    """
    from percepta.tasks.words_in_video import find_in_video

    session.watch = find_in_video(text, session.segmenter, encoder)
    return bool(session.watch.begin(session))


def _open(
    segmenter: Segmenter,
    video: Any,
    rate: float | None,
    settings: dict[str, Any],
    on_error: str,
    resume: str | Path | None,
) -> VideoSession:
    """A session; nothing stays open where it cannot be made."""
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    frames = open_frames(video, rate)
    try:
        session = VideoSession(segmenter, frames, settings, on_error)
        if resume is not None:
            session.resume(resume)
    except BaseException:
        frames.close()
        raise
    return session


def _all(session: VideoSession, prompts: Any, frame: int, both: bool) -> Tracks:
    """To the end, and to the beginning where that is wanted."""
    if session.frames.length is None:
        raise BadInput(f"{session.frames.name} may be endless; use a session: with percepta.track(...) as video.")
    session.add(frame, prompts)
    if both:
        for _ in session.run(reverse=True):
            continue
    tracks = session.run().tracks()
    if session.failures:
        count = len(session.failures)
        more = "" if count == 1 else f" ({count} frames in all)"
        warnings.warn(f"{session.failures[0].reason}{more}", UserWarning, stacklevel=4)
    return tracks
