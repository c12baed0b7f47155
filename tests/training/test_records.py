from __future__ import annotations

from pathlib import Path

import pytest

from percepta.errors import BadInput
from percepta.training.records import Records, read_records


def fill(records: Records, steps: range) -> None:
    for step in steps:
        records.write(step, {"loss": step / 10, "learning_rate": 0.1, "image_size": 8})


def test_lines_and_table_hold_the_same_figures(tmp_path: Path) -> None:
    records = Records(tmp_path / "a run")
    fill(records, range(1, 4))
    records.write(3, {"validation.scenes.accuracy": 0.5})
    rows = read_records(tmp_path / "a run")
    assert [row["step"] for row in rows] == [1, 2, 3, 3]
    assert rows[-1]["validation.scenes.accuracy"] == 0.5
    lines = (tmp_path / "a run" / "log.csv").read_text().splitlines()
    assert lines[0].startswith("step,loss,")
    assert len(lines) == 4


def test_resuming_drops_what_came_after(tmp_path: Path) -> None:
    fill(Records(tmp_path), range(1, 8))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # a run that was killed while writing
    fill(Records(tmp_path, keep_until=4), range(5, 7))
    assert [row["step"] for row in read_records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7


def test_starting_afresh_empties_the_log(tmp_path: Path) -> None:
    fill(Records(tmp_path), range(1, 8))
    Records(tmp_path)
    assert read_records(tmp_path) == []


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"schema": 99, "step": 1}\n')
    with pytest.raises(BadInput, match="schema 99"):
        read_records(tmp_path)
