"""PLM-VideoBench in stages over files of JSON lines: prepare, predict, judge, score. Each goes on where it was killed.

Order of this file: the run and its folder, prepare, predict, judge, score.
Unusual: every answer is written as it is made, with a hash of what was asked, and is asked again only if that changes.
Of a video the sampled frames alone are decoded, one batch at a time. A row whose video is missing or broken, or whose
prompt is longer than the model takes, is left out of the figures, named, and tried again by the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from percepta.datasets.videobench import (
    PUBLISHED,
    REGION_TASKS,
    Boxes,
    Row,
    VideoPlaces,
    frames_for,
    read_boxes,
    read_rows,
    shown_frames,
    stride_of,
)
from percepta.errors import BadInput, BadMedia
from percepta.evaluation.protocols import Protocol
from percepta.evaluation.videobench import (
    TaskScore,
    score_fgqa,
    score_rcap,
    score_rdcap,
    score_rtloc,
    score_sgqa,
)
from percepta.evaluation.videobench_asking import AnswerOne, AnswersMany, Asked, in_batches
from percepta.evaluation.videobench_prompts import (
    MAX_NEW_TOKENS,
    JudgeQuestion,
    Texts,
    judge_question,
    prompt_of,
    questions_to_judge,
)
from percepta.evaluation.videobench_reading import parse_segments
from percepta.media import VideoReader
from percepta.results import Failure
from percepta.tasks.evaluating.kept_answers import KeptAnswers, claim, write_whole
from percepta.tasks.judges import Judge, Remembering, ask_all

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row, ready to be asked about.

    Attributes:
        video: its file.
        boxes: of region tasks.
        prompt: what is asked.
    """

    row: Row
    video: Path
    boxes: Boxes
    prompt: str

    @property
    def key(self) -> str:
        """A hash of what is asked about what; an answer under another key is not used."""
        return hashlib.sha256(json.dumps([self.row.uid, self.row.video, self.prompt]).encode()).hexdigest()[:16]


