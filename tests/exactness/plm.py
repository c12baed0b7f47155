"""Handlers of the kinds plm/model, plm/rope and plm/generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.exactness.golden import Golden, cut, seeded, seeded_state


def plm_config(spec: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """The config fields of a golden model, under our names."""
    from percepta.models.perception_lm.config import hidden_width

    vision = spec["vision_model"]
    assert spec["sliding_window"] is None
    assert spec["remove_vision_class_token"] is True
    assert vision["use_abs_posemb"] is vision["use_rope2d"] is vision["use_ln_pre"] is True
    assert (vision["use_ln_post"], vision["pool_type"], vision["output_dim"]) == (False, "none", None)
    assert vision["norm_eps"] == 1e-5
    hidden = hidden_width(spec["dim"], spec["ffn_dim_multiplier"], spec["multiple_of"])
    assert hidden == derived["ffn_hidden"]
    return {
        "vision": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "width": vision["width"],
            "depth": vision["layers"],
            "heads": vision["heads"],
            "mlp_ratio": vision["mlp_ratio"],
            "layer_scale": vision["ls_init_value"],
            "drop_path": vision["drop_path"],
            "class_token": vision["use_cls_token"],
            "post_norm": False,
            "pooling": "none",
        },
        "text": {
            "vocabulary": spec["vocab_size"],
            "width": spec["dim"],
            "depth": spec["n_layers"],
            "heads": spec["n_heads"],
            "kv_heads": spec["n_kv_heads"],
            "head_dim": spec["head_dim"],
            "hidden": hidden,
            "norm_eps": spec["norm_eps"],
            "rope_theta": spec["rope_theta"],
            "rope_scale": spec["rope_scale_factor"],
            "rope_low": spec["low_freq_factor"],
            "rope_high": spec["high_freq_factor"],
            "rope_original_length": spec["old_context_len"],
            "max_length": spec["max_seqlen"],
            "tied": spec["weight_tying"],
        },
        "pooling": spec["pooling_ratio"],
    }


def plm_load(golden: Golden, **overrides: Any) -> Any:
    """The model of a case, from a checkpoint in the official layout."""
    import percepta

    content = golden.content
    state = seeded_state(content["weights"])
    for alias, key in content["weights"]["aliases"].items():
        state[alias] = state[key]
    file = golden.folder / "consolidated.pth"
    torch.save({"model": state}, file)
    config = plm_config(content["model"], content["derived"])
    config["vision"] |= overrides.pop("vision", {})
    model = percepta.load("plm-1b", weights=file, **config, **overrides)
    derived, vision = content["derived"], model.config.vision
    assert model.config.text.head_size == derived["head_dim"]
    assert int(vision.width * vision.mlp_ratio) == derived["vision_mlp_width"]
    assert [vision.grid, vision.grid] == derived["patch_grid"]
    assert model.config.tokens_per_chunk == derived["tokens_per_chunk"]
    return model


def value_of(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """A tensor by the recipe of `plm.md`."""
    if spec["type"] == "npz":
        return torch.from_numpy(arrays[spec["array"]])
    if spec["type"] == "constant":
        return torch.full(tuple(spec["shape"]), float(spec["value"]))
    assert spec["type"] == "seeded"
    return torch.from_numpy(seeded(spec["name"], spec["shape"], spec["scale"], spec["offset"]))


def near(golden: Golden, name: str, got: Any, want: Any, rule: dict[str, float]) -> None:
    """Within atol + rtol_of_max * max |want|, and rtol * |want| of each value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, name
    unknown = set(rule) - {"atol", "rtol", "rtol_of_max", "mean_atol", "below"}
    assert not unknown, unknown
    limit = (
        rule.get("atol", 0.0) + rule.get("rtol_of_max", 0.0) * np.abs(want).max() + rule.get("rtol", 0.0) * np.abs(want)
    )
    off = np.abs(got - want)
    print(f"{name}: differs by {off.max():.1e}")  # shown by pytest -rP
    assert (off <= limit).all(), f"{name}: differs by {off.max():.2e}"
    assert off.mean() <= rule.get("mean_atol", np.inf), f"{name}: differs by {off.mean():.2e} on average"


