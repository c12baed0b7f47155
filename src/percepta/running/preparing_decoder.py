"""The prepared path of a language decoder: transformers' Llama layers with fewer, larger steps, and the same results.

A layer of transformers runs some forty small operations, half of them for norms and rotations, which is most of the
time of a token of a small model. The stand-in runs a dozen: fused norms, one rotation for queries and keys, products in
place. Its linear layers are the packed ones of `layers.packed` where several rows meet a weight; a single row is bound
by reading the weight, which the plain product does best.

Unusual: whether it gives what the installed transformers gives is tried once a process on a layer of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.layers.packed import PackedLinear, runs_plain, stand_in

LAYER = "transformers.models.llama.modeling_llama.LlamaDecoderLayer"
ATTENTION = "percepta"  # what `models.perception_lm.attending` is registered as
TOLERANCE = 1e-5


class PreparedDecoderLayer(nn.Module):
    """Stands in for a Llama layer of a Perception Language Model in evaluation; made by `decoder_layer_of`.

    Attributes:
        plain: the layer that it stands for, whose tables it shares.
    """

    plain: nn.Module
    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """(B, L, width) → (B, L, width); options as of the plain layer."""
        way, tables = options.get("way"), options.get("position_embeddings")
        if way is None or tables is None or self.training or torch.is_grad_enabled() or runs_plain(hidden_states):
            result: Tensor = self.plain(hidden_states, **options)
            return result
        x = hidden_states + self._attended(_normed(hidden_states, self.input_layernorm), tables, way)
        normed = _normed(x, self.post_attention_layernorm)
        mlp = self.mlp
        gated = F.silu(_linear(mlp.gate_proj, normed), inplace=True).mul_(_linear(mlp.up_proj, normed))
        return x.add_(_linear(mlp.down_proj, gated))

    def train(self, mode: bool = True) -> PreparedDecoderLayer:
        self.plain.training = mode
        super().train(mode)
        return self

    def _attended(self, normed: Tensor, tables: tuple[Tensor, Tensor], way: Any) -> Tensor:
        part = self.self_attn
        batch, count, _ = normed.shape
        shape = (batch, count, -1, part.head_dim)
        query, key, value = (_linear(layer, normed).view(shape) for layer in (part.q_proj, part.k_proj, part.v_proj))
        heads = query.shape[2]
        turned = _turned(torch.cat([query, key], dim=2), *tables)
        query, key, value = (x.transpose(1, 2) for x in (turned[:, :, :heads], turned[:, :, heads:], value))
        mixed = way.attend(part.layer_idx, query, key, value, part.scaling)
        return _linear(part.o_proj, mixed.transpose(1, 2).reshape(batch, count, -1))


def decoder_layer_of(part: nn.Module) -> PreparedDecoderLayer | None:
    """What stands in for a module, if it is a Llama layer of ours and the installed transformers' are as expected."""
    if not _is_ours(part) or not _agrees():
        return None
    return stand_in(PreparedDecoderLayer, part)


def _is_ours(part: Any) -> bool:
    if f"{type(part).__module__}.{type(part).__qualname__}" != LAYER:
        return False
    return getattr(part.self_attn.config, "_attn_implementation", "") == ATTENTION


@functools.cache
def _agrees() -> bool:
    """Whether a small layer and its stand-in give the same."""
    from percepta.models.perception_lm.attending import Rows
    from percepta.models.perception_lm.config import DecoderConfig
    from percepta.models.perception_lm.model import llama

    config = DecoderConfig(vocabulary=8, width=24, depth=1, heads=4, kv_heads=2, head_dim=8, hidden=40, max_length=16)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        decoder = llama(config).eval()
    plain = decoder.layers[0]
    x = torch.linspace(-2.0, 3.0, 2 * 5 * 24).sin().view(2, 5, 24)
    tables = decoder.rotary_emb(x, torch.arange(5)[None])
    options = {"position_embeddings": tables, "way": Rows()}
    with torch.no_grad():
        try:
            want = plain(x, **options)
            got = stand_in(PreparedDecoderLayer, plain)(x, **options)
        except (RuntimeError, TypeError, AttributeError):
            return False
    return bool((got - want).norm() <= TOLERANCE * want.norm())


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer on (B, L, in); straight from the weight for one row."""
    if x.shape[0] * x.shape[1] == 1 and type(layer) in (nn.Linear, PackedLinear) and not _watched(layer):
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    result: Tensor = layer(x)
    return result


def _watched(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks) or "forward" in layer.__dict__


def _normed(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, L, heads, head_dim) turned by tables (B or 1, L, head_dim) whose halves are equal."""
    half = x.shape[-1] // 2
    result = x * cosine[:, :, None]
    sine = sine[:, :, None, :half]
    result[..., :half].addcmul_(x[..., half:], sine, value=-1)
    result[..., half:].addcmul_(x[..., :half], sine)
    return result
