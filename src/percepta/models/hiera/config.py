"""What defines a Hiera: frozen dataclasses of the encoder, its masked-autoencoder decoder and the windowed trunk."""

from __future__ import annotations

from dataclasses import dataclass

from percepta.errors import BadInput, one_of, out_of_range

SHORTCUTS = ("projection", "max-mean")
POSITIONS = ("table", "separate", "window")
POSITION_RULES = ("split", "interpolate")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What a masked autoencoder has behind its encoder.

    Attributes:
        width, depth, heads, mlp_ratio: of the decoder's blocks.
        norm_eps: of its norms.
        normalise: whether the pixels of each patch are scaled to mean 0 and variance 1 before they are predicted.
        eps: added to the variance for that.
    """

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    normalise: bool = True
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _positive(self, "width", "depth", "heads")
        if self.width % self.heads:
            raise BadInput(f"decoder heads must divide the decoder's width; got {self.heads} and {self.width}.")


@dataclass(frozen=True, slots=True)
class HieraConfig:
    """A Hiera for pictures, or for videos where `frames` is set. Sides are (rows, columns); of a video (frames, rows,
    columns).

    Attributes:
        image_size: side in pixels of the pictures that the model is made for, or (height, width).
        frames: of a video; None for pictures.
        in_channels: of a picture.
        embed_dim, heads: of the first stage; both double at each stage.
        stages: blocks per stage.
        q_pool: how many stage changes pool the queries, from the first one on; each stage change widens.
        q_stride: sides of the neighbourhood that pooling makes one token of.
        unit: sides of a mask unit in tokens, which is also the window of local attention.
        local: for each stage whether its blocks attend inside of units; the first block of a stage does as the stage
            before it.
        patch_kernel, patch_stride, patch_padding: of the patch convolution.
        mlp_ratio: hidden width of the MLPs = int(width * mlp_ratio).
        width_ratio, head_ratio: by what widths and heads grow from stage to stage.
        norm_eps: of all norms.
        drop_path: stochastic depth while training; the rate grows linearly from 0 in the first block to this one.
        layer_scale: initial factor of each residual branch, None for no layer scale.
        shortcut: around a block that widens, "projection" or "max-mean" (see `official`).
        positions: "table" (one vector a token), "separate" (videos: a table of places and one of steps in time) or
            "window" (absolute win: a small map that is resized and a window that is tiled).
        position_rule: what becomes of a table at another size, "split" or "interpolate"; see `positions.table_at`.
        background: sides of the small map of positions="window".
        position_antialias: whether the small map is resized with an antialiased filter (timm's checkpoints).
        classes: outputs of the head; None for no head.
        head_dropout, head_init_scale: of the head; its initial weights are multiplied by the latter.
        softmax: probabilities instead of logits in evaluation, as the official code gives.
        decoder: for masked pre-training; None for none. A model has a head or a decoder, or neither.
    """

    image_size: int | tuple[int, int] = 224
    frames: int | None = None
    in_channels: int = 3
    embed_dim: int = 96
    heads: int = 1
    stages: tuple[int, ...] = (2, 3, 16, 3)
    q_pool: int = 3
    q_stride: tuple[int, ...] = (2, 2)
    unit: tuple[int, ...] = (8, 8)
    local: tuple[bool, ...] = (True, True, False, False)
    patch_kernel: tuple[int, ...] = (7, 7)
    patch_stride: tuple[int, ...] = (4, 4)
    patch_padding: tuple[int, ...] = (3, 3)
    mlp_ratio: float = 4.0
    width_ratio: float = 2.0
    head_ratio: float = 2.0
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    layer_scale: float | None = None
    shortcut: str = "projection"
    positions: str = "table"
    position_rule: str = "split"
    background: tuple[int, int] = (7, 7)
    position_antialias: bool = False
    classes: int | None = None
    head_dropout: float = 0.0
    head_init_scale: float = 0.001
    softmax: bool = False
    decoder: DecoderConfig | None = None

    def __post_init__(self) -> None:
        per_axis = ("q_stride", "unit", "patch_kernel", "patch_stride", "patch_padding")
        _freeze(self, "image_size", "stages", "local", "background", *per_axis)
        _positive(self, "in_channels", "embed_dim", "heads")
        _counts(self, "stages", "q_stride", "unit", "patch_kernel", "patch_stride", "background")
        _rate(self, "drop_path")
        _rate(self, "head_dropout")
        for name, allowed in (("shortcut", SHORTCUTS), ("positions", POSITIONS), ("position_rule", POSITION_RULES)):
            if getattr(self, name) not in allowed:
                raise one_of(name, getattr(self, name), allowed, "HieraConfig")
        for name in per_axis:
            if len(getattr(self, name)) != self.axes:
                raise BadInput(
                    f"{name} must have one number for each of the {self.axes} axes; got {getattr(self, name)}."
                )
        if len(self.local) != len(self.stages):
            raise BadInput(f"local must have one entry per stage; got {self.local} for stages {self.stages}.")
        if not 0 <= self.q_pool < len(self.stages):
            raise out_of_range("q_pool", self.q_pool, f"0 to {len(self.stages) - 1}", "HieraConfig")
        if self.classes is not None and self.decoder is not None:
            raise BadInput("a Hiera has a head or a decoder; set classes=None for masked pre-training.")
        if self.positions == "separate" and self.frames is None:
            raise BadInput("positions='separate' are for videos; set frames, or positions='table'.")
        if self.embed_dim % self.heads:
            raise BadInput(f"heads must divide embed_dim; got {self.heads} and {self.embed_dim}.")
        if len(self.strides) < self.q_pool:
            raise BadInput(f"a unit of {self.unit} tokens cannot be pooled {self.q_pool} times by {self.q_stride}.")
        self.grid_of(self.sides)

    @property
    def axes(self) -> int:
        """2 for pictures, 3 for videos."""
        return 2 if self.frames is None else 3

    @property
    def sides(self) -> tuple[int, ...]:
        """(rows, columns) or (frames, rows, columns) that the model is made for, in pixels."""
        picture = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return picture if self.frames is None else (self.frames, *picture)

    @property
    def grid(self) -> tuple[int, ...]:
        """The same in tokens of the first stage."""
        return self.grid_of(self.sides)

    @property
    def step(self) -> tuple[int, ...]:
        """What every side must be a multiple of: a mask unit in pixels (and frames)."""
        return tuple(stride * side for stride, side in zip(self.patch_stride, self.unit, strict=True))

    @property
    def patch_size(self) -> int:
        """What height and width must be multiples of, in pixels: the side of a mask unit."""
        return self.step[-1]

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: none."""
        return 0

    @property
    def depth(self) -> int:
        """Blocks over all stages."""
        return sum(self.stages)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The last block of each stage."""
        return tuple(sum(self.stages[: stage + 1]) - 1 for stage in range(len(self.stages)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        widths = [self.embed_dim]
        for _ in self.stages[1:]:
            widths.append(int(widths[-1] * self.width_ratio))
        return tuple(widths)

    @property
    def width(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """By what a unit could be pooled, one after the other: as often as it can be divided, at most at each stage
        change. That is the order in which its tokens lie."""
        left, strides = self.unit, []
        for _ in self.stages[1:]:
            if any(side % stride for side, stride in zip(left, self.q_stride, strict=True)):
                break
            left = tuple(side // stride for side, stride in zip(left, self.q_stride, strict=True))
            strides.append(self.q_stride)
        return tuple(strides)

    def stage(self, block: int) -> int:
        """The stage of a block."""
        return sum(block > end for end in self.stage_ends)

    def pooled(self, block: int) -> int:
        """How often queries were pooled when a block is done."""
        return min(self.stage(block), self.q_pool)

    def unit_after(self, block: int) -> tuple[int, ...]:
        """Sides of a mask unit in tokens when a block is done."""
        times = self.pooled(block)
        return tuple(side // stride**times for side, stride in zip(self.unit, self.q_stride, strict=True))

    def grid_of(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens of a picture or video of these sides. Raises BadInput where they are not made of whole units."""
        if any(side < 1 or side % step for side, step in zip(sides, self.step, strict=True)):
            names = ("height", "width") if self.axes == 2 else ("frames", "height", "width")
            wanted = ", ".join(f"{name} of {step}" for name, step in zip(names, self.step, strict=True))
            raise BadInput(f"sides must be multiples of a mask unit ({wanted}); got {' x '.join(map(str, sides))}.")
        kernels = zip(sides, self.patch_kernel, self.patch_stride, self.patch_padding, strict=True)
        grid = tuple((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in kernels)
        if grid != tuple(side // stride for side, stride in zip(sides, self.patch_stride, strict=True)):
            raise BadInput("patch_kernel and patch_padding must give one token for each patch_stride of pixels.")
        return grid


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
