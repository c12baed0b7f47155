"""Every error that Percepta raises on purpose, and the helpers that word them.

One sentence each: who, what is allowed, what came, what to do. The command line prints exactly this sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PerceptaError(Exception):
    """The root of all errors that Percepta raises on purpose."""


class BadInput(PerceptaError, ValueError):
    """An argument, a tensor or a setting that cannot be used."""


class BadMedia(PerceptaError, ValueError):
    """A picture or a video that cannot be read."""


class UnknownModel(PerceptaError, KeyError):
    """A model name without a card; the message names the closest ones."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class MissingWeights(PerceptaError, FileNotFoundError):
    """Weights that are neither packaged, nor cached, nor reachable."""


class MissingExtra(PerceptaError, ImportError):
    """A dependency that is not installed; the message gives the pip command.

    Args:
        package: one as pip calls it, or several with commas and "and".
        extra: the extra of percepta that brings it, "" for one that percepta itself needs.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed; run: {how_to_install(package, extra)}.")


class CheckpointMismatch(PerceptaError):
    """A checkpoint whose keys or shapes do not fit; nothing of it was loaded.

    Args:
        owner: the file or the model that was to be loaded.
        missing, unexpected, misshapen: what does not fit; the message counts all and lists the first ten of each.
    """

    def __init__(
        self,
        owner: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshapen: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        self.missing, self.unexpected, self.misshapen = tuple(missing), tuple(unexpected), tuple(misshapen)
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
            if keys
        ]
        message = f"{owner} does not fit: {'; '.join(parts)}" if parts else f"{owner} does not fit"
        super().__init__(f"{message}; {hint or 'nothing was loaded'}.")


def how_to_install(package: str, extra: str = "") -> str:
    """The pip command for what `MissingExtra` names. Percepta itself is installed from its source, so `pip install
    "percepta[...]"` would find nothing."""
    packages = package.replace(",", "").replace(" and ", " ")
    checkout = f' (or, in the folder of percepta\'s source: pip install ".[{extra}]")' if extra else ""
    return f"pip install {packages}{checkout}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names closest to `name`, best first; may be empty."""
    return difflib.get_close_matches(name.lower(), list(known), n=count, cutoff=0.4)


def one_of(what: str, given: object, allowed: Iterable[object], owner: str = "") -> BadInput:
    """The error for a value outside a closed list, with the nearest allowed value if one is close."""
    names = [str(value) for value in allowed]
    close = nearest(str(given), names, count=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return BadInput(f"{_subject(what, owner)} must be one of {', '.join(names)}; got {given!r}{hint}.")


def out_of_range(what: str, given: object, allowed: str, owner: str = "") -> BadInput:
    """The error for a number outside its range; `allowed` words the range, such as '0 to 23 or -24 to -1'."""
    return BadInput(f"{_subject(what, owner)} must be {allowed}; got {given!r}.")


def wrong_shape(what: str, given: Sequence[int], allowed: str, owner: str = "") -> BadInput:
    """The error for a tensor of the wrong shape; `allowed` words the shape, such as '(B, 3, H, W)'."""
    return BadInput(f"{_subject(what, owner)} must have the shape {allowed}; got {tuple(given)}.")


def _subject(what: str, owner: str) -> str:
    return f"{what} of {owner}" if owner else what
