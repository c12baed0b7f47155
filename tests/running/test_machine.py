"""What is chosen on a machine: from given measurements, never from the clock; remembered, mistrusted, fallen back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from percepta.layers.packed import missing, packed_linear
from percepta.running import machine

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"packed weights: {missing()}")
FULL = torch.float32
SHAPE = (12, 16, 24)


class Clock:
    """Measurements that are given: how much faster each way is, and whether the machine was quiet."""

    def __init__(self, quiet: bool = True, **gain: float) -> None:
        self.gain, self.quiet, self.asked = {"packed": 2.0, "heads": 1.5, "rows": 1.2} | gain, quiet, 0

    def __call__(self, ways: Mapping[str, Any], plain: str) -> tuple[dict[str, float], bool]:
        self.asked += 1
        return {name: 1.0 if name == plain else self.gain[name] for name in ways}, self.quiet


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine.forget()
    yield tmp_path / "percepta" / "machine.json"
    machine.forget()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(machine, "_gains", made)
    return made


def test_the_fastest_way_that_is_right(clock: Clock) -> None:
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert machine.choose("mlp", (12, 16, 24, 16), FULL) == "packed"
    assert machine.choose("attention", (1, 2, 20, 8), FULL) == "heads"
    found = machine.choice("attention", (1, 2, 20, 8))
    assert found.gain == {"fused": 1.0, "heads": 1.5, "rows": 1.2}
    assert set(found.change) == {"heads", "rows"}
    assert max(found.change.values()) < 1e-6
    assert not found.refused


def test_a_choice_in_words(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(machine.choice("linear", SHAPE)).startswith("packed (packed 2.00 times as fast, within ")
    monkeypatch.setattr(machine, "missing", lambda dtype=FULL: "oneDNN is switched off")
    assert str(machine.choice("precision", SHAPE, torch.bfloat16)) == "plain (not packed: oneDNN is switched off)"
    assert str(machine.choice("linear", SHAPE, torch.float64)) == "plain"


@pytest.mark.parametrize(("gain", "way"), [(0.5, "plain"), (1.02, "plain"), (1.05, "packed")])
def test_plain_wins_unless_something_pays(clock: Clock, gain: float, way: str) -> None:
    clock.gain["packed"] = gain
    assert machine.choose("linear", SHAPE, FULL) == way


def test_one_measurement_for_a_class_of_shapes_in_this_process_and_the_next(clock: Clock, place: Path) -> None:
    for rows in (9, 12, 16, 9):
        machine.choose("linear", (rows, 16, 24), FULL)
    assert clock.asked == 1
    machine.choose("linear", (17, 16, 24), FULL)
    machine.choose("linear", (600, 16, 24), FULL)
    machine.choose("linear", (6000, 16, 24), FULL)
    assert clock.asked == 3
    content = json.loads(place.read_text())
    assert list(content["machines"]) == [machine.signature()]
    assert len(content["machines"][machine.signature()]) == 3
    machine.forget()
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert clock.asked == 3


def test_many_threads_measure_once(clock: Clock) -> None:
    threads = [threading.Thread(target=machine.choose, args=("linear", SHAPE, FULL)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.asked == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 999, "machines": {}}',
        '{"schema": 1, "machines": 3}',
        '{"schema": 1, "machines": {"MACHINE": 3}}',
        '{"schema": 1, "machines": {"MACHINE": {"linear 16 16 24 float32": "packed"}}}',
        '{"schema": 1, "machines": {"MACHINE": {"linear 16 16 24 float32": '
        '{"way": "warp", "gain": {"warp": 9.0}, "change": {}, "refused": {}}}}}',
        '{"schema": 1, "machines": {"MACHINE": {"linear 16 16 24 float32": '
        '{"way": "packed", "gain": {"packed": NaN}, "change": {}, "refused": {}}}}}',
        '{"schema": 1, "machines": {"MACHINE": {"linear 16 16 24 float32": '
        '{"way": "packed", "gain": {"packed": "much"}, "change": {}, "refused": {}}}}}',
    ],
)
def test_a_file_that_says_nothing_useful_is_measured_over(clock: Clock, place: Path, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text.replace("MACHINE", machine.signature()))
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert clock.asked == 1
    machine.forget()
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert clock.asked == 1


def test_what_another_machine_found_does_not_count_and_stays(
    clock: Clock, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.choose("linear", SHAPE, FULL)
    here = machine.signature()
    for change in ("processor", "switch"):
        machine.forget()
        with monkeypatch.context() as patch:
            if change == "processor":
                patch.setattr(machine, "processor", lambda: "another")
            else:
                patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
            clock.gain["packed"] = 0.5
            assert machine.choose("linear", SHAPE, FULL) == "plain"
    machine.forget()
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert clock.asked == 3
    assert len(json.loads(place.read_text())["machines"]) == 3
    assert here in json.loads(place.read_text())["machines"]


def test_a_place_that_cannot_be_written_changes_nothing(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "percepta").write_text("a file where the folder should be")
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert clock.asked == 1


def test_what_was_found_among_other_programs_stays_until_it_is_asked_for_again(clock: Clock) -> None:
    """A run that is killed and resumed must not compute otherwise."""
    clock.quiet = False
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    machine.forget()
    clock.quiet, clock.gain["packed"] = True, 0.5
    assert machine.choose("linear", SHAPE, FULL) == "packed"
    assert "busy" in str(machine.choice("linear", SHAPE, FULL))
    assert machine.choice("linear", SHAPE, FULL, again=True).way == "plain"
    assert machine.choice("linear", SHAPE, FULL, again=True).quiet
    assert clock.asked == 2


@pytest.mark.parametrize("wrong", ["differs", "fails", "nan"])
def test_a_way_that_is_wrong_here_is_refused_however_fast(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    real = packed_linear

    def wrongly(*arguments: Any) -> Tensor:
        if wrong == "fails":
            raise RuntimeError("could not create\na primitive")
        return real(*arguments) * (float("nan") if wrong == "nan" else 1.001)

    monkeypatch.setattr(machine, "packed_linear", wrongly)
    clock.gain["packed"] = 100.0
    assert machine.choose("linear", SHAPE, FULL) == "plain"
    found = machine.choice("linear", SHAPE)
    assert found.gain == {"plain": 1.0}
    expected = {"fails": "could not create a primitive", "differs": "differ by 1e-03", "nan": "differ by nan"}[wrong]
    assert expected in found.refused["packed"]


def test_what_the_file_says_is_tried_on_a_few_values_first(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.choose("linear", SHAPE, FULL)
    machine.forget()
    machine._trusted.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(machine, "packed_linear", lambda x, packed, bias: torch.zeros(5, 24))
            assert machine.choose("linear", SHAPE, FULL) == "plain"
        assert clock.asked == 1
    finally:
        machine._trusted.cache_clear()


def test_without_the_operators_all_is_plain_and_says_why(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing", lambda dtype=FULL: "this torch is built without oneDNN")
    for kind, shape in (("linear", SHAPE), ("mlp", (12, 16, 24, 16)), ("precision", SHAPE)):
        assert machine.choose(kind, shape, torch.bfloat16 if kind == "precision" else FULL) == "plain"
        dtype = torch.bfloat16 if kind == "precision" else FULL
        assert machine.choice(kind, shape, dtype).refused == {"packed": "this torch is built without oneDNN"}
    clock.gain["heads"] = 0.5
    assert machine.choose("attention", (1, 2, 20, 8), FULL) == "fused"
    assert machine.choose("linear", SHAPE, torch.float64) == "plain"


def test_a_real_measurement_agrees_with_plain_and_leaves_the_processor_soon() -> None:
    found = machine.choice("mlp", (12, 16, 24, 16))
    assert set(found.gain) == {"plain", "packed"}
    assert found.change["packed"] < 1e-6
    assert found.way in found.gain


def test_large_shapes_are_measured_on_a_share(clock: Clock) -> None:
    assert machine.choose("linear", (10**7, 1024, 4096), FULL) == "packed"
    assert machine.choose("attention", (64, 16, 4096, 64), FULL) in ("heads", "rows")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_the_allocator_is_tuned_in_a_process_of_its_own() -> None:
    code = "from percepta.running.machine import tune_allocator; import torch; print(tune_allocator(), torch.ones(3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tensor" in done.stdout
    assert done.stdout.split()[0] in ("True", "False")
