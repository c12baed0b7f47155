"""Which tokens to average, and the averaging: the pure functions of Token Merging (ToMe, arXiv 2210.09461).

Order of this file: a plan and what can be done with it, the ways to find one, how many tokens each layer removes.
Unusual: a plan is three index tensors, so that merging copies the rows that stay and adds the few that go; a matching
is made in float32 and without gradients, which flow through the averages alone; nothing here keeps state.

Other files add ways to match that know more than the tokens: `token_merging_grid.py` where they lie on a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.errors import BadInput, one_of
from percepta.layers.tokens import Tokens

MODES = ("mean", "sum", "amax")


class Plan(NamedTuple):
    """Which tokens stay and which join another one.

    Attributes:
        kept: (B, n) int64, the input position that each output row starts from.
        source: (B, r) int64, input positions that are merged away.
        target: (B, r) int64, the output row that each source joins.
        length: number of input tokens N; tokens that are neither kept nor a source (n + r < N) are dropped.
    """

    kept: Tensor
    source: Tensor
    target: Tensor
    length: int

    @property
    def group(self) -> Tensor:
        """(B, N) int64: the output row of every input token, -1 for one that is dropped."""
        rows = torch.arange(self.kept.shape[1], device=self.kept.device).expand_as(self.kept)
        group = self.kept.new_full((self.kept.shape[0], self.length), -1)
        return group.scatter(1, self.kept, rows).scatter(1, self.source, self.target)

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        """(B, N, D) → (B, n, D): the plain "mean", "sum" or "amax" of each group, sizes ignored."""
        if mode not in MODES:
            raise one_of("mode", mode, MODES)
        rows = take(x, self.kept)
        if not self.source.shape[1]:
            return rows
        target = self.target.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        return rows.scatter_reduce(1, target, take(x, self.source), reduce=mode)

    def merge_weighted(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean of each group weighted by size, and the sizes of the groups; sums are float32, or float64 of such.

        Args:
            x: (B, N, D).
            size: (B, N), how many input tokens each token stands for; None for one each.

        Returns: (B, n, D) in the dtype of `x`, and (B, n) in that of the sums.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        ones = x.new_ones(*x.shape[:2], 1, dtype=wide) if size is None else size.to(wide).unsqueeze(-1)
        counted = torch.cat([x.to(wide) if size is None else x * ones, ones], dim=-1)  # features and sizes in one go
        rows, moved = take(counted, self.kept), take(counted, self.source)
        sums = rows.flatten(0, 1).index_add(0, flat_rows(self.target, rows.shape[1]), moved.flatten(0, 1))
        features, sizes = sums.view_as(rows).split((x.shape[-1], 1), dim=-1)
        return (features / sizes).to(x.dtype), sizes.squeeze(-1)

    def unmerge(self, y: Tensor) -> Tensor:
        """(B, n, D) → (B, N, D): every input position gets the row it went into; a dropped one gets zeros."""
        return spread(y, self.group, self.kept.shape[1] + self.source.shape[1] < self.length)

    def compose(self, later: Plan) -> Plan:
        """This plan and then `later` as one plan, from this one's input tokens to the later one's rows."""
        return Plan(
            kept=self.kept.gather(1, later.kept),
            source=torch.cat([self.source, self.kept.gather(1, later.source)], dim=1),
            target=torch.cat([later.group.gather(1, self.target), later.target], dim=1),
            length=self.length,
        )


def shortened(tokens: Tokens, plan: Plan, proportional: bool = True) -> Tokens:
    """The tokens of one encoder after a plan: means weighted by size of features and positions, sizes, group maps.

    `proportional` makes the next attention count a token as often as it has inputs (§3, proportional attention).
    """
    x, size = plan.merge_weighted(tokens.x, tokens.size)
    position = None if tokens.position is None else plan.merge_weighted(tokens.position, tokens.size)[0]
    group = plan.group
    if tokens.group is not None:
        group = torch.where(tokens.group < 0, tokens.group, group.gather(1, tokens.group.clamp_min(0)))
    return Tokens(x, size, position, group, log_size(size, x.dtype) if proportional else None)


def log_size(size: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, N) sizes → what is added to attention logits so that a token counts `size` times: (B, 1, 1, N)."""
    return size.log().to(dtype)[:, None, None, :]


