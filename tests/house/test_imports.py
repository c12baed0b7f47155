"""What importing costs, in modules rather than seconds, and that the floors are held."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest

from tests.house.repository import ROOT

HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "av",
    "open_clip",
    "timm",
    "rich",
    "typer",
    "pydantic",
    "huggingface_hub",
}
FRONT_DOOR_MODULES = 60  # importing percepta alone: itself, and of Python what a fresh interpreter lacks
CARDS_MODULES = 150  # and with the cards read


def modules_after(code: str) -> set[str]:
    """The modules that `code` brings into a fresh interpreter."""
    program = (
        f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(result.stdout))


def heavy(modules: set[str]) -> set[str]:
    """The packages among them that a user would feel."""
    return {module.split(".")[0] for module in modules} & HEAVY


def test_the_front_door_costs_nothing() -> None:
    modules = modules_after("import percepta")
    assert {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) == {"percepta"}
    assert not [module for module in modules if module.startswith("percepta.")]
    assert len(modules) <= FRONT_DOOR_MODULES


def test_cards_are_read_without_any_model() -> None:
    modules = modules_after("import percepta; percepta.list_models(); percepta.describe('pe-core-l14-336')")
    assert heavy(modules) == set()
    assert not [module for module in modules if module.startswith("percepta.models")]
    assert len(modules) <= CARDS_MODULES


@pytest.mark.parametrize(
    "code", ["import percepta.results", "import percepta.apps.cli", "import percepta.datasets.scenes"]
)
def test_results_scenes_and_the_command_line_bring_no_torch(code: str) -> None:
    assert not {"torch", "torchvision"} & modules_after(code)


def test_the_measure_sees_torch() -> None:
    assert "torch" in heavy(modules_after("import percepta; percepta.load"))


def test_the_plan_of_the_floors_is_whole() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    floors = {name.strip(" ()") for floor in contract["layers"] for name in floor.split("|")}
    here = {path.stem for path in (ROOT / "src" / "percepta").iterdir() if not path.name.startswith(("__", "."))}
    assert contract["exhaustive"] is True
    assert here - {"py"} <= floors | {"recipes"}


def test_no_import_points_up() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
