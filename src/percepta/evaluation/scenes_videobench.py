"""The twin of PLM-VideoBench on generated clips: its five tasks, scored by its rules, offline, without a judge model.

Order of this file: the protocol, items from clips, what is known without looking, the evaluation.
Unusual: answers come from a grammar, so that a judge who wants the same words is enough. Beside each figure stand what
the right answer gets, what the usual answer of training clips gets, and what the same model says of grey frames.
Nothing here was trained on: seeds from 1,000,000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from percepta.datasets.scenes import TEST_SEED_START, VERSION, SceneConfig
from percepta.datasets.scenes.happenings import in_sight, make_question_clip
from percepta.datasets.scenes.questions import (
    FINE_GRAINED,
    QUESTION_VERSION,
    Question,
    as_choice,
    boxed_frames,
    boxed_questions,
    clip_questions,
    question_fingerprint,
)
from percepta.datasets.scenes.scene import Clip
from percepta.datasets.videobench import TASKS, Row, Stretch
from percepta.errors import one_of
from percepta.evaluation.protocols import Baseline, Evaluation, Protocol
from percepta.evaluation.videobench import (
    TaskScore,
    score_fgqa,
    score_rcap,
    score_rdcap,
    score_rtloc,
    score_sgqa,
)
from percepta.evaluation.videobench_asking import AnswerOne, AnswersMany, Asked, blank, in_batches
from percepta.evaluation.videobench_measures import HEADLINES, evaluation_of, of_no_length, oracle
from percepta.evaluation.videobench_prompts import JudgeQuestion, exact_reply, overlap_reply
from percepta.evaluation.videobench_reading import parse_segments

MAX_NEW_TOKENS = {"fgqa": 16, "sgqa": 16, "rcap": 48, "rtloc": 16, "rdcap": 128}
RULES = {"exact": exact_reply, "overlap": overlap_reply}
FINE_PER_CLIP = 2  # questions with options, and as many free ones
USUAL_CLIPS = 60  # training clips that the usual answers are taken from, from seed 0
BLIND, USUAL, ORACLE = "grey frames", "usual answer", "right answer"


def scenes_videobench_protocol(
    count: int = 100, size: int = 64, frames: int = 8, tasks: Sequence[str] = TASKS, judge: str = "exact"
) -> Protocol:
    """Five tasks on `count` clips.

    Args:
        size: of the frames, pixels.
        frames: of a clip; answers are numbers of these.
        judge: "exact" wants the right words in their order; "overlap" counts common words, for trials.
    """
    return Protocol(
        "scenes-videobench",
        {
            "count": count,
            "size": size,
            "frames": frames,
            "first seed": TEST_SEED_START,
            "tasks": list(tasks),
            "judge": judge,
            "blind": True,
            "scenes": VERSION,
            "questions": QUESTION_VERSION,
            "rows": f"of each clip {FINE_PER_CLIP} questions with options, one row a wrong option; {FINE_PER_CLIP} "
            "free; of one boxed thing one caption, one time, one dense caption",
            "rules": "as PLM-VideoBench, reference variant",
        },
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One row with what is asked and how it is shown.

    Attributes:
        row: as of PLM-VideoBench; its video is the seed of the clip, its frames are those of the clip.
        prompt: the words.
        object: index of the track in the red box; None for the clip as it is.
        kind: of the question, for the usual answer.
    """

    row: Row
    prompt: str
    object: int | None
    kind: str


def items_of(clip: Clip, seed: int) -> list[Item]:
    """The rows of one clip, of all tasks."""
    plain = [question for question in clip_questions(clip, seed) if question.kind in FINE_GRAINED]
    chosen = [question for question in plain if len(question.options) > 1][:FINE_PER_CLIP]
    free = [question for question in plain if question not in chosen][:FINE_PER_CLIP]
    items = [item for number, one in enumerate(chosen) for item in _binary(one, clip.seed, number, seed)]
    for number, one in enumerate(free):
        facts = {"question type": one.kind}
        row = Row("sgqa", f"{clip.seed}-{number}", str(clip.seed), one.question, one.answer, facts=facts)
        items.append(Item(row, one.question, None, one.kind))
    seen = [index for index, track in enumerate(clip.tracks) if in_sight(track).any()]
    turned = seen[seed % len(seen) :] + seen[: seed % len(seen)] if seen else []
    marked = [list(_boxed(clip, index, seed)) for index in turned]
    return [*items, *max(marked, key=len, default=[])]  # the first thing of which all can be asked


