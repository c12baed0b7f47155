"""Search by words, by a picture, or by both, over an index; every hit says how likely it shows what was asked for.

Order of this file: the verb, what is asked, what is searched, from scores to hits.
Unusual: what is unwanted (`without`) takes from a score only by what it exceeds its own usual score over the index, so
that naming what nothing shows changes nothing.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from percepta.calibration import load_prior, probabilities, summarise
from percepta.errors import BadInput, BadMedia, one_of, out_of_range
from percepta.media import Source, collect
from percepta.media.sniffing import name_of
from percepta.results import Hit, Hits
from percepta.results.hits import LIKELY, POSSIBLE, UNCALIBRATED
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.indexing.building import index
from percepta.tasks.indexing.places import IN_FOLDER
from percepta.tasks.indexing.ranking import nearest
from percepta.tasks.indexing.store import Entry, Index

LONGEST = 2000  # letters; a model reads a few dozen words, and what is longer was no question
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".heic", ".tif", ".tiff", ".bmp", ".avif")
SUFFIXES = frozenset([*PICTURES, ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"])
KINDS = ("picture", "video")
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

    def kept(self, entries: Sequence[Entry], root: Path) -> Tensor | None:
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
        return torch.tensor(
            [
                (self.kind is None or entry.kind == self.kind)
                and entry.source.startswith(prefix)
                and (since is None or (entry.taken is not None and entry.taken >= since))
                and (until is None or (entry.taken is not None and entry.taken <= until))
                for entry in entries
            ],
            dtype=torch.bool,
        )


def search(  # noqa: PLR0913 (the front door)
    where: Any,
    query: Any = None,
    limit: int = 20,
    *,
    picture: Any = None,
    without: str | Sequence[str] = (),
    since: str | date | None = None,
    until: str | date | None = None,
    folder: str | Path | None = None,
    kind: str | None = None,
    model: str | nn.Module = NANO,
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
        model, weights, device, dtype, batch_size, on_error: as for `index`; an index brings its own model.

    Returns:
        Hits with cosines, and with probabilities where the model has a prior (`percepta.calibration`) and the question
        is words or a picture. `Hits.answer` says it in a line.

    Raises:
        BadInput: nothing or too much asked, a name of a file that is not there, a limit below 1, a bad filter, a broken
            index, inputs that hold nothing. BadMedia: the query's picture is unreadable.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise out_of_range("limit", limit, "a whole number of 1 or more", "search")
    unwanted = [without] if isinstance(without, str) else list(without)
    question = _Question.of(query, picture, unwanted)
    found, opened = _open(where, model, weights, device, dtype, batch_size, on_error, question.needs_words)
    try:
        return _Searcher(found).answer(question, limit, Filters(since, until, folder, kind))
    finally:
        if opened:
            found.close()


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked: words, a picture, or both, and what is not wanted."""

    words: str | None
    picture: Any
    unwanted: tuple[str, ...]

    @classmethod
    def of(cls, query: Any, picture: Any, unwanted: Sequence[str]) -> _Question:
        words = query if isinstance(query, str) and not _is_file(query) else None
        if words is not None and _looks_like_a_file(words):
            raise BadInput(
                f"{name_of(words)} looks like a file and is none; if it is meant as words, leave out the ending."
            )
        for text in ([] if words is None else [words]) + list(unwanted):
            if not isinstance(text, str) or not text.strip():
                raise BadInput("the query must be words or a picture; got an empty text.")
            if len(text) > LONGEST:
                raise BadInput(f"a query may have {LONGEST:,} letters; got {len(text):,}: ask in a sentence.")
        if words is None and query is not None:
            if picture is not None:
                raise BadInput("search takes words and a picture, or one of them; got two pictures.")
            picture = query
        if words is None and picture is None:
            raise BadInput("search needs words or a picture to look for; got neither.")
        return cls(words, picture, tuple(unwanted))

    @property
    def needs_words(self) -> bool:
        return self.words is not None or bool(self.unwanted)

    @property
    def kind(self) -> str:
        """What calibration knows: "words", "picture", or "both", which it does not."""
        return (
            "both"
            if self.words is not None and self.picture is not None
            else "picture"
            if self.words is None
            else "words"
        )


