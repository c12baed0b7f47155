"""SAM 2: points, boxes and masks to objects in pictures, and objects through videos (arXiv 2408.00714).

Order of this file: what comes out, the image encoder, the model: pictures, one frame of a video, memory.
Unusual: a picture's features serve any number of prompts; where they are one row they are never repeated. The maps at
strides 4 and 8 go to the decoder alone, so their two projections, one after the other, are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from percepta.errors import BadInput, wrong_shape
from percepta.models.hiera import HieraDet
from percepta.models.sam2.bank import Recollection
from percepta.models.sam2.config import STRIDE, Sam2Config
from percepta.models.sam2.decoder import Decoded, MaskDecoder, steady
from percepta.models.sam2.memory import MemoryAttention, MemoryEncoder
from percepta.models.sam2.parts import (
    DeepHead,
    enlarge,
    map_of,
    pointwise,
    sine_grid,
    sine_places,
    tokens_of,
)
from percepta.models.sam2.prompts import BOTTOM_RIGHT, PAD, TOP_LEFT, PromptEncoder
from percepta.models.sam2.session import ABSENT, Frames, Session

TOGETHER = 8 * 64 * 64
"""Prompts times places that are decoded at once; more would only leave the cache."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the decoder needs of B pictures: maps at strides 4, 8 and 16.

    Attributes:
        fine: (B, width / 8, S / 4, S / 4).
        middle: (B, width / 4, S / 8, S / 8).
        coarse: (B, width, S / 16, S / 16), as the pyramid gives it.
    """

    fine: Tensor
    middle: Tensor
    coarse: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three, the finest first."""
        return self.fine, self.middle, self.coarse

    def __len__(self) -> int:
        return len(self.coarse)

    def __getitem__(self, index: int | slice | Tensor) -> Features:
        """The features of some pictures."""
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        return Features(*(part[index] for part in self.maps))


class Prediction(NamedTuple):
    """What N prompts give: M = 3 alternatives, or 1 mask.

    Attributes:
        logits: (N, M, S / 4, S / 4), above 0 inside.
        iou: (N, M) predicted quality, 0 to 1.
        tokens: (N, M, width), the decoder's token of each mask.
        object_score: (N, 1) logit of the object being there.
    """

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    object_score: Tensor


class Prompts(NamedTuple):
    """N prompts: points (N, P, 2), their labels (N, P), masks (N, 1, S / 4, S / 4); what is not given is None."""

    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None

    def rows(self, some: slice) -> Prompts:
        """The prompts of some rows."""
        return Prompts(*(None if part is None else part[some] for part in self))


class Heads(NamedTuple):
    """One object on one frame, for N objects.

    Attributes:
        logits: (N, 1, S / 4, S / 4) float32 of the best mask; -1024 everywhere where the object is not there.
        candidates: (N, M, S / 4, S / 4) of all masks, whether it is there or not.
        iou: (N, M) predicted quality of these.
        pointer: (N, width), what later frames know of it.
        object_score: (N, 1) logit of the object being there.
    """

    logits: Tensor
    candidates: Tensor
    iou: Tensor
    pointer: Tensor
    object_score: Tensor


class ImageEncoder(nn.Module):
    """The trunk and the lateral projections of its pyramid, the finest first."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.top_down = config.top_down
        self.trunk = HieraDet(config.trunk)
        self.laterals = nn.ModuleList(nn.Linear(width, config.width) for width in config.trunk.widths)

    def forward(self, x: Tensor, fine: nn.Linear, middle: nn.Linear) -> Features:
        """(B, 3, H, W) → maps at strides 4, 8 and 16; `fine` and `middle` are the decoder's projections."""
        maps = self.trunk(x)
        above: Tensor | None = None
        levels: dict[int, Tensor] = {}
        for level in range(len(maps) - 1, -1, -1):
            if level < 2 and level not in self.top_down and not any(lower in self.top_down for lower in range(level)):
                levels[level] = _chained(self.laterals[level], (fine, middle)[level], maps[level])
                continue
            lateral = pointwise(self.laterals[level], maps[level])
            if level in self.top_down and above is not None:
                lateral = lateral + F.interpolate(above.float(), scale_factor=2.0, mode="nearest").to(lateral.dtype)
            above = lateral
            levels[level] = lateral if level >= 2 else pointwise((fine, middle)[level], lateral)
        return Features(levels[0], levels[1], levels[2])


