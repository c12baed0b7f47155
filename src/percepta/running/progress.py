"""Progress of long work on standard error: a bar on a terminal, plain lines when piped.

Unusual: rich is only imported for a terminal; a piped run writes one line every few seconds, so that logs stay short.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from percepta.results import Failure

PLAIN_EVERY = 10.0  # seconds between two plain lines


class Progress:
    """Items done, items a second, time left and failures, of one piece of work; use it as a context manager.

    Args:
        what: the work in a word or two, such as "classify".
        stream: where to; standard error by default.
        shown: False keeps silent.
    """

    def __init__(self, what: str, stream: TextIO | None = None, shown: bool = True) -> None:
        self.what, self.shown = what, shown
        self.done = self.failed = 0
        self.total: int | None = None
        self._stream = sys.stderr if stream is None else stream
        self._began = self._spoke = time.monotonic()
        self._said = ""
        self._bar: Any = None
        self._task: Any = None

    def start(self, total: int | None = None) -> None:
        """Begin; `total` is the number of items where it is known."""
        self.total = total
        self.done = self.failed = 0
        self._began = self._spoke = time.monotonic()
        if self.shown and self._bar is None and self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task(self.what, total=total, extra="")
            self._bar.start()

    def advance(self, count: int = 1) -> None:
        """`count` more items are done."""
        self.done += count
        self._tell()

    def fail(self, failure: Failure) -> None:
        """One item failed."""
        self.failed += 1
        self._tell()

    @property
    def rate(self) -> float:
        """Items a second so far."""
        return (self.done + self.failed) / max(time.monotonic() - self._began, 1e-6)

    def line(self) -> str:
        """The state in one plain line."""
        gone = self.done + self.failed
        parts = [f"{self.what}: {gone}{'' if self.total is None else f' of {self.total}'}", f"{self.rate:.1f} items/s"]
        if self.total is not None and gone < self.total and self.rate > 0:
            parts.append(f"{_duration((self.total - gone) / self.rate)} left")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def _tell(self) -> None:
        if not self.shown:
            return
        if self._bar is not None:
            extra = f"{self.rate:.1f} items/s" + (f", {self.failed} failed" if self.failed else "")
            self._bar.update(self._task, completed=self.done + self.failed, extra=extra)
        elif time.monotonic() - self._spoke >= PLAIN_EVERY:
            self._spoke = time.monotonic()
            self._print()

    def _print(self) -> None:
        done = (self.done, self.failed)
        if f"{self.what} {done}" != self._said:
            self._said = f"{self.what} {done}"
            print(self.line(), file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self.shown and self._said:  # a last line where there were lines before
            self._print()


def _make_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    # Results that go to the same terminal are printed above the bar; a pipe must get them untouched.
    same_terminal = sys.stdout.isatty()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[extra]}"),
        TimeRemainingColumn(compact=True),
    )
    return Bar(
        *columns,
        console=Console(file=stream),
        transient=True,
        redirect_stdout=same_terminal,
        redirect_stderr=same_terminal,
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
