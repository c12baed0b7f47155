"""What is asked where people ask nothing: the requests for captions, as a model was trained with them.

Unusual: a toy of generated scenes knows a few hundred words, so it is asked in those.
"""

from __future__ import annotations

from dataclasses import dataclass

from percepta.datasets.scenes.questions import BOXED


@dataclass(frozen=True, slots=True)
class Prompts:
    """Requests by what is looked at; {about} is a thing in words, {last} the number of the last frame, {count} of all.

    Attributes:
        picture, video: for one caption.
        picture_region, video_region: for a caption of a region, in words or in a red box.
        dense: for timed captions of a video, or "" where it has to be cut into parts that are captioned one by one.
        dense_about: for timed captions of one thing.
        boxed: what a red box is called.
    """

    picture: str
    video: str
    picture_region: str
    video_region: str
    dense: str
    dense_about: str
    boxed: str


_FORM = (
    "Write one caption a line as [start, end]: description, where start and end are numbers of frames from 0 to {last} "
    "of this video of {count} frames."
)
REAL = Prompts(
    picture="Describe this image in detail.",
    video="Describe this video in detail.",
    picture_region="Describe in detail what is in the region <|bbox0|>.",
    video_region="Describe in detail what happens in the red rectangle.",
    dense=f"Describe this video part by part, from its beginning to its end. {_FORM}",
    dense_about=f"Describe what {{about}} does, part by part, from the beginning to the end of this video. {_FORM}",
    boxed="the subject in the red rectangle",
)


TOY = Prompts(
    picture="describe the picture.",
    video="describe the clip.",
    picture_region="what is in the region <|bbox0|>?",
    video_region=f"what is {BOXED}?",
    dense="",
    dense_about="describe what {about} does, part by part.",
    boxed=BOXED,
)


def prompts_for(name: str) -> Prompts:
    """Those of a model."""
    return TOY if name.endswith("-nano") else REAL
