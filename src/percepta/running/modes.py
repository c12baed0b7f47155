"""Models that belong to somebody else: running one and giving it back as it was, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode it was in, each for itself: a model that is
    fine-tuned may have frozen parts that evaluate while the others train."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def homes_of(model: nn.Module) -> list[str]:
    """The libraries that a model's class and its bases come from, such as "timm"; a subclass may live anywhere."""
    return [base.__module__.partition(".")[0] for base in type(model).__mro__]
