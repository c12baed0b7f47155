"""`percepta segment`: what it prints and writes, going on, and one sentence for what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta import save
from percepta.apps.cli import run
from percepta.results import Masks
from percepta.results.formats.coco import masks_from_coco
from percepta.tasks.segment import segment
from tests.apps.conftest import Outcome
from tests.tasks import tiny_sam2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_sam2.model(), tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def cut(capsys: pytest.CaptureFixture[str], tiny: Path) -> Any:
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run(["segment", *map(str, arguments), "--model", str(tiny)])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tiny_sam2.folder(tmp_path / "pictures", 3)


def test_it_prints_a_line_a_picture_or_json(cut: Any, pictures: Path, tiny: Path) -> None:
    done = cut(pictures, "--point", "8,20")
    assert done.code == 0
    assert len(done.lines) == 3
    assert "0.png: 1 mask: " in done.lines[0]
    assert "% (score 0." in done.lines[0]
    done = cut(pictures / "1.png", "--box", "2,14,15,27", "--box", "25,1,36,12", "--json")
    entry = json.loads(done.lines[0])
    found = segment(pictures / "1.png", boxes=[(2, 14, 15, 27), (25, 1, 36, 12)], model=str(tiny))
    assert [mask["counts"] for mask in entry["masks"]] == found.to_strings()
    assert [mask["area"] for mask in entry["masks"]] == found.area.tolist()
    assert entry["score_kind"].startswith("predicted IoU")


def test_it_writes_overlays_masks_coco_and_yolo(cut: Any, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cut(pictures, "--point", "8,20", "--point", "30,6,0", "--point", "40,30,1,2", "-o", out)
    assert done.code == 0
    assert f"wrote overlays, masks, coco.json and YOLO labels of 3 pictures to {out}" in done.err
    coco = masks_from_coco(json.loads((out / "coco.json").read_text()))
    assert [Path(masks.source).name for masks in coco] == ["0.png", "1.png", "2.png"]
    for masks in coco:
        stem = Path(masks.source).stem
        assert len(masks) == 2
        for number, dense in enumerate(masks, start=1):
            assert (np.asarray(Image.open(out / "masks" / f"{stem}.{number}.png")) == dense).all()
        lines = (out / "labels" / f"{stem}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["0", "0"]
        with Image.open(out / "overlays" / f"{stem}.png") as overlay:
            assert min(overlay.size) >= 240
    assert (out / "classes.txt").read_text() == "object\n"


def test_it_goes_on_with_the_same_settings_alone(cut: Any, pictures: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    cut(pictures, "--point", "8,20", "-o", whole)
    cut(pictures, "--point", "8,20", "-o", part, "--limit", 2)
    lines = (part / "masks.jsonl").read_bytes()
    (part / "masks.jsonl").write_bytes(lines[:-20])  # as after a crash
    assert cut(pictures, "--point", "8,20", "-o", part).code == 2
    done = cut(pictures, "--point", "8,20", "-o", part, "--resume")
    assert done.code == 0
    assert "1 of 3 inputs were done before" in done.err
    for name in ("masks.jsonl", "coco.json", "labels/1.txt"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    other = cut(pictures, "--point", "9,20", "-o", part, "--resume")
    assert other.code == 2
    assert "was made with" in other.err
    assert "nothing is left to do" in cut(pictures, "--point", "8,20", "-o", part, "--resume").err
    assert cut(pictures, "--point", "8,20", "-o", part, "--overwrite").code == 0


def test_what_fails_is_named_and_the_rest_is_done(cut: Any, pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:60])
    done = cut(pictures, "--point", "8,20", "-o", tmp_path / "out")
    assert done.code == 1
    assert "damaged" in done.err
    assert "1 input could not be used" in done.err
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2


def test_words_are_handed_on_and_scores_say_what_they_are(
    cut: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_in_picture(text: str, _segmenter: Any, _encoder: Any) -> Any:
        def ask(_features: Any, size: Any, source: Any) -> Masks:
            return Masks.from_dense(source.name, np.ones((1, *size.tolist())), [text], np.array([0.75]))

        ask.score_kind = "probability"  # type: ignore[attr-defined]
        return ask

    monkeypatch.setitem(sys.modules, "percepta.tasks.words", SimpleNamespace(find_in_picture=find_in_picture))
    done = cut(pictures, "--text", "the ball", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    entries = [json.loads(line) for line in done.lines]
    assert {entry["score_kind"] for entry in entries} == {"probability"}
    assert [entry["masks"][0]["name"] for entry in entries] == ["the ball"] * 3
    assert (tmp_path / "out" / "classes.txt").read_text() == "the ball\n"
    other = cut(pictures, "--text", "the cube", "-o", tmp_path / "out", "--resume")
    assert "text 'the ball'" in other.err
    assert other.code == 2


def test_two_pictures_of_one_name_are_kept_apart(cut: Any, tmp_path: Path) -> None:
    for part in ("a", "b"):
        tiny_sam2.folder(tmp_path / part, 1)
    assert cut(tmp_path / "a", tmp_path / "b", "--point", "8,20", "-o", tmp_path / "out").code == 0
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {"0.png", "0 (2).png"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "segment needs --point, --box, --mask, --text or"),
        (["--point", "8"], "--point must be 2 to 4 numbers with commas; got '8'"),
        (["--point", "8,20,3"], "--point must be X,Y, then a label 0 or 1"),
        (["--point", "8,20,1,2"], "objects of --point must be numbered 1, 2, ...; got 2"),
        (["--box", "1,2,3"], "--box must be 4 numbers with commas; got '1,2,3'"),
        (["--box", "5,5,5,9"], "a box must have an area"),
        (["--point", "8,20", "--resume"], "--resume needs -o DIR"),
        (["--mask", "none.png"], "'none.png' does not exist"),
        (["--point", "8,20", "--everything"], "one of them; got prompts and everything"),
    ],
)
def test_wrong_usage(cut: Any, pictures: Path, words: list[str], sentence: str) -> None:
    done = cut(pictures / "0.png", *words)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_point_outside_fails_its_picture(cut: Any, pictures: Path) -> None:
    done = cut(pictures / "0.png", "--point", "80,20")
    assert done.code == 1
    assert "a point must lie in" in done.err
