"""Prompt templates: the published sets and the filling of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from percepta.errors import BadInput
from percepta.tasks.prompts import fill, labels_of, read_labels, templates_of


def test_the_published_sets_have_their_published_sizes() -> None:
    assert len(set(templates_of("imagenet"))) == 80
    assert len(set(templates_of("kinetics"))) == 28
    assert len(set(templates_of("ucf101"))) == 48
    assert templates_of("plain") == ("{}",)
    assert templates_of(None) == templates_of("default")


def test_the_published_sets_are_literal() -> None:
    import open_clip

    assert [fill(t, "tench") for t in templates_of("imagenet")] == [
        template("tench") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    kinetics = [fill(template, "abseiling") for template in templates_of("kinetics")]
    assert kinetics[0] == "a photo of abseiling."
    assert "a example of a person practicing abseiling." in kinetics
    actions = [fill(template, "archery") for template in templates_of("ucf101")]
    assert "a demonstration of the person archery." in actions
    assert "a video of a person during archery." in actions


@pytest.mark.parametrize(
    ("template", "label", "expected"),
    [
        ("a photo of a {}.", "cat", "a photo of a cat."),
        ("a photo of a {}.", "a cat", "a photo of a cat."),
        ("a photo of a {}.", "The Beatles", "a photo of The Beatles."),
        ("the {}", "an apple", "an apple"),
        ("{}", "a cat", "a cat"),
        ("a photo of {}.", "a cat", "a photo of a cat."),
    ],
)
def test_an_article_is_not_said_twice(template: str, label: str, expected: str) -> None:
    assert fill(template, label) == expected


def test_bad_templates_are_refused() -> None:
    with pytest.raises(BadInput, match=r"templates must be one of .*did you mean 'imagenet'"):
        templates_of("imagenett")
    with pytest.raises(BadInput, match=r"a template must be a text with one \{\}"):
        templates_of(["no place"])
    with pytest.raises(BadInput, match="must hold at least one"):
        templates_of([])


def test_labels_come_from_texts_lists_and_files(tmp_path: Path) -> None:
    assert labels_of("a cat, a dog") == ["a cat", "a dog"]
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffa cat\r\n\r\nein Käse, gereift\n".encode())
    assert read_labels(file) == ["a cat", "ein Käse, gereift"]


def test_bad_label_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the label file .*gone.txt' does not exist\."):
        read_labels(tmp_path / "gone.txt")
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(BadInput, match="holds no label"):
        read_labels(tmp_path / "blank.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="must be UTF-8"):
        read_labels(tmp_path / "bytes.txt")
