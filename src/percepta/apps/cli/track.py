"""`percepta track`."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common, pointing
from percepta.apps.cli.common import Debug, Device, Dtype, Json, Limit, Model, Overwrite, Resume, Settings, Weights
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta track field.mp4 --point 412,233 -o cow/
  percepta track field.mp4 "the brown cow" -o cow/
  percepta track field.mp4 --box 75,275,725,850 --box 375,550,650,800 --frame 120 -o cows/
  percepta track field.mp4 -o cow/ --resume
  percepta track frames/ --mask first.png --rate 24 -o thing/
  percepta track field.mp4 --point 412,233 --until 00:05 --json
"""
SHOWN = 10  # damaged frames that are named

Folder = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for video, masks and table.")]
Video = Annotated[str, typer.Argument(metavar="VIDEO", help="A video file, or a folder of its frames as pictures.")]
Words = Annotated[str | None, typer.Argument(metavar="[WORDS]", help="What to look for; the same as --text.")]
At = Annotated[str, typer.Option("--frame", metavar="N|TIME", help="Where the prompts are, such as 120 or 00:05.")]
Until = Annotated[str | None, typer.Option("--until", metavar="N|TIME", help="Stop before this frame or time.")]
Both = Annotated[bool, typer.Option("--both", help="From --frame back to the beginning too.")]
Rate = Annotated[float | None, typer.Option("--rate", metavar="N", help="Frames a second of a folder of pictures.")]
Overlay = Annotated[bool, typer.Option("--overlay/--no-overlay", help="Whether to paint a video.")]
NonOverlap = Annotated[bool, typer.Option("--non-overlap", help="Give each pixel to one object at most.")]
FillHoles = Annotated[
    int, typer.Option("--fill-holes", metavar="N", help="Fill holes of up to N pixels of small masks.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("track", epilog=EXAMPLES)(track)


def track(  # noqa: PLR0913 (the options of a command)
    video: Video,
    words: Words = None,
    point: pointing.Points = None,
    box: pointing.Boxes = None,
    mask: pointing.MaskFiles = None,
    text: pointing.Text = None,
    encoder: pointing.EncoderName = pointing.ENCODER,
    frame: At = "0",
    until: Until = None,
    both: Both = False,
    rate: Rate = None,
    overlay: Overlay = True,
    non_overlap: NonOverlap = False,
    fill_holes: FillHoles = 0,
    out: Folder = None,
    model: Model = pointing.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Follow objects through a video of any length, from clicks, boxes, masks or words.

    With -o a folder gets a video with the objects painted on, masks (parquet and COCO) and a table of frame, time,
    box, area and score, as frames finish. Interrupt it at any time, and go on with --resume. A score is the
    probability that the object is seen, not calibrated."""
    given = pointing.prompts(point, box, mask)
    if words is not None and text is not None:
        raise BadInput("say what to look for once: as WORDS or as --text.")
    text = words if text is None else text
    _check({**given, "text": text}, out, as_json, overwrite, resume)
    settings = {"non_overlap": non_overlap, "fill_holes": fill_holes, "rate": rate}
    session = _open(video, Settings(model, weights, device, dtype), settings, out if resume else None)
    with session:
        if text is not None:
            _look_for(session, text, encoder)
        elif not resume:
            _point(session, given, frame)
        if both and not resume:
            _go(session.run(reverse=True), "track backwards", as_json)
        run = session.run(until=_end(session, until, limit))
        if run.total == 0:
            common.say("nothing is left to do.")
        _go(run, "track", as_json, out, overlay, overwrite or resume)
        _tell(session, run)
        if session.failures:
            raise typer.Exit(1)


def _check(given: dict[str, Any], out: Path | None, as_json: bool, overwrite: bool, resume: bool) -> None:
    from percepta.tasks.tracking_run import check_free

    if out is None and not as_json:
        raise BadInput("track needs -o DIR for its video, masks and table, or --json.")
    if resume and out is None:
        raise BadInput("--resume needs -o DIR, the output to go on with.")
    if resume and any(given.values()):
        raise BadInput("--resume goes on with the prompts that it was begun with; leave out what points.")
    if not resume and not any(given.values()):
        raise BadInput("track needs --text, or --point, --box or --mask in the frame that --frame names.")
    if given["text"] is not None and any(value for name, value in given.items() if name != "text"):
        raise BadInput("track needs --text, or --point, --box and --mask, not both.")
    if out is not None:
        common.check_writable(out)
        if not overwrite and not resume:
            try:
                check_free(out)
            except BadInput as error:
                name = str(error).split(" exists;")[0]
                raise BadInput(f"{name} exists; pass --overwrite to replace it, or --resume to go on.") from None


def _open(video: str, model: Settings, settings: dict[str, Any], resume: Path | None) -> Any:
    from percepta.tasks.track import track as run

    return run(video, model=model.load(), resume=resume, **settings)


def _point(session: Any, given: dict[str, Any], frame: str) -> None:
    from percepta.tasks.segment import prompts_of

    session.add(session.frames.frame_at(_place(frame)), prompts_of(**given))


def _look_for(session: Any, text: str, encoder: str) -> None:
    """Point at what fits the words; nothing may."""
    from percepta.tasks.track import look_for

    if not look_for(session, text, encoder):
        common.say(f"nothing in {session.frames.name} fits {text!r}; looking again as it goes on.")


def _end(session: Any, until: str | None, limit: int | None) -> int | None:
    """The frame before which to stop."""
    if limit is not None and limit < 1:
        raise BadInput(f"--limit must be a whole number of 1 or more; got {limit}.")
    ends = [] if until is None else [session.frames.frame_at(_place(until))]
    return min([*ends, *([] if limit is None else [(session.next or 0) + limit])], default=None)


def _place(text: str) -> int | str:
    """A frame's number, or a time."""
    return int(text) if text.isdecimal() else text


def _go(
    run: Any, what: str, as_json: bool, out: Path | None = None, overlay: bool = True, overwrite: bool = False
) -> None:
    """Go through the video; Ctrl-C stops between two frames, and what was written is whole."""
    results = iter(run) if out is None else run.saving(out, overlay, overwrite)
    stopped = False
    with common.progress(what) as progress, _stopping(run) as stop:
        progress.start(run.total)
        for result in results:
            progress.advance()
            if as_json:
                print(json.dumps(result.to_dict()), flush=True)
        stopped = stop.is_set()
    if stopped:
        if out is not None:
            common.say(
                f"stopped between two frames; the same command with --resume, and without prompts, goes on in {out}."
            )
        raise KeyboardInterrupt


@contextlib.contextmanager
def _stopping(run: Any) -> Iterator[threading.Event]:
    """Ctrl-C cancels the run; a second one breaks off at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(_number: int, _frame: Any) -> None:
        stop.set()
        run.cancel()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(session: Any, run: Any) -> None:
    """What was written, what of each object was seen, and what could not be read."""
    for path in run.files:
        common.say(f"wrote {path}")
    if run.missing:
        common.say(run.missing)
    seen = dict.fromkeys(session.objects, 0)
    total = 0
    for result in session.results():
        total += 1
        for number in result.objects:
            seen[number] = seen.get(number, 0) + 1
    for number, count in seen.items():
        common.say(f"object {number} is seen in {count:,} of {common.counted(total, 'frame')}")
    if session.frames.lost:
        common.say(
            f"the file ends early: {common.counted(session.frames.lost, 'frame')} that it declares are not in it."
        )
    for failure in session.failures[:SHOWN]:
        common.say(failure.reason)
    if len(session.failures) > SHOWN:
        common.say(f"{len(session.failures)} frames could not be read in all.")
