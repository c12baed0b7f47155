from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import TinyModel
from safetensors.torch import load_file
from samples import write_cifar

from percepta.errors import BadInput
from percepta.training import Recipe, make_recipe, read_recipe, read_records, run
from percepta.training.loop import STATE_FILE

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar") / "train.parquet", 1200)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(out: Path, cifar: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "tiny",
        "out": str(out),
        "steps": 12,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "schedule": "wsd",
        "warmup": 2,
        "decay": 4,
        "ema": 0.9,
        "log_every": 5,
        "save_every": 4,
        "evaluate_every": 6,
        "stages": [{"share": 1, "image_size": 16}, {"share": 1, "image_size": 24}],
        "data": {
            "workers": 0,
            "validation_samples": 40,
            "scenes": {"size": 32},
            "cifar10": {"path": str(cifar), "holdout": 200},
        },
    }
    return make_recipe({**values, **changes})


def model() -> TinyModel:
    torch.manual_seed(7)
    return TinyModel(drop=0.1)  # draws from the global generator, so that its state matters


class Killed(Exception):
    """Stands for a process that ends at once."""


def kill_at(step: int) -> Any:
    def progress(made: int, total: int, figures: Any) -> None:
        if made == step:
            raise Killed

    return progress


def same(first: Path, second: Path) -> bool:
    one, other = load_file(first / STATE_FILE), load_file(second / STATE_FILE)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def figures(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "samples_per_second"} for row in read_records(folder)]


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, cifar: Path, optimiser: str) -> None:
    result = run(recipe(tmp_path / "whole", cifar, optimiser=optimiser), model=model())
    assert (result.finished, result.step) == (True, 12)
    broken = recipe(tmp_path / "broken", cifar, optimiser=optimiser)
    for step in (2, 6, 11):  # before the first save, between saves (with a stage and a log between), near the end
        with pytest.raises(Killed):
            run(broken, model=model(), progress=kill_at(step))
        torch.manual_seed(step)
    assert run(broken, model=model()).finished
    assert same(tmp_path / "whole", tmp_path / "broken")
    assert figures(tmp_path / "whole") == figures(tmp_path / "broken")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_sigterm_saves_and_ends_cleanly(tmp_path: Path, cifar: Path) -> None:
    def interrupt(made: int, total: int, now: Any) -> None:
        if made == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = run(recipe(tmp_path / "a", cifar), model=model(), progress=interrupt)
    assert (result.finished, result.step) == (False, 5)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "a" / "model.safetensors").exists()
    assert run(recipe(tmp_path / "a", cifar), model=model()).finished
    run(recipe(tmp_path / "b", cifar), model=model())
    assert same(tmp_path / "a", tmp_path / "b")


