"""What the Token Merging paper finds about its own parts (arXiv 2210.09461, section 4.1), in miniature.

Each finding compares two ways to remove as many tokens from the packaged `pe-core-nano`, without training, over three
parts of the data: words to pictures on generated scenes (recall at 1 among 333) and, with --data, zero-shot accuracy on
3,000 photographs of CIFAR-10 each. A verdict's margin is two standard errors of the paired differences over the parts.
The paper measured classifiers of 197 tokens and more; this is a contrastive model of 65, so a finding may differ.

    python benchmarks/token_merging_claims.py
    python benchmarks/token_merging_claims.py --data cifar10-test.parquet --removed 12
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import percepta
from _verdicts import verdict
from percepta.layers import Plan, Tokens, match_bipartite, shortened
from percepta.speedups import Moment, TokenMerging, adapter_for, merge_tokens, schedule_for
from token_merging_accuracy import measure, photographs_score, row, scenes_score

CLAIMS = (
    ("merging is better than random pruning", "merging", "random pruning", True),
    ("keys are better than features", "merging", "features, not keys", True),
    ("proportional attention is better", "merging", "attention without sizes", True),
    ("means weighted by size are better than plain ones", "merging", "plain mean", True),
    ("an alternating split is better than a sequential one", "merging", "sequential split", True),
    ("an alternating split is no worse than a random one", "merging", "random split", False),
    ("a constant schedule is no worse than a decreasing one of the same cost", "merging", "decreasing", False),
)
"""(claim, first, second, whether a difference is claimed or only that there is no loss)."""


def by_features(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """What stands in front of the merge decides (the paper's X), not the keys of the attention before."""
    return match_bipartite(tokens.x, moment.remove, moment.protected)


def sequential(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """The first half of the tokens looks for the closest one of the second half."""
    half = (keys.shape[2] + 1) // 2
    order = torch.arange(2 * half).view(2, half).T.flatten()
    return by_order(keys, moment, order[order < keys.shape[2]])


def random_split(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """A random half looks for the closest one of the others; the halves are those of the block, for all pictures."""
    return by_order(keys, moment, shuffled(keys.shape[2], moment))


def by_order(keys: Tensor, moment: Moment, order: Tensor) -> Plan:
    """Bipartite matching as if the tokens came in another order, whose first ones are the protected ones still."""
    plan = match_bipartite(keys.mean(dim=1)[:, order], moment.remove, moment.protected)
    return Plan(order[plan.kept], order[plan.source], plan.target, plan.length)


def random_pruning(tokens: Tokens, keys: Tensor, moment: Moment) -> Plan:
    """Tokens go without joining others, at random."""
    batch, count = tokens.x.shape[:2]
    kept = shuffled(count, moment)[: count - min(moment.remove, (count - moment.protected) // 2)]
    nothing = torch.empty(batch, 0, dtype=torch.int64)
    return Plan(kept.sort().values.expand(batch, -1), nothing, nothing, count)


def shuffled(count: int, moment: Moment) -> Tensor:
    """Positions in a random order, the same for a block every time; protected ones come first, as they are."""
    generator = torch.Generator().manual_seed(round(1000 * moment.depth))
    moved = torch.randperm(count - moment.protected, generator=generator) + moment.protected
    return torch.cat([torch.arange(moment.protected), moved])


def merge_by_plain_means(model: nn.Module, schedule: list[int]) -> TokenMerging:
    """Merge as the paper does, but with means that count a token once, however many it stands for."""
    merging, adapter = merge_tokens(model, schedule=schedule), adapter_for(model)

    def policy(remove: int) -> Callable[[Tokens, Tensor], Tokens]:
        def merge(tokens: Tokens, keys: Tensor) -> Tokens:
            plan = match_bipartite(keys.mean(dim=1), remove, adapter.protected)
            return shortened(tokens, plan)._replace(x=plan.merge(tokens.x, "mean"))

        return merge

    adapter.install([policy(remove) if remove else None for remove in schedule])
    return merging


def settings(model: nn.Module, removed: int) -> dict[str, Callable[[], TokenMerging]]:
    """What tells the model to remove tokens in each way, by name; all cost the same but for rounding."""
    with merge_tokens(model, r=removed) as merging:
        constant, share = merging.removed, merging.flops
    depth = len(constant)
    decreasing = schedule_for(adapter_for(model).shape(), share, [depth - 1 - index for index in range(depth)])
    return {
        "merging": lambda: merge_tokens(model, schedule=constant),
        "features, not keys": lambda: merge_tokens(model, schedule=constant, strategy=by_features),
        "attention without sizes": lambda: merge_tokens(model, schedule=constant, proportional=False),
        "plain mean": lambda: merge_by_plain_means(model, constant),
        "sequential split": lambda: merge_tokens(model, schedule=constant, strategy=sequential),
        "random split": lambda: merge_tokens(model, schedule=constant, strategy=random_split),
        "random pruning": lambda: merge_tokens(model, schedule=constant, strategy=random_pruning),
        "decreasing": lambda: merge_tokens(model, schedule=decreasing),
    }


@torch.no_grad()
def main() -> None:
    """Measure every setting, print a table and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the CIFAR-10 test set; scenes alone without it")
    parser.add_argument("--removed", type=int, default=10, help="tokens that each block removes")
    given = parser.parse_args()
    model = percepta.load("pe-core-nano")
    tasks = {"scenes": scenes_score(model)}
    if given.data:
        tasks["cifar10"] = photographs_score(model, given.data)
    plain = measure(tasks)
    print(f"{'':<34}{'flops':>6}" + "".join(f"{name:>26}" for name in tasks))
    print(row("without merging", 1.0, plain, plain))
    found = {}
    for name, merge in settings(model, given.removed).items():
        done = merge()
        found[name] = measure(tasks)
        print(row(name, done.flops, found[name], plain), flush=True)
    for claim, first, second, difference in CLAIMS:
        for task in tasks:
            paired = [a - b for a, b in zip(found[first][task], found[second][task], strict=True)]
            print(f"{task}: {claim}: {verdict(paired, difference)}")


if __name__ == "__main__":
    main()
