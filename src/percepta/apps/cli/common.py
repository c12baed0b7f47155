"""What all verbs share: the common options, inputs, the model, outputs that are never overwritten, exit codes."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.errors import BadInput

NANO = "pe-core-nano"

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUTS...", help="Files, folders or globs; - reads names from standard input.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="A name from `percepta models`, or a file.")]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="Weights in any layout that the model's family knows.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Pictures at once; halved when memory runs out.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Stop after N inputs.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, one object a line.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an output that is there, skipping what is in it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ReportFile = Annotated[Path | None, typer.Option("--report", metavar="FILE.html", help="Also write a page to look at.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is to be run, from the common options."""

    model: str = NANO
    weights: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    batch_size: int | None = None

    def load(self, prepare: bool = True) -> Any:
        """The model, prepared where it runs on the CPU.

        Raises: UnknownModel, MissingWeights, CheckpointMismatch, BadInput.
        """
        from percepta.running.loading import load

        return load(self.model, self.weights, device=self.device, dtype=self.dtype, prepare=prepare)


def say(text: str) -> None:
    """One line to people, on standard error."""
    print(f"percepta: {text}", file=sys.stderr, flush=True)


def gather(inputs: list[str], limit: int | None = None) -> list[Any]:
    """The sources of the inputs, the first `limit` of them.

    Raises: BadInput when there is nothing at all.
    """
    from percepta.media import collect

    if limit is not None and limit < 1:
        raise BadInput(f"--limit must be a whole number of 1 or more; got {limit}.")
    found = list(itertools.islice(collect(inputs[0] if len(inputs) == 1 else inputs), limit))
    if not found:
        raise BadInput("the inputs hold no picture or video.")
    return found


def by_name(sources: list[Any]) -> dict[str, Any]:
    """The sources by name, without the failures among them."""
    return {source.name: source for source in sources if hasattr(source, "name")}


def left_of(sources: Sequence[Any], done: Iterable[str], key: Callable[[str], str] = str) -> list[Any]:
    """The sources whose names (their `key`) are not among those that are done; given twice, they must be done twice."""
    held, left = Counter(done), []
    for source in sources:
        name = key(getattr(source, "name", ""))  # a failure has none
        if held[name]:
            held[name] -= 1
        else:
            left.append(source)
    return left


def say_resumed(sources: Sequence[Any], todo: Sequence[Any], page: bool = False) -> bool:
    """Say how much was done before, and what a page will show of it; returns whether nothing is left."""
    if len(todo) < len(sources):
        shown = f"; the page will show the other {len(todo)}" if page and todo else ""
        say(f"{len(sources) - len(todo)} of {len(sources)} inputs were done before{shown}.")
    if not todo:
        say("nothing is left to do" + ("; no page is written." if page else "."))
    return not todo


def progress(what: str) -> Any:
    """A bar, or plain lines, on standard error."""
    from percepta.running.progress import Progress

    return Progress(what)


def check_output(path: Path | None, overwrite: bool, resume: bool = False) -> None:
    """Refuse an output that is there, and make its folder.

    Raises: BadInput.
    """
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; name a file in it.")
    if path.exists() and not overwrite and not resume:
        raise BadInput(f"{str(path)!r} exists; pass --overwrite to replace it, or another name.")
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that cannot be written to or made. Raises BadInput."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "its permissions forbid it" if place.is_dir() else "it is a file"
        raise BadInput(f"nothing can be written to {str(place)!r}: {why}; name another place.")


def check_ending(path: Path | None, endings: tuple[str, ...]) -> None:
    """Raises BadInput for a file name with another ending."""
    if path is not None and path.suffix.lower() not in endings:
        raise BadInput(f"the output must end in {', '.join(endings)}; got {path.name!r}.")


def shown(name: str) -> str:
    """A file name on one line, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun, such as 1,204 pictures."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def lasting(seconds: float) -> str:
    """A time as people say it, such as 1 h 05 min, 3 min 20 s or 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {int(seconds % 60):02d} s"


def sized(count: int) -> str:
    """Bytes as people say them, such as 6.2 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def finish(failures: list[Any]) -> None:
    """Name what failed; exit code 1 if anything did."""
    for failure in failures:
        say(failure.reason)
    if failures:
        say(f"{len(failures)} input{'s' if len(failures) > 1 else ''} could not be used.")
        raise typer.Exit(1)