def check_array(golden: Golden, call: dict[str, Any], got: torch.Tensor) -> None:
    rules = golden.content["tolerance"]
    rule = rules.get("per_array", {}).get(call["out"], rules["default"])
    near(golden, call["out"], got.detach().numpy(), golden.arrays[call["out"]], rule)


class Batch:
    """The batch of a plm/model case."""

    def __init__(self, golden: Golden) -> None:
        from percepta.models.perception_lm import MediaLayout

        inputs = golden.content["inputs"]
        self.tokens, position, self.mask = (
            value_of(inputs[name], golden.arrays) for name in ("tokens", "image_pos_index", "loss_mask")
        )
        assert list(self.tokens.shape) == [inputs["batch"], inputs["length"]]
        assert (self.tokens[position >= 0] == inputs["image_token_id"]).all()
        targets = inputs["targets"]
        assert (targets["type"], targets["of"]) == ("roll", "tokens")
        self.tokens = self.tokens.long()
        self.targets = self.tokens.roll(targets["shift"], targets["axis"])
        samples = inputs["samples"]
        self.media = torch.cat([value_of(sample["images"], golden.arrays) for sample in samples])
        chunks = tuple(sample["num_chunks"] for sample in samples)
        self.layout = MediaLayout(position, chunks, tuple(sample["media_type"] for sample in samples))

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        mask = self.mask.bool()
        return F.cross_entropy(logits[mask].float(), self.targets[mask])


def plm_model(golden: Golden) -> None:
    batch = Batch(golden)
    model = plm_load(golden, image_token=golden.content["inputs"]["image_token_id"], stop_tokens=(), pad_token=0)
    rules = golden.content["tolerance"]
    for call in golden.content["calls"]:
        args = call["args"]
        if args.get("mode") == "train":
            _train_call(golden, call, batch)
            continue
        assert args.get("mode", "eval") == "eval"
        with torch.no_grad():
            got = _model_call(model, batch, call["call"], args)
        if "out" in call:
            check_array(golden, call, got)
        else:
            near(golden, call["call"], got, call["expected"], rules["calls"][call["call"]])


def _model_call(model: Any, batch: Batch, name: str, args: dict[str, Any]) -> torch.Tensor:
    if name == "vision_tokens":
        return model.vision_tokens(batch.media)
    if name == "visual_embeddings":
        return model.encode_media(batch.media)
    if name == "stitched_embeddings":
        return model.embed(batch.tokens, batch.media, batch.layout)
    if name == "loss":
        return batch.loss(model(batch.tokens, batch.media, batch.layout))
    assert name == "logits"
    select = [args["rows"], args["positions"]]
    if args["images"]:
        return cut(model(batch.tokens, batch.media, batch.layout), select)
    return model(cut(batch.tokens, select))


def _train_call(golden: Golden, call: dict[str, Any], batch: Batch) -> None:
    from percepta.models.perception_lm import layouts

    token = golden.content["inputs"]["image_token_id"]
    drop_path = {"drop_path": call["args"]["drop_path"]}
    model = plm_load(golden, vision=drop_path, image_token=token, stop_tokens=(), pad_token=0).train()
    loss = batch.loss(model(batch.tokens, batch.media, batch.layout))
    rule = golden.content["tolerance"]["calls"][call["call"]]
    if call["call"] == "loss":
        near(golden, "training loss", loss.item(), call["expected"], rule)
        return
    assert call["call"] == "gradient_norms"
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    official = layouts(model.config)["official"].to_foreign(gradients)
    for alias in golden.content["weights"]["aliases"]:
        official.pop(alias)
    assert set(official) == set(call["expected"])
    for name, want in call["expected"].items():
        near(golden, name, official[name].norm().item(), want, rule)


