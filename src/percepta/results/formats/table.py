"""Results as rows of a table, for CSV files and data frames.

Unusual: text that a spreadsheet would run as a formula is written with a leading apostrophe, since file names come from
anywhere.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from percepta.errors import BadInput
from percepta.results.boxes import Boxes
from percepta.results.duplicates import Duplicates
from percepta.results.failures import Failure
from percepta.results.hits import Hits
from percepta.results.labels import Labels
from percepta.results.masks import Masks
from percepta.results.tracks import Tracks

Row = dict[str, Any]


def rows(result: Labels | Hits | Duplicates | Boxes | Masks | Tracks | Failure) -> list[Row]:
    """One row per label, hit, member of a group, box, mask or observation. Raises BadInput for a kind without rows."""
    if isinstance(result, Labels):
        return [
            {"source": result.source, "rank": rank, "label": name, "score": score, "score_kind": result.score_kind}
            for rank, (name, score) in enumerate(result, start=1)
        ]
    if isinstance(result, Hits):
        return [
            {
                "query": result.query,
                "rank": rank,
                "source": hit.source,
                "score": hit.score,
                "score_kind": result.score_kind,
                "probability": hit.probability,
                "start": hit.start,
                "end": hit.end,
            }
            for rank, hit in enumerate(result, start=1)
        ]
    if isinstance(result, Duplicates):
        return [
            {
                "group": number,
                "kind": group.kind,
                "source": name,
                "keep": name == group.keep,
                "why": group.why if name == group.keep else "",
                "savings": group.savings if name == group.keep else "",
            }
            for number, group in enumerate(result, start=1)
            for name in (group.keep, *group.others)
        ]
    if isinstance(result, Failure):
        return [{"source": result.source, "failure": result.reason}]
    if isinstance(result, Boxes):
        return [{"source": result.source, **_box(entry)} for entry in result.to_dict()["boxes"]]
    if isinstance(result, Masks):
        areas = result.area.tolist()
        entries = zip(result.boxes().to_dict()["boxes"], areas, strict=True)
        return [{"source": result.source, **_box(entry), "area": area} for entry, area in entries]
    if isinstance(result, Tracks):
        table = []
        for entry in result.to_dict()["observations"]:
            time = {} if result.rate is None else {"time": entry["frame"] / result.rate}
            place = {"frame": entry["frame"], **time, "identity": entry["identity"]}
            table.append({"source": result.source, **place, **_box(entry)})
        return table
    raise BadInput(
        f"a table can be made of Labels, Hits, Duplicates, Boxes, Masks, Tracks, Failure; got {type(result).__name__}."
    )


def to_csv(table: Iterable[Row], columns: Sequence[str] | None = None) -> str:
    """CSV text with a header; the columns are those of all rows, in order of appearance, unless named."""
    entries = list(table)
    names = list(columns) if columns is not None else list(dict.fromkeys(name for entry in entries for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: safe_cell(value) for name, value in entry.items()})
    return text.getvalue()


def safe_cell(value: Any) -> Any:
    """`value` as a cell that no spreadsheet runs and every encoding writes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")
        return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    return value


def _box(entry: Row) -> Row:
    left, top, right, bottom = entry["xyxy"]
    place = {"left": left, "top": top, "right": right, "bottom": bottom, "name": entry["name"]}
    return place | ({"score": entry["score"]} if "score" in entry else {})
