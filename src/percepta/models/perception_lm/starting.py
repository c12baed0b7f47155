"""Beginning from two published halves: a Perception Encoder for the eyes, a Llama for the words.

Unusual: the tower of a Perception Language Model is shorter than its encoder, has layer scales that the contrastive
encoder lacks, and often another picture size; what it has no place for is left out, what it has beyond keeps its first
values, and the position table is fitted to its grid. Everything else must fit exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from percepta.checkpoints import recognise
from percepta.checkpoints.keymap import KeyMap, rename
from percepta.errors import CheckpointMismatch
from percepta.layers import resize_positions
from percepta.models.perception_encoder import layouts as tower_layouts
from percepta.models.perception_lm.keys import decoder
from percepta.models.perception_lm.keys_transformers import LAYERS
from percepta.models.perception_lm.model import PerceptionLM

LEFT_OUT = ("norm_post.", "pool.", "projection", "text.", "logit_scale")
"""Parts of an encoder that the tower has not."""


def start_vision(model: PerceptionLM, tensors: Mapping[str, Tensor], owner: str = "the encoder") -> list[str]:
    """Fill the tower from a Perception Encoder's checkpoint: core, lang or spatial, in any of its layouts.

    Args:
        tensors: what `checkpoints.read_tensors` gave.
        owner: what to call the checkpoint in errors.

    Returns: the parameters that the checkpoint does not have (layer scales). Raises: CheckpointMismatch.
    """
    tower, config = model.vision, model.config.vision
    native = _tower_tensors(tensors, model)
    kept = {
        key: value
        for key, value in native.items()
        if not key.startswith(LEFT_OUT) and _block_of(key) < config.depth
    }  # fmt: skip
    if "positions" in kept:
        table = kept["positions"]
        side = round(math.sqrt(len(table) - config.prefix))
        if side**2 == len(table) - config.prefix and table.shape[1:] == tower.positions.shape[1:]:
            kept["positions"] = resize_positions(table, (config.grid, config.grid), config.prefix).contiguous()
    absent = [key for key in tower.state_dict() if key not in kept]
    if any(not re.fullmatch(r"blocks\.\d+\.scale[12]\.gamma", key) for key in absent):
        raise CheckpointMismatch(owner, missing=[f"vision.{key}" for key in absent])
    _, checked = recognise(
        kept, {key: value for key, value in tower.state_dict().items() if key in kept}, {}, {}, owner
    )
    _copy(tower, checked)
    return absent


def start_decoder(model: PerceptionLM, tensors: Mapping[str, Tensor], owner: str = "the language model") -> None:
    """Fill the decoder from a Llama's checkpoint, as its authors publish it or as transformers does.

    Rotary tables are left out, and a head where this model's is tied. Raises: CheckpointMismatch.
    """
    config = model.config.text
    expected = {f"decoder.{key}": value for key, value in model.decoder.state_dict().items()}
    kept = {key: value for key, value in tensors.items() if not key.endswith(("rope.freqs", "rotary_emb.inv_freq"))}
    if model.head is not None:
        expected["head.weight"] = model.head.weight
        heads = {"official": "output.weight", "transformers": "lm_head.weight"}
    else:
        heads = {}
        kept.pop("output.weight", None)
        kept.pop("lm_head.weight", None)
    head = {name: KeyMap((rename("head.weight", key),)) for name, key in heads.items()}
    names = [f"layers.{{i}}.{name}.weight" for name in LAYERS] + ["embed_tokens.weight", "norm.weight"]
    empty = KeyMap(())
    known = {
        "official": decoder(config).nested("decoder.", "") + head.get("official", empty),
        "transformers": KeyMap(tuple(rename(name, name) for name in names)).nested("decoder.", "model.")
        + head.get("transformers", empty),
    }
    _, native = recognise(kept, expected, known, {}, owner)
    _copy(model, native)


def _tower_tensors(tensors: Mapping[str, Tensor], model: PerceptionLM) -> dict[str, Tensor]:
    """Under native names, whatever the layout, from the whole encoder or its tower alone."""
    config = model.config.vision
    found: dict[str, Tensor] = {}
    for text in ("visual.", ""):
        part = {key.removeprefix(text): value for key, value in tensors.items() if key.startswith(text)}
        whole = replace(config, output_dim=1, pooling="attention", pooling_heads=1, post_norm=True)
        for table in tower_layouts(whole).values():
            native, _ = table.to_native(part)
            if len(native) > len(found):
                found = native
    for prefix in ("vision.", ""):
        native = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        hits = sum(key in native for key in model.vision.state_dict())
        if hits > sum(key in found for key in model.vision.state_dict()):
            found = native
    return found


def _block_of(key: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", key)
    return int(match[1]) if match else -1


def _copy(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """In the precision and on the device that the module has."""
    state = module.state_dict()
    for key, value in tensors.items():
        state[key].copy_(value)
