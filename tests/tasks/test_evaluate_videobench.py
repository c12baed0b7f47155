"""videobench and its twin: stages that go on after a kill, any callable, a tiny model, the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from percepta.apps.report.videobench import write_page
from percepta.datasets.scenes import SceneConfig
from percepta.datasets.scenes.happenings import make_question_clip
from percepta.datasets.videobench import TASKS
from percepta.errors import BadInput
from percepta.evaluation.scenes_videobench import items_of, scenes_videobench_protocol, scorers
from percepta.evaluation.videobench_asking import Asked, answers
from percepta.evaluation.videobench_measures import of_no_length, oracle
from percepta.tasks.evaluate import evaluate
from percepta.tasks.evaluating.table import PROTOCOLS
from percepta.tasks.evaluating.videobench import videobench_protocol
from percepta.tasks.judges import read_lines
from tests.datasets.videobench_on_disk import RECORDS, write_bench
from tests.tasks import tiny_plm

RIGHT: Mapping[str, str] = {
    "option": "(B) right",
    "person who wears": "cut it",
    "In which": "[8, 24]",
    "Tell in detail": "runs",
    "Tell all": "[0, 16]: runs\n[16, 31]: rests",
}


class Answers:
    """Answers rightly as far as words go, counts, and may die after so many."""

    name = "right answers"

    def __init__(self, lives: int = 10_000) -> None:
        self.lives, self.asked = lives, 0

    def __call__(self, frames: Sequence[Any], prompt: str) -> str:
        if self.asked == self.lives:
            raise KeyboardInterrupt
        self.asked += 1
        assert len(frames) in (3, 7, 12, 32)
        return next(answer for words, answer in RIGHT.items() if words in prompt)


ROWS = sum(map(len, RECORDS.values()))


def test_all_tasks_over_files(tmp_path: Path) -> None:
    model = Answers()
    (found,) = evaluate("videobench", model, data=write_bench(tmp_path))
    assert model.asked == ROWS
    assert found.model["name"] == "right answers"
    assert found["fgqa, multi-binary accuracy"].value == 1
    assert found["sgqa, accuracy by judge"].value == 1
    assert found["rcap, mark by judge"].value == 0.5  # of "runs" and "rests", "runs" was said
    assert found["rtloc, mean recall"].value == pytest.approx(0.875)
    assert found["rdcap, SODA by judge"].value == pytest.approx(0.984, abs=0.02)
    assert 0 < found["average"].low <= found["average"].value <= found["average"].high
    assert found.details["fgqa rows"] == "3, published 10976 or 11389"
    assert found.protocol.settings["judge"] == "exact"
    assert not found.failures
    page = write_page(tmp_path / "page.html", [found]).read_text()
    assert page.count("data:image/jpeg;base64") >= 8 * 5
    assert "When it happens" in page
    assert "cut it" in page


def test_frames_and_limits_are_those_of_the_task(tmp_path: Path) -> None:
    """Frames of fine-grained questions come by the loader of videos, of all other tasks as pictures."""
    seen: dict[str, tuple[int, bool]] = {}

    class Many(Answers):
        def many(self, asked: Sequence[Asked]) -> list[str]:
            for one in asked:
                words = next(words for words in RIGHT if words in one.prompt)
                seen[words] = (one.max_new_tokens, one.as_video)
            return [self(one.frames, one.prompt) for one in asked]

    (found,) = evaluate("videobench", Many(), data=write_bench(tmp_path))
    assert list(seen.values()) == [(16, True), (96, False), (512, False), (16, False), (512, False)]
    assert found.protocol.settings["max new tokens"]["sgqa"] == 96


@pytest.mark.parametrize("lives", [0, 4, 8])
def test_a_run_goes_on_where_it_was_killed(tmp_path: Path, lives: int) -> None:
    data, run = write_bench(tmp_path / "data"), tmp_path / "run"
    places = {"data": data, "run": run}
    first, second = Answers(lives), Answers()
    with pytest.raises(KeyboardInterrupt):
        list(evaluate("videobench", first, data=places, batch_size=1))
    (found,) = evaluate("videobench", second, data=places, batch_size=1)
    assert (first.asked, second.asked) == (lives, ROWS - lives)
    third = Answers()
    judged = len(read_lines(run / "judgements.jsonl"))
    (again,) = evaluate("videobench", third, data=places)
    assert third.asked == 0
    assert len(read_lines(run / "judgements.jsonl")) == judged == 5  # 1 answer, 2 captions, 2 by 2 captions of one row
    assert again.to_dict() == found.to_dict()
    assert json.loads((run / "scores.json").read_text())["protocol"]["hash"] == found.protocol.hash
    assert [record["score"] for record in read_lines(run / "records.fgqa.jsonl")] == [1, 1, 1]
    with pytest.raises(BadInput, match="holds a run with another protocol"):
        list(evaluate("videobench", third, data=places, settings={"frames": 16}))


def test_rows_without_videos_are_left_out_and_named(tmp_path: Path) -> None:
    data = write_bench(tmp_path)
    (data / "videos" / "other.mp4").write_bytes(b"no video")
    (found,) = evaluate("videobench", Answers(), data=data, settings={"tasks": ["rcap", "rtloc"]})
    assert [failure.reason.split(" is left out: ")[0] for failure in found.failures] == ["rcap 4", "rtloc 6"]
    assert found["rtloc, mean recall"].count == 1
    assert "average" not in {measure.name for measure in found.measures}
    (data / "videos" / "other.mp4").unlink()
    (found,) = evaluate("videobench", Answers(), data=data, settings={"tasks": ["rtloc"]})
    assert "the video other.mp4 is not in" in found.failures[0].reason
    assert found.protocol.settings["judge"] == "none"


def test_rows_that_a_model_cannot_take_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model of 300 tokens, with a byte a token: prompts of regions leave no room for an answer."""
    config = tiny_plm.config()
    monkeypatch.setattr(tiny_plm, "config", lambda: replace(config, text=replace(config.text, max_length=300)))
    data = write_bench(tmp_path / "data")
    places = {"data": data, "run": tmp_path / "run"}
    (found,) = evaluate("videobench", tiny_plm.model(), data=places, settings={"tasks": ["fgqa", "rtloc", "rdcap"]})
    assert [one.reason.split(" is left out: ")[0] for one in found.failures] == ["rtloc 5", "rtloc 6", "rdcap 7"]
    assert all("plm-tiny-test holds 300" in one.reason for one in found.failures)
    assert found.details["rows the model cannot take"] == 3
    assert len(read_lines(tmp_path / "run" / "predictions.fgqa.jsonl")) == 3
    with pytest.raises(BadInput, match=r"no row of rdcap could be used: rdcap 7 is left out: .* holds 300"):
        list(evaluate("videobench", tiny_plm.model(), data=data, settings={"tasks": ["rdcap"]}))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("scenes-answers", {"count": 2, "clips": 1, "size": 32, "frames": 8}),
        ("scenes-videobench", {"count": 2, "size": 32, "frames": 8}),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_generated_worlds_go_on_where_a_run_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], together: bool
) -> None:
    for module, few in (("scenes_videobench", "USUAL_CLIPS"), ("scenes_answers", "USUAL_WORLDS")):
        monkeypatch.setattr(f"percepta.evaluation.{module}.{few}", 2)
    monkeypatch.setattr("percepta.tasks.evaluating.answers.QUESTIONS", 4)

    class Says:
        name = "says"

        def __init__(self, lives: int = 10_000) -> None:
            self.lives, self.asked = lives, 0

        def __call__(self, frames: Any, prompt: str) -> str:
            if self.asked == self.lives:
                raise KeyboardInterrupt
            self.asked += 1
            return f"{prompt[:9]} {int(frames.sum()) % 7}"

    class SaysMany(Says):
        def many(self, asked: Sequence[Asked]) -> list[str]:
            return [self(one.frames, one.prompt) for one in asked]

    kind = SaysMany if together else Says
    (whole,) = evaluate(name, kind(), settings=settings, batch_size=4)
    first, second, third = kind(18), kind(), kind()
    places = {"run": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        list(evaluate(name, first, data=places, settings=settings, batch_size=4))
    (found,) = evaluate(name, second, data=places, settings=settings, batch_size=4)
    assert found.to_dict() == whole.to_dict()
    kept = read_lines(tmp_path / "predictions.jsonl")
    asked_again = 0 if not together else 18 - (len(kept) - second.asked)  # of a batch that was not whole
    assert 18 + second.asked - asked_again == len(kept) > 36
    assert asked_again < 16
    (again,) = evaluate(name, third, data=places, settings=settings, batch_size=4)
    assert (third.asked, again.to_dict()) == (0, whole.to_dict())
    with pytest.raises(BadInput, match="holds a run with another protocol"):
        list(evaluate(name, third, data=places, settings={**settings, "count": 1}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["rtlok"]}, "task of videobench must be one of"),
        ({"judge": "exakt"}, "judge must be one of"),
        ({"variant": "paper"}, "not packaged: pass prompts"),
        ({"split": "train"}, "split of videobench must be one of"),
        ({"option rule": "lenient"}, "option rule of videobench must be one of"),
        ({"frames": 0}, "frames of videobench must be 1 or more"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        list(evaluate("videobench", Answers(), data=write_bench(tmp_path), settings=settings))


def test_kinds_of_models_are_kept_apart() -> None:
    assert {"videobench", "scenes-videobench"} <= {name for name, one in PROTOCOLS.items() if one.answers}
    with pytest.raises(BadInput, match=r"answer questions and .* for others; run them one by one"):
        evaluate(["scenes-videobench", "scenes-depth"])
    with pytest.raises(BadInput, match="weights must be None for a callable"):
        list(evaluate("scenes-videobench", Answers(), weights="x.safetensors"))
    with pytest.raises(BadInput, match="a model must give one text"):
        answers(lambda frames, prompt: 3, [Asked([], "x", 1)])  # type: ignore[arg-type, return-value]
    assert videobench_protocol().hash != videobench_protocol(judge="overlap").hash


def test_the_right_answers_of_the_twin() -> None:
    items = [item for seed in range(1_000_000, 1_000_006) for item in _items(seed)]
    assert {item.row.task for item in items} == set(TASKS)
    for task, score in scorers("exact", 8).items():
        rows = [item.row for item in items if item.row.task == task]
        found = score(rows, [oracle(row, 8) for row in rows])
        assert found.value == pytest.approx(1 - of_no_length(rows, 8) if task == "rtloc" else 1)


def _items(seed: int) -> list[Any]:
    return items_of(make_question_clip(seed, SceneConfig(32), 8), seed)


def test_the_twin_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percepta.evaluation.scenes_videobench.USUAL_CLIPS", 4)
    settings = {"count": 2, "size": 32, "frames": 8}
    protocol = scenes_videobench_protocol(2, 32, 8)
    by_prompt = {item.prompt: item.row for seed in (1_000_000, 1_000_001) for item in _items(seed)}

    def knows(frames: Any, prompt: str) -> str:
        assert frames.shape == (8, 32, 32, 3)
        return "nothing" if (frames == 128).all() else oracle(by_prompt[prompt], 8)

    (found,) = evaluate("scenes-videobench", knows, settings=settings)
    assert found.protocol.hash == protocol.hash
    values = {(one.name, one.measure): one.value for one in found.baselines}
    for task in TASKS:
        name = next(measure.name for measure in found.measures if measure.name.startswith(f"{task}, "))
        assert found[name].value == values["right answer", name]
        assert values["grey frames", name] == 0
    page = write_page(tmp_path / "page.html", [found]).read_text()
    assert page.count("<img") >= 8 * 5
    assert "grey frames" in page
