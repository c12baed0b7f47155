"""Moments of a video as subtitles: SubRip (.srt) and WebVTT (.vtt).

Unusual: a caption of the whole video is one subtitle as long as the video; moments may overlap, and are sorted by time.
"""

from __future__ import annotations

from collections.abc import Sequence

from percepta.results.answer import Answer, Moment

SHORTEST = 0.5  # seconds; a subtitle of no length is never shown


def to_srt(answer: Answer) -> str:
    """SubRip: numbered, times as 00:01:02,345. Nothing for an answer about no video."""
    blocks = []
    for number, moment in enumerate(moments_of(answer), start=1):
        start, end = (_clock(second).replace(".", ",") for second in (moment.start, moment.end))
        blocks.append(f"{number}\n{start} --> {end}\n{_lines(moment.words)}\n")
    return "\n".join(blocks)


def to_vtt(answer: Answer) -> str:
    """WebVTT: times as 00:01:02.345, with what the format would read as marks written as entities."""
    blocks = ["WEBVTT\n"]
    for moment in moments_of(answer):
        words = _lines(moment.words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(moment.start)} --> {_clock(moment.end)}\n{words}\n")
    return "\n".join(blocks)


FORMATS = {".srt": to_srt, ".vtt": to_vtt}


def moments_of(answer: Answer) -> list[Moment]:
    """What is to be shown, by time: the moments with words, or else the whole text over the whole video."""
    told: Sequence[Moment] = [moment for moment in answer.moments if _lines(moment.words)]
    if not told and answer.span is not None and _lines(answer.text):
        told = [Moment(*answer.span, answer.text)]
    long = [Moment(moment.start, max(moment.end, moment.start + SHORTEST), moment.words) for moment in told]
    return sorted(long, key=lambda moment: (moment.start, moment.end))


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _lines(words: str) -> str:
    """Words without empty lines, which would end the subtitle, without an arrow, which would begin another, and
    without what is no letter or sign."""
    lines = [" ".join(line.split()) for line in words.replace("-->", "->").splitlines()]
    shown = ("".join(c for c in line if c.isprintable()) for line in lines)
    return "\n".join(line for line in shown if line)
