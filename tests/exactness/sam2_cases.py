"""What the kinds sam2/* share: configurations, checkpoints, inputs and the comparison of `goldens/kinds/sam2.md`."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.exactness.golden import Golden, cut, seeded, seeded_weight

SHARED = Path(__file__).parents[3] / "shared"
BESIDE = Path(os.environ.get("PERCEPTA_GOLDENS", SHARED / "goldens")).parent / "specs" / "keys"
KEY_TABLES = BESIDE if BESIDE.is_dir() else SHARED / "specs" / "keys"
VERSIONS = {"2.0": "sam2", "2.1": "sam2.1"}


def sam2_config(model: dict[str, Any]) -> dict[str, Any]:
    """The config fields of a golden model, under our names; what cannot vary is checked."""
    trunk, neck, prompt = model["trunk"], model["neck"], model["prompt_encoder"]
    decoder, attention, encoder = model["mask_decoder"], model["memory_attention"], model["memory_encoder"]
    settings, predictor = model["settings"], model.get("predictor", {})
    assert neck["drop_coarsest"] == 1
    assert neck["upsample"] == "nearest"
    assert neck["fuse"] == "sum"
    assert (settings["multimask_min_pt_num"], settings["multimask_max_pt_num"]) == (0, 1)
    assert (settings["sigmoid_scale_for_mem_enc"], settings["sigmoid_bias_for_mem_enc"]) == (20.0, -10.0)
    for name in ("use_mask_input_as_output_without_sam", "directly_add_no_mem_embed", "use_high_res_features_in_sam"):
        assert settings[name]
    for name in ("soft_no_obj_ptr", "non_overlap_masks_for_mem_enc"):
        assert not settings[name]
    return {
        "image_size": model["image_size"],
        "trunk": trunk_config(trunk),
        "width": neck["channels"],
        "top_down": tuple(neck["top_down_levels"]),
        "mask_prompt_channels": prompt["mask_channels"],
        "decoder_depth": decoder["transformer_depth"],
        "decoder_heads": decoder["transformer_heads"],
        "decoder_hidden": decoder["transformer_mlp_channels"],
        "decoder_inner": decoder["channels"] // decoder["attention_downsample"],
        "quality_depth": decoder["iou_head_depth"],
        "quality_width": decoder["iou_head_channels"],
        "stability": decoder["dynamic_multimask_via_stability"],
        "stability_delta": decoder["dynamic_multimask_stability_delta"],
        "stability_threshold": decoder["dynamic_multimask_stability_thresh"],
        "memory_width": encoder["out_channels"],
        "memory_layers": attention["layers"],
        "memory_heads": attention["cross_attention"]["num_heads"],
        "memory_hidden": attention["ffn_channels"],
        "memory_dropout": attention["dropout"],
        "fusers": encoder["fuser_layers"],
        "memories": settings["num_maskmem"],
        "pointers": settings["max_obj_ptrs_in_encoder"],
        "prompted_limit": settings["max_cond_frames_in_attn"],
        "memory_stride": settings["memory_temporal_stride_for_eval"],
        "binarise_prompted": settings["binarize_mask_from_pts_for_mem_enc"],
        "tracking_alternatives": settings["multimask_output_for_tracking"],
        "pointer_times": settings["add_tpos_enc_to_obj_ptrs"],
        "absent_memory": settings["no_obj_embed_spatial"],
        "memory_precision": predictor.get("mask_memory_dtype", "bfloat16"),
    }


def trunk_config(trunk: dict[str, Any]) -> dict[str, Any]:
    """The trunk's fields, under our names."""
    assert trunk["dim_mul"] == trunk["head_mul"] == 2.0
    assert trunk["activation"] == "gelu"
    return {
        "embed_dim": trunk["embed_dim"],
        "heads": trunk["num_heads"],
        "stages": tuple(trunk["stages"]),
        "q_pool": trunk["q_pool"],
        "windows": tuple(trunk["window_spec"]),
        "global_blocks": tuple(trunk["global_att_blocks"]),
        "background": tuple(trunk["window_pos_embed_bkg_spatial_size"]),
        "mlp_ratio": trunk["mlp_ratio"],
        "in_channels": trunk["in_channels"],
        "patch_kernel": trunk["patch_kernel"],
        "patch_stride": trunk["patch_stride"],
        "patch_padding": trunk["patch_padding"],
        "norm_eps": trunk["norm_eps"],
    }


