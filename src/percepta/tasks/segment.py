"""Objects cut out of pictures: by clicks, boxes, masks, or all that there are (SAM 2, arXiv 2408.00714).

Order of this file: the verb, the model with what the verb needs of it, prompts, prompts to masks.
Unusual: prompts are checked against the picture before the model sees it; a single click leaves open what was meant,
so of its three answers the one with the best predicted quality comes back, unless all are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from percepta.errors import BadInput, one_of, wrong_shape
from percepta.media import Source, open_picture
from percepta.media.pictures import picture_name
from percepta.media.sniffing import name_of
from percepta.models.sam2 import everything as all_objects
from percepta.results import Masks
from percepta.results.masks import encode
from percepta.running.feed import Stream
from percepta.tasks.encoder import Encoder

NANO = "sam2-nano"
THING = "object"  # the name of what was asked for without words
SCORE_KIND = "predicted IoU (the model's own estimate, not calibrated)"
ENCODER = "pe-core-nano"  # what knows words
FED = 10.0  # the logit of a pixel inside a mask that is given as a prompt
Size = tuple[int, int]
Asked = Callable[[Any, Tensor, Source], Masks]


def segment(  # noqa: PLR0913 (the front door)
    inputs: Any,
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    masks: Any = None,
    text: str | None = None,
    everything: bool | Mapping[str, Any] = False,
    model: str | nn.Module = NANO,
    multimask: bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    on_error: str = "collect",
    weights: str | Path | None = None,
    encoder: str | nn.Module = ENCODER,
) -> Masks | Stream[Masks]:
    """Masks of the objects that are pointed at; of one picture its Masks, of many a stream of Masks in order.

    Args:
        inputs: a file, folder, glob, picture, array, "-" (names on standard input) or an iterable of these. One file,
            picture or array gives one result at once. The same prompts hold for every picture.
        points: (x, y) pairs in pixels of the picture as seen: all on one object; or one list of pairs for each object.
        labels: for each point 1 (inside, the default) or 0 (outside), nested like the points.
        boxes: (left, top, right, bottom) or several of them, each an object; a box goes with the points of its object.
        masks: (H, W) arrays or picture files of the picture's size, one an object: rough masks that are to be improved.
        text: what to look for, in words, such as "the red cup"; all that fits comes back, perhaps nothing.
        everything: all objects, without prompts; fields of `EverythingSettings` as a dictionary, such as
            {"points_per_side": 16, "clean_area": 100}.
        model, weights: a name or a loaded model; a file or folder for a name.
        multimask: None gives one mask an object (of a single click the best of three by predicted IoU), True all three
            alternatives, False the model's single mask.
        on_error: "collect" (see `failures` of the stream) or "raise" (BadMedia). One picture always raises.

    Returns:
        Masks; scores are the IoU that the model predicts for each, 0 to 1, not calibrated; of words, how likely each
        is what was asked for. `score_kind` of a stream says so.

    Raises:
        BadInput: no prompt or several kinds that exclude each other, a prompt outside the picture, a box without area,
            a point that is both inside and outside, inputs that hold nothing. BadMedia: the one picture cannot be read.
        UnknownModel, MissingWeights, CheckpointMismatch.
    """
    one = is_one(inputs)
    prompts = prompts_of(points, labels, boxes, masks)
    _check_one({"prompts": prompts, "text": text, "everything": everything})
    segmenter = Segmenter(model, device, dtype, weights)
    ask: Asked
    if text is not None:
        from percepta.tasks.words import find_in_picture

        ask = find_in_picture(text, segmenter, encoder)
    elif prompts:
        ask = _by_prompts(segmenter, prompts, multimask)
    else:
        ask = _everything(segmenter, everything)
    stream = segmenter.over(inputs, ask, prompts, batch_size, "raise" if one else on_error)
    stream.score_kind = getattr(ask, "score_kind", SCORE_KIND)  # type: ignore[attr-defined]
    return next(iter(stream)) if one else stream


def _check_one(ways: Mapping[str, Any]) -> None:
    """Raises BadInput unless things are asked for in exactly one way."""
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        told = " and ".join(given) if given else "nothing"
        raise BadInput(f"segment needs points, boxes or masks, or text, or everything=True, one of them; got {told}.")


def is_one(inputs: Any) -> bool:
    """Whether inputs are one picture, and not a folder, a pattern or a list."""
    if isinstance(inputs, Source):
        return True
    if isinstance(inputs, str | os.PathLike):
        text = os.fspath(inputs)
        return (
            text != "-" and not any(sign in str(text) for sign in "*?[") and not Path(str(text)).expanduser().is_dir()
        )
    return isinstance(inputs, bytes | Image.Image) or (isinstance(inputs, np.ndarray) and inputs.ndim < 4)


class Segmenter:
    """A promptable model with what the verbs need of it.

    Args: as of `Encoder`. Raises: as `Encoder`; BadInput for a model that takes no prompts.
    """

    def __init__(
        self,
        model: str | nn.Module,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        weights: str | Path | None = None,
    ) -> None:
        self._encoder = Encoder(model, device, dtype, weights)
        self.model: Any = self._encoder.model
        self.name, self.device, self.dtype = self._encoder.name, self._encoder.device, self._encoder.dtype
        if not (hasattr(self.model, "predict") and hasattr(self.model, "session")):
            raise BadInput(
                f"segment and track need a model that takes prompts, such as {NANO}; {self.name} takes none."
            )
        self.side: int = self.model.config.image_size
        self.evaluating = self._encoder.evaluating
        self._frames = replace(self.model.preprocess, filter="bicubic", arithmetic="bytes")

    def frame(self, picture: Image.Image) -> Tensor:
        """(3, S, S) of a video's frame, resized as the published video code does: bicubic, in bytes."""
        tensor: Tensor = self._frames(picture)
        return tensor

    def over(
        self, inputs: Any, ask: Asked, prompts: Sequence[Prompt], batch_size: int | None, on_error: str
    ) -> Stream[Masks]:
        """The question to every picture; a picture is encoded once whatever is asked of it."""
        whole = getattr(ask, "whole", False)

        def prepare(source: Source) -> Tensor:
            if source.kind == "video":
                raise BadInput(f"{name_of(source.name)} is a video; follow things in it with track.")
            picture = open_picture(source.thing)
            owner = picture_name(source.thing)
            for prompt in prompts:
                prompt.check((picture.height, picture.width), owner)
            sizes[id(source)] = (picture.height, picture.width)
            if whole:
                return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            tensor: Tensor = self.model.preprocess(picture)
            return tensor

        def compute(batch: Tensor, sources: list[Source]) -> list[Masks]:
            with self.evaluating():
                features = batch if whole else self.model.encode_image(batch.to(self.device, self.dtype))
                return [
                    ask(features[row : row + 1], torch.tensor(sizes.pop(id(source))), source)
                    for row, source in enumerate(sources)
                ]

        sizes: dict[int, Size] = {}
        return self._encoder.run(inputs, compute, 1 if whole else batch_size, on_error, prepare)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What points at one object.

    Attributes:
        points: (P, 2) float32, x and y in pixels.
        labels: (P,) int64, 1 inside, 0 outside.
        box: left, top, right, bottom in pixels, or None.
        mask: (H, W) bool, or None.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None

    @property
    def is_one_click(self) -> bool:
        """Whether there is nothing but a single click, which leaves open what is meant."""
        return len(self.points) == 1 and self.box is None and self.mask is None

    @property
    def is_outside_only(self) -> bool:
        """Whether it only says what does not belong to the object."""
        return self.box is None and self.mask is None and not (self.labels == 1).any()

    def check(self, size: Size, owner: str) -> None:
        """Raises BadInput where it does not lie in a picture of this (height, width)."""
        height, width = size
        for x, y in self.points.tolist():
            if not (0 <= x < width and 0 <= y < height):
                raise BadInput(f"a point must lie in {owner}, {width}x{height} pixels; got ({x:g}, {y:g}).")
        if self.box is not None:
            left, top, right, bottom = self.box
            if min(left, top) < 0 or right > width or bottom > height:
                given = ", ".join(f"{edge:g}" for edge in self.box)
                raise BadInput(f"a box must lie in {owner}, {width}x{height} pixels; got ({given}).")
        if self.mask is not None and self.mask.shape != size:
            raise BadInput(
                f"a mask must have the size of {owner}, {width}x{height} pixels; got "
                f"{self.mask.shape[1]}x{self.mask.shape[0]}."
            )

    def scaled(self, size: Size, side: int) -> tuple[Tensor, Tensor]:
        """Points (P, 2) in pixels of an input of `side` x `side`, and labels (P,)."""
        ratio = torch.tensor([side / size[1], side / size[0]])
        return torch.from_numpy(self.points) * ratio, torch.from_numpy(self.labels)