@dataclass(eq=False)
class Run:
    """One evaluation of one model in one folder.

    Args:
        folder: holds all stages; made where it is not there.
        protocol: with the texts and the judge in its settings.
        model: what names the model and its weights.

    Attributes:
        failures: rows that are left out.
        notes: JSON-ready facts of the data.

    Raises: BadInput where the folder holds a run of another protocol or model.
    """

    folder: Path
    protocol: Protocol
    texts: Texts
    model: str
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        claim(self.folder, self.protocol, self.model)

    @property
    def frames(self) -> int:
        """Frames of a video that the model sees."""
        return int(self.protocol.settings["frames"])

    def file(self, stage: str, task: str) -> Path:
        """Such as predictions.rtloc.jsonl."""
        return self.folder / f"{stage}.{task}.jsonl"

    def prepare(self, data: Path, task: str) -> list[Prepared]:
        """The rows of a task with their videos, boxes and prompts; written down, and the same in every run."""
        settings = self.protocol.settings
        rows = read_rows(data, task, settings["split"])
        self.notes[f"{task} rows"] = self._counted(task, len(rows))
        self.notes[f"{task} fingerprint"] = fingerprint_of(rows)
        rows = rows[: settings["limit"] or None]
        boxes: dict[tuple[str, int], Boxes] = {}
        if task in REGION_TASKS:
            wanted = {(row.video, row.masklet) for row in rows if row.masklet is not None}
            boxes = read_boxes(data, settings["split"], wanted)
        place, found = VideoPlaces(data), []
        for row in rows:
            video, own = place(row), boxes.get((row.video, -1 if row.masklet is None else row.masklet))
            if video is None:
                self._leave_out(row, f"the video {row.video} is not in {data}")
            elif task in REGION_TASKS and own is None:
                self._leave_out(row, f"there are no boxes of masklet {row.masklet} of {row.video}")
            else:
                found.append(Prepared(row, video, own or {}, prompt_of(row, self.texts, self.frames)))
        lines = [{"uid": one.row.uid, "key": one.key, "video": str(one.video), "prompt": one.prompt} for one in found]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        write_whole(self.file("items", task), text)
        return found

    def predict(
        self, items: Sequence[Prepared], model: AnswerOne | AnswersMany, batch_size: int, told: Told | None = None
    ) -> dict[str, str]:
        """The answer to every row whose frames can be read, by uid; those that are known are not asked again."""
        if not items:
            return {}
        task = items[0].row.task
        kept = KeptAnswers(self.file("predictions", task))
        known = {one.row.uid: kept.get(one.row.uid, one.key) for one in items}
        said = {uid: words for uid, words in known.items() if words is not None}
        if told is not None:
            told(len(said))
        asked_about: deque[Prepared] = deque()
        left = sorted((one for one in items if one.row.uid not in said), key=lambda one: one.video)
        asked = self._asked(left, asked_about, getattr(model, "refusal", None))
        for words in in_batches(model, asked, batch_size, told):
            one = asked_about.popleft()
            kept.keep(one.row.uid, one.key, words)
            said[one.row.uid] = words
        return said

    def _asked(
        self, items: Sequence[Prepared], asked_about: deque[Prepared], refusal: Callable[[Asked], str] | None
    ) -> Iterator[Asked]:
        limit = MAX_NEW_TOKENS[self.texts.variant]
        last: tuple[Path, str] | None = None
        for one in items:
            region = one.row.task in REGION_TASKS
            try:
                if last != (one.video, one.row.task):  # sorted by video
                    pictures, total = self._decoded(one)
                    last = one.video, one.row.task
                if region and total != one.row.total_frames:
                    self.notes["videos of another length"] = self.notes.get("videos of another length", 0) + 1
                frames = shown_frames(one.row, pictures, one.boxes, total, self.frames)
            except (BadMedia, BadInput) as error:
                last = None
                self._leave_out(one.row, str(error).rstrip("."))
                continue
            asked = Asked(frames, one.prompt, limit[one.row.task], as_video=one.row.task == "fgqa")
            if why := "" if refusal is None else refusal(asked):
                self.notes["rows the model cannot take"] = self.notes.get("rows the model cannot take", 0) + 1
                self._leave_out(one.row, why.rstrip("."))
                continue
            asked_about.append(one)
            yield asked

    def _decoded(self, one: Prepared) -> tuple[Mapping[int, Any], int]:
        """The sampled frames, and how many there are at 6 frames a second."""
        with VideoReader(one.video) as reader:
            return frames_for(one.row, reader, self.frames), -(-reader.frames // stride_of(reader.rate))

    def judge(
        self, items: Sequence[Prepared], said: Mapping[str, str], judge: Judge, told: Told | None = None
    ) -> Callable[[JudgeQuestion], str]:
        """Asks all that a task needs; returns what looks replies up. Replies are kept as they come."""
        remembered = Remembering(judge, self.folder / "judgements.jsonl")
        questions = [
            question
            for one in items
            if one.row.uid in said
            for question in questions_to_judge(one.row, _judged_words(one.row, said[one.row.uid]), self.texts)
        ]
        for _ in ask_all(remembered, questions):
            if told is not None:
                told(1)
        return remembered.reply

    def score(
        self, items: Sequence[Prepared], said: Mapping[str, str], reply: Callable[[JudgeQuestion], str]
    ) -> tuple[TaskScore, list[Row]]:
        """The score of the rows that were answered, and these rows; records are written down."""
        rows = [one.row for one in items if one.row.uid in said]
        task, words = rows[0].task, [said[row.uid] for row in rows]
        if task == "fgqa":
            score = score_fgqa(rows, words, self.protocol.settings["option rule"])
        elif task == "rtloc":
            score = score_rtloc(rows, words, self.frames)
        elif task == "rdcap":
            score = score_rdcap(
                rows, words, lambda gold, one: reply(judge_question("caption", gold, one, self.texts)), self.frames
            )
        else:
            asked = [questions_to_judge(row, one, self.texts)[0] for row, one in zip(rows, words, strict=True)]
            score = (score_sgqa if task == "sgqa" else score_rcap)(rows, [reply(one) for one in asked], words)
        own = {one.row.uid: one for one in items}
        lines = [
            {"task": task, "video": str(own[sample.uid].video), "prompt": own[sample.uid].prompt, **sample.to_dict()}
            for sample in score.samples
        ]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        write_whole(self.file("records", task), text)
        return score, rows

    def _leave_out(self, row: Row, why: str) -> None:
        self.failures.append(Failure(row.video, f"{row.task} {row.uid} is left out: {why}."))

    def _counted(self, task: str, count: int) -> str:
        published = PUBLISHED.get((task, self.protocol.settings["split"]), ())
        if count in published:
            return f"{count}, as published"
        return f"{count}, published {' or '.join(map(str, published))}" if published else str(count)


def _judged_words(row: Row, said: str) -> str | Sequence[str]:
    return parse_segments(said)[1] if row.task == "rdcap" else said


def kept_samples(items: Sequence[Prepared], score: TaskScore, keep: int) -> list[dict[str, Any]]:
    """The first rows of a task as a report shows them."""
    own = {one.row.uid: one for one in items}
    kept = []
    for sample in score.samples[:keep]:
        one = own[sample.uid]
        boxes = {str(frame): list(box) for frame, box in one.boxes.items()}
        source = {"video": str(one.video), "boxes": boxes}
        kept.append({"task": score.task, "prompt": one.prompt, "source": source, **sample.to_dict()})
    return kept


def fingerprint_of(rows: Sequence[Row]) -> str:
    """12 hex digits of all rows, in any order."""
    lines = sorted(json.dumps(asdict(row), sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