def _binary(question: Question, clip: int, number: int, seed: int) -> Iterator[Item]:
    """One row a wrong option; the question is right where all of them are."""
    wrong = [option for option in question.options if option != question.answer]
    for place, other in enumerate(wrong):
        asked = as_choice(replace(question, options=(question.answer, other)), seed + place)
        group = f"{clip}-{number}"
        row = Row(
            "fgqa", f"{group}-{place}", str(clip), question.question, question.answer, asked.options, group,
            facts={"question type": question.kind},
        )  # fmt: skip
        yield Item(row, asked.question, None, question.kind)


def _boxed(clip: Clip, index: int, seed: int) -> Iterator[Item]:
    questions = boxed_questions(clip, index, seed)
    total = len(clip.frames)
    for task, kind in (("rcap", "region_caption"), ("rtloc", "when"), ("rdcap", "dense")):
        one = next((question for question in questions if question.kind == kind), None)
        if one is None or one.span is None:
            continue
        if task == "rdcap":
            spans, captions = parse_segments(one.answer)
            parts = tuple(Stretch(*span, caption) for span, caption in zip(spans, captions, strict=True))
        else:
            parts = (Stretch(*one.span, one.answer if task == "rcap" else one.question),)
        row = Row(task, f"{clip.seed}", str(clip.seed), masklet=index, total_frames=total, stretches=parts)
        yield Item(row, one.question, index, kind)


def shown(clip: Clip, item: Item) -> np.ndarray:
    """(T, H, W, 3) uint8: the frames that an item shows."""
    return clip.frames if item.object is None else boxed_frames(clip, item.object)


Score = Callable[[Sequence[Row], Sequence[str]], TaskScore]


def scorers(judge: str, frames: int) -> dict[str, Score]:
    """How each task is scored, by a judge that is a rule. Raises BadInput for another judge."""
    if judge not in RULES:
        raise one_of("judge", judge, RULES, owner="scenes-videobench")
    rule = RULES[judge]

    def replies(kind: str) -> Callable[[Sequence[Row], Sequence[str]], list[str]]:
        return lambda rows, said: [
            rule(JudgeQuestion(kind, row.gold, one)) for row, one in zip(rows, said, strict=True)
        ]

    def pair(gold: str, predicted: str) -> str:
        return rule(JudgeQuestion("caption", gold, predicted))

    return {
        "fgqa": score_fgqa,
        "sgqa": lambda rows, said: score_sgqa(rows, replies("answer")(rows, said), said),
        "rcap": lambda rows, said: score_rcap(rows, replies("caption")(rows, said), said),
        "rtloc": lambda rows, said: score_rtloc(rows, said, frames),
        "rdcap": lambda rows, said: score_rdcap(rows, said, pair, frames),
    }


def usual_answers(tasks: Sequence[str], size: int, frames: int, score: Mapping[str, Score]) -> dict[str, str]:
    """What to say without looking, by kind of question: the commonest answer, of times the one that scores best.

    Learnt from clips that models train on.
    """
    known: dict[str, list[Row]] = {}
    for seed in range(USUAL_CLIPS):
        for item in items_of(make_question_clip(seed, SceneConfig(size), frames), seed):
            if item.row.task in tasks:
                known.setdefault(f"{item.row.task} {item.kind}", []).append(item.row)
    found = {}
    for name, rows in known.items():
        if name.startswith("rtloc"):
            spans = [f"[{a}, {b}]" for a in range(frames) for b in range(a + 1, frames)]
            found[name] = max(spans, key=lambda span: score["rtloc"](rows, [span] * len(rows)).value)
        else:
            found[name] = Counter(oracle(row, frames) for row in rows).most_common(1)[0][0]
    return found


