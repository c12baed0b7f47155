"""What is asked of an index, as vectors: words, pictures, or both, and what is not wanted.

Words and a picture are added as unit vectors. What is not wanted is taken off at half its weight and the sum is scaled
to unit length again, so that one exact product still ranks. On generated scenes (`docs/find.md`) half lifts the mean
average precision of "a star, without red" from 0.32 to 0.43 and costs nothing where nothing shows the unwanted. The
whole weight loses there; a projection, or a penalty above the usual score of the unwanted, gain less on average.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from percepta.errors import BadInput, BadMedia
from percepta.media import Source, collect
from percepta.media.sniffing import name_of
from percepta.tasks.indexing.store import Index

LONGEST = 2000  # letters; a model reads a few dozen words, and what is longer was no question
UNWANTED = 0.5  # of the weight of what is wanted
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".heic", ".tif", ".tiff", ".bmp", ".avif")
SUFFIXES = frozenset([*PICTURES, ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"])
_LATIN = 0x24F  # the last letter of Latin Extended-B


class ForeignWordsWarning(UserWarning):
    """Said where words are in a script that the model has hardly read; the search goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question as vectors, each (D,) float32 of unit length.

    Attributes:
        name: the question as people read it.
        wanted: of what is looked for alone.
        unwanted: of each text that is not wanted.
        combined: what is ranked by.
    """

    name: str
    wanted: Tensor
    unwanted: tuple[Tensor, ...]
    combined: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked, checked but not yet looked at.

    Attributes:
        words: the words, or None.
        picture: a picture or video as `media.collect` takes it, or None.
        unwanted: words for what is not wanted.
    """

    words: str | None
    picture: Any
    unwanted: tuple[str, ...]

    @classmethod
    def of(cls, query: Any, picture: Any = None, without: str | Sequence[str] | None = None) -> Question:
        """From the arguments of `search`. Raises BadInput for nothing, too much, or a file that is not there."""
        unwanted = [without] if isinstance(without, str) else list(without or ())
        words = query if isinstance(query, str) and not names_a_file(query) else None
        if words is not None and _looks_like_a_file(words):
            raise BadInput(
                f"{name_of(words)} looks like a file and is none; if it is meant as words, leave out the ending."
            )
        for text in ([] if words is None else [words]) + unwanted:
            _check_text(text)
        if words is None and query is not None:
            if picture is not None:
                raise BadInput("search takes words and a picture, or one of them; got two pictures.")
            picture = query
        if words is None and picture is None:
            raise BadInput("search needs words or a picture to look for; got neither.")
        if isinstance(picture, str | os.PathLike) and Path(picture).expanduser().is_dir():
            raise BadInput(f"the query must be words or one picture; {name_of(picture)} is a folder.")
        return cls(words, picture, tuple(unwanted))

    @property
    def needs_words(self) -> bool:
        """Whether a text tower is needed."""
        return self.words is not None or bool(self.unwanted)

    @property
    def kind(self) -> str:
        """What calibration knows: "words" or "picture"; or "both", which it does not."""
        if self.picture is None:
            return "words"
        return "picture" if self.words is None else "both"

    def vectors(self, found: Index) -> Asked:
        """Look at the question with the model of an index.

        Raises: BadMedia for an unreadable picture; BadInput for words asked of a model without them, for a model that
            is not at hand, and for an embedding that is no number.
        """
        parts, names = [], []
        if self.words is not None:
            parts.append(words_vector(found, self.words))
            names.append(self.words)
        if self.picture is not None:
            source = next(collect(self.picture))
            if not isinstance(source, Source):
                raise BadMedia(source.reason)
            encoder = found.encoder
            parts.append(encoder.embed(encoder.prepare(source)[None])[0])
            names.append(source.name)
        wanted = normalize(torch.stack(parts).sum(dim=0), dim=0)
        unwanted = tuple(words_vector(found, text) for text in self.unwanted)
        combined = normalize(wanted - UNWANTED * torch.stack(unwanted).sum(dim=0), dim=0) if unwanted else wanted
        without = f", without {' and '.join(self.unwanted)}" if unwanted else ""
        return Asked(" + ".join(names) + without, wanted, unwanted, combined)


def words_vector(found: Index, text: str) -> Tensor:
    """(D,) of words, remembered by the index; of a model that is not loaded yet the text half alone is.

    Raises: BadInput for a model without words, or one that is not at hand.
    """
    vector = found.cached_query(text)
    if vector is not None:
        return vector
    if found.loaded is None and found.reader is None:
        found.reader = found.maker.load_words()
    encoder = found.loaded or found.reader
    assert encoder is not None
    encoder.need_words("search by words")
    if _is_foreign(text):
        warnings.warn(
            ForeignWordsWarning(
                f"{found.model} learned from English; of {text[:40]!r} it knows little, so ask in English if you can."
            ),
            stacklevel=2,
        )
    vector = encoder.words([text])[0]
    if bool(torch.isfinite(vector).all()):
        found.cache_query(text, vector)
    return vector


def _check_text(text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadInput("the query must be words or a picture; got an empty text.")
    if len(text) > LONGEST:
        raise BadInput(f"a query may have {LONGEST:,} letters; got {len(text):,}: ask in a sentence.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"the query must be text; {name_of(text)} holds bytes that are none.") from None


def names_a_file(text: str) -> bool:
    """Whether a query is the name of a file rather than words."""
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # words that no file can be called
        return False


def _looks_like_a_file(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in SUFFIXES or text.startswith(("/", "./", "../", "~/"))


def _is_foreign(text: str) -> bool:
    """Whether letters of another script than the Latin one are in a text."""
    return any(
        ord(letter) > _LATIN and letter.isalpha() and "LATIN" not in unicodedata.name(letter, "") for letter in text
    )
