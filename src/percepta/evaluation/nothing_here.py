"""Two protocols for "nothing here": does a search stay empty where nothing matches, and still find what is there?

A judge turns the cosines of a question with all entries of a folder into probabilities. A question is *empty* when no
entry gets one half or more, and *found* when a right entry is among those that do. Half of the questions have no
answer in their folder. "Absent objects" means that the folder holds nothing that the question names, "near misses" that
only what is right was taken out: a red ring and a blue star may lie there, but in different pictures.
Calibration errors are over the first hit of each question, and over all pairs with a probability of 0.01 or more; over
all pairs they would be small for any judge, since nearly all pairs are plainly wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepta.datasets.cifar import LabelledPictures
from percepta.datasets.scenes import TEST_SEED_START, VERSION, fingerprint
from percepta.errors import BadInput, one_of
from percepta.evaluation.calibration import BINS, reliability
from percepta.evaluation.folders import Case, Mix, World, draw_cases
from percepta.evaluation.metrics import LEVEL
from percepta.evaluation.protocols import Baseline, Evaluation, Measure, Protocol, measured
from percepta.evaluation.worlds import (
    QUESTION_TEMPLATES,
    clips_by_picture,
    elsewhere,
    photographs_by_picture,
    photographs_world,
    scenes_world,
)
from percepta.evaluation.zero_shot import unit

EncodePictures = Callable[[np.ndarray], Tensor]
EncodeTexts = Callable[[Sequence[str]], Tensor]
Row = NDArray[np.float64]
LIKELY, COUNTED = 0.5, 0.01
ERROR_RESAMPLES = 200
DEFINITIONS = {
    "empty": "no entry with a probability of 0.5 or more",
    "found": "a right entry among those with 0.5 or more",
    "calibration error": f"{BINS} bins of equally many predictions",
}


@dataclass(frozen=True)
class Judge:
    """What is judged beside the model.

    Attributes:
        neutral: texts whose cosines with every entry it wants.
        summarise: (N, K) cosines of the entries with them → what `probabilities` takes, N rows.
        probabilities: ((n,) cosines of a question with the entries of a folder, their n rows) → (n,).
        thresholds: fixed cosines to compare with, by world and for "all" (`percepta.calibration.Prior.thresholds`).
        described: JSON-ready facts.
    """

    neutral: tuple[str, ...]
    summarise: Callable[[Any], NDArray[np.float32]]
    probabilities: Callable[[Any, Any], Row]
    thresholds: Mapping[str, float]
    described: Mapping[str, Any]


def scenes_nothing_here_protocol(
    count: int = 2000, size: int = 64, folders: int = 300, question: str = "words"
) -> Protocol:
    """Folders of generated scenes, asked by captions, two things, single things; or by a picture: of frames of clips,
    asked by a part of one or by an earlier frame."""
    return Protocol(
        "scenes-nothing-here",
        {
            "generator": f"percepta scenes {VERSION}",
            "fingerprint": fingerprint(),
            "first seed": TEST_SEED_START,
            "count": count,
            "size": size,
            "question": question,
            "folder": 100,
            "other folders": (20, 500),
            "folders": folders,
            "mix": _settings(Mix(kinds={"caption": 3.0, "two things": 1.0, "one thing": 1.0}, mixed=0.0)),
            "seed": 0,
            **DEFINITIONS,
        },
    )


def cifar10_nothing_here_protocol(folders: int = 300, question: str = "words") -> Protocol:
    """Folders of photographs of one to ten classes, asked by the name of a class in several wordings, or by another
    photograph of it."""
    return Protocol(
        "cifar10-nothing-here",
        {
            "data": "CIFAR-10 test, 10,000 photographs of 32 x 32",
            "templates": QUESTION_TEMPLATES,
            "question": question,
            "folder": 100,
            "other folders": (20, 500),
            "folders": folders,
            "mix": _settings(Mix(mixed=0.0)),
            "seed": 0,
            **DEFINITIONS,
        },
    )


def evaluate_scenes_nothing_here(
    encode_image: EncodePictures, encode_text: EncodeTexts, judge: Judge, protocol: Protocol | None = None
) -> Evaluation:
    """How often empty, how often found, how well calibrated.

    Args:
        encode_image: (B, H, W, 3) uint8 → (B, D), of any length.
        encode_text: B texts → (B, D), of any length.
        judge: cosines to probabilities; it must not have seen test seeds.
    """
    protocol = protocol or scenes_nothing_here_protocol()
    first, count = protocol.settings["first seed"], protocol.settings["count"]
    make = scenes_world if _by_words(protocol) else clips_by_picture
    world = make(np.arange(first, first + count), protocol.settings["size"], protocol.settings["seed"])
    details = {"generator": VERSION, "fingerprint": fingerprint(), "seeds": f"{first} to {first + count - 1}"}
    return _evaluated(protocol, world, encode_image, encode_text, judge, details)


def evaluate_cifar10_nothing_here(
    photographs: LabelledPictures,
    encode_image: EncodePictures,
    encode_text: EncodeTexts,
    judge: Judge,
    protocol: Protocol | None = None,
) -> Evaluation:
    """The same for photographs by class; raises BadInput for none."""
    protocol = protocol or cifar10_nothing_here_protocol()
    if not len(photographs):
        raise BadInput(f"{protocol.name} needs photographs; got none.")
    if _by_words(protocol):
        world = photographs_world(photographs, "cifar10", protocol.settings["templates"])
    else:
        world = photographs_by_picture(photographs, "cifar10")
    digest = hashlib.sha256(photographs.pictures.tobytes() + photographs.labels.tobytes()).hexdigest()[:12]
    return _evaluated(protocol, world, encode_image, encode_text, judge, {"data hash": digest})


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One case with its cosines.

    Attributes:
        case: the folder and the question.
        scores: (n,) cosines of the question with the entries.
        neutral: what a judge wants to know of the entries, n rows.
    """

    case: Case
    scores: NDArray[np.float32]
    neutral: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Worlds as vectors, each picture and question encoded once: per world (N, D), (T, D), and N neutral rows."""

    pictures: tuple[NDArray[np.float32], ...]
    questions: tuple[NDArray[np.float32], ...]
    neutral: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(
        cls,
        worlds: Sequence[World],
        encode_image: EncodePictures,
        encode_text: EncodeTexts,
        neutral: Sequence[str],
        summarise: Callable[[Any], NDArray[np.float32]],
    ) -> Embedded:
        """The worlds of which cases will be drawn; `neutral` and `summarise` as in `Judge`."""
        bank = unit(encode_text(neutral))
        nothing = torch.zeros(0, bank.shape[1])
        pictures = [unit(encode_image(world.pictures)) if len(world.pictures) else nothing for world in worlds]
        questions = [
            unit(encode_text(world.texts) if world.asking is None else encode_image(world.asking)) for world in worlds
        ]
        return cls(
            tuple(vectors.numpy() for vectors in pictures),
            tuple(vectors.numpy() for vectors in questions),
            tuple(summarise(vectors @ bank.T) for vectors in pictures),
        )

    def ask(self, case: Case) -> Asked:
        """The case with its cosines."""
        world, text = case.text
        vectors = [table[inside] for table, inside in zip(self.pictures, case.entries, strict=True)]
        neutral = [table[inside] for table, inside in zip(self.neutral, case.entries, strict=True)]
        return Asked(case, np.concatenate(vectors) @ self.questions[world][text], np.concatenate(neutral))


def _evaluated(
    protocol: Protocol,
    world: World,
    encode_image: EncodePictures,
    encode_text: EncodeTexts,
    judge: Judge,
    details: Mapping[str, Any],
) -> Evaluation:
    """The folders of the headline size first, then the other sizes, of which only the first kind of text counts."""
    settings = protocol.settings
    worlds = (world, elsewhere(tested=True)) if _by_words(protocol) else (world,)
    embedded = Embedded.of(worlds, encode_image, encode_text, judge.neutral, judge.summarise)

    def answers(size: int) -> list[_Answer]:
        drawn = draw_cases(worlds, settings["folders"], _mix(settings["mix"], size), settings["seed"])
        return [_answer(embedded.ask(case), judge) for case in drawn if len(case.right)]

    main = answers(settings["folder"])
    groups = _groups(main, world)
    for size in settings["other folders"]:
        groups += [(f"{name}, folders of {size}", rows) for name, rows in _groups(answers(size), world)[:2]]
    measures = [
        measured(
            name,
            np.array([row.good for row in rows], np.float64),
            headline=number < 2,
            groups=[row.folder for row in rows],
        )
        for number, (name, rows) in enumerate(groups)
        if rows
    ]
    errors, table = _errors(main)
    return Evaluation(
        protocol,
        (*measures[:2], *errors, *measures[2:]),
        tuple(_baselines(groups, judge.thresholds, world.name)),
        {**details, **judge.described},
        tables={"reliability": table},
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What came of one question."""

    kind: str
    present: bool
    thorough: bool
    folder: int
    good: bool  # found, or empty
    best: float  # the highest cosine, of the right entries if there are some
    first: tuple[float, bool]  # probability of the first hit, and whether it is right
    stated: Row  # all probabilities that count
    kept: NDArray[np.bool_]


