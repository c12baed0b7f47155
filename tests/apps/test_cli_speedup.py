"""`percepta speedup` and `features --merge`: outputs, going on, saved names, one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.media import VideoReader
from percepta.tasks import speeding, trials

WORDS = ["--loss-at-most", "50%", "--labels", "none", "--no-compile", "--strategies", "bipartite"]


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "account"))
    monkeypatch.setattr(trials, "ROUNDS", (1, 1))
    monkeypatch.setattr(speeding, "BATCHES", ())
    monkeypatch.setattr(speeding, "BUDGETS", (0.7,))


def test_speedup_writes_as_it_goes_and_goes_on(
    percepta: Any, media: Path, nano_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    words = ["speedup", "pe-core-nano", "--on", media, *WORDS, "--weights", nano_file, "-o", out]
    made: list[Any] = []
    measure = trials.Bench.trial

    def interrupted(self: Any, *arguments: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(measure(self, *arguments))
        return made[-1]

    monkeypatch.setattr(trials.Bench, "trial", interrupted)
    stopped = percepta(*words)
    assert (stopped.code, "interrupted; what was written so far is kept" in stopped.err) == (130, True)
    assert len((out / "trials.jsonl").read_text().splitlines()) == 3
    assert not (out / "report.json").exists()
    assert "holds a run; pass --resume" in percepta(*words).err
    monkeypatch.setattr(trials.Bench, "trial", measure)
    done = percepta(*words, "--resume", "--save", "fast")
    assert done.code == 0
    assert "* chosen: " in done.out
    report = json.loads((out / "report.json").read_text())
    assert report["trials"][0] == made[0].to_dict() | {"loss": 0.0}
    assert Image.open(out / "trade-off.png").size == (960, 640)
    assert "saved as fast" in done.err
    other = percepta(*words, "--resume", "--limit", 3)
    assert (other.code, "is of another run" in other.err) == (2, True)
    assert percepta("models", "fast").out.startswith("fast ")
    assert percepta("classify", media / "red.png", "--labels", "a,b", "--model", "fast", weights=False).code == 0
    again = percepta(*words, "--save", "fast", "--overwrite", "--json")
    assert json.loads(again.out)["model"] == "pe-core-nano"


def test_a_damaged_setting_does_not_hide_the_models(percepta: Any, tmp_path: Path) -> None:
    folder = tmp_path / "account" / "percepta" / "settings"
    folder.mkdir(parents=True)
    (folder / "broken.json").write_text("{")
    listed = percepta("models")
    assert listed.code == 0
    assert "pe-core-nano" in listed.out
    assert "'broken' cannot be used" in listed.err
    assert percepta("describe", "broken").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loss-at-most", "little"], "--loss-at-most must be a share, such as 1% or 0.01; got 'little'."),
        (["--loss-at-most", "100%"], "loss_at_most must be 0 to 1"),
        (["--resume"], "--resume needs -o DIR"),
        (["--save", "../x"], "a name to save under must be"),
        (["--labels", "a,b"], "labels need data with classes"),
        (["--strategies", "bipartit"], "did you mean 'bipartite'"),
    ],
)
def test_what_is_wrong_is_said(percepta: Any, media: Path, words: list[str], said: str) -> None:
    done = percepta("speedup", "pe-core-nano", "--on", media, *words)
    assert (done.code, said in done.err) == (2, True), done.err


def test_features_paints_groups_of_pictures_and_of_every_frame(percepta: Any, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "groups"
    words = ["features", media / "red.png", media / "moving.mp4", "-o", out, "--layers", "2", "--merge", "8"]
    assert percepta(*words, "--arrays").code == 0
    groups = np.load(out / "red.layer2.groups.npy")
    values = np.load(out / "red.layer2.npy")
    assert groups.shape == (8, 8)
    assert len(np.unique(groups)) == 64 - 3 * 8
    for group in np.unique(groups):
        assert len(np.unique(values[groups == group], axis=0)) == 1
    assert Image.open(out / "red.layer2.merged.png").size == (384, 240)
    with VideoReader(out / "moving.layer2.merged.mp4") as film, VideoReader(media / "moving.mp4") as clip:
        assert (film.frames, film.size) == (clip.frames, (384, 288))
    assert "nothing is left to do" in percepta(*words, "--arrays", "--resume").err
    other = percepta(*words[:-1], "50%", "--resume")
    assert (other.code, "merging 8 by bipartite, and now it is" in other.err) == (2, True)
    page = tmp_path / "page.html"
    assert percepta(*words[:2], "--layers", "2", "--merge", "50%", "--report", page).code == 0
    assert " groups" in page.read_text()
    record = json.loads(percepta(*words[:2], "--merge", "50%", "--json").out)
    assert np.array(record["groups"]).shape == (8, 8)


@pytest.mark.parametrize("amount", ["0", "-3", "1.5", "0%", "120%", "half", "nan", "inf%"])
def test_features_refuses_other_amounts(percepta: Any, media: Path, amount: str) -> None:
    done = percepta("features", media, "--json", f"--merge={amount}")
    assert (done.code, "merge must be tokens for each block, such as 16, or a share" in done.err) == (2, True)
