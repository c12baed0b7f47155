"""The size of things: files, functions, and files that say the same twice."""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from tests.house.repository import name, sources

FILE_LINES = 600
FUNCTION_LINES = 60
EQUAL_SHARE = 0.6
SMALL = 20  # files below this many lines of code are all imports and names, which look alike rightly
# Functions that are long for a reason, as "path:name". A command's signature is its list of options, one a line.
LONG_FUNCTIONS = frozenset({"src/percepta/apps/cli/classify.py:classify", "src/percepta/apps/cli/search.py:search"})


def code_lines(path: Path) -> list[str]:
    """The lines that say something, without their indentation."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def long_functions(text: str) -> list[tuple[str, int]]:
    """Name and length of the functions beyond the budget; decorators do not count."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [(function, length) for function, length in lengths if length > FUNCTION_LINES]


def equal_share(first: list[str], second: list[str]) -> float:
    """The share of equal lines of two files, in order, 0..1; 0 where even in any order too few are equal."""
    bound = 2 * sum((Counter(first) & Counter(second)).values()) / (len(first) + len(second))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio() if bound > EQUAL_SHARE else 0.0


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > FILE_LINES} == {}


def test_functions_are_short() -> None:
    found = {
        f"{name(path)}:{function}": length
        for path in sources("src", "tests", "benchmarks")
        for function, length in long_functions(path.read_text(encoding="utf-8"))
    }
    assert {where: length for where, length in found.items() if where not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "a named exception is no longer long; take it off the list"


def test_no_two_files_say_the_same() -> None:
    lines = {path: code_lines(path) for path in sources("src", "tests", "benchmarks")}
    large = {path: content for path, content in lines.items() if len(content) >= SMALL}
    shares = {(name(a), name(b)): equal_share(large[a], large[b]) for a, b in combinations(large, 2)}
    assert {pair: round(share, 2) for pair, share in shares.items() if share > EQUAL_SHARE} == {}


def test_the_measures_see_what_they_should() -> None:
    body = "\n".join(f"    x = {number}" for number in range(FUNCTION_LINES))
    assert long_functions(f"def long():\n{body}\n") == [("long", FUNCTION_LINES + 1)]
    assert long_functions("def short():\n    return 1\n") == []
    lines = [str(number) for number in range(100)]
    assert equal_share(lines, lines[:90] + ["other"] * 10) == pytest.approx(0.9)
    assert equal_share(lines, lines[::-1]) < EQUAL_SHARE
    assert equal_share(lines, ["other"] * 100) == 0.0
