"""Handlers of the kinds hiera/*, hieradet/features and sam2/trunk."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.exactness.golden import TOKEN_INPUTS, Golden, cut, seeded, seeded_weight
from tests.exactness.sam2_cases import check_outputs, part_state, trunk_config


def trunk_of(config: Any, state: dict[str, torch.Tensor]) -> Any:
    """The windowed trunk with weights in the official layout."""
    from percepta.models.hiera import HieraDet, TrunkConfig
    from percepta.models.hiera.keys import OFFICIAL_TRUNK

    trunk = HieraDet(TrunkConfig(**config)).eval()
    native, left = OFFICIAL_TRUNK.to_native(state)
    assert not left
    trunk.load_state_dict(native, strict=True)
    return trunk


def sam2_trunk(golden: Golden) -> None:
    weights = golden.content["weights"]
    assert weights["rule"] == "seeded"
    assert weights["overrides"] == []
    spec = golden.content["config"]
    assert spec["q_stride"] == [2, 2]
    (part,) = weights["parts"]
    trunk = trunk_of(trunk_config(spec) | {"drop_path": spec["drop_path_rate"]}, part_state(part))
    if "parameters" in part:
        assert sum(p.numel() for p in trunk.parameters()) == part["parameters"]
    with torch.no_grad():
        for call in golden.content["calls"]:
            arguments = call["args"]
            if call["call"] == "stages":
                maps = trunk(golden.inputs[arguments["image"]])
                results = {f"stage{level}": value for level, value in enumerate(maps)}
            else:
                assert call["call"] == "position_embedding"
                results = {"table": trunk.position_embedding(arguments["height"], arguments["width"])}
            check_outputs(golden, call, results)


def hieradet_features(golden: Golden) -> None:
    spec = golden.content["config"]
    expect(spec, dim_mul=2.0, head_mul=2.0, q_stride=[2, 2], qkv_bias=True, activation="gelu_exact", norm="layer_norm")
    expect(spec, pad_windows=True, window_pos_size=[spec["window_spec"][0]] * 2)
    expect(spec, position_resize={"mode": "bicubic", "antialias": False, "align_corners": False})
    kernel, stride, padding = (_square(spec[f"patch_{part}"]) for part in ("kernel", "stride", "padding"))
    config = {
        "embed_dim": spec["embed_dim"],
        "heads": spec["num_heads"],
        "stages": tuple(spec["stages"]),
        "q_pool": spec["q_pool"],
        "windows": tuple(spec["window_spec"]),
        "global_blocks": tuple(spec["global_att_blocks"]),
        "background": tuple(spec["global_pos_size"]),
        "mlp_ratio": spec["mlp_ratio"],
        "in_channels": spec["in_chans"],
        "patch_kernel": kernel,
        "patch_stride": stride,
        "patch_padding": padding,
        "norm_eps": spec["norm_eps"],
        "drop_path": spec["drop_path_rate"],
    }
    trunk = trunk_of(config, seeded_checkpoint(golden.content["weights"]))
    assert sum(p.numel() for p in trunk.parameters()) == golden.content["params"]
    with torch.no_grad():
        maps = {name: trunk(value) for name, value in golden.inputs.items()}
        for call in golden.content["calls"]:
            arguments = call["args"]
            if call["call"] == "feature_map":
                result = maps[arguments["x"]][arguments["stage"]]
            else:
                assert call["call"] == "position_embedding"
                result = trunk.position_embedding(*(pixels // stride for pixels in arguments["size"]))
            check(golden, call, result)


def expect(spec: dict[str, Any], **values: Any) -> None:
    """What cannot vary here must be as said."""
    for name, value in values.items():
        assert spec[name] == value, name


def _square(values: list[int]) -> int:
    assert len(set(values)) == 1
    return values[0]


def keep_smallest(spec: dict[str, Any]) -> torch.Tensor:
    """True for the mask units that are kept."""
    noise = spec["noise"]
    order = np.argsort(seeded(noise["name"], noise["shape"], noise["scale"], noise["offset"]), axis=1, kind="stable")
    keep = np.zeros(noise["shape"], dtype=bool)
    np.put_along_axis(keep, order[:, : spec["keep"]], True, axis=1)
    return torch.from_numpy(keep)


TOKEN_INPUTS["keep_smallest"] = keep_smallest


def check(golden: Golden, call: dict[str, Any], result: Any) -> None:
    """Compare one array, as `goldens/kinds/hiera.md` says."""
    name = call["out"]
    value = torch.as_tensor(result)
    if name in golden.content.get("full_shapes", {}):
        assert list(value.shape) == golden.content["full_shapes"][name], name
    got, want = (cut(value, call["select"]) if call["select"] else value).detach().numpy(), golden.arrays[name]
    described = golden.content["arrays"][name]
    assert list(got.shape) == list(want.shape) == described["shape"], (name, got.shape, want.shape)
    assert str(got.dtype) == described["dtype"], name
    rules = golden.content["tolerance"]
    matches = [r for glob, r in rules.get("per_array", {}).items() if fnmatch.fnmatchcase(name, glob)]
    rule = matches[-1] if matches else rules["default"]
    if rule.get("exact"):
        assert np.array_equal(got.astype(np.int64), want.astype(np.int64)), f"{name} differs"
        return
    limit = rule["atol"] + rule["rtol_of_max"] * float(np.abs(want).max())
    worst = float(np.abs(got.astype(np.float64) - want).max())
    print(f"{name}: differs by {worst:.1e}, allowed {limit:.1e}")  # shown by pytest -rP
    assert worst <= limit, f"{name}: differs by {worst:.2e}, allowed {limit:.2e}"


def seeded_checkpoint(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The official state dict of a `weights` entry."""
    assert weights["rule"] == "seeded"
    state = {}
    for key, shape in weights["keys"].items():
        rule = next((o for o in weights["overrides"] if re.search(o["pattern"], key)), None)
        name = weights["prefix"] + key
        if rule is None:
            state[key] = seeded_weight(name, shape)
        else:
            assert rule["rule"] == "scale"
            state[key] = torch.from_numpy(seeded(name, shape, rule["scale"], rule["offset"]))
    return state