def restored(values: Tensor, group: Tensor | None) -> Tensor:
    """(B, n, D) rows of merged tokens → (B, N, D), one for each input token; unchanged where nothing was merged."""
    return values if group is None else spread(values, group)


def identity(batch: int, count: int, device: torch.device | None = None) -> Plan:
    """The plan that changes nothing."""
    nothing = torch.empty(batch, 0, dtype=torch.int64, device=device)
    return Plan(torch.arange(count, device=device).expand(batch, -1), nothing, nothing, count)


def take(x: Tensor, rows: Tensor) -> Tensor:
    """(B, N, D) and (B, n) → (B, n, D): the named rows, copied whole."""
    flat = x.reshape(-1, x.shape[-1]).index_select(0, flat_rows(rows, x.shape[1]))
    return flat.view(*rows.shape, x.shape[-1])


def flat_rows(rows: Tensor, count: int) -> Tensor:
    """(B, n) rows of a (B, count, D) tensor → rows of its (B * count, D) view, (B * n,)."""
    if rows.shape[0] == 1:
        return rows.flatten()
    return (rows + torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * count).flatten()


def spread(y: Tensor, group: Tensor, dropped: bool = True) -> Tensor:
    """(B, n, D) and a group map (B, N) → (B, N, D): every token gets the row it went into.

    `dropped` says whether the map may hold -1; such tokens get zeros.
    """
    if not dropped:
        return take(y, group)
    return take(y, group.clamp_min(0)) * (group >= 0).unsqueeze(-1)


# Ways to find a plan


