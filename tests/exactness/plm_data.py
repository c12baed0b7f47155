"""Handlers of the kinds plm/chat, plm/preprocess and plm/train-utils."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from tests.exactness.golden import Golden


def chat_of(golden: Golden, form: str) -> Any:
    """The chat of a case: bytes as tokens, the specials of the case, the official rule."""
    from percepta.models.perception_lm.chat import ChatTemplate, chunk_tokens
    from percepta.models.perception_lm.tokenizer import BpeTokenizer

    content = golden.content
    spec, media = content["tokenizer"], content["media"]
    assert spec["type"] == "bytes"
    rule = spec["specials_rule"]
    specials = dict(spec["specials"])
    for step, number in enumerate(range(rule["first_i"], rule["last_i"] + 1)):
        specials[rule["pattern"].replace("{i}", str(number))] = rule["first_id"] + step
    first, last = spec["byte_ids"]
    tokenizer = BpeTokenizer.from_ranks({bytes([byte]): first + byte for byte in range(last - first + 1)}, specials)
    assert tokenizer.vocabulary == spec["vocab_size"]
    per_chunk = chunk_tokens(*media["chunk_shape"][1:], media["patch_size"], media["pooling_ratio"])
    assert per_chunk == media["tokens_per_chunk"]
    how = "official" if spec["specials_in_text"] else "safe"
    return ChatTemplate(tokenizer, content["system_text"], per_chunk, form, how)


def example_of(template: Any, args: dict[str, Any], length: int) -> Any:
    from percepta.models.perception_lm.chat import Message, training_example

    messages = [Message(**message) for message in args["messages"]]
    return training_example(template, messages, args["num_chunks"], args["media_type"], length)


def plm_chat(golden: Golden) -> None:
    from percepta.models.perception_lm.chat import collate, generation_prompt

    assert golden.content["tolerance"] == "exact"
    for call in golden.content["calls"]:
        args, expected = call["args"], call["expected"]
        template = chat_of(golden, args["format"])
        if call["call"] == "training_example":
            example = example_of(template, args, args["seq_len"])
            assert expected["valid"] == bool(len(example.tokens))
            assert expected["supervised_positions"] == np.flatnonzero(example.supervised).tolist()
            check_tokens(template, example, expected)
        elif call["call"] == "generation_prompt":
            check_tokens(template, generation_prompt(template, args["question"], args["num_chunks"]), expected)
        else:
            assert call["call"] == "collate"
            examples = [example_of(template, one, args["seq_len"]) for one in args["examples"]]
            rows = collate(template, examples, args["seq_len"])
            assert expected["input_ids"] == rows.tokens.tolist()
            assert expected["label_ids"] == rows.targets.tolist()
            assert expected["label_mask"] == rows.supervised.astype(int).tolist()
            assert expected["image_pos_index"] == rows.pictures.tolist()
            assert expected["num_chunks"] == list(rows.chunks)
            assert expected["media_type"] == list(rows.kinds)
            assert expected["images_shape"] == [sum(rows.chunks), *golden.content["media"]["chunk_shape"]]


def check_tokens(template: Any, made: Any, expected: dict[str, Any]) -> None:
    assert expected["token_ids"] == made.tokens.tolist()
    assert expected["image_positions"] == np.flatnonzero(made.pictures).tolist()
    assert expected["decoded"] == template.decode(made.tokens)


def plm_preprocess(golden: Golden) -> None:
    from percepta.media.clip_frames import frame_indices
    from percepta.media.regions import with_regions
    from percepta.media.tiling import tile_grid

    assert set(golden.content["tolerance"]["exact"]) == {"expected", "rows"}
    for call in golden.content["calls"]:
        name, args = call["call"], call.get("args", {})
        if name in CHUNK_CALLS:
            CHUNK_CALLS[name](golden, call)
        elif name == "tile_grid":
            for row in call["rows"]:
                values = dict(zip(call["columns"], row, strict=True))
                grid = tile_grid(values["width"], values["height"], values["max_num_tiles"], values["tile_size"])
                found = (grid.columns, grid.rows, int(grid.fits))
                assert found == (values["tiles_w"], values["tiles_h"], values["fits_without_downsampling"]), values
        elif name == "frame_indices":
            found = frame_indices(args["num_frames"], args["fps"], args["max_frames"], args["start"], args["end"])
            assert found == call["expected"], args
        else:
            assert name == "region_text"
            assert with_regions(args["text"], args["boxes"], args["width"], args["height"]) == call["expected"]


def image_chunks(golden: Golden, call: dict[str, Any]) -> None:
    from percepta.media.chunks import ChunkPreprocess

    args, expected = call["args"], call["expected"]
    prepare = ChunkPreprocess(
        args["tile_size"], args["max_num_tiles"], mode=args["mode"], **golden.content["normalize"]
    )
    chunks = prepare(stored(golden, args["image"]))
    assert len(chunks.pixels) == expected["num_chunks"]
    assert list(chunks.grid) == expected.get("grid", [1, 1])
    assert list(chunks.size) == expected.get("source_size", list(chunks.size))
    check_pixels(golden, call["out"], chunks.pixels.numpy())


def video_chunks(golden: Golden, call: dict[str, Any]) -> None:
    from percepta.media.chunks import ChunkPreprocess

    args = call["args"]
    prepare = ChunkPreprocess(args["size"], frames=args["max_frames"], **golden.content["normalize"])
    pen = {"colour": tuple(args["box_color"]), "line_width": args["box_width"]}
    frames = stored(golden, args["frames"]).transpose(0, 2, 3, 1)
    chunks = prepare.video(frames, args["start"], args["end"], args["boxes"], args["fps"], **pen)
    assert list(chunks.frames) == call["expected"]["frame_indices"]
    check_pixels(golden, call["out"], chunks.pixels.numpy())


def stored(golden: Golden, spec: dict[str, Any]) -> np.ndarray:
    assert spec["type"] == "npz"
    assert spec["array"] in golden.content["input_arrays"]
    return golden.arrays[spec["array"]]


def check_pixels(golden: Golden, name: str, got: np.ndarray) -> None:
    want, rule = golden.arrays[name], golden.content["tolerance"]["default"]
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    difference = np.abs(got.astype(np.float64) - want)
    print(f"{name}: differs by {difference.max():.1e}, on average by {difference.mean():.1e}")  # shown by pytest -rP
    assert difference.max() <= rule["atol"] + rule["rtol_of_max"] * np.abs(want).max(), name
    assert difference.mean() <= rule["mean_atol"], name


CHUNK_CALLS: dict[str, Callable[[Golden, dict[str, Any]], None]] = {
    "image_chunks": image_chunks,
    "video_chunks": video_chunks,
}


def plm_train_utils(golden: Golden) -> None:
    from percepta.datasets.conversations import ConversationData
    from percepta.datasets.conversations_official import OfficialMixture

    for call in golden.content["calls"]:
        assert call["rule"] == "official"
        if call["call"] == "lr_factor":
            check_rates(call, golden.content["tolerance"]["lr_factor"]["atol"])
            continue
        assert call["call"] == "mix_sources"
        args = call["args"]
        files = {}
        for source in args["sources"]:
            assert len(source["line_ids"]) == source["lines"]
            files[source["source"]] = golden.folder / f"{source['source']}.jsonl"
            rows = [json.dumps({"text": name}) for name in source["line_ids"]]
            files[source["source"]].write_text("".join(f"{row}\n" for row in rows))
        data = [ConversationData(e["source"], (files[e["source"]],), golden.folder) for e in args["mix"]]
        weights = [entry["weight"] for entry in args["mix"]]
        for worker, expected in enumerate(call["expected"]):
            place = (args["dp_rank"], args["dp_world_size"], worker, args["num_workers"])
            mixture = OfficialMixture(data, weights, args["seed"], *place)
            found = [row.turns[-1][1] for row in islice(mixture, args["items_per_worker"])]
            assert found == expected, worker


RATE_FIELDS = {
    "scheduler": "scheduler",
    "n_steps": "steps",
    "warmup": "warmup",
    "lr_min_ratio": "lowest",
    "cycle_length": "cycle",
    "cosine_theta": "theta",
    "decay_fraction": "decay",
    "exp_factor": "power",
}


def check_rates(call: dict[str, Any], limit: float) -> None:
    """The official rates, and that the textbook's differ from them at the quirks alone."""
    from percepta.training.schedules_official import Rate

    fields = {RATE_FIELDS[name]: value for name, value in call["args"].items()}
    official, textbook = Rate(**fields, rule="official"), Rate(**fields, rule="textbook")
    for step, expected in zip(call["steps"], call["expected"], strict=True):
        assert abs(official(step) - expected) <= limit, step
        assert (abs(textbook(step) - expected) > limit) == (step in call["quirk_steps"]), step


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "plm/chat": plm_chat,
    "plm/preprocess": plm_preprocess,
    "plm/train-utils": plm_train_utils,
}
