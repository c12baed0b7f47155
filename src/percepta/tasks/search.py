"""Search by words, by a picture, or by both, over an index; every hit says how likely it shows what was asked for.

Order of this file: filters, the verb, from scores to hits, how sure it is, what is searched.
Unusual: of a calibrated model the likely and the possible come first under `limit`, whatever their cosines, so that
what `Hits.answer` counts is among the hits; likely moments of a video that touch are one hit.
"""

from __future__ import annotations

import glob
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from percepta import catalog
from percepta.calibration import load_prior, probabilities, summarise
from percepta.calibration.prior import Prior
from percepta.errors import BadInput, UnknownModel, one_of, out_of_range
from percepta.media.sniffing import name_of, read_head
from percepta.results import Hit, Hits
from percepta.results.hits import LIKELY, POSSIBLE, UNCALIBRATED
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.indexing.asking import Question
from percepta.tasks.indexing.building import index
from percepta.tasks.indexing.places import IN_FOLDER
from percepta.tasks.indexing.ranking import nearest, scores_of
from percepta.tasks.indexing.store import Entry, Index

KINDS = ("picture", "video")
TOUCHING = 0.05  # seconds between moments that follow upon each other
_SQLITE = b"SQLite format 3\0"
_NEUTRAL: weakref.WeakKeyDictionary[Index, NDArray[np.float32]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries of an index may be found.

    Attributes:
        since, until: when they were taken, the day or moment included: ISO text such as "2024-07" is not taken, but
            "2024-07-01" or "2024-07-01 18:00", a date, or a datetime.
        folder: the path of a folder below the root of the index.
        kind: "picture" or "video".
    """

    since: str | date | None = None
    until: str | date | None = None
    folder: str | Path | None = None
    kind: str | None = None

    def kept(self, entries: Sequence[Entry], root: Path) -> NDArray[np.bool_] | None:
        """(N,) bool, or None where nothing is filtered. Raises BadInput for a bad date, kind, or an empty folder."""
        if self.kind not in (None, *KINDS):
            raise one_of("kind", self.kind, KINDS, "search")
        since = None if self.since is None else _seconds(self.since, "since", time.min)
        until = None if self.until is None else _seconds(self.until, "until", time.max)
        if since is not None and until is not None and since > until:
            raise BadInput(f"since ({self.since}) must not be later than until ({self.until}).")
        if self == Filters():
            return None
        prefix = "" if self.folder is None else _below(Path(self.folder), root)
        return np.array(
            [
                (self.kind is None or entry.kind == self.kind)
                and entry.source.startswith(prefix)
                and (since is None or (entry.taken is not None and entry.taken >= since))
                and (until is None or (entry.taken is not None and entry.taken <= until))
                for entry in entries
            ],
            dtype=bool,
        )


def search(  # noqa: PLR0913 (the front door)
    where: Any,
    query: Any = None,
    limit: int = 20,
    *,
    picture: Any = None,
    without: str | Sequence[str] | None = None,
    since: str | date | None = None,
    until: str | date | None = None,
    folder: str | Path | None = None,
    kind: str | None = None,
    model: str | nn.Module | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
) -> Hits:
    """What is most like the query, best first, and how likely it is what was asked for.

    Args:
        where: an index, the file of one, a folder that has one (`.percepta.index`), or inputs that are indexed now.
        query: words; a text that is the name of a file means that picture or video, as does whatever `open_picture`
            takes.
        limit: at most so many hits; what is likely and possible is counted over all.
        picture: a picture or video, beside words in `query`: what is like both.
        without: words for what is not wanted, one text or several.
        since, until, folder, kind: see `Filters`.
        model, weights: None is the model of the index, or the nano model for inputs; anything else must be what made
            the index.
        device, dtype: where and how precise; an index keeps to the first in which it loaded its model.
        batch_size, on_error: as for `index`, for inputs.

    Returns:
        Hits with cosines, and with probabilities where the model has a prior (`percepta.calibration`) and the question
        is words or a picture. `Hits.answer` says it in a line.

    Raises:
        BadInput: nothing or too much asked, a name of a file that is not there, a limit below 1, a bad filter, a broken
            index, one of another model, inputs that hold nothing. BadMedia: the query's picture is unreadable.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise out_of_range("limit", limit, "a whole number of 1 or more", "search")
    question, filters = Question.of(query, picture, without), Filters(since, until, folder, kind)
    place = index_at(where)
    if place is None and not isinstance(where, Index):
        check_there(where)
        encoder = model if isinstance(model, Encoder) else Encoder(model or NANO, device, dtype, weights)
        if question.needs_words:
            encoder.need_words("search by words")
        with index(where, model=encoder, batch_size=batch_size, on_error=on_error) as made:
            return _answer(made, question, limit, filters)
    found = where if place is None else Index.open(place)
    try:
        _keep_to(found, model, weights)
        _load(found, question, device, dtype)
        return _answer(found, question, limit, filters)
    finally:
        if place is not None:
            found.close()


def _answer(found: Index, question: Question, limit: int, filters: Filters) -> Hits:
    """Rank, calibrate, filter, join and cut."""
    entries, vectors = found.entries, found.vectors
    kept = filters.kept(entries, found.root)
    asked = question.vectors(found)
    certainty = _Certainty.of(found, question)
    kind = "cosine" if not asked.unwanted else "cosine with what is wanted less half of what is not"
    if not entries or (kept is not None and not kept.any()):
        return Hits(asked.name, (), kind, UNCALIBRATED, *((None, None) if certainty is None else (0, 0)))
    first = scores_of(vectors, asked.wanted)
    ranked_by = scores_of(vectors, asked.combined) if asked.unwanted else first
    if certainty is None:
        best = nearest(vectors, asked.combined, limit, kept, ranked_by)
        found_rows = zip(best.rows.tolist(), best.scores.tolist(), strict=True)
        return Hits(asked.name, tuple(_hit(found, row, score, None, {}) for row, score in found_rows), kind)
    sure = certainty.of_scores(first, question.kind)
    for text in asked.unwanted:
        sure = sure * (1 - certainty.of_scores(scores_of(vectors, text), "words"))
    allowed = np.ones(len(entries), bool) if kept is None else kept.copy()
    spans, covered = _joined(entries, np.flatnonzero(allowed & (sure >= LIKELY)), sure)
    allowed[covered] = False
    best_rows: list[tuple[int, float]] = []
    for tier in (allowed & (sure >= POSSIBLE), allowed & (sure < POSSIBLE)):
        if tier.any() and len(best_rows) < limit:
            best = nearest(vectors, asked.combined, limit - len(best_rows), tier, ranked_by)
            best_rows += zip(best.rows.tolist(), best.scores.tolist(), strict=True)
    hits = tuple(_hit(found, row, score, sure, spans) for row, score in best_rows)
    likely = int((sure[allowed] >= LIKELY).sum())
    possible = int((sure[allowed] >= POSSIBLE).sum()) - likely
    return Hits(asked.name, hits, kind, certainty.prior.fitted_on, likely, possible)


def _joined(
    entries: Sequence[Entry], likely: NDArray[np.int64], sure: NDArray[np.float64]
) -> tuple[dict[int, tuple[float, float]], list[int]]:
    """Runs of likely moments of one video that touch: the span of each by its surest row, and the rows it covers."""
    runs: list[list[int]] = []
    for row in likely.tolist():
        before = entries[runs[-1][-1]] if runs else None
        entry = entries[row]
        follows = (
            before is not None
            and before.source == entry.source
            and before.end is not None
            and entry.start is not None
            and entry.start - before.end <= TOUCHING
        )
        runs[-1].append(row) if follows else runs.append([row])
    spans, covered = {}, []
    for run in runs:
        start, end = entries[run[0]].start, entries[run[-1]].end
        if len(run) > 1 and start is not None and end is not None:
            surest = max(run, key=lambda row: sure[row])
            spans[surest] = start, end
            covered += [row for row in run if row != surest]
    return spans, covered


def _hit(
    found: Index, row: int, score: float, sure: NDArray[np.float64] | None, spans: dict[int, tuple[float, float]]
) -> Hit:
    entry = found.entries[row]
    start, end = spans.get(row, (entry.start, entry.end))
    return Hit(_shown(entry, found.root), score, None if sure is None else float(sure[row]), start, end)


def _shown(entry: Entry, root: Path) -> str:
    """A file as people reach it from where they are; other inputs by their name."""
    if entry.size is None:
        return entry.source
    path = entry.path(root)
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


@dataclass(frozen=True, slots=True, eq=False)
class _Certainty:
    """How likely the entries of an index show what was asked for."""

    index: Index
    prior: Prior

    @classmethod
    def of(cls, found: Index, question: Question) -> _Certainty | None:
        """None where nothing is known of such questions to this model."""
        prior = load_prior(found.model, found.maker.weights_hash)
        if prior is None or found.bank is None or question.kind == "both":
            return None
        return None if question.kind == "picture" and prior.picture is None else cls(found, prior)

    def of_scores(self, scores: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
        """(N,) from the scores (N,) of the first pass: their error, 3e-4 at most of float16 vectors, shifts a
        probability by less than a hundredth."""
        return probabilities(scores, neutral_of(self.index), self.prior, kind)


def neutral_of(found: Index) -> NDArray[np.float32]:
    """(N, 2): what calibration needs of each entry's cosines with the neutral texts, computed once an index."""
    if found not in _NEUTRAL or len(_NEUTRAL[found]) != len(found):
        bank = found.bank
        assert bank is not None, "asked of calibrated models alone"
        _NEUTRAL[found] = summarise(torch.cat([part.float() @ bank.T for part in found.vectors.split(8192)]))
    return _NEUTRAL[found]


def _keep_to(found: Index, model: str | nn.Module | Encoder | None, weights: str | Path | None) -> None:
    """See that a model that is asked for is the one of the index. Raises BadInput if it is another."""
    if weights is not None:
        found.maker = replace(found.maker, weights=str(Path(weights).expanduser().absolute()))
    if isinstance(model, nn.Module | Encoder):
        encoder = model if isinstance(model, Encoder) else Encoder(model)
        found.maker.check_hash(encoder.model)
        found.loaded = encoder
    elif model is not None:
        try:
            name = catalog.describe(model).name
        except UnknownModel:
            if not Path(model).expanduser().exists():
                raise
            found.maker = replace(found.maker, weights=str(Path(model).expanduser().absolute()))
            return
        if name != found.model:
            raise BadInput(
                f"the index was made with {found.model} and now {name} is asked for; leave the model out, or make "
                "another index."
            )


def _load(found: Index, question: Question, device: str | torch.device | None, dtype: torch.dtype | str | None) -> None:
    """Load what a question needs of the model of an index, where and how it is wanted, unless it is there already."""
    if found.loaded is None and question.picture is not None:
        found.loaded = found.maker.load(device, dtype)
    texts = [*([] if question.words is None else [question.words]), *question.unwanted]
    if found.loaded is None and found.reader is None and any(found.cached_query(text) is None for text in texts):
        found.reader = found.maker.load_words(device, dtype)


def index_at(where: Any) -> Path | None:
    """The file of an index that a name means: itself, or the one that lies in a folder of this name."""
    if not isinstance(where, str | os.PathLike) or os.fspath(where) == "-":
        return None
    place = Path(where).expanduser()
    try:
        if place.is_dir():
            inside = place / IN_FOLDER
            return inside if inside.is_file() else None
        if place.is_file():
            return place if place.suffix == ".index" or read_head(place, len(_SQLITE)) == _SQLITE else None
    except (OSError, ValueError):
        return None
    return place if place.suffix == ".index" else None


def check_there(where: Any) -> None:
    """Raises BadInput for the name of a file or folder that does not exist, where it is no glob."""
    if isinstance(where, str | os.PathLike) and os.fspath(where) != "-":
        place = os.path.expanduser(os.fspath(where))
        if not os.path.lexists(place) and not glob.has_magic(place):
            raise BadInput(f"{name_of(where)} does not exist; name an index, a folder, a glob or a file.")


def _seconds(given: str | date, what: str, missing: time) -> float:
    """Seconds since 1970 of a day, its first or last moment as `missing` says, or of a moment."""
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given.strip())
        except ValueError as error:
            raise BadInput(f"{what} must be a date such as 2024-07-01 or 2024-07-01 18:00; got {given!r}.") from error
        given = moment if len(given.strip()) > len("2024-07-01") else moment.date()
    if not isinstance(given, date):
        raise BadInput(f"{what} must be a date or its text; got {type(given).__name__}.")
    moment = given if isinstance(given, datetime) else datetime.combine(given, missing)
    return moment.timestamp()


def _below(folder: Path, root: Path) -> str:
    """The prefix of the names in a folder, which may be given below the root, absolute, or from here."""
    for place in (root / folder, folder.expanduser().absolute()):
        if place.is_dir() and place.is_relative_to(root):
            below = place.relative_to(root).as_posix()
            return "" if below == "." else below + "/"
    raise BadInput(f"there is no folder {name_of(folder)} below {name_of(root)}, the folder of the index.")