def _chained(first: Any, second: nn.Linear, x: Tensor) -> Tensor:
    """Two linear layers at every place of a map as one."""
    weight = second.weight @ first.weight
    bias = second.weight @ first.bias + second.bias
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


class Sam2(nn.Module):
    """The whole model. Inputs are float pictures (B, 3, S, S), preprocessed, S the config's image_size."""

    name = ""
    preprocess: Any = None

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(width, config.mask_prompt_channels, config.image_size)
        self.mask_decoder = MaskDecoder(
            width,
            config.decoder_depth,
            config.decoder_heads,
            config.decoder_hidden,
            config.decoder_inner,
            config.quality_width,
            config.quality_depth,
        )
        self.memory_attention = MemoryAttention(
            width,
            config.memory_heads,
            config.memory_hidden,
            config.memory_layers,
            config.memory_width,
            config.memory_dropout,
        )
        self.memory_encoder = MemoryEncoder(width, config.memory_width, config.fusers)
        self.mask_shrink = nn.Conv2d(1, 1, 4, stride=4)
        self.pointer_proj = DeepHead(width, width, width)
        self.pointer_time = nn.Linear(width, config.memory_width) if config.pointer_times else None
        self.memory_times = _table(config.memories, config.memory_width)
        self.no_memory = _table(1, width)
        self.no_memory_code = _table(1, width)  # in every checkpoint; the released switches never use it
        self.no_pointer = _table(1, width)
        self.absent = _table(1, config.memory_width) if config.absent_memory else None

    # Pictures

    def encode_image(self, x: Tensor) -> Features:
        """(B, 3, S, S) → what any number of prompts needs of the pictures.

        Raises: BadInput for another shape.
        """
        side = self.config.image_size
        if x.ndim != 4 or x.shape[1:] != (self.config.trunk.in_channels, side, side):
            raise wrong_shape("pictures", x.shape, f"(B, {self.config.trunk.in_channels}, {side}, {side})", self.name)
        return self.image_encoder(x, self.mask_decoder.fine, self.mask_decoder.middle)

    def predict(
        self,
        features: Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
        which: Tensor | None = None,
    ) -> Prediction:
        """Masks of N prompts.

        Args:
            features: of B pictures. With B = 1 all prompts are on that picture, else N = B or `which` says.
            points: (N, P, 2) x and y in pixels of the model's input.
            labels: (N, P): 1 inside, 0 outside, -1 none.
            boxes: (N, 4) left, top, right, bottom in the same pixels.
            masks: (N, 1, S / 4, S / 4) logits of an earlier prediction, to be improved.
            multimask: three alternatives (for a single point, which may mean several things) instead of one mask.
            which: (N,) the picture of each prompt.

        Raises: BadInput for shapes that do not fit together.
        """
        points, labels = _with_boxes(points, labels, boxes)
        count = _count(points, masks, len(features) if which is None else len(which))
        if which is not None:
            features = features[which]
        if len(features) not in (1, count):
            raise BadInput(f"{count} prompts need 1 or {count} pictures, or which=; got {len(features)} pictures.")
        image = features.coarse + self.no_memory[..., None, None]
        decoded = self._decode(image, features, Prompts(points, labels, masks), count)
        return Prediction(*self._chosen(decoded, multimask), decoded.object_score)

    def _decode(self, image: Tensor, features: Features, prompts: Prompts, count: int) -> Decoded:
        """Decode `count` prompts, a few at a time; image and features are one row or `count`."""
        together = max(1, TOGETHER // image.shape[-1] ** 2)
        if count <= together or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._decode_some(image, features, prompts, count)
        parts = []
        for start in range(0, count, together):
            some = slice(start, min(start + together, count))
            own = features if len(features) == 1 else features[some]
            seen = image if len(image) == 1 else image[some]
            parts.append(self._decode_some(seen, own, prompts.rows(some), some.stop - some.start))
        return Decoded(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _decode_some(self, image: Tensor, features: Features, prompts: Prompts, count: int) -> Decoded:
        side = image.shape[-1]
        if prompts.points is None or prompts.labels is None:
            sparse = image.new_zeros(count, 0, self.config.width)
        else:
            sparse = self.prompt_encoder.points(prompts.points, prompts.labels)
        dense = self.prompt_encoder.masks(prompts.masks, side)
        places = self.prompt_encoder.grid_code(side, side)
        return self.mask_decoder(image + dense, places, sparse, features.fine, features.middle)

    def _chosen(self, decoded: Decoded, multimask: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, qualities and tokens of the three alternatives, or of the one mask."""
        if multimask:
            return decoded.logits[:, 1:], decoded.iou[:, 1:], decoded.tokens[:, 1:]
        config = self.config
        if config.stability and not self.training:
            logits, iou = steady(decoded, config.stability_delta, config.stability_threshold)
        else:
            logits, iou = decoded.logits[:, :1], decoded.iou[:, :1]
        return logits, iou, decoded.tokens[:, :1]

    # One frame of a video

    def heads(
        self,
        image: Tensor,
        features: Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> Heads:
        """N objects on one frame.

        Args:
            image: (N or 1, width, S / 16, S / 16): what `condition` gives, or `unconditioned`.
            features: of the frame (one row), or of N frames.
            points, labels, masks: as of `predict`, boxes as two points with the labels 2 and 3; all may be None.
            multimask: choose the best of three masks by predicted quality.
        """
        count = _count(points, masks, max(len(image), len(features)))
        if points is None or labels is None:
            points, labels = image.new_zeros(count, 1, 2), torch.full((count, 1), PAD, device=image.device)
        decoded = self._decode(image, features, Prompts(points, labels, masks), count)
        candidates, iou, tokens = self._chosen(decoded, multimask)
        there = decoded.object_score > 0
        rows = torch.arange(count, device=image.device)
        best = iou.argmax(dim=-1)
        logits = torch.where(there[..., None, None], candidates[rows, best][:, None].float(), ABSENT)
        pointer = torch.where(there, self.pointer_proj(tokens[rows, best]), self.no_pointer)
        return Heads(logits, candidates, iou, pointer, decoded.object_score)

    def mask_heads(self, features: Features, masks: Tensor) -> Heads:
        """N objects whose masks (N, 1, S, S) bool are given: the masks themselves, and pointers to the objects."""
        given = masks.float()
        side = self.config.image_size // 4
        logits = given * 20 - 10
        small = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        prompt = self.mask_shrink(given.to(self.mask_shrink.weight.dtype))
        seen = self.heads(features.coarse, features, masks=prompt, multimask=False)
        there = given.flatten(1).any(dim=1, keepdim=True)
        pointer = torch.where(there, seen.pointer, self.no_pointer)
        return Heads(small, small, small.new_ones(len(masks), 1), pointer, there.float() * 20 - 10)

    def unconditioned(self, features: Features) -> Tensor:
        """The map of a frame that looks at no past: (B, width, S / 16, S / 16)."""
        return features.coarse + self.no_memory[..., None, None]

    # Memory

    def condition(self, coarse: Tensor, seen: Sequence[Recollection], reach: int) -> Tensor:
        """A frame's map after it has looked at its past.

        Args:
            coarse: (1 or N, width, h, w), the frame's map.
            seen: what is looked at: one for all N objects (training, with rows in its tensors), or one an object; all
                of them with as many memories and pointers.
            reach: frames over which pointers count (`bank.pointer_reach`).

        Returns: (N, width, h, w). With no memories at all it is the unconditioned map.
        """
        side = coarse.shape[-1]
        if not seen[0].memories:
            return (coarse + self.no_memory[..., None, None]).expand(max(len(coarse), len(seen)), -1, -1, -1)
        parts = [self._memory_tokens(one, side, reach) for one in seen]
        memory, position = (torch.cat(column) for column in zip(*parts, strict=True))
        pointers = len(seen[0].pointers) * (self.config.width // self.config.memory_width)
        code = tokens_of(sine_grid(side, side, self.config.width, coarse.device)).to(coarse.dtype)
        x = self.memory_attention(tokens_of(coarse), code, memory, position, pointers)
        return map_of(x, side, side)

    def _memory_tokens(self, seen: Recollection, side: int, reach: int) -> tuple[Tensor, Tensor]:
        """(N, K, memory_width) memories and their positions: maps, then pointers cut into tokens."""
        width, dtype = self.config.memory_width, self.no_memory.dtype
        grid = tokens_of(sine_grid(side, side, width, self.no_memory.device)).to(dtype)
        memories = [tokens_of(memory).to(dtype) for memory, _ in seen.memories]
        positions = [grid + self.memory_times[row] for _, row in seen.memories]
        if seen.pointers:
            cut = self.config.width // width
            pointers = torch.stack([pointer for pointer, _ in seen.pointers], dim=1)
            memories.append(pointers.unflatten(2, (cut, width)).flatten(1, 2).to(dtype))
            if self.pointer_time is None:
                times = grid.new_zeros(1, len(seen.pointers), width)
            else:
                places = torch.tensor([float(distance) for _, distance in seen.pointers], device=grid.device)
                times = self.pointer_time(sine_places(places / (reach - 1), self.config.width).to(dtype))[None]
            positions.append(times.repeat_interleave(cut, dim=1))
        memory, position = torch.cat(memories, dim=1), torch.cat(positions, dim=1)
        return memory, position.expand(len(memory), -1, -1)

    def remember(self, coarse: Tensor, logits: Tensor, object_score: Tensor, prompted: bool) -> Tensor:
        """The memory of a frame.

        Args:
            coarse: (1 or N, width, h, w), the frame's map before it looked at any past.
            logits: (N, 1, S, S) or (N, 1, S / 4, S / 4), which are enlarged.
            object_score: (N, 1) logit.
            prompted: whether the frame has a prompt.

        Returns: (N, memory_width, h, w), in the precision of the model.
        """
        size = (coarse.shape[-2] * STRIDE, coarse.shape[-1] * STRIDE)
        logits = logits.float() if logits.shape[-2:] == size else enlarge(logits, size)
        sharp = prompted and self.config.binarise_prompted and not self.training
        mask = (logits > 0).float() if sharp else logits.sigmoid()
        memory = self.memory_encoder(coarse, (mask * 20 - 10).to(coarse.dtype))
        if self.absent is None:
            return memory
        return memory + torch.where(object_score > 0, 0.0, self.absent)[..., None, None]

    def session(self, frames: Frames, size: tuple[int, int], **settings: Any) -> Session:
        """Objects through a video; arguments as of `Session`."""
        return Session(self, frames, size, **settings)


def _table(rows: int, width: int) -> nn.Parameter:
    table = nn.Parameter(torch.empty(rows, width))
    nn.init.trunc_normal_(table, std=0.02)
    return table


def _with_boxes(
    points: Tensor | None, labels: Tensor | None, boxes: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Boxes as two points with labels of their own, in front of the clicks."""
    if (points is None) != (labels is None):
        raise BadInput("points and labels come together; got one without the other.")
    if boxes is None:
        return points, labels
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise wrong_shape("boxes", boxes.shape, "(N, 4)")
    corners = boxes.reshape(-1, 2, 2).float()
    kinds = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=boxes.device).expand(len(boxes), -1)
    if points is None or labels is None:
        return corners, kinds
    if len(points) != len(boxes):
        raise BadInput(f"points and boxes must be of as many prompts; got {len(points)} and {len(boxes)}.")
    return torch.cat([corners, points.float()], dim=1), torch.cat([kinds, labels.to(kinds)], dim=1)


def _count(points: Tensor | None, masks: Tensor | None, otherwise: int) -> int:
    counts = {len(part) for part in (points, masks) if part is not None} or {otherwise}
    if len(counts) > 1:
        raise BadInput(f"points and masks must be of as many prompts; got {sorted(counts)}.")
    return counts.pop()


def build(config: Sam2Config) -> Sam2:
    """A model with fresh weights."""
    return Sam2(config)
