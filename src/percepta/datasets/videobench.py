"""PLM-VideoBench as it is published (arXiv 2504.13180, section 5.1): rows of five tasks, and boxes of what is meant.

Unusual: all numbers of frames and all boxes are at 6 frames a second, whatever the videos have; boxes are found by the
video and a masklet number that is not SA-V's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TASKS = ("fgqa", "sgqa", "rcap", "rtloc", "rdcap")
"""Fine-grained questions, smart-glasses questions, region captions, localisation, dense captions."""
REGION_TASKS = ("rcap", "rtloc", "rdcap")


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happens from one frame to another, both included, at 6 frames a second."""

    start: int
    end: int
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a task; fields that its task does not have are empty.

    Attributes:
        task: one of `TASKS`.
        uid: of the row.
        video: name of the file.
        question, answer: of fgqa and sgqa.
        options: of fgqa, in the order of their letters; `answer` is one of them.
        group: of fgqa, the question whose binary rows belong together.
        masklet: of region tasks, what the boxes are found by, beside the video.
        total_frames: of region tasks, the length of the video at 6 frames a second.
        stretches: of region tasks, what happens when; one, or of rdcap all.
        facts: what scores are broken down by, such as "question type" and "domain".
        clip: of fgqa, start and end in seconds of the source video.
    """

    task: str
    uid: str
    video: str = ""
    question: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()
    group: str = ""
    masklet: int | None = None
    total_frames: int = 0
    stretches: tuple[Stretch, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    clip: tuple[float, float] | None = None

    @property
    def gold(self) -> str:
        """The right option as the scorer compares it: "(B) text"; of other tasks the answer or the only caption."""
        if self.options:
            return f"({'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[self.options.index(self.answer)]}) {self.answer}"
        return self.answer or (self.stretches[0].caption if len(self.stretches) == 1 else "")
