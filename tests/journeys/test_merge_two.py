"""Two people trained a network each; one command makes one of both, and it is used like any other.

From the recipe to the labelled folder, by the command line alone.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

import percepta
from percepta.apps.cli import run
from tests.tasks import halves


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of 32 px pictures in the layout of CIFAR-10, of four classes."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(240):
        label = number % 4
        pixels = np.clip(np.array(halves.COLOURS[label]) + random.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append((buffer.getvalue(), label))
    file = tmp_path_factory.mktemp("photographs") / "train.parquet"
    parquet.write_table(pyarrow.table({"img": [row[0] for row in rows], "label": [row[1] for row in rows]}), file)
    return file


def test_train_two_merge_and_use(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = ["model_overrides.stages=[1,1,1]", "model_overrides.widths=[8,12,16]", "model_overrides.classes=4"]
    for name, classes in (("a", "[0,1]"), ("b", "[2,3]")):
        settings = [f"data.cifar10.path={photographs}", f"data.cifar10.classes={classes}", "data.cifar10.holdout=20"]
        settings += ["steps=30", "batch_size=20", "warmup=5", "decay=10", "learning_rate=0.05", "threads=1"]
        assert run(["train", "resnet20-w2", *settings, *narrow, f"out={tmp_path / name}", f"seed={ord(name)}"]) == 0
    files = [str(tmp_path / name / "model.safetensors") for name in "ab"]
    out = tmp_path / "both.safetensors"
    capsys.readouterr()
    command = ["merge", *files, "--data", str(photographs), "-o", str(out), "--method", "least-squares", "--json"]
    assert run(command) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["models"] == ["a/model", "b/model"]
    assert content["tasks"] == [["0", "1"], ["2", "3"]]
    assert content["rows"][-1]["mean"] > 0.6
    model = percepta.load(out)
    with torch.no_grad():
        assert model(model.preprocess(Image.new("RGB", (32, 32), "red"))[None]).shape == (1, 4)
