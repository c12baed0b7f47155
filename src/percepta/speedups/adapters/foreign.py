"""What the adapters of other libraries share: one block that merges, rotations at merged places, and the check.

A block of another library is told as two pure functions, its two branches: attention (which also gives the keys that
are compared) and MLP. Everything between them is the same for all. Unusual: nothing is believed that can be tried. When
a model is attached, a copy of a few of its blocks runs both ways with parameters drawn anew, so that no weight that is
zero or tiny hides a difference; a library that changes under us is refused, not half merged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers import Shorten, Tokens, attend, match_bipartite, shortened
from percepta.speedups.cost import BlockCost

Module = TypeVar("Module", bound=nn.Module)
TOLERANCE = 1e-4
AGREED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models that passed the check, as they were built then: a schedule that is searched for attaches many times."""
PERIOD = 65537  # how many different values are drawn; a prime, so that no two rows of a matrix are the same


class Rotation(NamedTuple):
    """Rotary positions of the tokens behind `prefix`.

    Attributes:
        cosine: (N, D), (B, 1, N, D) or (B, heads, N, D), of head_dim channels each.
        sine: the same.
        prefix: leading tokens that are not rotated.
        half: whether channel i turns with channel i + D/2, instead of with its neighbour.
    """

    cosine: Tensor
    sine: Tensor
    prefix: int
    half: bool


class BlockKind(NamedTuple):
    """A pre-norm or post-norm block, as the two updates that are added to its tokens.

    Attributes:
        attention: (block, x, rotation, bias a key) → (update, keys (B, heads, N, head_dim) before any rotation).
        mlp: (block, x) → update; None for a block that does all at once.
        cost: block → what it costs.
    """

    attention: Callable[[Any, Tensor, Rotation | None, Tensor | None], tuple[Tensor, Tensor]]
    mlp: Callable[[Any, Tensor], Tensor] | None
    cost: Callable[[Any], BlockCost]


def run_block(
    kind: BlockKind, block: nn.Module, tokens: Tokens, rotation: Rotation | None, shorten: Shorten | None
) -> Tokens:
    """A block of another library, with the seam between its branches that `layers.Block` has."""
    update, keys = kind.attention(block, tokens.x, rotation, tokens.bias)
    tokens = tokens._replace(x=tokens.x + update)
    if shorten is not None:
        tokens = shorten(tokens, keys)
    return tokens if kind.mlp is None else tokens._replace(x=tokens.x + kind.mlp(block, tokens.x))


