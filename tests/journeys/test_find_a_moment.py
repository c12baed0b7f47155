"""Find a moment: index pictures and videos, ask in a sentence, get pictures and intervals, each with a probability.

On generated scenes of test seeds, with the packaged model, by the command line alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.apps.cli import run
from percepta.datasets import scenes
from percepta.media import write_video

WORLD, RATE, FRAMES, SHOTS = scenes.SceneConfig(64), 8, 24, 3


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ten pictures and a video of three shots below one folder, and what was said of them and of what is not there."""
    home = tmp_path_factory.mktemp("home")
    for part in ("Pictures", "Videos"):
        (home / part).mkdir()
    seeds = scenes.distinct_scenes(count=14, config=WORLD).tolist()
    for number, seed in enumerate(seeds[:10]):
        Image.fromarray(scenes.make_scene(seed, WORLD).picture).save(home / "Pictures" / f"{number}.png")
    clips = [
        scenes.make_clip(seed, WORLD, FRAMES) for seed in scenes.distinct_clips(count=SHOTS, config=WORLD).tolist()
    ]
    write_video(home / "Videos" / "holiday.mp4", np.concatenate([clip.frames for clip in clips]), RATE)
    return {
        "home": home,
        "pictures": [scenes.make_scene(seed, WORLD).caption for seed in seeds[:10]],
        "absent": [scenes.make_scene(seed, WORLD).caption for seed in seeds[10:]],
        "shots": [clip.content_caption for clip in clips],
    }


def percepta(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    return code, capsys.readouterr().out


def test_index_ask_and_be_told_how_sure_it_is(captions: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    home = captions["home"]
    index = home / "home.index"
    code, said = percepta(capsys, "index", home / "Pictures", home / "Videos", "--to", index)
    assert code == 0
    assert said.startswith("11 added")
    assert "11 unchanged" in percepta(capsys, "index", home / "Pictures", home / "Videos", "--to", index)[1]

    firsts = []
    for caption in captions["pictures"]:
        code, said = percepta(capsys, "search", index, caption, "--json")
        assert code == 0
        firsts.append(json.loads(said)["hits"][:1])
    right = sum(
        bool(hits) and Path(hits[0]["source"]).name == f"{number}.png" and hits[0]["probability"] >= 0.5
        for number, hits in enumerate(firsts)
    )
    assert right >= 8  # of 10; chance would find one

    code, said = percepta(capsys, "search", index, captions["shots"][1])
    assert code == 0
    assert "holiday.mp4  00:03-00:06" in said
    assert said.splitlines()[-1].endswith(("nothing else", "possible"))

    answers = [percepta(capsys, "search", index, caption)[1].splitlines()[-1] for caption in captions["absent"]]
    assert sum(answer.startswith("nothing") for answer in answers) >= 3  # of 4
    assert percepta(capsys, "search", index, "a photo of a ship.") == (0, "nothing above chance\n")


def test_a_new_holiday_is_found_after_a_second_run(
    captions: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    home = captions["home"]
    percepta(capsys, "index", home / "Pictures")
    seed = scenes.distinct_scenes(count=14, config=WORLD).tolist()[10]
    Image.fromarray(scenes.make_scene(seed, WORLD).picture).save(home / "Pictures" / "new.png")
    (home / "Pictures" / "0.png").rename(home / "Pictures" / "first.png")
    code, said = percepta(capsys, "index", home / "Pictures")
    assert code == 0
    assert said.startswith("1 added, 1 moved, 9 unchanged")
    code, said = percepta(capsys, "search", home / "Pictures", captions["absent"][0], "--report", home / "found.html")
    assert "new.png" in said.splitlines()[0]
    assert (home / "found.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_same_as_a_program_of_its_own(captions: dict[str, Any], tmp_path: Path) -> None:
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "percepta"]
    home = captions["home"]
    subprocess.run([*words, "index", home, "--to", tmp_path / "x.index"], check=True, env=settings)
    done = subprocess.run(
        [*words, "search", tmp_path / "x.index", captions["shots"][0]],
        check=True,
        env=settings,
        capture_output=True,
        text=True,
    )
    assert "holiday.mp4  00:00-00:03" in done.stdout
