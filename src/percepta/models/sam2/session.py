"""Objects through a video: a session that is prompted at any frame, and gone through in either direction.

SAM 2, arXiv 2408.00714, sections 4 and 5. Order of this file: frames on demand, what comes out, the session: prompts,
tracking, one frame, saving.
Unusual: all objects of a frame go through the network in one batch and stay independent of each other. By default a
session keeps only what later frames can look at, which changes no mask and makes memory independent of length; a
correction stays as the user made it, unless `corrections="official"` asks to compute corrected frames anew, as the
published code does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.errors import BadInput, one_of, out_of_range, wrong_shape
from percepta.layers.regions import fill_holes
from percepta.models.sam2.bank import Clicks, Recollection, Remembered, TrackedObject, pointer_reach, recollect
from percepta.models.sam2.parts import enlarge
from percepta.models.sam2.prompts import BOTTOM_RIGHT, TOP_LEFT

if TYPE_CHECKING:
    from percepta.models.sam2.model import Features, Heads, Sam2

Frames = Tensor | Sequence[Tensor] | Iterable[Tensor]
ABSENT = -1024.0
"""Logit of every pixel of an object that is not there."""
FED_BACK = 32.0
"""Largest logit of an earlier result that is fed back as a mask prompt."""
OVERLAPPED = -10.0
"""Logit that a pixel keeps at most which belongs to another object."""
HOLE = 0.1
"""Logit of a filled hole."""
SCHEMA = 1


class FrameMasks(NamedTuple):
    """The masks of one frame.

    Attributes:
        frame: its number, from 0.
        objects: their identities, in the order in which they were first prompted.
        logits: (N, H, W) float32 at the size of the video, above 0 inside; -1024 where an object has no result.
        object_scores: (N,) logits of the objects being there; minus infinity where there is no result.
    """

    frame: int
    objects: tuple[int, ...]
    logits: Tensor
    object_scores: Tensor


class FrameSource:
    """Frames on demand: random access to a sequence, or one after the other from an endless source.

    Args:
        frames: (T, 3, S, S), a sequence of (3, S, S), or an iterable of them, which is gone through once.
    """

    def __init__(self, frames: Frames) -> None:
        self.sequence: Any = frames if isinstance(frames, Tensor | Sequence) or _indexed(frames) else None
        self.stream: Iterator[Tensor] | None = None if self.sequence is not None else iter(frames)
        self.passed = 0

    @property
    def length(self) -> int | None:
        """Number of frames, None where it is not known."""
        return None if self.sequence is None else len(self.sequence)

    def __call__(self, frame: int) -> Tensor | None:
        """The frame (3, S, S), or None behind the last one. Raises BadInput for a frame that a stream has passed."""
        if self.sequence is not None:
            return self.sequence[frame] if frame < len(self.sequence) else None
        if frame < self.passed:
            raise BadInput(f"frame {frame} of a stream has passed; only frame {self.passed - 1} and later can be had.")
        found: Tensor | None = None
        while self.passed <= frame:
            assert self.stream is not None
            found = next(self.stream, None)
            if found is None:
                return None
            self.passed += 1
        return found


def _indexed(frames: object) -> bool:
    return hasattr(frames, "__getitem__") and hasattr(frames, "__len__")


class Session:
    """Objects in one video.

    Args:
        model: a Sam2 in evaluation mode.
        frames: what `FrameSource` takes: preprocessed frames, decoded when they are needed.
        size: (height, width) of the video, in which prompts are given and masks come back.
        memory: "bounded" keeps what later frames can look at, in the direction in which the video is gone through;
            "all" keeps every result, for going back to any frame; "off" looks at no past at all, for comparison.
        corrections: "stick": a corrected frame keeps its corrected mask, and later frames look at it as at a prompted
            one; "official": it is computed anew when tracking passes it, as the published code does.
        length: frames of the video, where it is shorter than 16 and not known from `frames`.
        non_overlap: give each pixel to the object with the highest logit.
        fill_holes: fill holes of up to this many pixels (of a quarter of the input's size); 0 is off.
        forget_around_prompts: a new prompt makes the object forget the tracked frames around it.

    Raises: BadInput for settings that are none of these.
    """

    def __init__(
        self,
        model: Sam2,
        frames: Frames,
        size: tuple[int, int],
        memory: str = "bounded",
        corrections: str = "stick",
        length: int | None = None,
        non_overlap: bool = False,
        fill_holes: int = 0,
        forget_around_prompts: bool = False,
    ) -> None:
        if memory not in MEMORIES:
            raise one_of("memory", memory, MEMORIES, "Session")
        if corrections not in ("stick", "official"):
            raise one_of("corrections", corrections, ("stick", "official"), "Session")
        if len(size) != 2 or min(size) < 1:
            raise out_of_range("size", size, "(height, width), both 1 or more", "Session")
        self.model, self.size = model, (int(size[0]), int(size[1]))
        self.memory, self.corrections = memory, corrections
        self.non_overlap, self.fill_holes = non_overlap, fill_holes
        self.forget_around_prompts = forget_around_prompts
        self.source = FrameSource(frames)
        self.length = self.source.length if length is None else length
        if self.length is not None and self.length < 1:
            raise BadInput("a video must have at least one frame; got none.")
        self.tracked: dict[int, TrackedObject] = {}
        self.position = -1
        self._features: OrderedDict[int, Features] = OrderedDict()

    # Prompts

    @property
    def objects(self) -> tuple[int, ...]:
        """Identities, in the order in which they were first prompted."""
        return tuple(self.tracked)

    @torch.no_grad()
    def add_points(
        self,
        frame: int,
        object: int,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        clear: bool = True,
        normalized: bool = False,
    ) -> FrameMasks:
        """Clicks and a box on one object; a new identity makes a new object, at any time.

        Args:
            frame: number of the frame.
            object: identity, any whole number.
            points: (P, 2) x and y in pixels of the video, or None.
            labels: (P,) 1 inside, 0 outside.
            box: left, top, right, bottom, or None.
            clear: forget earlier clicks of this object on this frame; False adds to them (then without a box).
            normalized: coordinates are shares of the width and height.

        Returns: all objects on this frame. Raises: BadInput for coordinates outside the video, a box without area, a
            point with both labels, labels that are neither 0 nor 1, a frame that is not there.
        """
        clicks = self._clicks(points, labels, box, normalized)
        self._check_frame(frame)
        features = self._see(frame)
        known = self.tracked.get(object)
        before = None if known is None else known.clicks.get(frame)
        if not clear and before is not None:
            if box is not None:
                raise BadInput("a box goes before all clicks; give it with clear=True.")
            clicks = Clicks(torch.cat([before.points, clicks.points], 1), torch.cat([before.labels, clicks.labels], 1))
        one = self.tracked.setdefault(object, TrackedObject(object))
        one.clicks[frame] = clicks
        one.masks.pop(frame, None)
        return self._prompted(one, frame, features)

    def add_box(self, frame: int, object: int, box: Any, normalized: bool = False) -> FrameMasks:
        """A box (left, top, right, bottom) around one object; see `add_points`."""
        return self.add_points(frame, object, box=box, normalized=normalized)

    @torch.no_grad()
    def add_mask(self, frame: int, object: int, mask: Any) -> FrameMasks:
        """The object's mask, (H, W) of any size; every value but 0 is inside. It replaces clicks on this frame.

        Returns: all objects on this frame. Raises: BadInput for another shape, NaN, or a frame that is not there.
        """
        given = torch.as_tensor(mask)
        if given.ndim != 2 or not given.numel() or (given.is_floating_point() and given.isnan().any()):
            raise wrong_shape("mask", given.shape, "(H, W), without NaN", "add_mask")
        self._check_frame(frame)
        features = self._see(frame)
        side = self.model.config.image_size
        given = (given != 0).float()[None, None].to(features.coarse.device)
        if given.shape[-2:] != (side, side):
            given = F.interpolate(given, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        one = self.tracked.setdefault(object, TrackedObject(object))
        one.masks[frame] = given >= 0.5
        one.clicks.pop(frame, None)
        return self._prompted(one, frame, features)

    def _clicks(self, points: Any, labels: Any, box: Any, normalized: bool) -> Clicks:
        height, width = self.size
        limits = torch.tensor([1.0, 1.0] if normalized else [float(width), float(height)])
        places = torch.zeros(0, 2) if points is None else torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
        kinds = torch.zeros(0, dtype=torch.int64) if labels is None else torch.as_tensor(labels).reshape(-1).long()
        if len(places) != len(kinds):
            raise BadInput(f"points need a label each; got {len(places)} points and {len(kinds)} labels.")
        if not torch.isin(kinds, torch.tensor([0, 1])).all():
            raise BadInput(f"labels must be 1 (inside) or 0 (outside); got {kinds.tolist()}.")
        for place in places.unique(dim=0) if len(places) > 1 else ():
            if len(kinds[(places == place).all(dim=1)].unique()) > 1:
                raise BadInput(f"the point {tuple(place.tolist())} is labelled both inside and outside; say one.")
        if box is not None:
            corners = torch.as_tensor(box, dtype=torch.float32).reshape(-1)
            if len(corners) != 4 or not bool((corners[2:] > corners[:2]).all()):
                raise BadInput(f"a box must be left, top, right, bottom with an area; got {corners.tolist()}.")
            places = torch.cat([corners.view(2, 2), places])
            kinds = torch.cat([torch.tensor([TOP_LEFT, BOTTOM_RIGHT]), kinds])
        if not len(places):
            raise BadInput("a prompt needs at least one point or a box; got none.")
        if not bool(((places >= 0) & (places <= limits)).all()):  # also refuses NaN
            raise BadInput(f"prompts must lie within the video, {width} x {height} pixels; got {places.tolist()}.")
        device = self.model.no_memory.device
        scaled = places / limits * self.model.config.image_size
        return Clicks(scaled[None].to(device), kinds[None].to(device))

    def _check_frame(self, frame: int) -> None:
        if frame < 0 or (self.length is not None and frame >= self.length):
            end = "" if self.length is None else f" to {self.length - 1}"
            raise BadInput(f"frame must be one of the video, 0{end}; got {frame}.")

    def _prompted(self, one: TrackedObject, frame: int, features: Features) -> FrameMasks:
        """The object's result from its prompt on a frame; its memory is written when tracking goes on."""
        first = frame not in one.visited
        sticks = first or self.corrections == "stick"
        fresh = one.fresh_prompted if sticks else one.fresh_tracked
        if (given := one.masks.get(frame)) is not None:
            heads = self.model.mask_heads(features, given)
        else:
            clicks = one.clicks[frame]
            before = one.latest(frame, fresh)
            fed = None if before is None or before.logits is None else before.logits.clamp(-FED_BACK, FED_BACK)
            image = self.model.unconditioned(features)
            if not first and one.prompted:
                seen = self._recollect(one, frame, one.visited[frame])
                image = self.model.condition(features.coarse, [seen], pointer_reach(self.model.config, self.length))
            multimask = clicks.labels.shape[1] <= 1 and (first or self.model.config.tracking_alternatives)
            heads = self.model.heads(image, features, clicks.points, clicks.labels, fed, multimask)
        fresh[frame] = self._result(heads)[0]
        return self._gathered(frame, sticks)

    @torch.no_grad()
    def clear(self, frame: int, object: int) -> FrameMasks:
        """Take back the prompts of one object on one frame; what they gave becomes an ordinary result.

        Raises: BadInput for an unknown object.
        """
        one = self._known(object)
        self._forget_prompts(one, frame)
        return self._gathered(frame, any(frame in other.fresh_prompted for other in self.tracked.values()))

    def _forget_prompts(self, one: TrackedObject, frame: int) -> None:
        one.clicks.pop(frame, None)
        one.masks.pop(frame, None)
        one.fresh_prompted.pop(frame, None)
        one.fresh_tracked.pop(frame, None)
        if (result := one.prompted.pop(frame, None)) is not None:
            one.tracked[frame] = result
            one.visited.pop(frame, None)

    @torch.no_grad()
    def remove(self, object: int, strict: bool = True) -> list[FrameMasks]:
        """Forget an object; the others are as if it had never been there.

        Args:
            strict: whether an unknown identity is an error; otherwise nothing happens.

        Returns: the others on the frames on which it was prompted. Raises: BadInput for an unknown object.
        """
        if object not in self.tracked and not strict:
            return []
        one = self._known(object)
        del self.tracked[object]
        if not self.tracked:
            return []
        return [
            self._gathered(frame, any(frame in other.fresh_prompted for other in self.tracked.values()))
            for frame in sorted(one.prompted_frames)
        ]

    def reset(self) -> None:
        """Forget all objects; the video stays."""
        self.tracked.clear()

    def _known(self, object: int) -> TrackedObject:
        if object not in self.tracked:
            known = ", ".join(str(identity) for identity in self.tracked) or "none"
            raise BadInput(f"object must be one of the session ({known}); got {object}.")
        return self.tracked[object]

    # Tracking

    def propagate(
        self, start: int | None = None, max_frames: int | None = None, reverse: bool = False
    ) -> Iterator[FrameMasks]:
        """Go through the video; stop at any time and go on later.

        Args:
            start: first frame; by default the earliest prompted one.
            max_frames: go at most this many frames further, so that one more than that are visited.
            reverse: backwards, down to frame 0.

        Yields: the masks of each frame. Raises: BadInput where nothing is prompted, or for a frame that is not there.
        """
        self._write_memories()
        prompted = [frame for one in self.tracked.values() for frame in one.prompted]
        if not prompted:
            raise BadInput("tracking needs an object with a prompt; add points, a box or a mask first.")
        start = min(prompted) if start is None else start
        self._check_frame(start)
        if reverse:
            frames: Iterable[int] = range(start, max(start - (start if max_frames is None else max_frames), 0) - 1, -1)
            frames = frames if start > 0 else ()
        else:
            frames = _rising(start, self.length, max_frames)
        for frame in frames:
            with torch.no_grad():
                if self._see(frame, required=False) is None:
                    return
                masks = self._visit(frame, reverse)
            yield masks
            self._write_memories()  # of prompts that came while the caller looked at the masks

    @torch.no_grad()
    def step(self, frame: Tensor) -> FrameMasks:
        """The next frame (3, S, S) of a stream that the caller feeds; tracks every object that has a prompt.

        It can then be prompted by its number, `position`, until the next one comes.
        """
        self._write_memories()
        self.position += 1
        if self.length is not None:
            self.length = max(self.length, self.position + 1)
        self._keep(self.position, self.model.encode_image(frame[None]))
        if not any(one.prompted for one in self.tracked.values()):
            return self._gathered(self.position, True)
        return self._visit(self.position, False)

    def _visit(self, frame: int, reverse: bool) -> FrameMasks:
        """Track all objects through one frame."""
        features = self._see(frame)
        self.position = frame
        waiting = [one for one in self.tracked.values() if frame not in one.prompted and one.prompted]
        seen = {one.identity: self._recollect(one, frame, reverse) for one in waiting}
        groups: dict[tuple[int, int], list[TrackedObject]] = {}
        for one in waiting:
            shape = (len(seen[one.identity].memories), len(seen[one.identity].pointers))
            groups.setdefault(shape, []).append(one)
        for group in groups.values():
            self._track(group, [seen[one.identity] for one in group], frame, features)
        for one in self.tracked.values():
            one.visited[frame] = reverse
        masks = self._gathered(frame, True)
        if self.memory != "all":
            for one in self.tracked.values():
                one.forget(frame, reverse, self.model.config)
                _forget_visits(one, frame)
        return masks

    def _track(self, group: list[TrackedObject], seen: list[Recollection], frame: int, features: Features) -> None:
        reach = pointer_reach(self.model.config, self.length)
        image = self.model.condition(features.coarse, seen, reach)
        heads = self.model.heads(image, features, multimask=self.model.config.tracking_alternatives)
        memory = self.model.remember(features.coarse, heads.logits, heads.object_score, prompted=False)
        for one, result, written in zip(group, self._result(heads), self._kept(memory).split(1), strict=True):
            result.memory = written
            one.tracked[frame] = result

    def _recollect(self, one: TrackedObject, frame: int, reverse: bool) -> Recollection:
        if self.memory == "off":
            return Recollection([], [])
        return recollect(one.prompted, one.tracked, frame, self.model.config, self.length, reverse)

    @torch.no_grad()
    def _write_memories(self) -> None:
        """Store the results of new prompts, with the memories that later frames look at."""
        for one in self.tracked.values():
            for fresh, store in ((one.fresh_tracked, one.tracked), (one.fresh_prompted, one.prompted)):
                for frame, result in fresh.items():
                    assert result.logits is not None
                    coarse = self._see(frame).coarse
                    memory = self.model.remember(coarse, result.logits, result.object_score, prompted=True)
                    result.memory = self._kept(memory)
                    store[frame] = result
                    if self.forget_around_prompts:
                        one.forget_around(frame, self.model.config)
                fresh.clear()
            for frame in one.prompted:
                one.tracked.pop(frame, None)

    # One frame

    def _see(self, frame: int, required: bool = True) -> Any:
        """The features of a frame; None, or BadInput where it is required, behind the last one."""
        if frame in self._features:
            self._features.move_to_end(frame)
            return self._features[frame]
        picture = self.source(frame)
        if picture is None:
            if required:
                raise BadInput(f"frame {frame} is not there; the video ended at {max(self.source.passed - 1, 0)}.")
            return None
        device, dtype = self.model.no_memory.device, self.model.no_memory.dtype
        return self._keep(frame, self.model.encode_image(picture[None].to(device, dtype)))

    def _keep(self, frame: int, features: Features) -> Features:
        self._features[frame] = features
        while len(self._features) > 2:
            self._features.popitem(last=False)
        return features

    def _kept(self, memory: Tensor) -> Tensor:
        """A memory as it is stored."""
        return memory.to(getattr(torch, self.model.config.memory_precision))

    def _result(self, heads: Heads) -> list[Remembered]:
        logits = heads.logits
        if self.fill_holes:
            logits = fill_holes(logits, self.fill_holes, HOLE)
        rows = zip(logits.split(1), heads.pointer.split(1), heads.object_score.split(1), strict=True)
        return [Remembered(*row) for row in rows]

    def _gathered(self, frame: int, prompted: bool) -> FrameMasks:
        """All objects on a frame, at the size of the video."""
        side = self.model.config.image_size // 4
        logits = torch.full((len(self.tracked), 1, side, side), ABSENT, device=self.model.no_memory.device)
        scores = torch.full((len(self.tracked),), float("-inf"), device=logits.device)
        for row, one in enumerate(self.tracked.values()):
            result = one.latest(frame, one.fresh_prompted if prompted else one.fresh_tracked)
            if result is not None and result.logits is not None:
                logits[row], scores[row] = result.logits[0], result.object_score[0, 0]
        large = enlarge(logits, self.size)[:, 0]
        if self.non_overlap and len(large) > 1:
            own = large.argmax(dim=0) == torch.arange(len(large), device=large.device)[:, None, None]
            large = torch.where(own, large, large.clamp(max=OVERLAPPED))
        return FrameMasks(frame, self.objects, large, scores)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """All that a later session needs to go on: {"schema", "facts" (JSON-ready), "tensors" (flat, by name)}."""
        tensors: dict[str, Tensor] = {}
        objects = []
        for one in self.tracked.values():
            start = f"{one.identity}."
            for frame, clicks in one.clicks.items():
                tensors[f"{start}clicks.{frame}.points"] = clicks.points
                tensors[f"{start}clicks.{frame}.labels"] = clicks.labels
            for frame, mask in one.masks.items():
                tensors[f"{start}masks.{frame}"] = mask
            for table in TABLES:
                for frame, result in getattr(one, table).items():
                    for part in PARTS:
                        if (value := getattr(result, part)) is not None:
                            tensors[f"{start}{table}.{frame}.{part}"] = value
            visited = [[frame, reverse] for frame, reverse in one.visited.items()]
            objects.append({"identity": one.identity, "visited": visited})
        facts = {"size": list(self.size), "length": self.length, "position": self.position, "objects": objects}
        facts |= {name: getattr(self, name) for name in SETTINGS}
        return {"schema": SCHEMA, "facts": facts, "tensors": tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the frames are those of this session.

        Raises: BadInput for the state of another schema or size.
        """
        facts = state["facts"]
        if state["schema"] != SCHEMA or tuple(facts["size"]) != self.size:
            raise BadInput(
                f"the state must have schema {SCHEMA} and size {self.size}; got {state['schema']} and {facts['size']}."
            )
        device = self.model.no_memory.device
        for name in ("length", "position", *SETTINGS):
            setattr(self, name, facts[name])
        self.tracked = {}
        for entry in facts["objects"]:
            one = TrackedObject(entry["identity"])
            one.visited = dict(entry["visited"])
            self.tracked[one.identity] = one
        for name, value in state["tensors"].items():
            identity, table, frame, *part = name.split(".")
            _put(self.tracked[int(identity)], table, int(frame), part[0] if part else "", value.to(device))


MEMORIES = ("bounded", "all", "off")
SETTINGS = ("memory", "corrections", "non_overlap", "fill_holes", "forget_around_prompts")
TABLES = ("prompted", "tracked", "fresh_prompted", "fresh_tracked")
PARTS = ("logits", "pointer", "object_score", "memory")


def _put(one: TrackedObject, table: str, frame: int, part: str, value: Tensor) -> None:
    if table == "masks":
        one.masks[frame] = value
    elif table == "clicks":
        clicks = one.clicks.setdefault(frame, Clicks(value, value))
        setattr(clicks, part, value)
    else:
        result = getattr(one, table).setdefault(frame, Remembered(None, value, value))
        setattr(result, part, value)


def _rising(start: int, length: int | None, more: int | None) -> Iterator[int]:
    frame = start
    while (length is None or frame < length) and (more is None or frame <= start + more):
        yield frame
        frame += 1


def _forget_visits(one: TrackedObject, frame: int, keep: int = 64) -> None:
    """Whether a frame was visited decides what a prompt on it means; of old frames without a result nothing is left."""
    if len(one.visited) > 2 * keep:
        for other in [other for other in one.visited if abs(other - frame) > keep and other not in one.prompted]:
            del one.visited[other]
