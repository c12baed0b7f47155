"""The page of PLM-VideoBench and its twin: the figures, and rows with their frames, answers and what was right.

Unusual: intervals of frames are drawn on the line of the frames, the right ones above those of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from percepta.apps.report.page import Page, card_rows, escape, image, pairs, table, toy_notice
from percepta.errors import PerceptaError
from percepta.media import thumbnail

SIDE = 160
NAMES = {
    "fgqa": "Fine-grained questions",
    "sgqa": "Questions through smart glasses",
    "rcap": "Captions of a region",
    "rtloc": "When it happens",
    "rdcap": "Everything that a region does",
}
RULES = {
    "fgqa": "A question counts where every pair of options is answered rightly; rows are shown one by one.",
    "sgqa": "A judge says whether the answer means the same as the right one.",
    "rcap": "A judge marks the caption against the right one, 0 to 10, here as a share.",
    "rtloc": "The share of four overlaps (0.3, 0.5, 0.7, 0.9) that the answer exceeds.",
    "rdcap": "Ordered matching of intervals and captions, weighted by overlap and the judge's mark (SODA).",
}


def write_page(path: Path, results: Sequence[Any]) -> Path:
    """One page for all evaluations that were made, of these protocols."""
    last = results[-1]
    headlines = [measure for measure in last.measures if measure.headline]
    first = f"{headlines[0].name} {100 * headlines[0].value:.1f} %" if headlines else ""
    name = str(last.model.get("name", "a model"))
    lead = f"{first} (95 % interval {_ends(headlines[0])}). " if headlines else ""
    judge = last.protocol.settings.get("judge", "")
    lead += f"Judge: {judge}. Protocol {last.protocol.hash}: other figures compare only under the same hash."
    page = Page(f"What {name.split(' ')[0]} answers about videos", lead, toy_notice(name.split(" ")[0]))
    for result in results:
        page.section(result.protocol.name, _facts(result), figures(result))
        for task in dict.fromkeys(sample["task"] for sample in result.tables.get("samples", ())):
            own = [sample for sample in result.tables["samples"] if sample["task"] == task]
            count = result.tables["aggregates"][task]["num_instances"]
            text = f"{RULES[task]} {len(own)} of {count:,} rows."
            page.section(NAMES[task], text, *(sample_row(sample, result) for sample in own))
    page.failures([failure for result in results for failure in result.failures])
    page.section("The model", "", table(card_rows(name.split(" ")[0]) | {"made with": name}))
    return page.write(path)


def figures(result: Any) -> str:
    """All measures with their intervals, chance, and what stands beside them."""
    beside = list(dict.fromkeys(baseline.name for baseline in result.baselines))
    head = "".join(f"<td>{escape(name)}</td>" for name in ("", "%", "95 % interval", "n", "chance", *beside))
    lines = [f"<tr>{head}</tr>"]
    for measure in result.measures:
        values = {one.name: one.value for one in result.baselines if one.measure == measure.name}
        cells = [
            f"{100 * measure.value:.1f}",
            _ends(measure),
            f"{measure.count:,}",
            "" if measure.chance is None else f"{100 * measure.chance:.1f}",
            *(f"{100 * values[name]:.1f}" if name in values else "" for name in beside),
        ]
        words = f"<b>{escape(measure.name)}</b>" if measure.headline else escape(measure.name)
        lines.append(f"<tr><td>{words}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    notes = {baseline.name: escape(baseline.note) for baseline in result.baselines}
    return f'<div style="overflow-x:auto"><table>{"".join(lines)}</table></div>{pairs(notes) if notes else ""}'


def sample_row(sample: Mapping[str, Any], result: Any) -> str:
    """One row: its frames, what was asked, said, and right."""
    from percepta.tasks.evaluating.videobench import pictures_of

    frames = int(result.protocol.settings["frames"])
    try:
        shown = "".join(
            f'<figure class="hit">{image(thumbnail(picture, SIDE), f"frame {number}", str(number))}</figure>'
            for number, picture in pictures_of(sample, result.protocol)
        )
    except (PerceptaError, OSError) as error:  # gone or broken since it was asked about
        shown = f"<p>{escape(error)}</p>"
    score = f"{100 * sample['score']:.0f} %"
    head = f'<div class="label">{escape(sample["task"])} {escape(sample["uid"])} · {score}</div>'
    grid = f'<div class="layers" style="grid-template-columns:repeat(auto-fit,minmax(104px,1fr))">{shown}</div>'
    told = {"asked": escape(sample["prompt"]).replace("\n", "<br>"), "said": _broken(sample.get("prediction", ""))}
    if sample.get("gold"):
        told["right"] = _broken(sample["gold"])
    if sample.get("reply"):
        told["judge"] = escape(sample["reply"])
    return f'<div class="row">{head}{grid}{_line(sample, frames)}<div style="height:12px"></div>{pairs(told)}</div>'


def _line(sample: Mapping[str, Any], frames: int) -> str:
    """The intervals that are right above those that were said."""
    right = [sample["target"]] if "target" in sample else sample.get("gold_segments", [])
    if not right:
        return ""
    if "target" in sample:
        said = [] if sample["parse_error"] else [sample["predicted"]]
    else:
        said = sample.get("said_segments", [])
    bars = "".join(
        f'<i style="position:absolute;left:{100 * max(0, a) / frames:.2f}%;top:{top}px;height:9px;border-radius:3px;'
        f"width:{100 * max(0.2, min(b + 1, frames) - max(0, a)) / frames:.2f}%;background:var({colour});"
        f'box-shadow:inset 0 0 0 1px var(--sheet)" title="[{a:g}, {b:g}]"></i>'
        for segments, top, colour in ((right, 0, "--good"), (said, 13, "--warm"))
        for a, b in (sorted(map(float, segment)) for segment in segments)
    )
    words = " · ".join(f"[{a:g}, {b:g}]" for a, b in right)
    return (
        f'<div style="position:relative;height:24px;margin:12px 0 2px;background:var(--ground);border-radius:4px">'
        f'{bars}</div><div class="name">above, right: {escape(words)}; below: said</div>'
    )


def _broken(text: str) -> str:
    return "<br>".join(escape(line) for line in str(text).split("\n"))


def _ends(measure: Any) -> str:
    return f"{100 * measure.low:.1f} – {100 * measure.high:.1f}"


def _facts(result: Any) -> str:
    return "; ".join(f"{name} {value}" for name, value in result.details.items() if value != "")
