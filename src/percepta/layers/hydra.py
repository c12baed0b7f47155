"""Hydra attention: as many heads as features, so that every token meets one vector (arXiv 2209.07484).

With heads one feature wide and a kernel in place of softmax, attention is `kernel(q) * (sum of kernel(k) * v)`, over
tokens and feature by feature: time and memory grow with N D, where softmax attention takes N² D.
Unusual: the norms run over all D features, never over one head (that would leave only signs); nothing divides by the
number of tokens, so the output grows with it; norms and sums are at least float32, whatever the dtype of the model.
Order of this file: the function, the state of a stream, who gave what to whom, the attention module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from percepta.errors import BadInput, one_of, wrong_shape

KERNELS = ("cosine", "mean", "sigmoid-softmax", "tanh-softmax")
NORMALISATIONS = ("none", "mean")
SMALLEST_NORM = 1e-12
PART = (
    128  # tokens at a time where nothing is kept for gradients: a few hundred kilobytes each of keys, values, products
)


class HydraState(NamedTuple):
    """What the tokens seen so far leave behind, of a size that does not grow with their number.

    Attributes:
        total: the sum of kernel(k) * v, (B, 1, D), float32 (float64 for float64 inputs).
        tokens: how many tokens that are, (B, 1, 1), of the same dtype.
    """

    total: Tensor
    tokens: Tensor

    @classmethod
    def start(cls, batch: int, width: int, device: torch.device | None = None) -> HydraState:
        """The state before the first token."""
        return cls(torch.zeros(batch, 1, width, device=device), torch.zeros(batch, 1, 1, device=device))


def hydra(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None = None,
    causal: bool = False,
    size: Tensor | None = None,
    kernel: str = "cosine",
    normalise: str = "none",
    state: HydraState | None = None,
) -> Tensor | tuple[Tensor, HydraState]:
    """Attention with D heads of one feature each, in time and memory linear in tokens (section 3 of the paper).

    Args:
        q: queries (B, M, D), not split into heads, any float dtype.
        k, v: keys and values (B, N, D).
        key_mask: (B, N) bool, True keeps a token; a masked one counts as if it were not there.
        causal: a token sees itself and earlier tokens alone; needs M = N.
        size: (B, N), how many equal tokens each token stands for, as token merging leaves them.
        kernel: "cosine", each vector over its length (the paper's; a vector shorter than 1e-12 becomes zero);
            "mean", over sqrt(D); "sigmoid-softmax" and "tanh-softmax", that function of q, and of k a softmax over
            tokens, feature by feature (AFT-simple, arXiv 2105.14103).
        normalise: "none", or "mean" to divide by the number of tokens summed, which keeps the scale over resolutions.
        state: what came before, to be added; the state after these tokens is then returned too. Chunk by chunk with
            `causal` gives the same as all at once.

    Returns: (B, M, D) in the dtype of `q`; with `state` the pair (output, new state). Where nothing is kept: zeros.

    Raises: BadInput for shapes that do not fit, an unknown name, or a softmax over tokens that are still to come.
    """
    _check(q, k, v, key_mask, size, kernel, normalise)
    if causal and q.shape[1] != k.shape[1]:
        raise wrong_shape("q of causal Hydra attention", q.shape, f"(B, {k.shape[1]}, D), one query a key")
    if (causal or state is not None) and kernel.endswith("softmax"):
        raise BadInput(
            f"causal and state need kernel 'cosine' or 'mean', since a softmax over tokens changes with every new one; "
            f"got {kernel!r}."
        )
    if _in_parts(q, k, v, size) and not (causal or kernel.endswith("softmax") or state or normalise != "none"):
        return _hydra_in_parts(q, k, v, key_mask, size, kernel)
    gathered = _gathered(k, v, key_mask, size, kernel)
    total = gathered.cumsum(1) if causal else gathered.sum(1, keepdim=True)
    if state is not None:
        total = total + state.total
    mixed = _gate(q, kernel) * total
    if normalise == "none" and state is None:
        return mixed.to(q.dtype)
    count = _counts(gathered, key_mask, size)
    count = count.cumsum(1) if causal else count.sum(1, keepdim=True)
    if state is not None:
        count = count + state.tokens
    if normalise == "mean":
        mixed = mixed / count.clamp_min(SMALLEST_NORM)
    output = mixed.to(q.dtype)
    return output if state is None else (output, HydraState(total[:, -1:], count[:, -1:]))


def hydra_contributions(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None = None,
    size: Tensor | None = None,
    kernel: str = "cosine",
    normalise: str = "none",
) -> Tensor:
    """How much each token gave to a score, through the output of `hydra` (appendix of the paper, there for one query).

    Heads of one feature have no maps that a mean over them would show; weighted by the gradient of a score they do.

    Args:
        gradient: (B, M, D), of the score with respect to the output of `hydra`; the other arguments as there.

    Returns: (B, N) in at least float32; its sum over tokens is the sum of gradient * output.
    """
    _check(q, k, v, key_mask, size, kernel, normalise)
    gathered = _gathered(k, v, key_mask, size, kernel)
    taken = (gradient.to(gathered.dtype) * _gate(q, kernel)).sum(1, keepdim=True)
    if normalise == "mean":
        taken = taken / _counts(gathered, key_mask, size).sum(1, keepdim=True).clamp_min(SMALLEST_NORM)
    return (taken * gathered).sum(-1)


class HydraAttention(nn.Module):
    """Hydra attention with the parameters and the call of `layers.Attention`, so that a block takes either.

    Args:
        width: channels D.
        heads: what the returned keys are split into for token merging; the attention itself has D heads.
        causal, kernel, normalise: as `hydra` takes them.
        drop_rotation: leave queries and keys unrotated in a tower with rotary positions. Products are taken feature by
            feature, so a rotation, which mixes two features, would not make them relative. By default refused.
        qkv, proj: the projections D to 3 D and D to D, such as those of the attention it stands in for; by default new.
    """

    def __init__(
        self,
        width: int,
        heads: int = 1,
        causal: bool = False,
        kernel: str = "cosine",
        normalise: str = "none",
        drop_rotation: bool = False,
        qkv: nn.Module | None = None,
        proj: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise BadInput(f"heads must divide width; got width={width}, heads={heads}.")
        check_names(kernel, normalise)
        self.heads, self.causal, self.kernel, self.normalise = heads, causal, kernel, normalise
        self.drop_rotation = drop_rotation
        self.qkv = qkv if qkv is not None else nn.Linear(width, 3 * width)
        self.proj = proj if proj is not None else nn.Linear(width, width)

    def extra_repr(self) -> str:
        """What `print` shows beside the projections."""
        return f"kernel={self.kernel}, normalise={self.normalise}, causal={self.causal}"

    def forward(self, x: Tensor, rotation: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: (B, N, D).
            rotation: of a tower with rotary positions; dropped or refused, see above.
            bias: the logarithm of the size of each token, (B, 1, 1, N), or None: all that token merging adds to
                logits. Equal tokens merged into one then give what they gave before.

        Returns: the update (B, N, D), and the keys (B, heads, N, head_dim), which token merging compares.
        """
        if rotation is not None and not self.drop_rotation:
            raise BadInput(
                "Hydra attention loses what rotary positions stand for; pass drop_rotation=True to leave queries and "
                "keys unrotated here."
            )
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        size = None if bias is None else size_of_bias(bias, k.shape[1]).expand(len(k), -1)
        mixed = hydra(q, k, v, causal=self.causal, size=size, kernel=self.kernel, normalise=self.normalise)
        assert isinstance(mixed, Tensor)
        return self.proj(mixed), k.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def size_of_bias(bias: Tensor, tokens: int) -> Tensor:
    """Token sizes (B or 1, N) of an attention bias that is the same for all heads and queries, (B or 1, 1, 1, N).

    Raises: BadInput for any other shape, which has no place in attention without logits.
    """
    if bias.ndim != 4 or bias.shape[1] != 1 or bias.shape[2] != 1 or bias.shape[3] != tokens:
        raise wrong_shape("the bias of Hydra attention, the logarithm of token sizes,", bias.shape, "(B, 1, 1, N)")
    return bias[:, 0, 0].exp()


def _gathered(k: Tensor, v: Tensor, key_mask: Tensor | None, size: Tensor | None, kernel: str) -> Tensor:
    """kernel(k) * v, what each token gives to all: (B, N, D) in at least float32."""
    dtype = _accumulation(k.dtype)
    k, v = k.to(dtype), v.to(dtype)
    if key_mask is not None:  # before anything else, so that a masked token may hold any value, infinite or none
        hidden = ~key_mask[..., None]
        k, v = k.masked_fill(hidden, 0.0), v.masked_fill(hidden, 0.0)
    if kernel.endswith("softmax"):
        if size is not None:
            k = k + size.to(dtype).log()[..., None]
        if key_mask is not None:  # the lowest number, not minus infinity, which is no number where all are masked
            k = k.masked_fill(hidden, torch.finfo(dtype).min)
        return k.softmax(1) * v
    scale = _scale(k, kernel)
    if size is not None:
        scale = scale * size.to(dtype)[..., None]
    return k * v * scale


def _gate(q: Tensor, kernel: str) -> Tensor:
    """kernel(q), what each token takes: (B, M, D) in at least float32."""
    q = q.to(_accumulation(q.dtype))
    if kernel == "sigmoid-softmax":
        return q.sigmoid()
    if kernel == "tanh-softmax":
        return q.tanh()
    return q * _scale(q, kernel)


def _scale(x: Tensor, kernel: str) -> Tensor:
    """What a vector is multiplied with, (B, N, 1); zero for a vector too short to have a direction, or a gradient."""
    if kernel == "mean":
        return x.new_full((1, 1, 1), x.shape[-1] ** -0.5)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > SMALLEST_NORM, norm.clamp_min(SMALLEST_NORM).reciprocal(), 0.0)


