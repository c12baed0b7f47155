"""How answers and the replies of judges are read on PLM-VideoBench (arXiv 2504.13180, appendices C.3, C.4 and D).

Order of this file: options, one interval, many intervals, replies.
Unusual: the published rules are kept with all their oddities, since scores are compared under them; a strict reading
of options stands beside the published one. A reply that cannot be read is worth nothing, and says so.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from percepta.errors import one_of

OPTION_RULES = ("official", "strict")
_INTERVAL = re.compile(r"\[([0-9]+(?:\.[0-9]+)?),\s*([0-9]+(?:\.[0-9]+)?)\]")
_SEGMENT = re.compile(r"\[(\d{1,15}),\s*(\d{1,15})\]([^[]*)")  # a longer number is a loop of digits, and no frame
_NO_NUMBER = re.compile(r"0+[1-9][0-9]*")
_LETTER_ALONE = re.compile(r"\(?([a-z])\)?[.:,]?")
_LETTER_FIRST = re.compile(r"\(?([a-z])[).:]")
_LETTER = re.compile(r"\(([a-z])\)")
MOST = 10  # what a judge gives at most


def check_option(prediction: str, gold: str, rule: str = "official") -> bool:
    """Whether an answer names the right option.

    Args:
        gold: "(B) text of the option".
        rule: "official" compares first words in both directions, so that "(" and "." are right and " A" and "The
            answer is (A)" are wrong; "strict" wants one letter, in front or alone in brackets, or the option's text.

    Raises: BadInput for another rule.
    """
    if rule not in OPTION_RULES:
        raise one_of("rule", rule, OPTION_RULES, owner="check_option")
    said, right = prediction.lower(), gold.lower()
    letter, _, text = right.partition(" ")
    if "answer:" in said:
        said = said.replace("answer:", "").strip()
    if rule == "official":
        first = said.split(" ")[0]
        return bool(first) and (first.replace(".", "") in letter or letter in first)
    said = said.strip()
    if said.rstrip(".") == text.strip().rstrip("."):
        return True
    front = _LETTER_ALONE.fullmatch(said) or _LETTER_FIRST.match(said)
    named = {front.group(1)} if front else set(_LETTER.findall(said))
    return named == {letter.strip("()")}


def parse_interval(text: str) -> tuple[float, float] | None:
    """The first "[a, b]" of an answer, in its order; None where there is none that can be read.

    Whole numbers or decimals, no space before the comma. As published, the first one decides: an interval of numbers
    with leading zeros, such as "[03, 5]", cannot be read, whatever follows it.
    """
    found = _INTERVAL.search(text)
    if found is None or any(_NO_NUMBER.fullmatch(number) for number in found.groups()):
        return None
    start, end = map(float, found.groups())
    return (start, end) if math.isfinite(start) and math.isfinite(end) else None


def parse_segments(text: str) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """All "[a, b]: words" of an answer, in its order: the intervals, and their captions cleaned.

    Words end at the next bracket. Colons become spaces, "Frame" at the beginning of a line is taken out, and one
    comma at the end is.
    """
    found = _SEGMENT.findall(text)
    captions = []
    for _, _, words in found:
        caption = words.replace(":", " ").replace("\nFrame ", "").strip()
        captions.append(caption.removesuffix(",").strip().replace("\n", " ").strip())
    return tuple((int(start), int(end)) for start, end, _ in found), tuple(captions)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a reply of a judge is worth.

    Attributes:
        score: 0 to 1.
        readable: whether it had the form that was asked for.
    """

    score: float
    readable: bool


def read_verdict(reply: str) -> Mark:
    """A judge's yes or no: JSON whose "pred" is exactly "yes"; of a reply that is no JSON, any "yes" or "Yes" in it.

    JSON without "pred" is worth 0.
    """
    try:
        verdict = json.loads(reply)
    except (ValueError, RecursionError):  # the latter for a reply of nothing but brackets
        return Mark(float("yes" in reply or "Yes" in reply), False)
    if not isinstance(verdict, dict) or "pred" not in verdict:
        return Mark(0.0, False)
    return Mark(float(verdict["pred"] == "yes"), True)


def read_mark(reply: str, explained: bool = True) -> Mark:
    """A judge's "score" from 0 to 10 as 0 to 1; all that is no JSON object with such a number is worth 0.

    Args:
        explained: whether an "explanation" must be there too, as for region captions; not for dense ones.
    """
    try:
        given: Any = json.loads(reply)
    except (ValueError, RecursionError):
        return Mark(0.0, False)
    if not isinstance(given, dict) or (explained and "explanation" not in given):
        return Mark(0.0, False)
    score = given.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= MOST:
        return Mark(0.0, False)
    return Mark(score / MOST, True)
