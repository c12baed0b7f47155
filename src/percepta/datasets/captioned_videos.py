"""A folder of videos with their captions: a.txt, one caption a line, beside a.mp4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from percepta.datasets.captions import captions_of_text
from percepta.datasets.shards import VIDEO_SUFFIXES
from percepta.errors import BadMedia


@dataclass(frozen=True, slots=True)
class CaptionedVideo:
    """A video file and what it shows, in one or more captions."""

    path: Path
    captions: tuple[str, ...]


def list_captioned_videos(folder: str | Path) -> tuple[CaptionedVideo, ...]:
    """Videos at any depth below `folder`, by name; hidden ones and those without a caption are left out.

    Raises:
        BadMedia: no such folder, or no video with a caption in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise BadMedia(f"videos must be given as a folder, or as a glob of tar files; {folder} is neither.")
    found = []
    for path in sorted(folder.rglob("*")):
        text = path.with_suffix(".txt")
        if path.suffix.lower().lstrip(".") in VIDEO_SUFFIXES and not path.name.startswith(".") and text.is_file():
            captions = captions_of_text(text.read_text(encoding="utf-8-sig", errors="replace"))
            found += [CaptionedVideo(path, captions)] if captions else []
    if not found:
        raise BadMedia(f"{folder} must hold videos with captions, such as a.mp4 and a.txt; none was found.")
    return tuple(found)