def sam2_model(golden: Golden) -> Any:
    """The model of a case, loaded from a checkpoint in the official layout."""
    import percepta

    spec = golden.content["model"]
    weights = golden.content["weights"]
    keys = json.loads((KEY_TABLES / f"{weights['key_table']}.json").read_text())["keys"]
    state = {key: _weight(weights, key, shape) for key, shape in keys.items()}
    file = golden.folder / "model.pt"
    torch.save({"model": state}, file)
    name = f"{VERSIONS[spec['version']]}-hiera-{spec['size'].replace('_', '-')}"
    return percepta.load(name, weights=file, **sam2_config(spec))


def _weight(weights: dict[str, Any], key: str, shape: list[int]) -> torch.Tensor:
    for rule in weights["overrides"]:
        if re.search(rule["pattern"], key):
            assert rule["rule"] == "buffer"
            return torch.from_numpy(seeded(weights["prefix"] + key, rule["shape"], rule["scale"], rule["offset"]))
    return seeded_weight(weights["prefix"] + key, shape)


def part_state(part: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The seeded weights of one component, under its own official names."""
    return {key: seeded_weight(part["prefix"] + key, shape) for key, shape in part["keys"].items()}


def seeded_tensor(spec: dict[str, Any]) -> torch.Tensor:
    """A seeded input with its optional transformations."""
    value = torch.from_numpy(seeded(spec["name"], spec["shape"], spec["scale"], spec["offset"]))
    if spec.get("transform") == "sigmoid":
        value = value.sigmoid()
    if "greater_than" in spec:
        value = value > spec["greater_than"]
    for row in spec.get("empty_objects", ()):
        value[row] = False
    return value


def photo(spec: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8."""
    height, width, cell = spec["height"], spec["width"], spec["cell"]
    coarse = seeded(spec["name"], [height // cell + 2, width // cell + 2, 3])
    coarse = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    fine = seeded(spec["name"] + " fine", [height, width, 3])
    values = coarse * np.float32(spec["coarse_scale"]) + fine * np.float32(spec["fine_scale"])
    return np.clip(np.rint(values + np.float32(spec["offset"])), 0, 255).astype(np.uint8)


def shape_mask(spec: dict[str, Any]) -> np.ndarray:
    """(H, W) bool."""
    kind = spec["type"]
    if kind == "xor":
        masks = [shape_mask(part) for part in spec["of"]]
        return np.logical_xor.reduce(masks)
    height, width = spec["size"]
    y, x = np.mgrid[:height, :width]
    if kind == "disk":
        return (x - spec["cx"]) ** 2 + (y - spec["cy"]) ** 2 < spec["r"] ** 2
    if kind == "rectangle":
        return (spec["x0"] <= x) & (x < spec["x1"]) & (spec["y0"] <= y) & (y < spec["y1"])
    if kind == "empty":
        return np.zeros((height, width), bool)
    assert kind == "blob"
    cell, blur = spec["cell"], spec["blur"]
    coarse = seeded(spec["name"], [height // cell + 2, width // cell + 2])
    values = coarse.astype(np.float64).repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    kernel = np.ones(blur) / blur
    for axis in (0, 1):
        values = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="same"), axis, values)
    return values > spec["threshold"]


def check_outputs(golden: Golden, call: dict[str, Any], results: dict[str, Any]) -> None:
    """Compare every output of a call."""
    for output in call["outputs"]:
        check(golden, output["out"], cut(torch.as_tensor(results[output["result"]]), output["select"]))


def check(golden: Golden, name: str, value: Any) -> None:
    """Compare one array, as section 1 of `goldens/kinds/sam2.md` says."""
    got = torch.as_tensor(value).detach().float().numpy().astype(np.float64)
    want = golden.arrays[name].astype(np.float64)
    assert got.shape == want.shape, (name, got.shape, want.shape)
    rules = golden.content["tolerance"]
    rule = next((r for glob, r in rules.get("per_array", {}).items() if fnmatch.fnmatchcase(name, glob)), None)
    rule = rule or rules["default"]
    if not want.size:
        return
    if np.isnan(want).any() or np.isnan(got).any():
        assert np.array_equal(np.isnan(want), np.isnan(got)), name
        got, want = got[~np.isnan(want)], want[~np.isnan(want)]
    away = np.abs(got - want)
    limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max(initial=0))
    off = away > limit
    worst = float(away.max(initial=0))
    print(f"{name}: differs by {worst:.1e}, allowed {limit:.1e}, off {off.mean():.1%}")  # shown by pytest -rP
    assert off.mean() <= rule.get("max_fraction", 0), f"{name}: {off.mean():.2%} off, {worst:.2e} > {limit:.2e}"
    if "bf16_steps" in rule and off.any():
        larger = np.maximum(np.abs(got), np.abs(want))[off]
        steps = rule["bf16_steps"] * 2.0 ** (np.floor(np.log2(larger)) - 7)
        assert (away[off] <= np.maximum(rule["max_off"], steps)).all(), f"{name}: worst {worst:.2e}"
