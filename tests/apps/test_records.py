"""Label files that were cut anywhere go on to the very bytes of a run that was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from percepta.apps.cli.records import LabelFile
from percepta.errors import BadInput
from percepta.media import Source
from percepta.results import Failure, Labels

NAMES = ("a cat", "=a, dog", "ein Käse")
# What cuts can fall into: characters of several bytes, quoted cells with line breaks, separators that are no line ends.
SOURCES = [
    "a.png",
    "Größe 照片.png",
    'line\nbreak "x".png',
    "a\u2028b\x0c.png",
    "=sum.png",
    "a.png",
    "not\udcffutf8.png",
]


def labels_of(source: str, number: int) -> Labels:
    return Labels(source, NAMES, np.random.default_rng(number).random(3, dtype=np.float32), "score")


def write(path: Path, resume: bool = False, made_with: str = "nano", names: tuple[str, ...] = NAMES) -> int:
    """Do what is left; returns how many that were."""
    sources = [Source(source, "picture", data=number) for number, source in enumerate(SOURCES)]
    file = LabelFile(path, names, made_with, resume)
    todo = file.todo([*sources, Failure("gone.png", "gone.png does not exist.")])
    with file:
        for source in todo[:-1]:
            file.write(labels_of(source.name, source.data))
    assert isinstance(todo[-1], Failure)
    return len(todo) - 1


@pytest.mark.parametrize("ending", ["csv", "CSV", "jsonl"])
def test_a_file_cut_anywhere_goes_on_to_the_same_bytes(tmp_path: Path, ending: str) -> None:
    whole = tmp_path / f"whole.{ending}"
    assert write(whole) == len(SOURCES)
    data, left = whole.read_bytes(), []
    cut = tmp_path / f"cut.{ending}"
    for size in range(len(data) + 1):
        cut.write_bytes(data[:size])
        left.append(write(cut, resume=True))
        assert cut.read_bytes() == data, size
    assert left == sorted(left, reverse=True)  # what is whole is not done again
    assert set(left) == set(range(len(SOURCES) + 1))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_is_resumed_with_something_else_stays_as_it_is(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    write(path)
    data = path.read_bytes()
    with pytest.raises(BadInput, match="was made with nano, and now it is base; resume with the same, or pass --over"):
        write(path, resume=True, made_with="base")
    for names in (NAMES[:2], (*NAMES, "a cow"), ("a cat", "a dog", "a cow")):
        with pytest.raises(BadInput, match="holds other labels"):
            write(path, resume=True, names=names)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "name,age\nAda,36\n"),
        ("x.csv", "my notes"),
        ("x.csv", "source,rank,label,score,score_kind,made_with\na note\nanother\n"),
        ("x.json", '{"mine": 1}'),
        ("x.json", "[\n1\n]\n"),
        ("x.jsonl", '{"source": "a", "labels": [], "made_with": "nano"}\n'),
    ],
)
def test_files_of_somebody_else_are_not_replaced(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="holds more than labels of percepta; pass --overwrite to replace it"):
        write(tmp_path / name, resume=True)
    assert (tmp_path / name).read_text() == text
