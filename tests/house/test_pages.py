"""What the pages say exists: every link, every command with its options, every name of the Python snippets."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import percepta
from tests.house.repository import ROOT, fences, links, name, pages, quoted

PAGES = pages()
QUESTIONS = 8


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """The verbs of the command line by name."""
    from percepta.apps.cli import app

    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def invocations(text: str, program: str) -> list[list[str]]:
    """The words after a program in everything that a page quotes, after pipes too."""
    lines = [part.strip() for line in quoted(text) for part in line.split(" | ")]
    calls = [re.fullmatch(rf"(?:\.venv/bin/|python -m )?{program}(?: (.*))?", line) for line in lines]
    return [shlex.split(call[1] or "") for call in calls if call]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    targets = links(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path, commands: dict[str, Any]) -> None:
    for words in invocations(page.read_text(encoding="utf-8"), "percepta"):
        verbs = [word for word in words if not word.startswith("-")]
        if not verbs or verbs[0].isupper():
            continue
        assert verbs[0] in commands, f"{name(page)} quotes percepta {verbs[0]}"
        command = commands[verbs[0]]
        if hasattr(command, "commands"):  # such as select, which has commands of its own
            assert verbs[1] in command.commands, f"{name(page)} quotes percepta {' '.join(verbs[:2])}"
            command = command.commands[verbs[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [
            word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known | {"--help"}
        ]
        assert unknown == [], f"{name(page)} quotes percepta {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_extras_and_scripts_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {words[0] for words in invocations(text, "make") if words} <= set(targets)
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    assert set(re.findall(r"(?:percepta|\.)\[([a-z]+)\]", text)) <= extras
    scripts = re.findall(r"python ([\w/]+\.py)", text)
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_snippets_use_names_that_exist(page: Path) -> None:
    for snippet in fences(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "percepta":
                assert node.attr in percepta.__all__, f"{name(page)} uses percepta.{node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("percepta"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_eight_questions_are_answered_by_links() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    answers = re.split(r"^\d\. ", text.split("## Where things are")[1].split("\n## ")[0], flags=re.MULTILINE)[1:]
    assert len(answers) == QUESTIONS
    assert all(answer.startswith("**") and "](src/percepta/" in answer for answer in answers)


def test_every_page_of_the_site_is_in_its_menu() -> None:
    menu = (ROOT / "zensical.toml").read_text(encoding="utf-8").split("nav = ")[1].split("\n]")[0]
    listed = set(re.findall(r'"([\w/-]+\.md)"', menu))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if "docs" in page.parts}


def test_the_reference_names_the_whole_front_door() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = re.findall(r"::: [\w.]+\.(\w+)", text) + re.findall(r"\w+", "".join(re.findall(r"members: \[(.*)\]", text)))
    assert set(percepta.__all__) <= set(names)


def test_every_verb_is_described(commands: dict[str, Any]) -> None:
    described = {
        words[0] for words in invocations((ROOT / "docs" / "verbs.md").read_text(encoding="utf-8"), "percepta") if words
    }
    assert set(commands) <= described


def test_the_readers_of_pages_see_what_they_should() -> None:
    page = "`python -m percepta nothing` [a](b.md#c) [d](https://e)\n"
    page += "```sh\nfind . | percepta classify - --labels x  # why\nmake demo\n```\n"
    assert invocations(page, "percepta") == [["classify", "-", "--labels", "x"], ["nothing"]]
    assert invocations(page, "make") == [["demo"]]
    assert links(page) == ["b.md"]
