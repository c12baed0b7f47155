"""The command line: outputs, resuming, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from percepta import build, list_models, save
from percepta.apps.cli import run
from percepta.media import Preprocess
from tests.tasks import nano

NAMES = ["blue.png", "green.png", "grey.png", "moving.mp4", "red.png", "turned photo.jpg"]


def test_classify_prints_the_best_labels(percepta: Any, media: Path) -> None:
    done = percepta("classify", media, "--labels", "a cat,a dog")
    assert done.code == 0
    assert [Path(line.rsplit(": ", 1)[0]).name for line in done.lines] == NAMES
    assert done.lines[0].endswith(" %")


def test_classify_writes_csv_and_never_overwrites(percepta: Any, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "labels.csv"
    assert percepta("classify", media, "--labels", "a cat,a dog", "-o", out).code == 0
    rows = list(csv.DictReader(out.open()))
    assert [Path(row["source"]).name for row in rows[::2]] == NAMES
    assert {row["label"] for row in rows} == {"a cat", "a dog"}
    assert float(rows[0]["score"]) + float(rows[1]["score"]) == pytest.approx(1, abs=1e-4)
    before = out.read_bytes()
    again = percepta("classify", media, "--labels", "a cat,a dog", "-o", out)
    assert again.code == 2
    assert "exists; pass --overwrite to replace it" in again.err
    assert out.read_bytes() == before
    assert percepta("classify", media, "--labels", "a cat,a dog", "-o", out, "--overwrite").code == 0


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_classify_resumes_to_the_same_file(percepta: Any, media: Path, tmp_path: Path, ending: str) -> None:
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    percepta("classify", media, "--labels", "a cat,a dog", "-o", whole, "--batch-size", 1)
    text = whole.read_text()
    cut.write_text(text[: int(len(text) * 0.55)])
    done = percepta("classify", media, "--labels", "a cat,a dog", "-o", cut, "--resume", "--batch-size", 1)
    assert done.code == 0
    assert "of 6 inputs were done before" in done.err
    assert cut.read_text() == text
    other = percepta("classify", media, "--labels", "a cat,a cow", "-o", cut, "--resume")
    assert other.code == 2
    assert "holds other labels" in other.err


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_classify_resumes_with_the_same_settings_alone(percepta: Any, media: Path, tmp_path: Path, ending: str) -> None:
    torch.manual_seed(8)
    other = save(build("pe-core-nano"), tmp_path / "other.safetensors")
    words = ["classify", media, "--labels", "a cat,a dog", "-o", tmp_path / f"x.{ending}"]
    assert percepta(*words, "--limit", 2).code == 0
    before = (tmp_path / f"x.{ending}").read_bytes()
    for option, value in (("--templates", "plain"), ("--dtype", "bfloat16"), ("--weights", other)):
        done = percepta(*words, "--resume", option, value, weights=option != "--weights")
        assert done.code == 2
        assert "was made with pe-core-nano (" in done.err
        assert "resume with the same, or pass --overwrite." in done.err
        assert (tmp_path / f"x.{ending}").read_bytes() == before
    assert "2 of 6 inputs were done before" in percepta(*words, "--resume").err
    done = percepta(*words, "--resume", "--report", tmp_path / "x.html")
    assert (done.code, "nothing is left to do; no page is written." in done.err) == (0, True)


def test_a_page_of_a_resumed_run_says_what_it_shows(percepta: Any, media: Path, tmp_path: Path) -> None:
    words = ["classify", media, "--labels", "a cat,a dog", "-o", tmp_path / "x.csv"]
    percepta(*words, "--limit", 2)
    done = percepta(*words, "--resume", "--report", tmp_path / "x.html")
    assert "2 of 6 inputs were done before; the page will show the other 4." in done.err


def test_an_output_stays_when_the_arguments_are_wrong(percepta: Any, media: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    for wrong in (["--none", "--multi"], ["--templates", "x"], ["--batch-size", 0]):
        done = percepta("classify", media, "--labels", "a cat", "-o", tmp_path / "x.csv", "--overwrite", *wrong)
        assert (done.code, (tmp_path / "x.csv").read_text()) == (2, "mine")


def test_classify_json_lines_limit_and_labels_from_a_file(percepta: Any, media: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a cat\na dog\n")
    done = percepta("classify", media, "--labels", labels, "--json", "--none", "--limit", 2)
    entries = [json.loads(line) for line in done.lines]
    assert [Path(entry["source"]).name for entry in entries] == NAMES[:2]
    assert {label["name"] for label in entries[0]["labels"]} == {"a cat", "a dog", "none of these"}


def test_names_come_from_standard_input(percepta: Any, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = f"{media / 'red.png'}\n{media / 'turned photo.jpg'}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
    assert len(percepta("classify", "-", "--labels", "a cat,a dog").lines) == 2


@pytest.mark.parametrize("way", ["copy", "link"])
def test_sorting_copies_or_links_and_never_moves(percepta: Any, media: Path, tmp_path: Path, way: str) -> None:
    before = {path.name: path.read_bytes() for path in media.iterdir()}
    other = tmp_path / "in" / "red.png"
    other.parent.mkdir()
    Image.new("RGB", (20, 20), "white").save(other)
    target = tmp_path / "sorted"
    for _ in range(2):  # twice changes nothing
        done = percepta("classify", media, other, "--labels", "a/b", "--sort-into", target, "--by", way)
        assert done.code == 0
        found = sorted(path.name for path in (target / "a_b").iterdir())
        assert found == sorted([*NAMES, "red (2).png"])
    assert all(path.is_symlink() == (way == "link") for path in (target / "a_b").iterdir())
    assert (target / "a_b" / "red (2).png").read_bytes() == other.read_bytes()
    assert {path.name: path.read_bytes() for path in media.iterdir()} == before


def test_embed_writes_every_format_with_the_names(percepta: Any, media: Path, tmp_path: Path) -> None:
    from pyarrow import parquet
    from safetensors.numpy import load_file

    for ending in ("NPY", "Parquet", "safetensors"):
        assert percepta("embed", media, "-o", tmp_path / f"v{ending[0]}.{ending}").code == 0
    vectors = np.load(tmp_path / "vN.NPY")
    assert vectors.shape == (6, 192)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(load_file(tmp_path / "vs.safetensors")["vectors"], vectors)
    table = parquet.read_table(tmp_path / "vP.Parquet").to_pydict()
    np.testing.assert_array_equal(np.array(table["vector"], dtype=np.float32), vectors)
    assert [Path(name).name for name in table["source"]] == NAMES
    for ids in ("vN.ids.csv", "vs.ids.csv"):
        assert [Path(row["source"]).name for row in csv.DictReader((tmp_path / ids).open())] == NAMES
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name or path.name.startswith(".")]


def test_embed_goes_on_where_it_was_interrupted(
    percepta: Any, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from percepta.apps.cli.vectors import VectorFile

    percepta("embed", media, media / "red.png", "-o", tmp_path / "whole.npy")
    write = VectorFile.write

    def interrupted(self: VectorFile, name: str, vector: np.ndarray) -> None:
        if len(self.names) == 3:
            raise KeyboardInterrupt
        write(self, name, vector)

    monkeypatch.setattr(VectorFile, "write", interrupted)
    twice = (media, media / "red.png")
    stopped = percepta("embed", *twice, "-o", tmp_path / "cut.npy")
    assert stopped.code == 130
    assert "interrupted" in stopped.err
    assert not (tmp_path / "cut.npy").exists()
    with (tmp_path / "cut.npy.partial").open("ab") as file:
        file.write(bytes(100))  # a vector that was cut off
    monkeypatch.setattr(VectorFile, "write", write)
    assert (
        "is left of a run that was interrupted; pass --resume"
        in percepta("embed", media, "-o", tmp_path / "cut.npy").err
    )
    torch.manual_seed(8)
    other = save(build("pe-core-nano"), tmp_path / "other.safetensors")
    for option, what in (
        (["--raw"], "raw False"),
        (["--dtype", "bf16"], "dtype 'float32'"),
        (["--weights", other], "weights '"),
    ):
        refused = percepta(
            "embed", *twice, "-o", tmp_path / "cut.npy", "--resume", *option, weights=other not in option
        )
        assert refused.code == 2
        assert f"was begun with {what}" in refused.err
    done = percepta("embed", *twice, "-o", tmp_path / "cut.npy", "--resume")
    assert "3 of 7 inputs were done before" in done.err
    again = percepta("embed", media, "-o", tmp_path / "cut.npy", "--resume")
    assert again.code == 0
    assert "is complete" in again.err
    np.testing.assert_allclose(np.load(tmp_path / "cut.npy"), np.load(tmp_path / "whole.npy"), atol=1e-5)
    assert (tmp_path / "cut.ids.csv").read_text() == (tmp_path / "whole.ids.csv").read_text()


def test_names_of_other_vectors_are_not_replaced(percepta: Any, media: Path, tmp_path: Path) -> None:
    (tmp_path / "v.ids.csv").write_text("mine")
    done = percepta("embed", media, "-o", tmp_path / "v.npy")
    assert (done.code, (tmp_path / "v.ids.csv").read_text()) == (2, "mine")
    assert "v.ids.csv' exists, the names of other vectors; pass --overwrite, or another name." in done.err
    assert percepta("embed", media, "-o", tmp_path / "v.npy", "--batch-size", 0, "--overwrite").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["v.ids.csv"]  # what is wrong leaves nothing behind


def test_features_writes_upright_pictures_in_the_shape_of_the_input(percepta: Any, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    done = percepta("features", media, "-o", out, "--layers", "0,-1", "--arrays")
    assert done.code == 0
    assert len(list(out.glob("*.png"))) == 12
    wide, tall = Image.open(out / "grey.layer0.png"), Image.open(out / "turned photo.layer5.png")
    assert wide.size == (384, 384)
    assert tall.size == (384, 384)
    assert Image.open(out / "red.layer0.png").size == (384, 240)
    assert Image.open(out / "moving.layer0.png").size == (384, 288)
    assert np.load(out / "red.layer5.npy").shape == (8, 8, 192)
    assert "pass --overwrite" in percepta("features", media, "-o", out).err


def test_features_goes_on_with_what_is_missing(
    percepta: Any, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "layers"
    words = ["features", media, "-o", out, "--layers", "0,-1", "--size", 32, "--arrays"]
    assert percepta(*words).code == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(whole) == 24
    (out / "red.layer5.png").unlink()
    (out / "grey.layer0.npy").unlink()
    seen: list[str] = []
    prepare = Preprocess.__call__

    def watched(self: Preprocess, thing: Path, *size: Any) -> torch.Tensor:
        seen.append(thing.name)
        return prepare(self, thing, *size)

    monkeypatch.setattr(Preprocess, "__call__", watched)
    done = percepta(*words, "--resume")
    assert (done.code, "4 of 6 inputs were done before" in done.err) == (0, True)
    assert sorted(seen) == ["grey.png", "red.png"]  # the others are not even opened
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert "nothing is left to do." in percepta(*words, "--resume").err
    assert percepta("features", media, "-o", tmp_path / "new", "--size", 3).code == 2
    assert not (tmp_path / "new").exists()
    other = percepta("features", media, "-o", out, "--layers", "0", "--size", 64, "--resume")
    assert (other.code, "size 32, and now it is pe-core-nano" in other.err) == (2, True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_failures_are_named_and_the_others_done(percepta: Any, media: Path, tmp_path: Path) -> None:
    (tmp_path / "empty file.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((media / "red.png").read_bytes()[:50])
    (tmp_path / "essay.jpg").write_text("no picture")
    for verb in (
        ("classify", media, tmp_path, "--labels", "a cat,a dog"),
        ("embed", media, tmp_path, "--json"),
        ("features", media, tmp_path, "-o", tmp_path / "layers"),
    ):
        done = percepta(*verb)
        assert done.code == 1
        for name in ("empty file.jpg", "cut.png", "essay.jpg"):
            assert sum(name in line for line in done.err.splitlines()) == 1
        assert "3 inputs could not be used" in done.err
        assert "Traceback" not in done.err
    assert percepta("search", tmp_path, "a cat").code == 1


WRONG = [
    (["classify", "MEDIA", "--labels", "a,,b"], "labels must not be empty; label 2 of 3 is."),
    (["classify", "MEDIA", "--labels", "a,a"], "labels must differ; 'a' comes twice."),
    (["classify", "MEDIA", "--labels", "gone.txt"], "the label file 'gone.txt' does not exist."),
    (["classify", "MEDIA"], "Missing option '--labels'."),
    (["classify", "MEDIA", "--labels", "a", "--model", "pe-corr-nano"], "did you mean pe-core-nano"),
    (["classify", "MEDIA", "--labels", "a", "--device", "cuda:99"], "device must be one of cpu"),
    (["classify", "MEDIA", "--labels", "a", "--dtype", "int8"], "dtype must be one of float32, bfloat16"),
    (["classify", "MEDIA", "--labels", "a", "--batch-size", "0"], "batch_size must be a whole number of 1 or more"),
    (["classify", "MEDIA", "--labels", "a", "--limit", "0"], "--limit must be a whole number of 1 or more; got 0."),
    (["classify", "MEDIA", "--labels", "a", "--templates", "imagnet"], "did you mean 'imagenet'?"),
    (["classify", "MEDIA", "--labels", "a", "--none", "--multi"], "none and multi exclude each other"),
    (["classify", "MEDIA", "--labels", "a", "-o", "x.xlsx"], "must end in .csv, .jsonl, .json; got 'x.xlsx'."),
    (["classify", "MEDIA", "--labels", "a", "--by", "move", "--sort-into", "x"], "--by must be one of copy, link"),
    (["classify", "MEDIA", "--labels", "a", "--resume"], "--resume needs -o FILE"),
    (["classify", "EMPTY", "--labels", "a"], "holds no picture or video."),
    (["embed", "MEDIA"], "embed needs -o FILE ending in .npy, .parquet, .safetensors, or --json."),
    (["embed", "MEDIA", "-o", "EMPTY"], "the output must end in"),
    (["features", "MEDIA"], "features needs -o DIR"),
    (["features", "MEDIA", "-o", "x", "--layers", "9"], "layer of pe-core-nano must be 0 to 5 or -6 to -1; got 9."),
    (["features", "MEDIA", "-o", "x", "--layers", "a"], "--layers must be whole numbers with commas"),
    (["models", "nothing-*"], "no model fits 'nothing-*'"),
    (["describe", "pe-core-l14"], "there is no model called 'pe-core-l14'; did you mean pe-core-l14-336"),
    (["train", "pe-core-nanoo"], "did you mean 'pe-core-nano'?"),
    (["train", "pe-core-nano", "steps"], "an override must look like key=value"),
    (["export", "pe-core-nano", "-o", "x.pt"], "the output must end in .onnx; got 'x.pt'."),
    (["frobnicate"], "No such command 'frobnicate'."),
    (["embed", "MEDIA", "--frobnicate"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_usage_is_one_sentence_and_code_2(
    percepta: Any, media: Path, tmp_path: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"MEDIA": str(media), "EMPTY": str(tmp_path / "empty")}
    done = percepta(*[places.get(word, word) for word in arguments])
    assert done.code == 2
    assert done.out == ""
    (line,) = [line for line in done.err.splitlines() if not line.endswith("--model pe-core-l14-336.")]
    assert line.startswith("percepta: ")
    assert sentence in line


def test_missing_weights_are_one_sentence(percepta: Any, media: Path) -> None:
    done = percepta("classify", media, "--labels", "a", "--weights", "gone.safetensors", weights=False)
    assert done.code == 2
    assert "gone.safetensors" in done.err
    offline = percepta("embed", media, "--json", "--model", "pe-core-t16-384", weights=False)
    assert offline.code == 2
    assert "the weights of pe-core-t16-384 are not on this machine" in offline.err


def test_a_toy_says_so_and_names_the_real_thing(percepta: Any, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from percepta.tasks import encoder

    monkeypatch.setattr(encoder, "_told", set())
    done = percepta("classify", media, "--labels", "a cat,a dog")
    assert done.err.count("is a toy that fits on a laptop; for real pictures pass --model pe-core-l14-336.") == 1


def test_a_traceback_only_with_debug(media: Path) -> None:
    from percepta.errors import BadInput

    assert run(["embed", str(media)]) == 2
    with pytest.raises(BadInput):
        run(["embed", str(media), "--debug"])


def test_models_describe_and_doctor(percepta: Any) -> None:
    assert [line.split()[0] for line in percepta("models").lines] == list_models()
    assert json.loads(percepta("models", "pe-core-nano", "--json").out)["name"] == "pe-core-nano"
    assert "arXiv 2504.13181" in percepta("describe", "PE-Core-L14-336").out
    doctor = percepta("doctor")
    assert doctor.code == 0
    assert "pe-core-l14-336" in doctor.out
    assert all(json.loads(line)["topic"] for line in percepta("doctor", "--json").lines)
    assert percepta("train").lines == sorted(percepta("train").lines)
    assert "pe-core-nano" in percepta("train").lines


@pytest.mark.parametrize(
    "verb",
    ["models", "describe", "doctor", "classify", "embed", "features", "index", "search", "train", "export", "demo", ""],
)
def test_help_ends_with_examples(percepta: Any, verb: str) -> None:
    done = percepta(*[word for word in (verb, "--help") if word])
    assert done.code == 0
    examples = done.out.split("Examples:\n")[1].splitlines()
    assert examples
    assert all(" percepta " in f" {line.strip()} " for line in examples if line.strip())


def test_help_and_models_bring_no_torch() -> None:
    code = (
        "import sys; from percepta.apps.cli import run; "
        "codes = [run(['--help']), run(['models']), run(['describe', 'pe-core-nano']), run([])]; "
        "sys.exit(any(codes) or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_python_m_percepta_works(nano_file: Path, media: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "percepta", "classify", str(media / "red.png"), str(media / "gone.png"),
         "--labels", "a cat,a dog", "--weights", str(nano_file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith(str(media / "red.png") + ": ")
    assert "gone.png' does not exist." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    percepta: Any, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unused(*things: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Preprocess, "__call__", unused)
    access, locked = os.access, tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != locked and access(place, mode))
    (tmp_path / "file").write_text("")
    labels = ["classify", media, "--labels", "a,b"]
    for words in (
        [*labels, "-o", locked / "x.csv"],
        [*labels, "--report", locked / "new" / "x.html"],
        [*labels, "--sort-into", locked / "new"],
        ["embed", media, "-o", locked / "x.npy"],
        ["features", media, "-o", locked / "new"],
    ):
        done = percepta(*words)
        assert done.code == 2
        assert f"nothing can be written to {str(locked)!r}: its permissions forbid it; name another place." in done.err
    assert "it is a file" in percepta("embed", media, "-o", tmp_path / "file" / "x.npy").err
    assert not list(locked.iterdir())


@pytest.mark.parametrize("verb", [["models"], ["doctor", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(verb: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "percepta", *verb], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_odd_names_stay_on_one_line(percepta: Any, tmp_path: Path) -> None:
    folder = nano.pictures(tmp_path / "Größe 照片")
    (folder / "red.png").rename(folder / "line\nbreak\x1b[31m.png")
    done = percepta("classify", folder, "--labels", "a cat,a dog")
    assert done.code == 0
    assert len(done.lines) == 5
    assert "\x1b" not in done.out
    assert any("Größe 照片" in line for line in done.lines)


def test_train_runs_and_goes_on_only_when_told(percepta: Any, tmp_path: Path) -> None:
    plan = ["train", "pe-core-nano", "steps=2", "warmup=0", "decay=0", "batch_size=4", "data.workers=0",
            "data.cifar10=null", "data.validation_samples=4", "evaluate_every=0", "log_every=1", "stages=[]",
            "precision=float32", "threads=1", "data.scenes.pool=8", "data.scenes.size=32",
            "model_overrides={depth: 1, text: {depth: 1}}", "-o", tmp_path / "run"]  # fmt: skip
    done = percepta(*plan, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["step"], result["finished"]) == (2, True)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    again = percepta(*plan)
    assert again.code == 2
    assert "holds a run; pass --resume to go on, --overwrite to begin anew." in again.err
