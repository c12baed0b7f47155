"""Handlers of the kinds sam2/image, sam2/memory and sam2/video."""

from __future__ import annotations

from typing import Any

import torch

from tests.exactness.golden import Golden
from tests.exactness.sam2_cases import check, check_outputs, cut, part_state, sam2_model, seeded_tensor, shape_mask


def sam2_image(golden: Golden) -> None:
    model = sam2_model(golden)
    with torch.inference_mode():
        pictures = {name: seeded_tensor(spec) for name, spec in golden.content["inputs"].items()}
        features = {name: model.encode_image(picture) for name, picture in pictures.items()}
        for call in golden.content["calls"]:
            arguments = call["args"]
            name = arguments["image"]
            results = IMAGE_CALLS[call["call"]](model, pictures[name], features[name], arguments)
            check_outputs(golden, call, results)


def _encode(model: Any, picture: torch.Tensor, features: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2.parts import sine_grid

    trunk = model.image_encoder.trunk(picture)
    side = model.config.image_size
    return {
        **{f"trunk{level}": value for level, value in enumerate(trunk)},
        **{f"feature{level}": value for level, value in enumerate(features.maps)},
        **{f"position{n}": sine_grid(side // s, side // s, model.config.width) for n, s in enumerate((4, 8, 16))},
        "image_embedding": model.unconditioned(features),
        "dense_position": model.prompt_encoder.grid_code(side // 16, side // 16),
    }


def _prompt(arguments: dict[str, Any]) -> dict[str, Any]:
    points, mask = arguments["points"], arguments["mask"]
    return {
        "points": None if points is None else torch.tensor([points], dtype=torch.float32),
        "labels": None if points is None else torch.tensor([arguments["labels"]]),
        "masks": None if mask is None else seeded_tensor(mask),
    }


def _prompt_decode(model: Any, picture: torch.Tensor, features: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    prompt = _prompt(arguments)
    side = model.config.side
    found = model.predict(features, **prompt, multimask=arguments["multimask"])
    sparse = torch.zeros(1, 0, model.config.width)
    if prompt["points"] is not None:
        sparse = model.prompt_encoder.points(prompt["points"], prompt["labels"])
    return {
        "sparse": sparse,
        "dense": model.prompt_encoder.masks(prompt["masks"], side),
        "low_res_logits": found.logits,
        "iou": found.iou,
        "tokens": found.tokens,
        "object_score": found.object_score,
    }


def _object_heads(model: Any, picture: torch.Tensor, features: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    heads = model.heads(model.unconditioned(features), features, **_prompt(arguments), multimask=arguments["multimask"])
    return {
        "best_low_res_logits": heads.logits,
        "iou": heads.iou,
        "object_pointer": heads.pointer,
        "object_score": heads.object_score,
    }


IMAGE_CALLS = {"encode_image": _encode, "prompt_decode": _prompt_decode, "object_heads": _object_heads}


def sam2_memory(golden: Golden) -> None:
    from percepta.models.sam2.keys import MEMORY_ATTENTION, MEMORY_ENCODER

    config = golden.content["config"]
    parts = {part["part"]: part_state(part) for part in golden.content["weights"]["parts"]}
    made = _memory_parts(config)
    for name, table in (("memory_attention", MEMORY_ATTENTION), ("memory_encoder", MEMORY_ENCODER)):
        if name in parts:
            native, unknown = table.to_native(parts[name])
            assert not unknown
            made[name].load_state_dict(native, strict=True)
    inputs = {name: seeded_tensor(spec) for name, spec in golden.content["inputs"].items()}
    with torch.inference_mode():
        for call in golden.content["calls"]:
            results = MEMORY_CALLS[call["call"]](made, inputs, call["args"])
            if "expect" in call:
                assert results == call["expect"]
            else:
                check_outputs(golden, call, results)


def _memory_parts(config: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2 import MemoryAttention, MemoryEncoder

    attention, encoder = config["memory_attention"], config["memory_encoder"]
    assert attention["input_position_factor"] == 0.1
    assert not attention["self_attention_add_position"]
    assert not attention["cross_attention_add_query_position"]
    return {
        "memory_attention": MemoryAttention(
            attention["channels"],
            attention["cross_attention"]["num_heads"],
            attention["ffn_channels"],
            attention["layers"],
            attention["cross_attention"]["kv_in_dim"],
            attention["dropout"],
        ).eval(),
        "memory_encoder": MemoryEncoder(
            encoder["in_channels"], encoder["out_channels"], encoder["fuser_layers"]
        ).eval(),
    }


def _attend(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    first, last = arguments["memory_tokens"]
    current, code, memory, position = (
        inputs[arguments[name]].transpose(0, 1) for name in ("current", "current_position", "memory", "memory_position")
    )
    pointers = arguments["pointer_tokens"]
    found = parts["memory_attention"](current, code, memory[:, first:last], position[:, first:last], pointers)
    return {"output": found.transpose(0, 1)}


def _remember(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2.parts import sine_grid

    mask = inputs[arguments["mask_logits"]].sigmoid() * arguments["sigmoid_scale"] + arguments["sigmoid_bias"]
    memory = parts["memory_encoder"](inputs[arguments["features"]], mask)
    return {"memory": memory, "position": sine_grid(*memory.shape[-2:], memory.shape[1]).expand_as(memory)}


def _rope(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.layers import grid_angles

    assert arguments["theta"] == 10000.0
    angles = grid_angles(arguments["height"], arguments["width"], arguments["channels"])
    return {"cos": angles.cos(), "sin": angles.sin()}


def _sine_1d(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2.parts import sine_places

    assert arguments["temperature"] == 10000
    return {"table": sine_places(torch.tensor(arguments["positions"]), arguments["channels"])}


def _sine_2d(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2.parts import sine_grid

    assert arguments["normalize"]
    return {"table": sine_grid(arguments["height"], arguments["width"], arguments["channels"])}


def _select(parts: dict[str, Any], inputs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    from percepta.models.sam2 import nearest_frames

    selected, unselected = nearest_frames(arguments["frame"], arguments["available"], arguments["limit"])
    return {"selected": selected, "unselected": unselected}


MEMORY_CALLS = {
    "memory_attention": _attend,
    "memory_encoder": _remember,
    "rope_table": _rope,
    "sine_1d": _sine_1d,
    "sine_2d": _sine_2d,
    "select_frames": _select,
}


def sam2_video(golden: Golden) -> None:
    content = golden.content
    model, video, predictor = sam2_model(golden), content["video"], content["model"]["predictor"]
    session = model.session(
        seeded_tensor(video["frames"]),
        size=(video["height"], video["width"]),
        memory="all",
        corrections="stick" if predictor["add_all_frames_to_correct_as_cond"] else "official",
        non_overlap=predictor["non_overlap_masks"],
        fill_holes=predictor["fill_hole_area"],
        forget_around_prompts=predictor["clear_non_cond_mem_around_input"],
    )
    for step in content["steps"]:
        if step["call"] == "memory_bank":
            _check_bank(golden, session, step)
            continue
        found = VIDEO_CALLS[step["call"]](session, **step["args"])
        if "objects_left" in step:
            assert list(session.objects) == step["objects_left"]
        for masks, wanted in zip(found, step["yields"], strict=True):
            assert masks.frame == wanted["frame"]
            assert list(masks.objects) == wanted["objects"]
            check(golden, wanted["out"], cut(masks.logits, step["select"]))


def _check_bank(golden: Golden, session: Any, step: dict[str, Any]) -> None:
    found = {
        (identity, frame, prompted): result
        for identity, one in session.tracked.items()
        for prompted, table in ((True, one.prompted), (False, one.tracked))
        for frame, result in table.items()
    }
    wanted = {(record["object"], record["frame"], record["conditioning"]): record for record in step["records"]}
    assert set(found) == set(wanted)
    parts = {"object_pointer": "pointer", "object_score": "object_score", "memory": "memory"}
    for place, record in wanted.items():
        for name, part in parts.items():
            check(golden, record[name], cut(getattr(found[place], part)[0].float(), step["select"][name]))


def _add_points(session: Any, frame: int, object: int, points: Any, labels: Any, box: Any, **rest: Any) -> Any:
    clear, normalized = rest["clear_old_points"], not rest["normalize"]
    return [session.add_points(frame, object, points, labels, box=box, clear=clear, normalized=normalized)]


VIDEO_CALLS = {
    "add_points": _add_points,
    "add_mask": lambda session, frame, object, mask: [session.add_mask(frame, object, shape_mask(mask))],
    "propagate": lambda session, start_frame, max_frames, reverse: session.propagate(start_frame, max_frames, reverse),
    "remove_object": lambda session, object, strict: session.remove(object, strict),
    "clear_prompts": lambda session, frame, object: [session.clear(frame, object)],
}

HANDLERS = {"sam2/image": sam2_image, "sam2/memory": sam2_memory, "sam2/video": sam2_video}
