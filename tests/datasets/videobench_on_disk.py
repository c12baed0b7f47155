"""A few rows of PLM-VideoBench in the hub's layout, with videos whose frames tell their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from percepta.media import write_video

BOX = (4.0, 10.0, 24.0, 30.0)
CLIP, OTHER = {"video": "clip.mp4", "masklet_id": 2}, {"video": "other.mp4", "masklet_id": 0}
NOTES = {
    "source_video_id": "x",
    "source_dataset": "COIN",
    "source_start_time": 1.5,
    "source_end_time": 4.0,
    "question_type": "direction",
    "source_domain": "cooking",
}


def _choice(uid: str, group: str, wrong: str) -> dict[str, Any]:
    options = {"option_0": wrong, "option_1": "right"}
    asked = {"question": "where to?", "answer": "right", "answer_index": 1, "options": options}
    return {"uid": uid, "qa_uid": group, "video": "clip.mp4", **asked, "metadata": NOTES}


RECORDS: dict[str, list[dict[str, Any]]] = {
    "fgqa": [_choice("a", "q1", "left"), _choice("b", "q1", "up"), _choice("c", "q2", "down")],
    "sgqa": [{"uid": "s", "video": "other.mp4", "question": "what now?", "answer": "cut it", "domain": "kitchen"}],
    "rcap": [
        {"uid": 3, **CLIP, "total_frames": 40, "caption": "runs", "start_frame": 5, "end_frame": 30},
        {"uid": 4, **OTHER, "total_frames": 12, "caption": "rests", "start_frame": 0, "end_frame": 11},
    ],
    "rtloc": [
        {"uid": 5, **CLIP, "total_frames": 40, "caption": "runs", "start_frame": 10, "end_frame": 30},
        {"uid": 6, **OTHER, "total_frames": 12, "caption": "rests", "start_frame": 2, "end_frame": 9},
    ],
    "rdcap": [
        {
            "uid": 7,
            **CLIP,
            "total_frames": 40,
            "dense_captions": [
                {"start_frame": 0, "end_frame": 20, "caption": "runs"},
                {"start_frame": 21, "end_frame": 39, "caption": "rests"},
            ],
        }
    ],
}


def write_bench(folder: Path, rate: int = 6) -> Path:
    """Rows as jsonl, boxes, and two videos of 40 and 12 frames at 6 a second, or four times as many at 24."""
    for task, records in RECORDS.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / task / f"plm_{task}_test.jsonl").write_text(lines)
    boxes = [
        {**CLIP, "bbox": {str(frame): None if frame == 5 else list(BOX) for frame in range(40)}},
        {**OTHER, "bbox": {"0": [1, 1, 9, 9]}},
    ]
    (folder / "metadata").mkdir(exist_ok=True)
    (folder / "metadata" / "metadata_test.jsonl").write_text("".join(json.dumps(box) + "\n" for box in boxes))
    (folder / "videos").mkdir(exist_ok=True)
    for name, frames in (("clip.mp4", 40), ("other.mp4", 12)):
        pixels = np.zeros((frames, 64, 64, 3), np.uint8)
        pixels += (5 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
        write_video(folder / "videos" / name, np.repeat(pixels, rate // 6, axis=0), rate)
    return folder
