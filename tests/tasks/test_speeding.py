"""`speedup`: what is tried, what a loss is, what is chosen, and settings that go on under a name.

Timing decides nothing here: where a choice depends on it, the times are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta import catalog
from percepta.errors import BadInput, BadMedia
from percepta.media.tradeoff import Point, pareto, tradeoff_picture
from percepta.running import preparing
from percepta.running.fingerprint import made_with, weights_hash
from percepta.running.settings import Setting, apply, setting_of
from percepta.tasks import encoder as encoder_module
from percepta.tasks import speeding, trials
from percepta.tasks.speeding import SpeedupReport, speedup
from percepta.tasks.trials import Bench, Trial, neighbours, trial_of
from tests.conftest import plainly
from tests.tasks import nano

QUICK: dict[str, Any] = {"strategies": ["bipartite"], "budgets": (0.7,), "batch_sizes": (2,), "compile": False}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "account"))
    monkeypatch.setattr(trials, "ROUNDS", (1, 1))
    encoder_module._told.add("pe-core-nano")


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in two classes; four pictures each."""
    folder, draw = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name in ("red_thing", "blue_thing"):
        (folder / name).mkdir()
        for number in range(4):
            noise = draw.integers(0, 255, (32, 32, 3), np.uint8)
            noise[..., 0 if name == "blue_thing" else 2] = 0
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nano.weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def report(by_class: Path, weights: Path) -> SpeedupReport:
    """Of the seeded model by its name, without classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "ROUNDS", (1, 1))
        patch.setattr("percepta.running.preparing.fastest", plainly)  # as in every test; the clock must not tell
        return speedup("pe-core-nano", by_class, 0.5, "none", weights=weights, **QUICK)


def merged_of(found: SpeedupReport) -> Trial:
    return next(one for one in found.trials if one.setting.strategy)


def trial(speedup: float, change: float, **setting: Any) -> Trial:
    return Trial(Setting(**setting), 1.0, speedup, speedup, speedup, 1.0, 0.0, change, 1.0, 1.0)


def test_every_lever_is_tried_and_the_losses_are_those_of_the_outputs(by_class: Path) -> None:
    told: list[Trial] = []
    model = nano.model()
    before = weights_hash(model)
    found = speedup(model, by_class, 0.5, "none", tell=told.append, **QUICK)
    assert (found.measure, found.accuracy, found.pictures) == ("cosine", None, 8)
    assert list(found.trials) == told
    assert found.settings[:2] == (Setting(batch_size=8), Setting(prepared=True, batch_size=8))
    assert found.trials[0].change == 0
    assert found.trials[1].change < 1e-6
    merged = merged_of(found)
    assert merged.flops == pytest.approx(0.7, abs=0.03)
    paths = sorted(by_class.rglob("*.png"))
    with torch.inference_mode():
        x = torch.stack([model.preprocess(path) for path in paths])
        plain = model.encode_image(x, normalize=True)
        tower = apply(model.vision.truncated(-1), replace(merged.setting, prepared=False))
        cosines = (torch.nn.functional.normalize(tower(x), dim=-1) * plain).sum(-1)
    assert merged.change == pytest.approx(float(1 - cosines.mean()), abs=2e-6)
    assert merged.worst == pytest.approx(float(cosines.min()), abs=2e-6)
    assert weights_hash(model) == before  # the model in hand is as it was
    assert model.vision.shorten is None
    assert not preparing.is_prepared(model)
    assert {one.setting.batch_size for one in found.trials} >= {8, 2}


def test_accuracy_is_classifys_and_its_error_is_paired(by_class: Path) -> None:
    model = nano.model()
    names = ["a red thing", "a blue thing"]
    found = speedup(model, by_class, 0.5, names, **QUICK)
    assert found.measure == "accuracy"
    top = [labels.top[0] for labels in percepta.classify(by_class, names, model)]
    truth = ["a blue thing"] * 4 + ["a red thing"] * 4
    assert found.accuracy == np.mean([a == b for a, b in zip(top, truth, strict=True)])
    plain = found.trials[0]
    assert (plain.accuracy, plain.error, plain.answers, found.loss(plain)) == (found.accuracy, 0.0, 0.0, 0.0)


def test_the_error_of_a_difference() -> None:
    bench = object.__new__(Bench)
    right, before = np.array([1, 1, 0, 1.0]), np.array([1, 0, 0, 1.0])
    bench.labels, bench.answers = np.zeros(4, np.int64), (1 - before).astype(np.int64)
    found = bench.scores((1 - right).astype(np.int64))
    assert found["accuracy"] == 0.75
    assert found["answers"] == 0.25
    assert found["error"] == pytest.approx(np.std([0, 1, 0, 0], ddof=1) / 2)


@pytest.mark.parametrize(("accuracy", "measure"), [(0.6, "cosine"), (1.0, "accuracy")])
def test_names_that_the_model_does_not_tell_apart_are_no_classes(
    by_class: Path, monkeypatch: pytest.MonkeyPatch, accuracy: float, measure: str
) -> None:
    made = Bench.__init__

    def known(self: Bench, *arguments: Any) -> None:
        made(self, *arguments)
        self.accuracy = accuracy

    monkeypatch.setattr(Bench, "__init__", known)
    settings = {**QUICK, "budgets": (), "batch_sizes": ()}
    found = speedup(nano.model(), by_class, 0.5, **settings)
    assert found.measure == measure
    assert any("no more often than by chance" in note for note in found.notes) == (measure == "cosine")
    assert speedup(nano.model(), by_class, 0.5, "blue thing,red thing", **settings).measure == "accuracy"


def test_the_fastest_within_the_bound_is_chosen() -> None:
    search = object.__new__(speeding._Search)
    search.bench, search.measure, search.bound = type("", (), {"accuracy": None})(), "cosine", 0.01
    plain = trial(1.0, 0.0)
    search.trials = [plain, trial(2.0, 0.02, prepared=True), trial(0.9, 0.0, batch_size=1)]
    assert search.best() is plain
    search.trials += [trial(1.5, 0.01, strategy="x"), trial(1.6, 0.0, compiled=True)]
    assert search.best().setting.strategy == "x"  # compiling must be worth its start
    search.trials += [trial(1.7, 0.0, compiled=True, batch_size=2)]
    assert search.best().setting.compiled


def test_stronger_budgets_are_not_tried_once_far_too_much_is_lost(by_class: Path) -> None:
    settings = {**QUICK, "budgets": (0.4, 0.9, 0.6)}
    found = speedup(nano.model(), by_class, 0.0, "none", **settings)
    merged = [one for one in found.trials if one.setting.strategy]
    assert [round(one.flops, 1) for one in merged] == [0.9]
    assert not found.chosen.setting.strategy


def test_known_trials_are_not_made_again(
    report: SpeedupReport, by_class: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "trial", lambda *_: pytest.fail("measured again"))
    known = [trial_of(json.loads(json.dumps(one.to_dict()))) for one in report.trials]
    again = speedup("pe-core-nano", by_class, 0.5, "none", weights=weights, known=known, **QUICK)
    assert again.trials == report.trials
    assert again.chosen == report.chosen


def test_a_saved_setting_is_a_model_with_another_fingerprint(
    report: SpeedupReport, by_class: Path, weights: Path
) -> None:
    merged = merged_of(report)
    chosen = replace(report, chosen=merged)
    path = chosen.save("fast")
    assert json.loads(path.read_text())["schema"] == 1
    model, plain = percepta.load("fast"), percepta.load("pe-core-nano", weights=weights)
    assert model.name == "fast"
    assert model.setting == merged.setting
    assert made_with(model)["weights"] != made_with(plain)["weights"]
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        want = apply(plain, merged.setting).encode_image(x)
        assert torch.equal(model.encode_image(x), want)
    assert percepta.list_models("fa*") == ["fast"]
    assert percepta.describe("fast").weights == "a file"
    labels = next(iter(percepta.classify(by_class, ["a", "b"], "fast")))
    assert labels.names
    with pytest.raises(BadInput, match="a setting called 'fast' exists"):
        chosen.save("fast")
    chosen.save("fast", overwrite=True)
    with pytest.raises(BadInput, match="is a saved setting already"):
        speedup("fast", by_class, **QUICK)


def test_an_index_knows_a_saved_setting(report: SpeedupReport, by_class: Path, tmp_path: Path) -> None:
    merged = merged_of(report)
    replace(report, chosen=merged).save("fast")
    percepta.index(by_class, to=tmp_path / "x.index", model="fast")
    assert len(list(percepta.search(tmp_path / "x.index", "a red thing", model="fast"))) > 0
    other = replace(merged, setting=replace(merged.setting, removed=(1, 1)))
    replace(report, chosen=other).save("fast", overwrite=True)
    with pytest.raises(BadInput, match="make the index again"):
        list(percepta.search(tmp_path / "x.index", "something else"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged; delete it and save anew"),
        ('{"schema": 1, "of": "pe-core-huge", "weights": "", "summary": "", "setting": {}}', "is damaged"),
        ('{"schema": 2, "of": "pe-core-nano", "weights": "", "summary": "", "setting": {}}', "update percepta"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_hides_no_model(content: str, said: str) -> None:
    file = catalog.setting_file("broken")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(BadInput, match=said):
        percepta.load("broken")
    assert "broken" in percepta.list_models()
    assert percepta.describe("pe-core-nano").name == "pe-core-nano"


def test_fields_of_a_saved_setting_are_checked() -> None:
    for content in ({"speed": 2}, {"dtype": "int8"}, {"removed": 3}):
        with pytest.raises(BadInput, match="'fast' is damaged"):
            setting_of(content, "fast")
    assert Setting(prepared=True, batch_size=32).changes == ""
    assert Setting(dtype="bfloat16").changes != Setting(strategy="ward", removed=(3,)).changes


@pytest.mark.parametrize("name", ["../up", "Fast", "", "a b"])
def test_names_that_cannot_be_files(name: str) -> None:
    with pytest.raises(BadInput, match="a name to save under"):
        catalog.save_setting(name, {})


def test_a_model_keeps_its_name() -> None:
    with pytest.raises(BadInput, match="is the name of a model"):
        catalog.save_setting("pe-core-nano", {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_at_most": 1.0}, "loss_at_most must be 0 to 1"),
        ({"loss_at_most": -0.1}, "loss_at_most must be 0 to 1"),
        ({"limit": 1}, "limit must be a whole number of 2 or more"),
        ({"labels": "a cat"}, r"labels must be classes of .* \(blue thing, red thing\); got 'a cat'"),
        ({"strategies": ["best"]}, "strategy must be one of"),
        ({"budgets": (1.5,)}, "a budget must be a share"),
        ({"batch_sizes": (0,)}, "a batch size must be"),
        ({"measure": "f1"}, "measure must be one of accuracy, cosine, neighbours"),
        ({"measure": "accuracy", "labels": "none"}, "the measure accuracy needs classes"),
        ({"weights": "x"}, "weights must be None for a model in hand"),
    ],
)
def test_bad_input_is_one_sentence(by_class: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        speedup(nano.model(), by_class, **changes)


def test_data_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises((BadInput, BadMedia), match="holds no picture"):
        speedup(nano.model(), tmp_path / "empty")
    with pytest.raises(BadInput, match="does not exist"):
        speedup(nano.model(), tmp_path / "nowhere")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(BadInput, match="needs two pictures at least"):
        speedup(nano.model(), tmp_path / "one.png")
    with pytest.raises(BadInput, match="labels need data with classes"):
        speedup(nano.model(), tmp_path / "one.png", labels="a,b")
    with pytest.raises(percepta.UnknownModel):
        speedup("pe-core-nona", tmp_path)


def test_prepared_and_merging_models_are_not_plain(by_class: Path) -> None:
    torch.manual_seed(0)
    model = percepta.build("pe-core-nano").eval()
    percepta.merge_tokens(model, r=2)
    with pytest.raises(BadInput, match="needs a plain model"):
        speedup(model, by_class)


def test_a_report_of_another_model_is_not_saved(report: SpeedupReport) -> None:
    found = replace(report, model="mine.safetensors")
    with pytest.raises(BadInput, match="only settings of a model of `percepta models`"):
        found.save("fast")


def test_neighbours_are_the_others() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), dim=-1)
    assert neighbours(vectors).tolist() == [1, 0, 1]


def test_the_front_is_what_none_beats() -> None:
    points = [Point(1, 0, "a", ""), Point(2, 0.1, "a", ""), Point(1.5, 0.2, "a", ""), Point(0.9, 0.0, "a", "")]
    assert [(point.speedup, point.loss) for point in pareto(points)] == [(1, 0), (2, 0.1)]


def test_the_picture_shows_the_bound_and_the_chosen_one() -> None:
    points = [Point(1, 0, "a", "plain"), Point(2, 0.005, "b", "x"), Point(3, 0.9, "b", "y")]
    chosen = np.asarray(tradeoff_picture(points, 1, 0.01, "lost", "title"))
    other = np.asarray(tradeoff_picture(points, 0, 0.01, "lost", "title"))
    assert (chosen == (200, 60, 50)).all(axis=2).sum() > 500
    assert (chosen != other).any()
    assert tradeoff_picture([Point(1, 0, "a", "plain")], 0, 0.0, "lost", "title").size == (960, 640)


def test_a_report_says_all_as_json(report: SpeedupReport) -> None:
    content = json.loads(json.dumps(report.to_dict()))
    assert content["measure"] == "mean 1 - cosine to the plain model's vectors"
    assert len(content["trials"]) == len(report.trials)
    assert report.picture().size == (960, 640)
