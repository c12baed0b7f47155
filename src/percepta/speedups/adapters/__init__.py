"""How token merging reaches into a model: one adapter for each library whose models it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.layers import Shorten, Tokens
from percepta.running.modes import homes_of
from percepta.speedups.cost import Shape


class Adapter(Protocol):
    """What token merging needs of a model.

    Attributes:
        depth: number of blocks.
        protected: leading tokens that never merge (class, distillation and register tokens).
        last_block_matters: whether merging in the last block can change what the model gives.
        proportional: whether attention should count merged tokens by their size, unless somebody says otherwise.
    """

    depth: int
    protected: int
    last_block_matters: bool
    proportional: bool

    def shape(self) -> Shape:
        """What the model costs."""

    def install(self, policies: Sequence[Shorten | None] | None) -> None:
        """Let each block do this to its tokens, instead of what it did before; None gives the model as it was."""

    def last_tokens(self, x: Tensor) -> Tokens:
        """Preprocessed pictures → the tokens after the last block, before any final norm, with sizes and group maps."""

    def check(self) -> None:
        """Raises BadInput where the model's own forward and the adapter's differ without merging."""


@runtime_checkable
class FrameAdapter(Adapter, Protocol):
    """An adapter of a model that encodes a video frame by frame and can let frames share tokens."""

    def install_frames(self, policies: Sequence[Shorten | None], seams: tuple[int, ...]) -> None:
        """Let each block do this to the tokens of a video; at the seams two sequences of it become one."""


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a model. Raises BadInput for one that token merging does not know, with the reason."""
    homes = homes_of(model)
    if "percepta" in homes:
        from percepta.speedups.adapters.ours import TowerAdapter

        return TowerAdapter(tower_of(model))
    if "timm" in homes:
        from percepta.speedups.adapters.timm import TimmAdapter

        return TimmAdapter(model)
    if "transformers" in homes:
        from percepta.speedups.adapters.transformers import TransformersAdapter

        return TransformersAdapter(model)
    raise BadInput(
        "token merging knows vision models of percepta, timm and transformers; "
        f"got {type(model).__module__}.{type(model).__name__}."
    )


def tower_of(model: Any) -> Any:
    """The vision tower of one of our models. Raises BadInput for words alone."""
    tower = getattr(model, "vision", model)
    if reason := getattr(tower, "cannot_merge", ""):
        raise BadInput(f"token merging does not fit {type(tower).__name__}: {reason}.")
    if not hasattr(tower, "shorten"):
        raise BadInput(
            f"token merging needs a vision tower, and {type(model).__name__} has none: the words of a text are not "
            "alike enough to be averaged, and a causal order would be lost."
        )
    return tower