def prompts_of(points: Any = None, labels: Any = None, boxes: Any = None, masks: Any = None) -> list[Prompt]:
    """One Prompt an object, from what people give; none from nothing. Arguments as of `segment`.

    Raises: BadInput for what is no such prompt, for labels that contradict each other, or for numbers that do not fit.
    """
    clicks = _clicks(points, labels)
    frames = [_box(box) for box in _several(boxes, "boxes", 1)]
    rough = [read_mask(mask) for mask in _masks(masks)]
    count = max(len(clicks), len(frames), len(rough))
    for what, given in (("points", clicks), ("boxes", frames), ("masks", rough)):
        if given and len(given) != count:
            raise BadInput(
                f"{what} must be given for all {count} objects or for none; got {len(given)} (points of several "
                "objects are lists of pairs, one list an object)."
            )
    nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    prompts = []
    for number in range(count):
        places, kinds = clicks[number] if clicks else nothing
        prompts.append(Prompt(places, kinds, frames[number] if frames else None, rough[number] if rough else None))
        if prompts[-1].is_outside_only:
            raise BadInput("points of an object must have at least one inside it (label 1); got outside ones only.")
    return prompts


def read_mask(mask: Any) -> NDArray[np.bool_]:
    """(H, W) bool of an array (every value but 0 is inside) or of a picture file (bright is inside; of a picture of
    small numbers, as label maps are, every value but 0).

    Raises: BadInput for another shape or a mask with nothing inside; BadMedia for a file that cannot be read.
    """
    if isinstance(mask, str | os.PathLike | bytes | Image.Image):
        picture = open_picture(mask)
        array = np.asarray(picture if picture.mode in ("L", "P", "1") else picture.convert("L"))
        array = array > 127 if array.dtype != bool and array.max(initial=0) > 127 else array != 0
    else:
        array = np.asarray(mask)
        if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
            array = array.squeeze(0 if array.shape[0] == 1 else 2)
        if array.ndim != 2 or array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and np.isnan(array).any()):
            raise wrong_shape("a mask", array.shape, "(H, W), of numbers without NaN")
        array = array != 0
    if not array.any():
        raise BadInput("a mask must have at least one pixel inside; got none.")
    return array