class _Searcher:
    """One index with what its questions share: the prior of its model and the neutral background of its entries."""

    def __init__(self, found: Index) -> None:
        self.index = found
        self.prior = load_prior(found.model, found.maker.weights_hash)

    def answer(self, question: _Question, limit: int, filters: Filters) -> Hits:
        """Rank, calibrate, filter and cut."""
        name, vector = self._vector(question)
        entries, vectors = self.index.entries, self.index.vectors
        kept = filters.kept(entries, self.index.root)
        calibrated = self._background(question.kind) is not None
        if not entries or (kept is not None and not bool(kept.any())):
            return Hits(name, (), "cosine", UNCALIBRATED, *((0, 0) if calibrated else (None, None)))
        ranked = nearest(vectors, vector, limit, kept)
        rows, scores, kind = ranked.rows, ranked.scores, "cosine"
        sure = self._probabilities(ranked.all_scores, question.kind) if calibrated else None
        if question.unwanted:
            excess, denied = self._unwanted(question.unwanted)
            every = ranked.all_scores - excess
            if kept is not None:
                every[~kept.numpy()] = -np.inf
            rows = np.argsort(-every, kind="stable")[: min(limit, int(np.isfinite(every).sum()))]
            scores, kind = every[rows], "cosine, less the excess of what is not wanted"
            sure = None if sure is None or denied is None else sure * (1 - denied)
        hits = tuple(
            Hit(
                self._shown(entries[row]),
                float(score),
                None if sure is None else float(sure[row]),
                entries[row].start,
                entries[row].end,
            )
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        )
        if sure is None or self.prior is None:
            return Hits(name, hits, kind)
        searched = sure if kept is None else sure[kept.numpy()]
        likely = int((searched >= LIKELY).sum())
        return Hits(name, hits, kind, self.prior.fitted_on, likely, int((searched >= POSSIBLE).sum()) - likely)

    def _shown(self, entry: Entry) -> str:
        """A file as people reach it from where they are; other inputs by their name."""
        if entry.size is None:
            return entry.source
        path = entry.path(self.index.root)
        return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)

    def _vector(self, question: _Question) -> tuple[str, Tensor]:
        parts, names = [], []
        if question.words is not None:
            parts.append(words_vector(self.index, question.words))
            names.append(question.words)
        if question.picture is not None:
            source = next(collect(question.picture))
            if not isinstance(source, Source):
                raise BadMedia(source.reason)
            encoder = self.index.encoder
            parts.append(encoder.embed(encoder.prepare(source)[None])[0])
            names.append(source.name)
        vector = torch.nn.functional.normalize(torch.stack(parts).sum(dim=0), dim=0)
        return " + ".join(names), vector

    def _unwanted(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """For each entry, by what the unwanted exceeds its median over the index, and how likely it shows it."""
        excess = np.zeros(len(self.index), np.float32)
        likely = np.zeros(len(self.index), np.float64)
        calibrated = self._background("words") is not None
        for text in texts:
            scores = nearest(self.index.vectors, words_vector(self.index, text), 1).all_scores
            excess = np.maximum(excess, scores - np.median(scores))
            if calibrated:
                likely = np.maximum(likely, self._probabilities(scores, "words"))
        return excess, likely if calibrated else None

    def _background(self, kind: str) -> Any:
        if self.prior is None or self.index.bank is None:
            return None
        return {"words": self.prior.words, "picture": self.prior.picture}.get(kind)

    def _probabilities(self, scores: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
        assert self.prior is not None, "asked of calibrated models alone"
        return probabilities(scores, neutral_of(self.index), self.prior, kind)


def words_vector(found: Index, text: str) -> Tensor:
    """(D,) of words, remembered by the index. Raises BadInput for a model without words."""
    vector = found.cached_query(text)
    if vector is None:
        found.encoder.need_words("search by words")
        vector = found.encoder.words([text])[0]
        found.cache_query(text, vector)
    return vector


def neutral_of(found: Index) -> NDArray[np.float32]:
    """(N, 2): what calibration needs of each entry's cosines with the neutral texts, computed once an index."""
    if found not in _NEUTRAL:
        bank = found.bank
        assert bank is not None, "asked of calibrated models alone"
        _NEUTRAL[found] = summarise(torch.cat([part.float() @ bank.T for part in found.vectors.split(8192)]))
    return _NEUTRAL[found]


def _open(
    where: Any,
    model: str | nn.Module,
    weights: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    batch_size: int | None,
    on_error: str,
    needs_words: bool,
) -> tuple[Index, bool]:
    """The index to be searched, and whether it was opened here."""
    if isinstance(where, Index):
        return where, False
    place = index_at(where)
    if place is not None:
        return Index.open(place), True
    encoder = Encoder(model, device, dtype, weights)
    if needs_words:
        encoder.need_words("search by words")
    return index(where, model=encoder, batch_size=batch_size, on_error=on_error), True


def index_at(where: Any) -> Path | None:
    """The file of an index that a name means: itself, or the one that lies in a folder of this name."""
    if not isinstance(where, str | os.PathLike) or os.fspath(where) == "-":
        return None
    place = Path(where).expanduser()
    if place.is_dir():
        inside = place / IN_FOLDER
        return inside if inside.is_file() else None
    if place.suffix == ".index":
        return place
    return None


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # words that no file can be called
        return False


def _looks_like_a_file(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in SUFFIXES


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