def test_a_sigkill_loses_nothing_but_time(tmp_path: Path, cifar: Path) -> None:
    """A real process with its batch-making child, killed without warning; both end, and the run goes on exactly."""
    code = f"""
import sys, time, torch
sys.path[:0] = [{str(HERE)!r}]
from pathlib import Path
from test_loop import model, recipe
from percepta.training import run
torch.set_num_threads(1)
data = dict(workers=1, scenes=dict(size=32))
run(recipe(Path({str(tmp_path / "a")!r}), None, data=data, evaluate_every=0), model=model(),
    progress=lambda made, total, now: (print(made, flush=True), made >= 6 and time.sleep(60)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert any(line.strip() == "6" for line in process.stdout)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    child = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    data = {"workers": 0, "scenes": {"size": 32}}
    assert run(recipe(tmp_path / "a", cifar, data=data, evaluate_every=0), model=model()).finished
    run(recipe(tmp_path / "b", cifar, data=data, evaluate_every=0), model=model())
    assert same(tmp_path / "a", tmp_path / "b")
    deadline = time.monotonic() + 10
    while any(alive(number) for number in child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(number) for number in child)


def alive(number: str) -> bool:
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_training_learns(tmp_path: Path, cifar: Path) -> None:
    """Ten coloured squares, 150 small steps: at least 60 % (chance 10 %), and the loss falls by a fifth."""
    learn = recipe(
        tmp_path, cifar, steps=150, batch_size=32, evaluate_every=150, log_every=10, stages=[],
        data={"workers": 0, "validation_samples": 200, "cifar10": {"path": str(cifar), "holdout": 200}},
    )  # fmt: skip
    run(learn, model=model())
    rows = read_records(tmp_path)
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert rows[-1]["validation.cifar10.accuracy"] >= 0.6


def test_scenes_train_the_nano_architecture(tmp_path: Path) -> None:
    """A shrunken nano model, bfloat16, over Fabric: the loss falls below that of a blind model, ln(batch)."""
    values = {
        "model": "pe-core-nano",
        "model_overrides": {"depth": 2, "text": {"depth": 1}},
        "out": str(tmp_path),
        "steps": 40,
        "batch_size": 24,
        "learning_rate": 2e-3,
        "schedule": "wsd_linear",
        "warmup": 5,
        "decay": 15,
        "hard_negative_weight": 0,
        "precision": "bfloat16-mixed",
        "log_every": 10,
        "evaluate_every": 40,
        "stages": [{"share": 1, "image_size": 32}],
        "data": {"workers": 0, "scenes": {"size": 32, "pool": 24}, "validation_samples": 30},
    }
    result = run(make_recipe(values))
    losses = [float(row["loss"]) for row in read_records(tmp_path) if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert 0 <= float(result.figures["scenes.hard_accuracy"]) <= 1
    import percepta

    loaded = percepta.load("pe-core-nano", weights=tmp_path / "model.safetensors", depth=2, text={"depth": 1})
    assert loaded.encode_text(loaded.tokenize(["a red ball"])).shape == (1, 192)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, cifar: Path) -> None:
    broken = model()
    with torch.no_grad():
        broken.words.weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="no longer finite at step 5"):
        run(recipe(tmp_path, cifar), model=broken)


def test_starting_afresh_ignores_the_saved_state(tmp_path: Path, cifar: Path) -> None:
    run(recipe(tmp_path, cifar), model=model())
    again = run(recipe(tmp_path, cifar, steps=6, decay=0), model=model(), resume=False)
    assert again.step == 6
    assert max(row["step"] for row in read_records(tmp_path)) == 6


def test_what_an_earlier_run_left_is_gone_before_the_first_save(tmp_path: Path, cifar: Path) -> None:
    """A fresh run that is killed at once must not be taken for the old one when it goes on."""
    run(recipe(tmp_path, cifar), model=model())
    with pytest.raises(Killed):
        run(recipe(tmp_path, cifar), model=model(), resume=False, progress=kill_at(1))
    assert not (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "model.safetensors").exists()
    steps: list[int] = []
    run(recipe(tmp_path, cifar), model=model(), progress=lambda made, total, now: steps.append(made))
    assert steps == list(range(1, 13))


def test_a_run_may_start_from_weights(tmp_path: Path) -> None:
    """With a rate of next to nothing the result is what it started from, packaged or in a file."""
    import percepta

    torch.manual_seed(0)
    small = {"depth": 1, "text": {"depth": 1}}
    percepta.save(percepta.build("pe-core-nano", **small), tmp_path / "start.safetensors")
    values = {
        "model": "pe-core-nano",
        "steps": 1,
        "batch_size": 2,
        "learning_rate": 1e-30,
        "decay": 0,
        "evaluate_every": 0,
        "stages": [{"share": 1, "image_size": 16}],
        "data": {"workers": 0, "scenes": {"size": 16}},
    }
    for name, weights, overrides in (("a", str(tmp_path / "start.safetensors"), small), ("b", "pretrained", {})):
        run(make_recipe({**values, "out": str(tmp_path / name), "weights": weights, "model_overrides": overrides}))
    starts = load_file(tmp_path / "start.safetensors"), percepta.load("pe-core-nano").state_dict()
    for name, start in zip("ab", starts, strict=True):
        trained = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.allclose(trained[key], value, rtol=0, atol=1e-20) for key, value in start.items())


def test_the_video_recipe_trains(tmp_path: Path) -> None:
    """Its smoke test: from the packaged weights the loss stays far below that of a blind model, and falls further."""
    changes = [
        "steps=6", "warmup=1", "batch_size=12", "precision=float32", "threads=1", "data.cifar10=null",
        "data.scenes.weight=0.5", "data.clips.frames=2", "data.workers=0", "data.validation_samples=40",
        "evaluate_every=6", "log_every=1", f"out={tmp_path}",
    ]  # fmt: skip
    result = run(read_recipe("pe-core-nano-video", changes))
    losses = [float(row["loss"]) for row in read_records(tmp_path) if "loss" in row]
    assert max(losses) < 0.6 * math.log(12)
    assert float(result.figures["clips.accuracy"]) > 0.5  # among about 40 captions


def test_another_recipe_does_not_go_on_with_a_run(tmp_path: Path, cifar: Path) -> None:
    run(recipe(tmp_path, cifar, steps=6), model=model())
    with pytest.raises(BadInput, match=r"another recipe \(batch_size, seed differ\)"):
        run(recipe(tmp_path, cifar, steps=8, batch_size=8, seed=1), model=model())
    assert run(recipe(tmp_path, cifar, steps=8, log_every=1), model=model()).step == 8  # longer is allowed


def test_states_from_before_a_field_existed_go_on(tmp_path: Path, cifar: Path) -> None:
    """A run that was saved when recipes had no `objective` and no `rates`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    plan = recipe(tmp_path, cifar)
    with pytest.raises(Killed):
        run(plan, model=model(), progress=kill_at(5))
    with safe_open(tmp_path / STATE_FILE, "pt") as state:
        header = json.loads(state.metadata()["percepta_training"])
    for name in ("objective", "rates"):
        del header["recipe"][name]
    save_file(load_file(tmp_path / STATE_FILE), tmp_path / STATE_FILE, {"percepta_training": json.dumps(header)})
    assert run(plan, model=model()).finished
    run(recipe(tmp_path / "whole", cifar), model=model())
    assert same(tmp_path, tmp_path / "whole")


def test_an_objective_that_does_not_exist_is_refused(tmp_path: Path, cifar: Path) -> None:
    with pytest.raises(BadInput, match=r"objective of a recipe must be .*contrastive.*did you mean 'contrastive'"):
        recipe(tmp_path, cifar, objective="contrastiv")
