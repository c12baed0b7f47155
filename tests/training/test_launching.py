"""Runs of two processes on one machine, through the loop and through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import BreaksElsewhere, TinyModel
from safetensors.torch import load_file

from percepta.errors import BadInput, PerceptaError
from percepta.training import Recipe, make_recipe, read_recipe, read_records, run

HERE = Path(__file__).parent
NANO: dict[str, Any] = {
    "model": "pe-core-nano",
    "model_overrides": {"depth": 1, "text": {"depth": 1}},
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "epsilon": 1e-3,  # Adam divides by nearly nothing otherwise, and makes rounding visible
    "schedule": "wsd",
    "warmup": 1,
    "decay": 2,
    "ema": 0.9,
    "gradient_clip": 1.0,
    "threads": 1,
    "log_every": 2,
    "evaluate_every": 4,
    "save_every": 100,
    "stages": [{"share": 1, "image_size": 16}, {"share": 1, "image_size": 24}],
    "data": {
        "workers": 0,
        "validation_samples": 6,
        "scenes": {"size": 32, "pool": 6},
        "clips": {"size": 32, "frames": 2, "weight": 0.5},
    },
}


def recipe(out: Path, **changes: Any) -> Recipe:
    return make_recipe({**NANO, "out": str(out), **changes})


def interrupt_at(step: int) -> Any:
    """Ctrl-C reaches the first process after update `step`."""

    def progress(made: int, total: int, figures: Any) -> None:
        if made == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    assert not {"WORLD_SIZE", "RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & set(os.environ)


def test_one_two_and_one_process_train_as_one_does(tmp_path: Path) -> None:
    """Interrupted twice and gone on each time with another number of processes: the same run up to rounding."""
    whole = run(recipe(tmp_path / "whole"))
    for devices, stop in ((1, 1), (2, 5)):
        result = run(recipe(tmp_path / "parts", devices=devices), progress=interrupt_at(stop))
        assert (result.finished, result.step) == (False, stop)
    result = run(recipe(tmp_path / "parts"))
    assert (result.finished, result.step, result.rank) == (True, whole.step, 0)
    one, other = (
        load_file(tmp_path / "whole" / "training.safetensors"),
        load_file(tmp_path / "parts/training.safetensors"),
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-5, rtol=0)
    first, second = read_records(tmp_path / "whole"), read_records(tmp_path / "parts")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for before, after in zip(first, second, strict=True):
        for name in before.keys() - {"samples_per_second"}:
            assert after[name] == pytest.approx(before[name], abs=2e-4 if "loss" in name else 0.2), name


def test_what_goes_wrong_elsewhere_is_raised_here(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(PerceptaError, match="clip 17 cannot be read"):
        run(recipe(tmp_path, devices=2), model=BreaksElsewhere(drop=0.1))
    assert not torch.distributed.is_initialized()


def test_batches_that_cannot_be_dealt_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multiple of the 3 devices that share it; got 8"):
        run(recipe(tmp_path, devices=3))


def test_models_that_cannot_be_sent_are_refused(tmp_path: Path) -> None:
    model = TinyModel()
    model.tokenize = lambda texts: torch.zeros(len(texts), 4)  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="model must be picklable"):
        run(recipe(tmp_path, devices=2), model=model)


CHANGES = [f"{name}={json.dumps(value)}" for name, value in NANO.items() if name != "model"] + ["precision=float32"]


def command(out: Path, *more: str) -> list[str]:
    return ["-m", "percepta", "train", "pe-core-nano", *CHANGES, "-o", str(out), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def alive(number: int) -> bool:
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def started(out: Path, *more: str) -> subprocess.Popen[str]:
    """A long run of two processes that has made its first updates."""
    process = subprocess.Popen(
        [sys.executable, *command(out, "steps=5000", "warmup=0", "decay=0", "save_every=2", *more)],
        stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "training.safetensors").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """The terminal sends it to all processes of the group at once."""
    process = started(tmp_path / "run", "--devices", "2")
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "go on with --resume" in said
    made = int(said.rpartition("interrupted after ")[2].split()[0])
    assert children
    assert not any(alive(child) for child in children)
    go_on = command(tmp_path / "run", f"steps={made + 2}", "warmup=0", "decay=0", "--resume", "--json")
    done = subprocess.run(
        [sys.executable, *go_on], capture_output=True, text=True, env=environment(), timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == made + 2
    steps = [row["step"] for row in read_records(tmp_path / "run") if "loss" in row]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_the_others_end_with_a_first_process_that_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path / "run", "devices=2")
    children = children_of(process.pid)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    assert not any(alive(child) for child in children)


@pytest.mark.slow
def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, *command(tmp_path / "run", "--json")],
        capture_output=True, text=True, env=environment(), timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == [6]  # one of the two speaks
    alone = run(read_recipe("pe-core-nano", [*CHANGES, f"out={tmp_path / 'alone'}"]))
    assert float(json.loads(done.stdout)["loss"]) == pytest.approx(float(alone.figures["loss"]), abs=2e-4)