def hiera_config(spec: dict[str, Any]) -> dict[str, Any]:
    """The config fields of a golden Hiera, under our names; what cannot vary is checked."""
    expect(spec, qkv_bias=True, activation="gelu_exact", norm="layer_norm")
    sides = spec["input_size"]
    positions = {False: "table", True: "separate"}[spec["sep_pos_embed"]] if "sep_pos_embed" in spec else "window"
    return {
        "image_size": tuple(sides[-2:]),
        "frames": sides[0] if len(sides) == 3 else None,
        "in_channels": spec["in_chans"],
        "embed_dim": spec["embed_dim"],
        "heads": spec["num_heads"],
        "stages": tuple(spec["stages"]),
        "q_pool": spec["q_pool"],
        "q_stride": tuple(spec["q_stride"]),
        "unit": tuple(spec["mask_unit_size"]),
        "local": tuple(spec["mask_unit_attn"]),
        "patch_kernel": tuple(spec["patch_kernel"]),
        "patch_stride": tuple(spec["patch_stride"]),
        "patch_padding": tuple(spec["patch_padding"]),
        "mlp_ratio": spec["mlp_ratio"],
        "width_ratio": spec["dim_mul"],
        "head_ratio": spec["head_mul"],
        "norm_eps": spec["norm_eps"],
        "drop_path": spec["drop_path_rate"],
        "layer_scale": None,
        "shortcut": "projection",
        "positions": positions,
        "classes": spec.get("num_classes"),
        "decoder": None,
    }


def loaded(golden: Golden, name: str, file: str, config: dict[str, Any], wrapped: bool = True) -> Any:
    """The model, loaded from a checkpoint file in the published layout."""
    import percepta

    state = seeded_checkpoint(golden.content["weights"])
    path = golden.folder / file
    torch.save({"model_state": state} if wrapped else state, path)
    model = percepta.load(name, weights=path, **config)
    assert sum(p.numel() for p in model.parameters()) == golden.content["params"]
    return model


def as_ours(value: torch.Tensor) -> torch.Tensor:
    """Videos of the official code are (B, 3, T, H, W)."""
    return value.transpose(1, 2) if value.ndim == 5 else value