def plm_rope(golden: Golden) -> None:
    from percepta.models.perception_lm import frequencies, rotation_table

    positions = golden.content["inputs"]["positions"]
    positions = value_of(positions, golden.arrays) if isinstance(positions, dict) else torch.tensor(positions)
    for call in golden.content["calls"]:
        args = call["args"]
        assert int(positions.max()) < args["max_seqlen"]
        of = frequencies(
            args["theta"], args["head_dim"], args["scale_factor"], args["low_freq_factor"], args["high_freq_factor"],
            args["old_context_len"],
        )  # fmt: skip
        cosine, sine = rotation_table(positions, of)
        got = {"rope_cos": cosine, "rope_sin": sine}[call["call"]].numpy()
        want, start = golden.arrays[call["out"]], 0
        for rule in golden.content["tolerance"]["by_position"]:
            rows = (positions >= start) & (positions < rule["below"])
            near(golden, call["out"], got[rows], want[rows], rule)
            start = rule["below"]
        assert int(positions.max()) < start


def plm_generate(golden: Golden) -> None:
    from percepta.models.perception_lm.chat import ChatTemplate, generation_prompt
    from percepta.models.perception_lm.tokenizer import BpeTokenizer

    content = golden.content
    spec = content["tokenizer"]
    assert spec["type"] == "bytes"
    specials, rule = dict(spec["specials"]), spec["specials_rule"]
    for step, number in enumerate(range(rule["first_i"], rule["last_i"] + 1)):
        specials[rule["pattern"].replace("{i}", str(number))] = rule["first_id"] + step
    first, last = spec["byte_ids"]
    tokenizer = BpeTokenizer.from_ranks({bytes([byte]): first + byte for byte in range(last - first + 1)}, specials)
    assert tokenizer.vocabulary == spec["vocab_size"] == content["model"]["vocab_size"]
    how = "official" if spec["specials_in_text"] else "safe"
    for call in content["calls"]:
        assert call["call"] == "generate"
        args = call["args"]
        model = plm_load(
            golden,
            image_token=specials["<|image|>"],
            stop_tokens=tuple(args["stop_ids"]),
            pad_token=args["stop_ids"][0],
        )
        per_chunk = model.config.tokens_per_chunk
        template = ChatTemplate(tokenizer, content["system_text"], per_chunk, args["format"], how)
        prompt = generation_prompt(template, args["question"], args["num_chunks"])
        _check_generation(golden, model, prompt, tokenizer, call)


def _check_generation(golden: Golden, model: Any, prompt: Any, tokenizer: Any, call: dict[str, Any]) -> None:
    from percepta.models.perception_lm import GenerationSettings, MediaLayout

    args, want, rules = call["args"], call["expected"], golden.content["tolerance"]
    settings = GenerationSettings(
        max_tokens=args["max_new_tokens"],
        temperature=args["temperature"],
        top_p=args["top_p"],
        top_k=args["top_k"],
        until=tuple(args["until"]),
        stop_on_first_token=args["stop_on_first_token"],
        prompt_logprobs=True,
    )
    assert prompt.tokens.tolist() == want["prompt_ids"]
    assert np.flatnonzero(prompt.pictures).tolist() == want["image_positions"]
    media = value_of(args["images"], golden.arrays)
    assert len(media) == args["num_chunks"]
    (answer,) = model.generate([prompt], [media], settings, tokenizer.decode)
    assert list(answer.tokens) == want["generated_ids"]
    near(golden, "prompt_logprobs", answer.prompt_logprobs, want["prompt_logprobs"], rules["prompt_logprobs"])
    ids = torch.from_numpy(np.concatenate([prompt.tokens, answer.tokens[:-1]]))[None]
    position = torch.full(ids.shape, -1)
    places = want["image_positions"]
    position[0, places] = torch.arange(len(places))
    with torch.no_grad():
        logits = model(ids, media, MediaLayout(position, (len(media),), ("image",)))[0, len(prompt.tokens) - 1 :]
    first = want["first_step_logits"]
    near(golden, "first_step_logits", cut(logits[0], first["select"]), first["values"], rules["first_step_logits"])
    best = logits.topk(2).values
    margin = float((best[:, 0] - best[:, 1]).min())
    near(golden, "min_top2_margin", margin, want["min_top2_margin"], rules["min_top2_margin"])


HANDLERS: dict[str, Callable[[Golden], None]] = {
    "plm/model": plm_model,
    "plm/rope": plm_rope,
    "plm/generate": plm_generate,
}
