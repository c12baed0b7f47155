"""The protocols `videobench` and `scenes-videobench` for a model that answers: its words, and the stages in order.

Order of this file: protocols, a model as what answers, the run, the twin, frames for a report.
Unusual: the model may be any callable (frames, prompt) → text. Where a run keeps its stages is no part of the protocol.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from percepta.datasets.scenes import SceneConfig
from percepta.datasets.scenes.happenings import make_question_clip
from percepta.datasets.scenes.questions import boxed_frames
from percepta.datasets.videobench import TASKS, Row, frames_for, sampled_frames, shown_frames, stride_of
from percepta.errors import BadInput, one_of, out_of_range
from percepta.evaluation import Evaluation, Protocol
from percepta.evaluation.scenes_videobench import evaluate_scenes_videobench
from percepta.evaluation.videobench import FRAMES
from percepta.evaluation.videobench_measures import evaluation_of
from percepta.evaluation.videobench_prompts import MAX_NEW_TOKENS, texts_of
from percepta.evaluation.videobench_reading import OPTION_RULES
from percepta.media import VideoReader
from percepta.running.progress import Progress
from percepta.tasks.evaluating.kept_answers import recalling, write_whole
from percepta.tasks.evaluating.videobench_stages import Run, kept_samples
from percepta.tasks.judges import judge_of

NANO = "plm-nano"
BATCH = 4
KEPT = 8  # rows of each task that a report shows
JUDGED = ("sgqa", "rcap", "rdcap")
DATA = (
    "the folder of facebook/PLM-VideoBench (rows as jsonl or parquet, metadata/ with boxes) and its videos below it; "
    "videos of fgqa are cut from their sources by the times in the rows, those of region tasks are SA-V at 6 or 24 "
    "frames a second"
)
Watch = Callable[[str], Progress] | None


def videobench_protocol(
    tasks: Sequence[str] = TASKS,
    judge: str = "exact",
    variant: str = "percepta",
    prompts: str = "packaged",
    split: str = "test",
    frames: int = FRAMES,
) -> Protocol:
    """PLM-VideoBench.

    Args:
        tasks: those to run; the average needs all five.
        judge: see `judge_of`.
        variant: whose texts: "percepta", or "paper" and "lmms-eval" with `prompts`.
        prompts: "packaged", or where texts are read from, see `texts_of`.
        split: "test", or "val" of region tasks.
        frames: that the model sees of a video.
    """
    return Protocol(
        "videobench",
        {
            "tasks": list(tasks),
            "judge": judge,
            "variant": variant,
            "prompts": prompts,
            "split": split,
            "frames": frames,
            "limit": 0,
            "option rule": "official",
            "decoding": "greedy",
            "max new tokens": dict(MAX_NEW_TOKENS.get(variant, MAX_NEW_TOKENS["percepta"])),
        },
    )


def answering(model: Any, weights: str | Path | None = None, device: Any = None, dtype: Any = None) -> tuple[Any, str]:
    """What answers, and its name with all that its answers depend on.

    Args:
        model: a name, a loaded model, or any callable (frames, prompt) → text; None is plm-nano.

    Raises: as `Speaker`; BadInput for weights, device or dtype beside a callable.
    """
    if hasattr(model, "many") or (callable(model) and not isinstance(model, torch.nn.Module)):
        for what, value in (("weights", weights), ("dtype", dtype)):
            if value is not None:
                raise BadInput(f"{what} must be None for a callable, which has its own.")
        return model, str(getattr(model, "name", getattr(model, "__qualname__", type(model).__name__)))
    from percepta.tasks.asking import Speaker
    from percepta.tasks.evaluating.speaking import SpeakerAnswers

    speaker = Speaker(NANO if model is None else model, device, dtype, weights)
    return SpeakerAnswers(speaker), speaker.maker


def run_answering(
    protocols: Sequence[Protocol],
    model: Any,
    weights: str | Path | None,
    data: Mapping[str, Path],
    device: Any = None,
    dtype: Any = None,
    batch_size: int | None = None,
    progress: Watch = None,
) -> Iterator[Evaluation]:
    """The figures of protocols for models that answer."""
    answers, name = answering(model, weights, device, dtype)
    from percepta.tasks.evaluating.answers import run_scenes_answers

    run = {
        "videobench": run_videobench,
        "scenes-videobench": run_scenes_videobench,
        "scenes-answers": run_scenes_answers,
    }
    for protocol in protocols:
        found = run[protocol.name](protocol, answers, name, data, batch_size or BATCH, progress)
        described = {"name": name, "weights": "" if weights is None else Path(weights).name}
        yield replace(found, model=described)


def run_videobench(
    protocol: Protocol, answers: Any, name: str, data: Mapping[str, Path], batch_size: int, progress: Watch
) -> Evaluation:
    """All stages of the tasks of a protocol; those that a folder holds already go on where they were.

    Raises: BadInput for an unknown task, split, judge or variant, a text without its file, data that are not there.
    """
    settings = protocol.settings
    _check(settings)
    place = settings["prompts"]
    texts = texts_of(settings["variant"], None if place == "packaged" else place)
    judge = judge_of(settings["judge"])
    tokens = MAX_NEW_TOKENS[settings["variant"]]
    said_so = {"prompts": f"{texts.source} {texts.fingerprint}", "max new tokens": dict(tokens)}
    judged = any(task in JUDGED for task in settings["tasks"])
    protocol = replace(protocol, settings={**settings, **said_so, "judge": judge.name if judged else "none"})
    with _folder(data) as folder:
        run = Run(folder, protocol, texts, name)
        items = {task: run.prepare(data["data"], task) for task in settings["tasks"]}
        scores, rows, samples = {}, {}, []
        for task, own in items.items():
            with _watched(progress, f"{task}, answers") as told:
                told.start(len(own))
                said = run.predict(own, answers, batch_size, told.advance)
            with _watched(progress, f"{task}, judge") as told:
                told.start(None)
                reply = run.judge(own, said, judge, told.advance)
            if said:
                scores[task], rows[task] = run.score(own, said, reply)
                samples += kept_samples(own, scores[task], KEPT)
        if not scores:
            raise BadInput(
                f"no row of {', '.join(items)} could be used: {run.failures[0].reason if run.failures else ''}"
            )
        details = {"data": data["data"].name, **run.notes}
        found = evaluation_of(scores, rows, protocol, details, (), run.frames, run.failures)
        found = replace(found, tables={**found.tables, "samples": samples})
        write_whole(folder / "scores.json", json.dumps(found.to_dict(), indent=2) + "\n")
        return found


def _check(settings: Mapping[str, Any]) -> None:
    for task in settings["tasks"]:
        if task not in TASKS:
            raise one_of("task", task, TASKS, owner="videobench")
    if not settings["tasks"]:
        raise BadInput(f"videobench needs a task: {', '.join(TASKS)}; got none.")
    for name, allowed in (("split", ("test", "val")), ("option rule", OPTION_RULES)):
        if settings[name] not in allowed:
            raise one_of(name, settings[name], allowed, owner="videobench")
    for name, least in (("frames", 1), ("limit", 0)):
        if settings[name] < least:
            raise out_of_range(name, settings[name], f"{least} or more", owner="videobench")


@contextmanager
def _folder(data: Mapping[str, Path]) -> Iterator[Path]:
    """Where a run keeps its stages; without one they are gone at the end."""
    if "run" in data:
        data["run"].mkdir(parents=True, exist_ok=True)
        yield data["run"]
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _watched(progress: Watch, what: str) -> Progress:
    return Progress(what, shown=False) if progress is None else progress(f"evaluate {what}")


def run_scenes_videobench(
    protocol: Protocol, answers: Any, name: str, data: Mapping[str, Path], batch_size: int, progress: Watch
) -> Evaluation:
    """The twin on generated clips; what a folder holds already is not asked again."""
    answers = recalling(answers, name, protocol, data.get("run"))
    with _watched(progress, "scenes-videobench") as told:
        told.start(None)
        return evaluate_scenes_videobench(answers, protocol, max(batch_size, 16), told.advance, KEPT)


def pictures_of(sample: Mapping[str, Any], protocol: Protocol, count: int = 8) -> list[tuple[int, Any]]:
    """Some of the frames that the model saw of a kept sample, with their numbers and red boxes.

    Args:
        sample: of an evaluation's table "samples".
        count: frames at most.

    Raises: BadMedia for a video that is gone or broken.
    """
    source, frames = sample["source"], int(protocol.settings["frames"])
    if "seed" in source:
        clip = make_question_clip(source["seed"], SceneConfig(protocol.settings["size"]), frames)
        pixels = clip.frames if source["object"] is None else boxed_frames(clip, source["object"])
        shown = [Image.fromarray(frame) for frame in pixels]
    else:
        row = Row(sample["task"], sample["uid"])
        boxes = {int(frame): tuple(box) for frame, box in source["boxes"].items()}
        with VideoReader(source["video"]) as reader:
            total = -(-reader.frames // stride_of(reader.rate))
            shown = shown_frames(row, frames_for(row, reader, frames), boxes, total, frames)
    return [(number, shown[number]) for number in sampled_frames(len(shown), count, repeat=False)]