def run_calls(golden: Golden, calls: dict[str, Callable[..., Any]]) -> None:
    """All calls of a case; arguments that name inputs stand for these."""
    with torch.no_grad():
        for call in golden.content["calls"]:
            names = call["args"]
            arguments = {
                key: golden.inputs.get(value, value) if isinstance(value, str) else value
                for key, value in names.items()
            }
            arguments |= {"x": as_ours(arguments["x"])} if "x" in arguments else {}
            check(golden, call, calls[call["call"]](**arguments))


def hiera_classifier(golden: Golden) -> None:
    spec = golden.content["config"]
    expect(spec, head_activation_eval="softmax")
    config = hiera_config(spec)
    config |= {"head_dropout": spec["head_dropout"], "head_init_scale": spec["head_init_scale"]}
    model = loaded(golden, "hiera-base-224", "hiera.pth", config | {"softmax": False})
    official = loaded(golden, "hiera-base-224", "hiera.pth", config | {"softmax": True})
    ends = model.config.stage_ends

    def masked_tokens(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        (maps,) = model.masked_intermediates(x, mask, [-1])
        return maps.flatten(2, -2).transpose(1, 2).flatten(1, 2)

    run_calls(
        golden,
        {
            "input": lambda name: name,
            "logits": lambda x: model(x),
            "probabilities": lambda x: official(x),
            "stage_output": lambda x, stage: model.intermediates(x, [ends[stage]], layout="NHWC")[0],
            "masked_stage_output": lambda x, mask, stage: model.masked_intermediates(x, mask, [ends[stage]])[0],
            "masked_tokens": masked_tokens,
        },
    )


def hiera_abswin(golden: Golden) -> None:
    spec = golden.content["config"]
    expect(spec, position="absolute_win", window_pos_size=spec["mask_unit_size"], pool="mean")
    expect(spec, head_activation_eval="none")
    resize = spec["position_resize"]
    expect(resize, mode="bicubic", align_corners=False)
    config = hiera_config(spec) | {
        "background": tuple(spec["global_pos_size"]),
        "position_antialias": resize["antialias"],
        "layer_scale": 1e-5 if spec["layer_scale"] else None,
        "shortcut": {"projection": "projection", "max_mean_concat": "max-mean"}[spec["widening_shortcut"]],
    }
    model = loaded(golden, "hiera-small-abswin-256", "timm.pth", config, wrapped=False)
    ends = model.config.stage_ends
    run_calls(
        golden,
        {
            "logits": lambda x: model(x),
            "position_embedding": lambda size: model.position_embedding(*size).flatten(1, 2),
            "stage_output": lambda x, stage: model.intermediates(x, [ends[stage]], layout="NHWC")[0],
        },
    )


def hiera_mae(golden: Golden) -> None:
    spec = golden.content["config"]
    decoder = spec["decoder"]
    config = hiera_config(spec) | {
        "decoder": {
            "width": decoder["embed_dim"],
            "depth": decoder["depth"],
            "heads": decoder["num_heads"],
            "mlp_ratio": decoder["mlp_ratio"],
            "norm_eps": decoder["norm_eps"],
            "normalise": decoder["normalise_targets"],
            "eps": decoder["target_eps"],
        }
    }
    model = loaded(golden, "mae-hiera-base-224", "mae.pth", config)
    assert model.decoder.patch[-2:] == (decoder["patch_pixels"],) * 2
    passes: dict[tuple[int, int], Any] = {}

    def passed(x: torch.Tensor, mask: torch.Tensor) -> Any:
        key = (x.data_ptr(), mask.data_ptr())
        if key not in passes:
            passes[key] = model.pretrain(x, mask)
        return passes[key]

    names = {"latent": "latent", "prediction": "prediction", "target": "target", "loss": "loss", "token_mask": "mask"}
    calls: dict[str, Callable[..., Any]] = {"input": lambda name: name}
    for call, field in names.items():
        calls[call] = lambda x, mask, field=field: getattr(passed(x, mask), field)
    run_calls(golden, calls)


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "hiera/abswin-timm": hiera_abswin,
    "hiera/classifier": hiera_classifier,
    "hiera/mae": hiera_mae,
    "hieradet/features": hieradet_features,
    "sam2/trunk": sam2_trunk,
}
