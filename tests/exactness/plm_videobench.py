"""Handler of the kind plm/videobench: scores of stored answers and of stored replies of judges."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from percepta.datasets.videobench import Row, Stretch
from percepta.evaluation import videobench
from percepta.evaluation.videobench_reading import check_option, parse_segments
from tests.exactness.golden import Golden


def row_of(task: str, given: dict[str, Any]) -> Row:
    stretches = given.get("dense_captions") or ([given] if "start_frame" in given else [])
    return Row(
        task,
        str(given["uid"]),
        options=tuple(given.get("options", ())),
        answer=given.get("answer", ""),
        group=str(given.get("qa_uid", "")),
        total_frames=given.get("total_frames", 0),
        stretches=tuple(Stretch(one["start_frame"], one["end_frame"], one.get("caption", "")) for one in stretches),
    )


def rtloc(call: dict[str, Any], frames: int, _: str) -> videobench.TaskScore:
    rows = call["rows"]
    score = videobench.score_rtloc([row_of("rtloc", r["row"]) for r in rows], [r["prediction"] for r in rows], frames)
    for row, sample in zip(rows, score.samples, strict=True):
        expected = dict(row["expected"])
        assert sample.facts["target"] == expected.pop("target")
        assert {name: sample.facts[name] for name in expected} == approx(expected)
    return score


def rdcap(call: dict[str, Any], frames: int, _: str) -> videobench.TaskScore:
    rows, samples = call["rows"], []
    for one in rows:
        table = {(entry["gold"], entry["predicted"]): entry["score"] for entry in one["judge"]}

        def reply(gold: str, predicted: str, table: dict[tuple[str, str], int] = table) -> str:
            return json.dumps({"score": table[gold, predicted]}) if (gold, predicted) in table else "no idea"

        samples.append(reply)
    every = [row_of("rdcap", one["row"]) for one in rows]
    for row, one, reply in zip(every, rows, samples, strict=True):
        alone = videobench.score_rdcap([row], [one["prediction"]], reply, frames)
        assert {"soda_c": alone.samples[0].score} == approx(one["expected"])
    replies = iter([reply for row, one, reply in zip(every, rows, samples, strict=True) for _ in pairs_of(row, one)])
    return videobench.score_rdcap(
        every, [one["prediction"] for one in rows], lambda gold, said: next(replies)(gold, said), frames
    )


def pairs_of(row: Row, one: dict[str, Any]) -> range:
    return range(len(row.stretches) * len(parse_segments(one["prediction"])[0]))


def rcap(call: dict[str, Any], frames: int, variant: str) -> videobench.TaskScore:
    rows = call["rows"]
    every = [row_of("rcap", one["row"]) for one in rows]
    score = videobench.score_rcap(every, [one["judge_reply"] for one in rows], [one["prediction"] for one in rows])
    for row, one, sample in zip(every, rows, score.samples, strict=True):
        start, end, total = videobench.shown_frames(row, frames, variant)
        found = {"success": sample.facts["success"], "score": sample.score}
        found |= {"prompt_start": start, "prompt_end": end, "prompt_total": total}
        assert found == approx(one["expected"])
    return score


def fgqa(call: dict[str, Any], _frames: int, _: str) -> videobench.TaskScore:
    rows = call["rows"]
    score = videobench.score_fgqa([row_of("fgqa", one["row"]) for one in rows], [one["prediction"] for one in rows])
    for one, sample in zip(rows, score.samples, strict=True):
        assert {"gold": sample.facts["gold"], "correct": bool(sample.score)} == one["expected"]
    return score


def sgqa(call: dict[str, Any], _frames: int, _: str) -> videobench.TaskScore:
    rows = call["rows"]
    score = videobench.score_sgqa([row_of("sgqa", one["row"]) for one in rows], [one["judge_reply"] for one in rows])
    for one, sample in zip(rows, score.samples, strict=True):
        assert {"success": bool(sample.score)} == one["expected"]
    return score


def soda(args: dict[str, Any], expected: dict[str, Any]) -> None:
    product = np.asarray(args["iou"]) * np.asarray(args["similarity"])
    matching = videobench.match_in_order(product)
    found = {"soda_c": videobench.soda_c(args["iou"], args["similarity"]), "matched_total": matching.total}
    assert found == approx({name: expected[name] for name in found})
    for pairs in (matching.pairs, expected["pairs"]):  # other pairs of the same total are equally right
        assert sum(product[gold, said] for gold, said in pairs) == approx(expected["matched_total"])
        assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(pairs))


def segments(args: dict[str, Any], expected: dict[str, Any]) -> None:
    found, captions = parse_segments(args["text"])
    assert {"segments": [list(one) for one in found], "captions": list(captions)} == expected


SCORED = {"rtloc": rtloc, "rdcap": rdcap, "rcap": rcap, "fgqa": fgqa, "sgqa": sgqa}


def approx(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-9)


def plm_videobench(golden: Golden) -> None:
    content = golden.content
    assert {rule["atol"] for rule in content["tolerance"].values()} == {1e-9}
    for call in content["calls"]:
        name = call["call"]
        if name in SCORED:
            score = SCORED[name](call, content["num_video_frames"], content["variant"])
            assert {key: score.aggregate[key] for key in call["aggregate"]} == approx(call["aggregate"])
        elif name == "check_option":
            for row in call["rows"]:
                assert check_option(row["prediction"], row["gold"], call["rule"]) == row["expected"], row
        elif name == "interval_iou":
            for row in call["rows"]:
                assert videobench.interval_iou(row["a"], row["b"]) == approx(row["expected"])
        else:
            {"soda": soda, "parse_segments": segments}[name](call["args"], call["expected"])


HANDLERS: dict[str, Callable[[Golden], None]] = {"plm/videobench": plm_videobench}
"""What runs a case, by its kind."""