def mixed(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention over (B, heads, N, head_dim), with a bias a key, → (B, N, heads * head_dim)."""
    if dropout or query.shape[-1] != value.shape[-1]:
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    else:
        found = attend(query, key, value, bias)
    return found.transpose(1, 2).flatten(2)


def rotated(x: Tensor, rotation: Rotation | None) -> Tensor:
    """Queries or keys (B, heads, N, head_dim) at their places."""
    if rotation is None:
        return x
    front, x = x[:, :, : rotation.prefix], x[:, :, rotation.prefix :]
    if rotation.half:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([front, (x * rotation.cosine + turned * rotation.sine).to(x.dtype)], dim=2)


def rotation_at(places: Tensor, frequencies: Tensor, prefix: int, half: bool) -> Rotation:
    """The rotation of tokens at any places, between those of the grid too.

    Args:
        places: (B, N, 2), the prefix included.
        frequencies: (2, K) or (2, heads, K), K half of head_dim: turns of each pair of channels along both axes.
        prefix: leading tokens that are not rotated.
        half: as in `Rotation`.
    """
    first, second = places[:, None, prefix:, :, None].float().unbind(dim=3)
    along, across = frequencies.float().view(2, -1, 1, frequencies.shape[-1])
    angles = first * along + second * across  # not a product of matrices, which autocast would round
    angles = torch.cat([angles, angles], dim=-1) if half else angles.repeat_interleave(2, dim=-1)
    return Rotation(angles.cos(), angles.sin(), prefix, half)


def placed(patches: Tensor, prefix: int, batch: int) -> Tensor:
    """(N, 2) places of patches → (B, prefix + N, 2) of all tokens; those of the prefix are never used."""
    return torch.cat([patches.new_zeros(prefix, 2), patches]).expand(batch, -1, -1)


def weights(*modules: nn.Module) -> int:
    """Weights of the linear layers in modules: multiply-adds a token."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)


def name_of(module: object) -> str:
    """Where a class lives and what it is called."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def distinct(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """One block of each build: the same classes, settings and shapes of parameters."""
    found: dict[object, nn.Module] = {}
    for block in blocks:
        shapes = tuple((name, parameter.shape) for name, parameter in block.named_parameters())
        found.setdefault((repr(block), shapes), block)
    return list(found.values())


@torch.no_grad()
def seeded_copy(module: Module) -> Module:
    """A copy in float32 and evaluation mode with parameters drawn anew, so that each of them makes a difference.

    Raises: BadInput for a module without values (on the meta device).
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        raise BadInput(f"token merging needs a model with weights; {name_of(module)} is on the meta device.")
    twin = copy.deepcopy(module).to("cpu", torch.float32).eval()
    drawn = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0))
    for parameter in twin.parameters():
        values = drawn.repeat(parameter.numel() // PERIOD + 1)[: parameter.numel()].view(parameter.shape)
        fan_in = max(1, parameter[:1].numel()) if parameter.ndim > 1 else 1
        parameter.copy_(values * fan_in**-0.5 if parameter.ndim > 1 else 0.5 + 0.2 * values)
    return twin


def require_agreement(
    name: str,
    given: Callable[[], list[Tensor]],
    install: Callable[[Sequence[Shorten | None]], None],
    blocks: int,
    protected: int,
) -> None:
    """Raises BadInput where a model run as it is and run for merging, without merging anything, differ, or where it
    does not lose tokens once it is told to.

    Args:
        name: of the model.
        given: all that a small copy of the model gives, for the same pictures every time.
        install: tells the copy what each block does to its tokens.
        blocks: how many blocks the copy has.
        protected: its leading tokens that never merge.
    """
    counts = Counts(protected)
    try:
        own = given()
        install([None] * blocks)
        ours = given()
        install([counts] * blocks)
        given()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise BadInput(
            f"token merging cannot run {name}, which is not built as percepta knows it ({error}); it is left as it was."
        ) from error
    worst = _distance(own, ours)
    if not worst <= TOLERANCE:  # nan as well
        raise BadInput(
            f"token merging cannot run {name}: without merging its results differ by {worst:.1e} from the model's own, "
            "so something in it is not what percepta knows; it is left as it was."
        )
    most = counts.seen[0] if counts.seen else 0
    expected = [most - block for block in range(blocks)]
    if not most or counts.seen != expected * (len(counts.seen) // blocks):
        raise BadInput(
            f"token merging cannot run {name}: each of its blocks should have one token fewer than the one before, and "
            f"they had {counts.seen or 'none'}; it is left as it was."
        )


def _distance(own: list[Tensor], ours: list[Tensor]) -> float:
    """The largest difference of two lists of tensors, each relative to its largest value; nan where one is nan."""
    if [part.shape for part in own] != [part.shape for part in ours]:
        return torch.inf
    scales = [part.abs().max().clamp_min(torch.finfo(part.dtype).tiny) for part in own]
    return float(torch.stack([(a - b).abs().max() / by for a, b, by in zip(own, ours, scales)]).max())


class Counts:
    """A policy that merges one token and remembers how many there were: for the check alone."""

    def __init__(self, protected: int) -> None:
        self.protected, self.seen = protected, list[int]()

    def __call__(self, tokens: Tokens, keys: Tensor) -> Tokens:
        self.seen.append(tokens.x.shape[1])
        return shortened(tokens, match_bipartite(keys.mean(dim=1), 1, self.protected))