def _masks(masks: Any) -> Sequence[Any]:
    if masks is None:
        return ()
    single = isinstance(masks, str | os.PathLike | bytes | Image.Image)
    return (masks,) if single or (isinstance(masks, np.ndarray) and masks.ndim == 2) else list(masks)


def _clicks(points: Any, labels: Any) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Points (P, 2) and labels (P,) of each object."""
    objects = _several(points, "points", 2)
    if labels is None:
        kinds: Sequence[Any] = [[1] * len(places) for places in objects]
    else:
        kinds = list(labels) if isinstance(labels, list | tuple | np.ndarray) else [labels]
        if len(objects) == 1 and not (kinds and isinstance(kinds[0], list | tuple | np.ndarray)):
            kinds = [kinds]
    if len(kinds) != len(objects):
        raise BadInput(f"labels must be nested like the points; got {len(kinds)} for {len(objects)} objects.")
    return [_object(places, own) for places, own in zip(objects, kinds, strict=True)]


def _object(places: Any, kinds: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    points = _numbers(places, "points")
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise wrong_shape("points of an object", points.shape, "(P, 2), at least one (x, y)")
    given = kinds.tolist() if isinstance(kinds, np.ndarray) else kinds
    if not isinstance(given, list | tuple):
        raise BadInput(f"labels must be nested like the points, a list for each object; got {kinds!r}.")
    if len(given) != len(points):
        raise BadInput(f"labels must be one for each point; got {len(given)} for {len(points)} points.")
    if not all(label in (0, 1) for label in given):
        raise BadInput(f"labels must be 1 (inside) or 0 (outside); got {given}.")
    seen: dict[tuple[float, float], int] = {}
    for place, label in zip(points.tolist(), given, strict=True):
        if seen.setdefault((place[0], place[1]), int(label)) != label:
            raise BadInput(
                f"the point ({place[0]:g}, {place[1]:g}) is labelled both inside and outside; say one of them."
            )
    return points, np.array([int(label) for label in given], np.int64)


def _box(box: Any) -> tuple[float, float, float, float]:
    edges = _numbers(box, "a box").reshape(-1).tolist()
    if len(edges) != 4:
        raise BadInput(f"a box must be left, top, right, bottom; got {len(edges)} numbers.")
    left, top, right, bottom = edges
    if not (right > left and bottom > top):
        given = ", ".join(f"{edge:g}" for edge in edges)
        raise BadInput(f"a box must have an area, left < right and top < bottom; got ({given}).")
    return left, top, right, bottom


def _several(given: Any, what: str, depth: int) -> list[Any]:
    """A list of things, from one thing or several; a thing nests `depth` deep."""
    if given is None:
        return []
    things = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(things, str) or not isinstance(things, Sequence):
        raise BadInput(f"{what} must be a list of numbers; got {type(given).__name__}.")
    if not things:
        return []
    inner: Any = things
    levels = 0
    while isinstance(inner, Sequence) and not isinstance(inner, str) and len(inner):
        inner, levels = inner[0], levels + 1
    if levels < depth and what == "points":
        return [[list(things)]]  # a single pair
    return list(things) if levels > depth else [things]


def _numbers(values: Any, what: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be numbers; got {values!r}.") from None
    if not np.isfinite(array).all():
        raise BadInput(f"{what} must be finite numbers; got {array.tolist()}.")
    return array


def _by_prompts(segmenter: Segmenter, prompts: Sequence[Prompt], multimask: bool | None) -> Asked:
    """All objects of a picture, those with equally many clicks together."""

    def ask(features: Any, size: Tensor, source: Source) -> Masks:
        height, width = size.tolist()
        counts: list[list[NDArray[np.int64]]] = [[] for _ in prompts]
        scores: list[list[float]] = [[] for _ in prompts]
        for rows in _alike(prompts):
            several = prompts[rows[0]].is_one_click if multimask is None else multimask
            found = segmenter.model.predict(
                features, **_tensors([prompts[row] for row in rows], (height, width), segmenter), multimask=several
            )
            for row, logits, iou in zip(rows, found.logits, found.iou, strict=True):
                kept = [int(iou.argmax())] if multimask is None else range(len(iou))
                for number in kept:
                    counts[row].append(encode(upright(logits[number], (height, width))))
                    scores[row].append(float(iou[number]))
        flat = tuple(runs for rows in counts for runs in rows)
        quality = np.array([score for rows in scores for score in rows], np.float32)
        return Masks(source.name, (height, width), flat, (THING,) * len(flat), quality)

    return ask


def upright(logits: Tensor, size: Size) -> NDArray[np.bool_]:
    """(h, w) logits as an (H, W) bool mask at the size of the picture."""
    large = F.interpolate(logits.float()[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return (large > 0).cpu().numpy()


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The numbers of prompts that can be computed together: padding would change results."""
    groups: dict[tuple[int, bool, bool], list[int]] = {}
    for number, prompt in enumerate(prompts):
        key = (len(prompt.points), prompt.box is not None, prompt.mask is not None)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _tensors(prompts: Sequence[Prompt], size: Size, segmenter: Segmenter) -> dict[str, Tensor]:
    """Arguments of `predict` for prompts that are alike."""
    side, device, dtype = segmenter.side, segmenter.device, segmenter.dtype
    found: dict[str, Tensor] = {}
    if len(prompts[0].points):
        pairs = [prompt.scaled(size, side) for prompt in prompts]
        found["points"] = torch.stack([points for points, _ in pairs]).to(device)
        found["labels"] = torch.stack([labels for _, labels in pairs]).to(device)
    if prompts[0].box is not None:
        ratio = torch.tensor([side / size[1], side / size[0]] * 2)
        found["boxes"] = (torch.tensor([prompt.box for prompt in prompts]) * ratio).to(device)
    if prompts[0].mask is not None:
        stack = torch.stack([torch.from_numpy(np.asarray(prompt.mask)) for prompt in prompts])[:, None].float()
        small = F.interpolate(stack, (side // 4, side // 4), mode="bilinear", align_corners=False, antialias=True)
        found["masks"] = ((2 * small - 1) * FED).to(device, dtype)
    return found


def _everything(segmenter: Segmenter, given: bool | Mapping[str, Any]) -> Asked:
    """All objects of a picture."""
    settings = all_objects.EverythingSettings(**_known_settings(given if isinstance(given, Mapping) else {}))

    def ask(pixels: Tensor, size: Tensor, source: Source) -> Masks:
        found = all_objects.everything(segmenter.model, pixels[0], settings).masks(source.name)
        return Masks(found.source, found.size, found.counts, (THING,) * len(found), found.scores)

    ask.whole = True  # type: ignore[attr-defined]  # it wants the picture's pixels
    return ask


def _known_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(all_objects.EverythingSettings)]
    for name in given:
        if name not in names:
            raise one_of("a setting of everything", name, names)
    return dict(given)