def evaluate_scenes_videobench(
    model: AnswerOne | AnswersMany,
    protocol: Protocol | None = None,
    batch_size: int = 8,
    watch: Callable[[int], None] | None = None,
    keep: int = 8,
) -> Evaluation:
    """The five tasks and their average, over generated clips.

    Args:
        model: (frames (T, H, W, 3) uint8, prompt) → an answer; or one with `many`.
        batch_size: questions at once.
        watch: told of every batch, of each pass.
        keep: how many rows of each task are kept in the tables of the result, for a report.

    Raises: BadInput for an unknown task or judge.
    """
    protocol = protocol or scenes_videobench_protocol()
    settings = protocol.settings
    tasks, frames, size = settings["tasks"], settings["frames"], settings["size"]
    for task in tasks:
        if task not in TASKS:
            raise one_of("task", task, TASKS, owner=protocol.name)
    score = scorers(settings["judge"], frames)
    said: dict[str, list[str]] = {name: [] for name in ("seen", BLIND)}
    items: list[Item] = []

    def asked(hide: bool) -> Iterator[Asked]:
        items.clear()
        for seed in range(settings["first seed"], settings["first seed"] + settings["count"]):
            clip = make_question_clip(seed, SceneConfig(size), frames)
            for item in items_of(clip, seed):
                if item.row.task in tasks:
                    items.append(item)
                    pictures = shown(clip, item)
                    limit = MAX_NEW_TOKENS[item.row.task]
                    yield Asked(blank(pictures) if hide else pictures, item.prompt, limit)

    said["seen"] = list(in_batches(model, asked(False), batch_size, watch))
    if settings["blind"]:
        said[BLIND] = list(in_batches(model, asked(True), batch_size, watch))
    usual = usual_answers(tasks, size, frames, score)
    said[USUAL] = [usual.get(f"{item.row.task} {item.kind}", "") for item in items]
    said[ORACLE] = [oracle(item.row, frames) for item in items]
    rows = {task: [item.row for item in items if item.row.task == task] for task in tasks}
    rows = {task: members for task, members in rows.items() if members}
    scores = {name: _scored(items, words, rows, score) for name, words in said.items() if words}
    details = {**_details(settings), "rows": ", ".join(f"{task} {len(members)}" for task, members in rows.items())}
    if "rtloc" in rows:
        details["times of no length"] = round(of_no_length(rows["rtloc"], frames), 6)
    beside = [one for name, note in NOTES.items() if name in scores for one in _beside(name, note, scores[name])]
    found = evaluation_of(scores["seen"], rows, protocol, details, beside, frames)
    return replace(found, tables={**found.tables, "samples": _kept(items, scores["seen"], keep)})


NOTES = {
    ORACLE: "what the right answer gets under these rules: the ceiling",
    USUAL: f"the commonest answer to such a question, of times the best one, in {USUAL_CLIPS} training clips; it sees "
    "nothing",
    BLIND: "the same model and questions, all frames grey",
}


def _beside(name: str, note: str, scores: Mapping[str, TaskScore]) -> Iterator[Baseline]:
    for task, score in scores.items():
        if name != USUAL or task != "fgqa":  # an option's place says nothing: that is chance
            yield Baseline(name, HEADLINES[task], score.value, note)


def _scored(
    items: Sequence[Item], said: Sequence[str], rows: Mapping[str, Sequence[Row]], score: Mapping[str, Score]
) -> dict[str, TaskScore]:
    own: dict[str, list[str]] = {task: [] for task in rows}
    for item, words in zip(items, said, strict=True):
        own[item.row.task].append(words)
    return {task: score[task](members, own[task]) for task, members in rows.items()}


def _kept(items: Sequence[Item], scores: Mapping[str, TaskScore], keep: int) -> list[dict[str, Any]]:
    """The first rows of each task as a report shows them; clips are made again from their seeds."""
    kept = []
    for task, score in scores.items():
        own = [item for item in items if item.row.task == task]
        for item, sample in list(zip(own, score.samples, strict=True))[:keep]:
            source = {"seed": int(item.row.video), "object": item.object}
            kept.append({"task": task, "prompt": item.prompt, "source": source, **sample.to_dict()})
    return kept


def _details(settings: Mapping[str, Any]) -> dict[str, Any]:
    last = settings["first seed"] + settings["count"] - 1
    return {"questions": f"{settings['first seed']}–{last}", "fingerprint of questions": question_fingerprint()}