@torch.no_grad()
def match_bipartite(
    metric: Tensor, remove: int, protected: int | Sequence[int] = 0, size: Tensor | None = None
) -> Plan:
    """Bipartite soft matching (§3): tokens at even positions look for the closest one at odd positions.

    The `remove` even tokens with the best cosine join their odd token. Rows come out as the protected tokens in order,
    the other even tokens that stay, the odd tokens. Even tokens stay in ascending order where position 0 is protected,
    as behind a class token; otherwise in descending order of their best cosine.

    Args:
        metric: (B, N, C), what is compared, such as keys averaged over heads; any float dtype, compared in float32.
        remove: tokens to remove, at most half of the unprotected ones (more is cut).
        protected: how many leading tokens never merge and are never merged into, or their positions.
        size: (B, N), how many inputs each token stands for; then the least loss counts (`merge_losses`), not the best
            cosine. None compares by cosine alone, as the paper does.

    Raises: BadInput for a metric of another shape.
    """
    check_metric(metric)
    batch, count, _ = metric.shape
    places = range(protected) if isinstance(protected, int) else protected
    remove = min(remove, (count - len(places)) // 2)
    if remove <= 0:
        return identity(batch, count, metric.device)
    compared = unit(metric)
    scores = similarities(compared[:, ::2], compared[:, 1::2])
    if size is not None:
        scores = -merge_losses(scores, size[:, ::2], size[:, 1::2])
    for place in places:
        if place % 2:
            scores[:, :, place // 2] = -torch.inf
        else:
            scores[:, place // 2] = -torch.inf
    best, choice = scores.max(dim=-1)
    return paired(best, choice, remove, scores.shape[2], places)


def paired(best: Tensor, choice: Tensor, remove: int, odd: int, protected: Sequence[int]) -> Plan:
    """The plan of a bipartite matching whose scores are known.

    Args:
        best: (B, even tokens) float, the higher the sooner a token is merged.
        choice: (B, even tokens) int64, which odd token it joins.
        remove: how many even tokens are merged.
        odd: number of odd tokens.
        protected: positions of protected tokens, which come out first.
    """
    batch, even = best.shape
    order = best.argsort(dim=-1, descending=True, stable=True)
    going, staying = order[:, :remove], order[:, remove:]
    if 0 in protected:
        staying = staying.sort(dim=-1).values
    kept = torch.cat([2 * staying, torch.arange(1, 2 * odd, 2, device=best.device).expand(batch, -1)], dim=1)
    lead = max(protected, default=-1) + 1
    if lead > 1:  # protected tokens of both halves stand in front, in their order
        first = even - remove
        front = [place // 2 if place % 2 == 0 else first + place // 2 for place in range(lead)]
        others = [row for row in range(kept.shape[1]) if row not in set(front)]
        kept = kept[:, [*front, *others]]
    return Plan(kept, 2 * going, choice.gather(1, going) + (even - remove), even + odd)


@torch.no_grad()
def match_agglomerative(metric: Tensor, remove: int, protected: int = 0, size: Tensor | None = None) -> Plan:
    """Agglomerative clustering with Ward's linkage: the two clusters whose union loses least are joined, and again.

    Every token may join every other and clusters grow, where bipartite matching looks at half of the pairs, once. The
    losses to a union follow from those to its parts (Lance and Williams, 1967), so a step costs one look at an (N, N)
    table and one new row. Rows come out in ascending order of the first-made token of each cluster.

    Args: as `match_bipartite`; without sizes every token counts as one.
    """
    check_metric(metric)
    batch, count, _ = metric.shape
    remove = min(remove, (count - protected) // 2)
    if remove <= 0:
        return identity(batch, count, metric.device)
    compared = unit(metric)
    size = compared.new_ones(batch, count) if size is None else size.float().clone()
    losses = merge_losses(similarities(compared, compared), size, size)
    losses.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    losses[:, :protected], losses[:, :, :protected] = torch.inf, torch.inf
    items, order = torch.arange(batch, device=metric.device), torch.arange(count, device=metric.device)
    cluster, gone = order.expand(batch, -1), []
    for _ in range(remove):
        one = losses.amin(dim=2).argmin(dim=1)  # many times as fast as one argmin over all pairs
        other = losses[items, one].argmin(dim=1)
        grown = united(losses, size, items, one, other)
        losses[items, one], losses[items, :, one] = torch.inf, torch.inf
        losses[items, other], losses[items, :, other] = grown, grown
        losses[items, other, other] = torch.inf
        size[items, other] += size[items, one]
        cluster = torch.where(cluster == one.unsqueeze(1), other.unsqueeze(1), cluster)
        gone.append(one)
    source = torch.stack(gone, dim=1)
    stays = (cluster == order).to(torch.int64)
    kept = stays.argsort(dim=1, descending=True, stable=True)[:, : count - remove]
    row = stays.cumsum(dim=1) - 1
    return Plan(kept, source, row.gather(1, cluster.gather(1, source)), count)


def united(losses: Tensor, size: Tensor, items: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(B, N): the losses of every cluster with the union of two, by their losses with either and with each other."""
    first, second = size[items, one].unsqueeze(1), size[items, other].unsqueeze(1)
    between = losses[items, one, other].unsqueeze(1)
    apart = (first + size) * losses[items, one] + (second + size) * losses[items, other]
    return (apart - size * between) / (first + second + size)


def merge_losses(cosines: Tensor, size: Tensor, other: Tensor) -> Tensor:
    """How far each pair of tokens is from its mean, every input token counted (Ward, 1963, for vectors of length one).

    (B, M, N) cosines and sizes (B, M), (B, N) → (B, M, N): s t / (s + t) · (1 - cosine).
    """
    size, other = size.float().unsqueeze(2), other.float().unsqueeze(1)
    return (1.0 - cosines) * (size * other / (size + other))


@torch.no_grad()
def match_kth(metric: Tensor, k: int) -> Plan:
    """Of every k consecutive tokens the last one stays and every other token joins its closest staying token.

    Rows come out one per window. The N % k tokens at the end are dropped; k of 1 or less changes nothing. No token is
    protected. (B, N, C) → a plan of N // k rows. Raises: BadInput for another shape or k beyond N.
    """
    check_metric(metric)
    batch, count, _ = metric.shape
    if k > count:
        raise BadInput(f"k must be at most the number of tokens, {count}; got {k}.")
    if k <= 1:
        return identity(batch, count, metric.device)
    places = torch.arange(count // k * k, device=metric.device).unflatten(0, (-1, k))
    stay, leave = places[:, -1], places[:, :-1].flatten()
    scores = similarities(unit(metric[:, leave]), unit(metric[:, stay]))
    kept, source = stay.expand(batch, -1), leave.expand(batch, -1)
    return Plan(kept, source, scores.max(dim=-1).indices, count)


@torch.no_grad()
def match_random(metric: Tensor, remove: int, noise: Tensor) -> Plan:
    """A random split: the first `remove` tokens in the ascending order of `noise` join their closest one of the rest.

    Args:
        metric: (B, N, C).
        noise: (B, N) or (B, N, 1), any numbers; rows come out in its order. No token is protected.

    Raises: BadInput for shapes that do not fit.
    """
    check_metric(metric)
    batch, count, _ = metric.shape
    if noise.shape not in ((batch, count), (batch, count, 1)):
        raise BadInput(f"noise must have the shape ({batch}, {count}) of the tokens; got {tuple(noise.shape)}.")
    remove = min(remove, count - 1)
    if remove <= 0:
        return identity(batch, count, metric.device)
    order = noise.reshape(batch, count).argsort(dim=-1, stable=True)
    source, kept = order[:, :remove], order[:, remove:]
    compared = unit(metric)
    scores = similarities(take(compared, source), take(compared, kept))
    return Plan(kept, source, scores.max(dim=-1).indices, count)


def unit(x: Tensor) -> Tensor:
    """The last axis at Euclidean length one, in float32; zeros stay zeros."""
    return F.normalize(x.float(), dim=-1)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """(B, M, C), (B, N, C) → (B, M, N) products in float32, also under autocast."""
    if not torch.is_autocast_enabled(a.device.type):
        return a @ b.transpose(1, 2)
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.transpose(1, 2)


def check_metric(metric: Tensor) -> None:
    """Raises BadInput for what is not (B, N, C)."""
    if metric.ndim != 3 or not metric.is_floating_point():
        raise BadInput(f"a metric must be a float tensor (B, N, C); got {metric.dtype} {tuple(metric.shape)}.")


# How many tokens each layer removes


def removals(layers: int, r: int | tuple[int, float] | Sequence[int]) -> list[int]:
    """Tokens to remove in each of `layers` blocks (appendix D; before the cut to half of what is there).

    Args:
        r: a number for every block; (number, inflection) for a straight line with the same mean, from twice the
            number down to nothing at -1 to the opposite at 1; or a list, which is padded with zeros.

    Raises: BadInput for negative numbers, an inflection outside -1 to 1, a list longer than the layers.
    """
    if isinstance(r, tuple) and len(r) == 2 and isinstance(r[1], float):
        mean, inflection = r
        if not -1.0 <= inflection <= 1.0:
            raise BadInput(f"inflection must be -1 to 1; got {inflection}.")
        first = int(mean * (1.0 - inflection))
        step = (2 * mean - 2 * first) / max(1, layers - 1)
        found = [mean] if layers == 1 else [int(first + step * layer) for layer in range(layers)]
    elif isinstance(r, int) and not isinstance(r, bool):
        found = [r] * layers
    elif isinstance(r, Sequence) and len(r) <= layers:
        found = [*r, *[0] * (layers - len(r))]
    else:
        raise BadInput(f"r must be a number, (number, inflection), or a list of at most {layers} numbers; got {r!r}.")
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in found):
        raise BadInput(f"each block must remove a whole number of tokens of 0 or more; got {r!r}.")
    return found


def token_counts(tokens: int, removed: Sequence[int], protected: int = 0) -> list[int]:
    """Tokens behind each block that bipartite matching leaves of `tokens`."""
    counts = []
    for remove in removed:
        tokens -= max(0, min(remove, (tokens - protected) // 2))
        counts.append(tokens)
    return counts
