"""Handlers of the kinds perception-encoder/*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.exactness.golden import Golden, seeded_state


def perception_encoder_config(spec: dict[str, Any]) -> dict[str, Any]:
    """The config fields of a golden model, under our names."""
    vision, text = spec["vision"], spec["text"]
    assert vision["use_rope2d"] is True
    names = {"attn": "attention", "tok": "class", "avg": "average", "none": "none"}
    settings = {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["width"],
        "depth": vision["layers"],
        "heads": vision["heads"],
        "mlp_ratio": vision["mlp_ratio"],
        "output_dim": vision["output_dim"],
        "layer_scale": vision["ls_init_value"],
        "drop_path": vision["drop_path"],
        "class_token": vision["use_cls_token"],
        "absolute_positions": vision["use_abs_posemb"],
        "rope": vision["use_rope2d"],
        "pre_norm": vision["use_ln_pre"],
        "post_norm": vision["use_ln_post"],
        "pooling": names[vision["pool_type"]],
        "pooling_heads": vision["attn_pooler_heads"],
        "text": None,
    }
    if text is not None:
        assert text["output_dim"] == vision["output_dim"]
        settings["text"] = {
            "context_length": text["context_length"],
            "width": text["width"],
            "heads": text["heads"],
            "depth": text["layers"],
            "mlp_ratio": text["mlp_ratio"],
            "vocabulary": text["vocab_size"],
        }
    return settings


def perception_encoder_model(golden: Golden) -> None:
    import percepta

    models = {}
    for name, spec in golden.content["models"].items():
        assert (spec["type"] == "clip") == (spec["text"] is not None)
        file = golden.folder / f"{name}.pt"
        torch.save(seeded_state(spec["weights"]), file)
        model = percepta.load("pe-core-b16-224", weights=file, **perception_encoder_config(spec))
        models[name] = model if spec["truncate"] is None else model.truncated(spec["truncate"])
    for call in golden.content["calls"]:
        arguments = {key: golden.argument(value) for key, value in call["args"].items()}
        with torch.no_grad():
            golden.check(call, PERCEPTION_ENCODER_CALLS[call["call"]](models[call["model"]], **arguments))


def _tower(model: Any) -> Any:
    return getattr(model, "vision", model)


PERCEPTION_ENCODER_CALLS: dict[str, Callable[..., Any]] = {
    "forward_features": lambda model, image, layer_idx, norm, strip_cls_token: _tower(model).intermediates(
        image, [layer_idx], norm=norm, prefix=not strip_cls_token
    )[0],
    "forward": lambda model, image, layer_idx, strip_cls_token: _tower(model)(image, layer_idx, strip_cls_token),
    "encode_image": lambda model, image, normalize: model.encode_image(image, normalize),
    "encode_video": lambda model, video, normalize: model.encode_video(video, normalize),
    "encode_text": lambda model, text, normalize: model.encode_text(text, normalize),
    "logits": lambda model, image, text: _logits(*model(image, text)),
    "logit_scale_exp": lambda model: model()[2].reshape(1),
    "rope_angles": lambda model, grid: _tower(model).rope_angles(*grid),
}


def _logits(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return scale * images @ texts.T


def perception_encoder_preprocess(golden: Golden) -> None:
    from percepta.media import Preprocess

    config = golden.content["config"]
    assert (config["interpolation"], config["antialias"], config["output_dtype"]) == ("bilinear", True, "float32")
    for call in golden.content["calls"]:
        assert call["call"] == "preprocess"
        args = call["args"]
        preprocess = Preprocess(
            image_size=args["image_size"], resize=args["resize"], mean=tuple(config["mean"]), std=tuple(config["std"])
        )
        golden.check(call, preprocess(golden.argument(args["picture"])))


def perception_encoder_tokenizer(golden: Golden) -> None:
    from percepta.models.perception_encoder import Tokenizer

    tokenizer, config = Tokenizer(), golden.content["config"]
    assert config["clean"] == "lower"
    for field_name in ("vocab_size", "start_id", "end_id", "pad_id"):
        assert getattr(tokenizer, field_name) == config[field_name]
    assert tokenizer.special_tokens == tuple(config["special_tokens"])
    texts = golden.inputs["texts"]
    calls = {
        "tokenize": lambda context_length: tokenizer.tokenize(texts, context_length)[0],
        "encode": lambda: [tokenizer.encode(text) for text in texts],
        "decode_of_encode": lambda: [tokenizer.decode(tokenizer.encode(text)) for text in texts],
    }
    for call in golden.content["calls"]:
        assert calls[call["call"]](**call["args"]) == call["expected"], call["out"]


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "perception-encoder/model": perception_encoder_model,
    "perception-encoder/preprocess": perception_encoder_preprocess,
    "perception-encoder/tokenizer": perception_encoder_tokenizer,
}
