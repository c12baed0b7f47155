"""Statistics of batch norms, made anew: without it what was merged hardly works (arXiv 2211.08403, 2305.03053 §5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from percepta.errors import BadInput
from percepta.merging.statistics import Batches, inputs_of


def batch_norms(model: nn.Module) -> list[Any]:
    """The batch norms that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]


@torch.no_grad()
def reset_norms(model: nn.Module, batches: Batches) -> nn.Module:
    """Let each batch norm take the plain average of its statistics over some batches; other modules stay as they were.

    Dropout and everything else is in evaluation mode meanwhile, and so is the model afterwards.

    Args:
        model: changed in place; nothing happens to one without batch norms.
        batches: inputs of all tasks, best as in training.

    Returns: the model. Raises: BadInput for no batch, or one of a single value for each feature.
    """
    norms = batch_norms(model)
    model.eval()
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    count = 0
    try:
        for batch in batches:
            count += len(inputs_of(batch))
            model(inputs_of(batch))
    except ValueError as error:
        raise BadInput(f"batch norms need more than one value for each feature: {error}.") from error
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    if not count:
        raise BadInput("batch norms need data to be set anew; got no batch.")
    return model
