"""The front door: names, cards, and that nothing behind it is loaded before it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import percepta
from percepta.catalog import cards

MODELS = {"pe-*": 17, "hiera-*": 15, "mae-hiera-*": 11, "plm*": 4, "resnet20*": 2, "sam2*": 9}
"""By family, toys included."""


def test_all_official_models_and_the_toy_have_cards() -> None:
    names = percepta.list_models()
    assert {pattern: len(percepta.list_models(pattern)) for pattern in MODELS} == MODELS
    assert len(names) == len(set(names)) == sum(MODELS.values())
    toys = {"pe-core-nano", "pe-lang-nano", "pe-spatial-nano", "plm-nano", "hiera-nano", "mae-hiera-nano", "sam2-nano"}
    assert set(percepta.list_models("*-nano")) == toys


@pytest.mark.parametrize(
    ("pattern", "count"), [("pe-core-*", 6), ("pe-lang-*", 5), ("pe-spatial-*", 6), ("PE-CORE-L*", 1), ("nothing*", 0)]
)
def test_patterns_choose_models(pattern: str, count: int) -> None:
    names = percepta.list_models(pattern)
    assert len(names) == count
    assert all(name.startswith(pattern.lower().rstrip("*")) for name in names)


@pytest.mark.parametrize(
    "name", ["pe-core-l14-336", "PE-Core-L14-336", "PE-CORE-L14-336", "facebook/PE-Core-L14-336", "pe-Core-L14-336"]
)
def test_a_card_is_found_by_any_of_its_names(name: str) -> None:
    card = percepta.describe(name)
    assert card.name == "pe-core-l14-336"
    assert card.hub == "facebook/PE-Core-L14-336"
    assert card.licence == "Apache-2.0"


def test_a_card_prints_what_a_reader_asks_for() -> None:
    text = str(percepta.describe("pe-core-b16-224"))
    assert text.startswith("pe-core-b16-224 (core): ")
    for word in ("447.7 M", "224 px", "facebook/PE-Core-B16-224", "Apache-2.0", "2504.13181"):
        assert word in text
    record = percepta.describe("pe-core-b16-224").to_dict()
    assert record["aliases"] == ["PE-Core-B16-224"]
    assert record["weights"] in ("cached", "on the hub")


def test_an_unknown_name_is_answered_with_the_closest_ones() -> None:
    with pytest.raises(
        percepta.UnknownModel, match=r"no model called 'pe-core-l14'; did you mean pe-core-l14-336"
    ) as info:
        percepta.describe("pe-core-l14")
    assert isinstance(info.value, KeyError)
    assert not str(info.value).startswith("'"), "the sentence itself, not its repr"


def test_a_name_like_no_other_is_answered_with_where_to_look() -> None:
    with pytest.raises(percepta.UnknownModel, match=r"no model called 'zzzz'; see percepta\.list_models\(\)"):
        percepta.describe("zzzz")


@pytest.mark.parametrize("maker", ["load", "build"])
def test_load_and_build_know_the_same_names(maker: str) -> None:
    with pytest.raises(percepta.UnknownModel, match="did you mean pe-spatial-b16-512"):
        getattr(percepta, maker)("pe-spatial-b16")


def test_every_card_can_be_built_on_the_meta_device() -> None:
    for card in cards().values():
        model = percepta.build(card.name, device="meta")
        assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters, card.name


@pytest.mark.parametrize("name", percepta.__all__)
def test_every_name_of_the_front_door_opens(name: str) -> None:
    assert callable(getattr(percepta, name))
    assert name in dir(percepta)
    assert getattr(percepta, name).__module__.startswith("percepta.")


def test_errors_have_one_root_and_the_kinds_that_python_expects() -> None:
    errors = importlib.import_module("percepta.errors")
    for name in ("BadInput", "BadMedia", "CheckpointMismatch", "MissingExtra", "MissingWeights", "UnknownModel"):
        assert issubclass(getattr(percepta, name), errors.PerceptaError)
    assert issubclass(percepta.BadInput, ValueError)
    assert issubclass(percepta.MissingWeights, FileNotFoundError)
    extra = str(percepta.MissingExtra("onnx, onnxscript and onnxruntime", "export", "Export"))
    assert "run: pip install onnx onnxscript onnxruntime (or, " in extra
    assert extra.endswith('pip install ".[export]").')
    assert str(percepta.MissingExtra("av", "", "Video")).endswith("which is not installed; run: pip install av.")


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'percepta' has no attribute 'clasify'"):
        _ = percepta.clasify


def test_the_version_is_known_to_pip_and_to_python_dash_m() -> None:
    from importlib.metadata import version

    assert version("percepta") == percepta.__version__
    shown = subprocess.run([sys.executable, "-m", "percepta", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == percepta.__version__
