"""Journey 4: which layer, and which model, for my problem? With the packaged toys, offline, without training.

The answer is checked against what it stands for: a probe that is trained on one half of the pictures and tested on the
other, layer by layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.apps.cli import run
from percepta.datasets.scenes import make_scene
from percepta.evaluation.probes import ridge_probe
from percepta.running.backbones import open_backbone

COLOURS = ("red", "blue", "green")
STRENGTHS = [10.0**power for power in range(-4, 2)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty scenes of each of three colours: that of the largest object."""
    folder, seed = tmp_path_factory.mktemp("labelled"), 3_000_000
    while len(list(folder.glob("*/*.png"))) < 40 * len(COLOURS):
        seed += 1
        scene = make_scene(seed)
        colour = max(scene.objects, key=lambda thing: thing.radius).colour
        place = folder / colour
        if colour in COLOURS and len(list(place.glob("*.png"))) < 40:
            place.mkdir(exist_ok=True)
            Image.fromarray(scene.picture).save(place / f"{seed}.png")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_which_layer(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "layers"
    assert run(["select", "layers", str(labelled), "--model", "pe-core-nano", "-o", str(out), "--runs", "20"]) == 0
    said = capsys.readouterr().out
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert report["answer"] in said
    assert report["code"] in said
    assert {"knn", "ridge", "parc-32", "logme"} <= set(report["ranking"]["estimators"])
    assert Image.open(out / "ranking.png").size == (1000, 620)

    files = sorted(labelled.glob("*/*.png"))
    backbone: Any = open_backbone("pe-core-nano")
    x = torch.stack([backbone.model.preprocess(file) for file in files])
    vectors = backbone.vectors(x)
    labels = np.array([COLOURS.index(file.parent.name) for file in files])
    halves = np.arange(len(files)) % 2
    accuracy = {}
    for layer, values in vectors.items():
        right = []
        for half in (0, 1):
            known, asked = halves == half, halves != half
            probe = ridge_probe(values[known], labels[known], values[asked], STRENGTHS)
            right.append(float((probe.scores.argmax(axis=1) == labels[asked]).mean()))
        accuracy[layer] = np.mean(right)
    assert accuracy[report["recommendation"]] >= max(accuracy.values()) - 0.05, accuracy

    used = eval(report["code"], {"percepta": percepta, "x": x[:2]})
    assert torch.allclose(used.detach(), vectors[report["recommendation"]][:2], atol=1e-4)


def test_which_model(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", "models", str(labelled), "--among", "*-nano", "--runs", "10", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in report["candidates"]} == {"pe-core-nano", "pe-lang-nano", "hiera-nano"}
    assert report["recommendation"].startswith("pe-")  # Hiera's toy has never seen a scene
    assert all(row["ensemble"]["interval"] for row in report["ranking"]["rows"])
    assert report["beside"]
