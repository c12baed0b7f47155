"""Handler of the kind token-merging/picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.layers.token_merging import identity, match_bipartite
from percepta.media.groups import paint_groups, seeded_colours
from tests.exactness.golden import Golden


def group_matrix(metric: Tensor, config: dict[str, Any]) -> Tensor:
    """(1, groups, tokens) of zeros and ones."""
    whole = identity(len(metric), metric.shape[1])
    for remove in config["remove_per_round"]:
        plan = match_bipartite(metric, remove, int(config["class_token"]))
        metric, whole = plan.merge(metric), whole.compose(plan)
    return torch.nn.functional.one_hot(whole.group).transpose(1, 2)


def picture(image: Tensor, source: Tensor, config: dict[str, Any]) -> np.ndarray:
    height, width = config["patch_size"]
    groups = source[0].argmax(dim=0)[int(config["class_token"]) :]
    grid = groups.reshape(image.shape[0] // height, image.shape[1] // width).numpy().astype(np.int64)
    return paint_groups(image.numpy(), grid, seeded_colours(int(grid.max()) + 1, config["colour_seed"]))


def merge_picture(golden: Golden) -> None:
    config, inputs = golden.content["config"], golden.inputs
    for call in golden.content["calls"]:
        arguments = {name: inputs[value] for name, value in call["args"].items()}
        if call["call"] == "group_matrix":
            golden.check(call, group_matrix(arguments["metric"], config))
        else:
            assert call["call"] == "picture"
            golden.check(call, picture(arguments["image"], arguments["source"], config))


HANDLERS: dict[str, Callable[[Golden], None]] = {"token-merging/picture": merge_picture}
