"""What defines a Hiera: frozen dataclasses of the encoder, its masked-autoencoder decoder and the windowed trunk."""

from __future__ import annotations

from dataclasses import dataclass

from percepta.errors import BadInput, out_of_range


@dataclass(frozen=True, slots=True)
class TrunkConfig:
    """Hiera with attention windows in the place of mask units, for pictures of any size (the trunk of SAM 2).

    Attributes:
        embed_dim, heads: of the first stage; both double at each stage.
        stages: blocks per stage.
        q_pool: how many stage changes pool the queries, 2 x 2, from the first one on.
        windows: side in tokens of the attention windows of each stage. The first block of a stage uses the window of
            the stage before it; where it pools, that window must be even.
        global_blocks: blocks that attend over the whole picture, by their index over the whole trunk; none of those
            that pool.
        background: (rows, columns) of the position map that is resized; a second one of the first window's size is
            tiled.
        mlp_ratio: hidden width of the MLPs = int(width * mlp_ratio).
        in_channels: of the picture.
        patch_kernel, patch_stride, patch_padding: of the patch convolution, in pixels.
        norm_eps: of all norms.
        drop_path: stochastic depth while training; the rate grows linearly from 0 in the first block to this one.
    """

    embed_dim: int = 96
    heads: int = 1
    stages: tuple[int, ...] = (2, 3, 16, 3)
    q_pool: int = 3
    windows: tuple[int, ...] = (8, 4, 14, 7)
    global_blocks: tuple[int, ...] = (12, 16, 20)
    background: tuple[int, int] = (14, 14)
    mlp_ratio: float = 4.0
    in_channels: int = 3
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3
    norm_eps: float = 1e-6
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        _freeze(self, "stages", "windows", "global_blocks", "background")
        _positive(self, "embed_dim", "heads", "in_channels", "patch_kernel", "patch_stride")
        _counts(self, "stages", "windows", "background")
        _rate(self, "drop_path")
        if len(self.windows) != len(self.stages):
            raise BadInput(f"windows must name one side per stage; got {self.windows} for stages {self.stages}.")
        if len(self.background) != 2:
            raise BadInput(f"background must be (rows, columns); got {self.background}.")
        if self.embed_dim % self.heads:
            raise BadInput(f"heads must divide embed_dim; got {self.heads} and {self.embed_dim}.")
        if not 0 <= self.q_pool < len(self.stages):
            raise out_of_range("q_pool", self.q_pool, f"0 to {len(self.stages) - 1}", "TrunkConfig")
        for block in self.global_blocks:
            if not 0 <= block < self.depth:
                raise out_of_range("global_blocks", block, f"0 to {self.depth - 1}", "TrunkConfig")
            if block in self.pooling_blocks:
                raise BadInput(f"block {block} pools its queries and cannot be one of the global_blocks.")
        for side in self.windows[: self.q_pool]:
            if side % 2:
                raise BadInput(f"windows of a stage whose end is pooled must have an even side; got {self.windows}.")

    @property
    def depth(self) -> int:
        """Blocks over all stages."""
        return sum(self.stages)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The last block of each stage."""
        return tuple(sum(self.stages[: stage + 1]) - 1 for stage in range(len(self.stages)))

    @property
    def pooling_blocks(self) -> tuple[int, ...]:
        """The blocks that pool."""
        return tuple(end + 1 for end in self.stage_ends[:-1])[: self.q_pool]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage's map, fine to coarse."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.stages)))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels from one place of each stage's map to the next."""
        return tuple(self.patch_stride * 2 ** min(stage, self.q_pool) for stage in range(len(self.stages)))

    def window(self, block: int) -> int:
        """Side of the attention windows of a block; 0 for the whole picture."""
        if block in self.global_blocks:
            return 0
        return self.windows[sum(block > end + 1 for end in self.stage_ends[:-1])]


def _freeze(config: object, *fields: str) -> None:
    """Lists, as files have them, become tuples."""
    for field in fields:
        value = getattr(config, field)
        if isinstance(value, list | tuple):
            object.__setattr__(config, field, tuple(value))


def _positive(config: object, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{field} must be a whole number of at least 1; got {value!r}.")


def _counts(config: object, *fields: str) -> None:
    for field in fields:
        values = getattr(config, field)
        if not isinstance(values, tuple) or not values or any(not isinstance(v, int) or v < 1 for v in values):
            raise BadInput(f"{field} must be whole numbers of at least 1; got {values!r}.")


def _rate(config: object, field: str) -> None:
    if not 0.0 <= getattr(config, field) < 1.0:
        raise out_of_range(field, getattr(config, field), "0 to below 1")