def _answer(asked: Asked, judge: Judge) -> _Answer:
    case, stated = asked.case, judge.probabilities(asked.scores, asked.neutral)
    likely, first, counted = stated >= LIKELY, int(stated.argmax()), stated >= COUNTED
    good = bool((likely & case.right).any()) if case.present else not likely.any()
    return _Answer(
        case.kind.split("/")[1],
        case.present,
        case.thorough,
        case.folder,
        good,
        float(asked.scores[case.right].max() if case.present else asked.scores.max()),
        (float(stated[first]), bool(case.right[first])),
        stated[counted],
        case.right[counted],
    )


def _groups(answers: Sequence[_Answer], world: World) -> list[tuple[str, list[_Answer]]]:
    """The names of the measures and what each is over; the two headlines first."""
    kinds = list(dict.fromkeys(world.kinds))

    def those(kind: str, present: bool, thorough: bool | None = None) -> list[_Answer]:
        return [
            row for row in answers if row.kind == kind and row.present == present and thorough in (None, row.thorough)
        ]

    found: list[tuple[str, list[_Answer]]] = []
    for kind in kinds:
        apart = None if world.near is None else True
        what = "absent" if world.near is None else "absent objects"
        found += [(f"empty, {kind}, {what}", those(kind, False, apart)), (f"found, {kind}", those(kind, True))]
        if world.near is not None:
            found.append((f"empty, {kind}, near misses", those(kind, False, False)))
    found.append(("empty, about something else", those("elsewhere", False)))
    return found


