"""One run through a video: results frame by frame, to be looked at, kept in memory or written to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from percepta.errors import BadInput
from percepta.results import Tracks
from percepta.tasks.tracking import COCO, OVERLAY, PARQUET, SESSION, TABLE, TrackedFrame, TrackFiles

if TYPE_CHECKING:
    from percepta.tasks.sessions import VideoSession

SAVED_EVERY = 100  # frames between two states on disk, while a run is saved


class Run:
    """Results one by one, as they are made; iterate once, or `save` them, or take all as `tracks`.

    Attributes:
        total: the number of frames that will come, where it is known.
        files: what `save` wrote.
        missing: why `save` left out a file, or "".
    """

    def __init__(self, session: VideoSession, start: int, until: int | None, reverse: bool) -> None:
        self.start, self.files, self.missing = start, list[Path](), ""
        self._session, self._until, self._reverse, self._cancelled = session, until, reverse, False
        self._results = session.visit(start, until, reverse)
        length = session.frames.length
        self.total: int | None
        if reverse:
            self.total = 0 if start == 0 else max(0, start - (-1 if until is None else until))
        else:
            ends = [end for end in (length, until) if end is not None]
            self.total = max(0, min(ends) - start) if ends else None

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> TrackedFrame:
        if self._cancelled:
            raise StopIteration
        return next(self._results)

    def cancel(self) -> None:
        """Stop before the next frame; from any thread, or a signal's handler."""
        self._cancelled = True

    def tracks(self) -> Tracks:
        """Run to the end; all results of the session as one record in memory."""
        for _ in self:
            continue
        return self._session.tracks()

    def save(self, folder: str | Path, overlay: bool = True, overwrite: bool = False) -> Path:
        """Run to the end and write all results of the session; see `saving`."""
        for _ in self.saving(folder, overlay, overwrite):
            continue
        return Path(folder)

    def saving(self, folder: str | Path, overlay: bool = True, overwrite: bool = False) -> Iterator[TrackedFrame]:
        """The results as they are made, while they are written; also those of earlier runs of this session.

        The folder gets a table of boxes (tracks.csv, which grows at once), masks as run lengths (masks.parquet and
        COCO's masks.json, written at the end), a video with the objects painted on (overlay.mp4), and what is needed
        to go on (session/). Whoever breaks off gets whole files of what is there.

        Raises: BadInput where the folder holds tracks already; OSError, BadMedia where it cannot be written.
        """
        session, home = self._session, Path(folder).expanduser()
        lives_here = session.spool.path.parent.resolve() == (home / SESSION).resolve()
        if not lives_here and not overwrite:
            check_free(home)
        files = TrackFiles(home, session.frames, overlay)
        if self._reverse:
            yield from self
            files.begin(session.results(), 0)
            session.save(home)
            self._finish(files, complete=False)
            return
        files.begin(session.results(0, self.start), files.painted(self.start, lives_here) if lives_here else 0)
        yield from self._writing(files, home)

    def _writing(self, files: TrackFiles, home: Path) -> Iterator[TrackedFrame]:
        session = self._session
        between = True  # frames, where the model's state is whole
        last = self.start - 1
        try:
            files.cut()
            session.save(home)
            between = False
            for result in self:
                between = True
                files.add(result)
                last = result.frame
                if (last + 1) % SAVED_EVERY == 0:
                    files.cut()
                    session.save(home)
                yield result
                between = False
            between = True
        finally:
            files.cut()
            if between:
                session.save(home)
            complete = between and not self._cancelled and session.frames.length == last + 1
            if complete or self._until is not None:
                for result in session.results(last + 1):
                    files.add(result)
            self._finish(files, complete)

    def _finish(self, files: TrackFiles, complete: bool) -> None:
        self.files = files.finish(self._session.results(), complete)
        self.missing = files.missing


def check_free(folder: Path) -> None:
    """Raises BadInput where a folder holds results of tracking already."""
    for name in (TABLE, PARQUET, COCO, OVERLAY, SESSION):
        if (folder / name).exists():
            raise BadInput(f"{str(folder / name)!r} exists; name another folder, or say that it may be replaced.")
