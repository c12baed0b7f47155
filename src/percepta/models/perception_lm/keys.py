"""The names of a Perception Language Model in the official checkpoints.

Unusual: official weights rotate neighbouring channels, transformers' layers the two halves of a head, so rows of the
query and key matrices change places on the way; a tied head is stored as an alias of the embedding, or not at all.
"""

from __future__ import annotations

from torch import Tensor

from percepta.checkpoints.keymap import KeyMap, Rule, rename
from percepta.models.perception_encoder.keys import OFFICIAL_VISION
from percepta.models.perception_lm.config import DecoderConfig, PerceptionLMConfig


def halves_of_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of (heads * head_dim, width) from neighbouring pairs to two halves of each head."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def pairs_of_halves(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `halves_of_pairs`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _turned(native: str, foreign: str, heads: int) -> Rule:
    """A query or key matrix."""
    return Rule(
        (f"{native}.weight",),
        f"{foreign}.weight",
        lambda x: pairs_of_halves(x, heads),
        lambda x: halves_of_pairs(x, heads) if x.ndim == 2 and x.shape[0] % (2 * heads) == 0 else x,
    )


def decoder(config: DecoderConfig) -> KeyMap:
    """The decoder, as in the checkpoints of Llama itself."""
    native, foreign = "layers.{i}", "layers.{i}"
    names = {
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    return KeyMap(
        (
            rename("embed_tokens.weight", "tok_embeddings.weight"),
            _turned(f"{native}.self_attn.q_proj", f"{foreign}.attention.wq", config.heads),
            _turned(f"{native}.self_attn.k_proj", f"{foreign}.attention.wk", config.kv_heads),
            *(
                rename(f"{native}.{mine}.weight", f"{foreign}.{theirs}.weight")
                for mine, theirs in names.items()
            ),
            rename("norm.weight", "norm.weight"),
        )
    )  # fmt: skip


def projector(foreign_first: str, foreign_second: str) -> KeyMap:
    """The two linear layers."""
    return KeyMap(
        tuple(
            rename(f"projector.mlp.{mine}.{kind}", f"{theirs}.{kind}")
            for mine, theirs in (("expand", foreign_first), ("contract", foreign_second))
            for kind in ("weight", "bias")
        )
    )


def head(config: DecoderConfig, untied: str, tied: str) -> KeyMap:
    """The output head: a matrix of its own, or an alias of the embedding that may be absent."""
    if not config.tied:
        return KeyMap((rename("head.weight", untied),))
    return KeyMap((), {tied: lambda tensors: tensors["decoder.embed_tokens.weight"]})


def official(config: PerceptionLMConfig) -> KeyMap:
    """The published names."""
    return (
        OFFICIAL_VISION.nested("vision.", "vision_model.")
        + projector("vision_projector.projector.0", "vision_projector.projector.2")
        + head(config.text, "output.weight", "output.tied_module.weight")
        + decoder(config.text).nested("decoder.", "")
    )
