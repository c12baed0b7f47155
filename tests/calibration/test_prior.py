"""Priors: files, lookups, and the hash that ties one to its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import percepta
from percepta.calibration import Prior, load_prior
from percepta.calibration.prior import ENVIRONMENT, FOLDER
from percepta.errors import BadInput
from percepta.running.fingerprint import weights_hash

NANO = "pe-core-nano"


def test_the_packaged_prior_belongs_to_the_packaged_weights() -> None:
    found = weights_hash(percepta.load(NANO))
    prior = load_prior(NANO, found)
    assert prior is not None
    assert (prior.model, prior.weights) == (NANO, found)
    assert weights_hash(percepta.load(NANO, dtype="bfloat16")) == found
    assert load_prior(NANO, weights_hash(percepta.build(NANO))) is None
    assert load_prior("pe-core-l14-336") is None
    assert load_prior("") is None
    assert load_prior("../priors/" + NANO) is None


def test_a_single_changed_tensor_changes_the_hash() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    before = weights_hash(model)
    with torch.no_grad():
        model[1].bias += 0.5
    assert weights_hash(model) != before


def test_written_and_read_back(tmp_path: Path) -> None:
    prior = load_prior(NANO)
    assert prior is not None
    assert Prior.read(prior.write(tmp_path / "copy.json")) == prior


def test_a_folder_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = load_prior(NANO)
    assert packaged is not None
    record = json.loads((FOLDER / f"{NANO}.json").read_text(encoding="utf-8"))
    (tmp_path / f"{NANO}.json").write_text(json.dumps(record | {"weights": "other", "fitted_on": "mine"}))
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    mine = load_prior(NANO)
    assert mine is not None
    assert mine.fitted_on == "mine"
    assert load_prior(NANO, packaged.weights) == packaged
    (tmp_path / f"{NANO}.json").write_text(json.dumps(record | {"bank": 0}))
    assert load_prior(NANO) == packaged


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 99}, "schema"),
        ({"words": None}, "none"),
        ({"unheard": 1}, "none"),
        ({"words": {"location": 0}}, "none"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, change: dict, match: str) -> None:
    record = json.loads((FOLDER / f"{NANO}.json").read_text(encoding="utf-8"))
    file = tmp_path / "prior.json"
    file.write_text(json.dumps(record | change))
    with pytest.raises(BadInput, match=match):
        Prior.read(file)


def test_a_curve_that_falls_with_the_score_is_refused(tmp_path: Path) -> None:
    record = json.loads((FOLDER / f"{NANO}.json").read_text(encoding="utf-8"))
    record["words"]["slopes"][0] = -0.1
    file = tmp_path / "prior.json"
    file.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="fall with the score"):
        Prior.read(file)
    file.write_text("[1, 2")
    with pytest.raises(BadInput, match="prior"):
        Prior.read(file)
    with pytest.raises(BadInput, match="cannot be read"):
        Prior.read(tmp_path / "absent.json")
