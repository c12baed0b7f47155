"""Logs of a run: one JSON object a line, and the same figures as a CSV table.

Unusual: opening a log for a resumed run drops the lines after the resumed step, so that a log reads as if the run had
never been interrupted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from percepta.errors import BadInput

SCHEMA = 1
COLUMNS = ("step", "loss", "learning_rate", "logit_scale", "image_size", "samples_per_second")
"""Columns of the CSV table; other figures stand in the JSON lines only."""


class Records:
    """Append-only figures of one run in `folder`/log.jsonl and log.csv.

    Args:
        folder: made if missing.
        keep_until: lines of a later step are dropped; 0 starts afresh.
    """

    def __init__(self, folder: Path, keep_until: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines_path = folder / "log.jsonl"
        self.table_path = folder / "log.csv"
        kept = [row for row in read_records(folder) if int(row["step"]) <= keep_until] if keep_until else []
        self.lines_path.write_text("".join(_line(row) for row in kept))
        with self.table_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in kept if "loss" in row)

    def write(self, step: int, figures: Mapping[str, float | int | str]) -> None:
        """Add the figures of `step` (number of updates made so far) to both files."""
        row = {"schema": SCHEMA, "step": step, **figures}
        with self.lines_path.open("a") as file:
            file.write(_line(row))
        if "loss" in figures:
            with self.table_path.open("a", newline="") as table:
                csv.DictWriter(table, COLUMNS, extrasaction="ignore").writerow(row)


def read_records(folder: str | Path) -> list[dict[str, float | int | str]]:
    """All figures written into `folder`, oldest first; an unfinished last line (a killed run) is left out.

    Raises:
        BadInput: a line of a newer schema.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.get("schema", 0) > SCHEMA:
            raise BadInput(f"{path} has schema {row['schema']}; this Percepta reads up to {SCHEMA}: upgrade it.")
        rows.append(row)
    return rows


def _line(row: Mapping[str, float | int | str]) -> str:
    return json.dumps(row) + "\n"