def _errors(answers: Sequence[_Answer]) -> tuple[list[Measure], dict[str, Any]]:
    """Calibration errors with intervals, folders redrawn; and the reliability of first hits for a picture."""
    first = np.array([row.first[0] for row in answers]), np.array([row.first[1] for row in answers])
    pairs = [(row.stated, row.kept) for row in answers]
    folders = np.array([row.folder for row in answers])
    members = [np.flatnonzero(folders == folder) for folder in np.unique(folders)]
    random = np.random.default_rng(0)
    drawn = [
        np.concatenate([members[number] for number in random.integers(len(members), size=len(members))])
        for _ in range(ERROR_RESAMPLES)
    ]

    def over_first(rows: NDArray[np.int64]) -> float:
        return reliability(first[0][rows], first[1][rows]).error

    def over_pairs(rows: NDArray[np.int64]) -> float:
        stated = np.concatenate([pairs[row][0] for row in rows])
        return reliability(stated, np.concatenate([pairs[row][1] for row in rows])).error if len(stated) else 0.0

    every = np.arange(len(answers))
    count = sum(len(stated) for stated, _ in pairs)
    measures = []
    for name, error, number in (
        ("calibration error, first hits", over_first, len(answers)),
        (f"calibration error, pairs of p ≥ {COUNTED}", over_pairs, count),
    ):
        low, high = np.quantile([error(rows) for rows in drawn], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        measures.append(
            Measure(name, error(every), float(low), float(high), number, headline=number == len(answers), unit="ECE")
        )
    bins = reliability(*first)
    table = {name: getattr(bins, name).round(6).tolist() for name in ("stated", "kept", "counts")}
    return measures, table


def _baselines(
    groups: Sequence[tuple[str, Sequence[_Answer]]], thresholds: Mapping[str, float], world: str
) -> Iterator[Baseline]:
    """What fixed cosines would have done with the same questions."""
    for name, key, where in (
        ("fixed cosine", "all", "folders of every kind"),
        ("cosine for these", world, "folders of this kind"),
    ):
        if key not in thresholds:
            continue
        limit = thresholds[key]
        note = f"{limit:.3f}, chosen on training data such that 95 % of absent questions about {where} stay empty"
        for measure, rows in groups:
            if rows:
                good = np.mean([(row.best >= limit) == row.present for row in rows])
                yield Baseline(name, measure, float(good), note)


def _by_words(protocol: Protocol) -> bool:
    question = protocol.settings["question"]
    if question not in ("words", "picture"):
        raise one_of("question", question, ("words", "picture"), protocol.name)
    return bool(question == "words")


def _settings(mix: Mix) -> dict[str, Any]:
    """The mix without what stands elsewhere in the protocol."""
    return {name: value for name, value in asdict(mix).items() if name not in ("sizes", "mixed")}


def _mix(settings: Mapping[str, Any], size: int) -> Mix:
    known = _settings(Mix())
    for name in settings:
        if name not in known:
            raise one_of("mix", name, tuple(known), "nothing-here")
    return Mix(sizes=(size, size), mixed=0.0, **settings)
