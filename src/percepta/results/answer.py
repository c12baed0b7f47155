"""What was answered, and the moments of a video that the words name.

Unusual: a language model speaks of a video in numbers of the frames that it was shown. Here these stand as seconds, in
the text and as moments; what it said word for word is kept beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from percepta.errors import BadInput, one_of
from percepta.results.boxes import Boxes
from percepta.results.checking import plain

FINISHES = ("stop", "length", "text")
"""Why an answer ends: the model ended it, it reached the limit of tokens, or it came to a text to stop at."""


@dataclass(frozen=True, slots=True)
class Moment:
    """An interval of a video and what is said of it.

    Attributes:
        start, end: seconds after the first frame of the video; 0 <= start <= end.
        words: what happens there; may be empty.
    """

    start: float
    end: float
    words: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end < float("inf"):
            raise BadInput(f"a moment must begin at 0 or later and not after its end; got {self.start} to {self.end}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: start, end, words."""
        return {"start": float(self.start), "end": float(self.end), "words": self.words}

    def __str__(self) -> str:
        return f"[{self.start:.1f}, {self.end:.1f}] {self.words}".rstrip()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer to one question, or the caption of one input.

    Attributes:
        source: the name of what was asked about; of several pictures their names with commas, "" for words alone.
        question: what was asked.
        text: the answer; intervals and frames of a video stand as seconds.
        samples: all answers that were drawn, the first of them `text`.
        said: what the model said word for word, with numbers of frames as it knows them.
        moments: the intervals that it names, in its order.
        boxes: the regions of one picture that it names, in pixels, or None.
        frames: seconds of the frames that it was shown, of a video.
        span: (start, end) in seconds of what it was shown of a video, or None.
        finish: "stop" (it ended), "length" (cut off at the limit of tokens) or "text" (came to a text to stop at).
        visual_tokens: tokens that pictures or frames took of the context.
        logprob: mean log-probability of the tokens of `text` under the model, or None. It is no measure of being right.
    """

    source: str
    question: str
    text: str
    samples: tuple[str, ...] = ()
    said: str = ""
    moments: tuple[Moment, ...] = ()
    boxes: Boxes | None = None
    frames: tuple[float, ...] = ()
    span: tuple[float, float] | None = None
    finish: str = "stop"
    visual_tokens: int = 0
    logprob: float | None = None

    def __post_init__(self) -> None:
        if self.finish not in FINISHES:
            raise one_of("finish", self.finish, FINISHES, owner="an Answer")
        object.__setattr__(self, "samples", tuple(self.samples) or (self.text,))
        object.__setattr__(self, "said", self.said or self.text)
        object.__setattr__(self, "moments", tuple(self.moments))
        object.__setattr__(self, "frames", tuple(float(second) for second in self.frames))

    @property
    def complete(self) -> bool:
        """Whether the answer came to its end, and was not cut off at the limit of tokens."""
        return self.finish != "length"

    @property
    def lines(self) -> tuple[str, ...]:
        """One line a moment, as "[seconds, seconds] words"; of an answer without moments its lines."""
        told = tuple(str(moment) for moment in self.moments if moment.words)
        return told or tuple(line.strip() for line in self.text.splitlines() if line.strip())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: all attributes by name; boxes as of `Boxes.to_dict`. The log-probability is rounded, so that what
        else was in the batch does not show."""
        found = {name: getattr(self, name) for name in ("source", "question", "text", "samples", "said")}
        return found | {
            "moments": [moment.to_dict() for moment in self.moments],
            "boxes": None if self.boxes is None else self.boxes.to_dict()["boxes"],
            "samples": list(self.samples),
            "frames": plain(self.frames),
            "span": None if self.span is None else plain(self.span),
            "finish": self.finish,
            "visual_tokens": int(self.visual_tokens),
            "logprob": None if self.logprob is None else round(self.logprob, 3),
        }

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        where = f"{self.source!r}, " if self.source else ""
        cut = "" if self.complete else " (cut off)"
        return f"Answer({where}{self.question!r}: {self.text!r}{cut})"