def _in_parts(*given: Tensor | None) -> bool:
    """Whether tokens may be taken part by part: many on a CPU, and nobody differentiates or traces."""
    known = [x for x in given if x is not None]
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in known)
    quiet = not (differentiates or torch.compiler.is_compiling())
    return quiet and known[0].device.type == "cpu" and max(x.shape[1] for x in known) > 2 * PART


def _hydra_in_parts(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, size: Tensor | None, kernel: str
) -> Tensor:
    """`hydra` with what lies between kept in the cache; the output is all that is allocated for every token."""
    total = q.new_zeros(len(q), 1, q.shape[2], dtype=_accumulation(k.dtype))
    for start in range(0, k.shape[1], PART):
        rows = slice(start, start + PART)
        part_mask, part_size = (None if x is None else x[:, rows] for x in (key_mask, size))
        total += _gathered(k[:, rows], v[:, rows], part_mask, part_size, kernel).sum(1, keepdim=True)
    output = torch.empty_like(q, memory_format=torch.contiguous_format)
    for asked, given in zip(q.split(PART, 1), output.split(PART, 1)):
        given.copy_(_gate(asked, kernel) * total)
    return output


def _counts(gathered: Tensor, key_mask: Tensor | None, size: Tensor | None) -> Tensor:
    """How many tokens each token counts as, (B, N, 1)."""
    count = gathered.new_ones(gathered.shape[:2]) if size is None else size.to(gathered.dtype)
    return (count if key_mask is None else count * key_mask)[..., None]


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, size: Tensor | None, kernel: str, normalise: str
) -> None:
    check_names(kernel, normalise)
    if q.ndim != 3:
        raise wrong_shape("q of Hydra attention", q.shape, "(B, N, D), not split into heads")
    if k.ndim != 3 or k.shape[0] != q.shape[0] or k.shape[2] != q.shape[2]:
        raise wrong_shape("k of Hydra attention", k.shape, f"({q.shape[0]}, N, {q.shape[2]}), as q")
    if v.shape != k.shape:
        raise wrong_shape("v of Hydra attention", v.shape, f"{tuple(k.shape)}, as k")
    for name, weights in (("key_mask", key_mask), ("size", size)):
        if weights is not None and weights.shape != k.shape[:2]:
            raise wrong_shape(f"{name} of Hydra attention", weights.shape, f"{tuple(k.shape[:2])}, one value a key")
    if key_mask is not None and key_mask.dtype != torch.bool:
        raise BadInput(f"key_mask of Hydra attention must be bool, True for tokens to keep; got {key_mask.dtype}.")


def check_names(kernel: str, normalise: str) -> None:
    """Raises BadInput for a kernel or a normalisation that does not exist."""
    if kernel not in KERNELS:
        raise one_of("kernel", kernel, KERNELS, "Hydra attention")
    if normalise not in NORMALISATIONS:
        raise one_of("normalise", normalise, NORMALISATIONS, "Hydra attention")
