"""A video in which objects are pointed at, followed, corrected and followed further; memory does not grow with it.

Order of this file: the session: pointing, following, going back, saving; a run through the video.
Unusual: results lie on disk and the model keeps what later frames can look at, no more. Who corrects an earlier frame
therefore makes the session go back: from the nearest saved state up to that frame, exactly as if it had stopped there.
An object that appears later takes part from its first prompt on, and not before.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percepta.checkpoints import read_metadata, read_tensors, write_safetensors
from percepta.errors import BadInput, BadMedia, MissingWeights
from percepta.media import Frames
from percepta.results import Failure, Masks, Tracks
from percepta.results.masks import encode
from percepta.running.fingerprint import made_with
from percepta.tasks.segment import THING, Prompt, Segmenter, prompts_of
from percepta.tasks.tracking import SESSION, Spool, TrackedFrame, tracks_of
from percepta.tasks.tracking_run import Run
from percepta.tasks.tracking_said import Said, frames_of, from_json, to_json

SCHEMA = 1
STATE, RESULTS = "state.safetensors", "results.jsonl"
KEPT_EVERY, KEPT = 64, 16  # frames between two states for going back, and how many of them


@dataclass(slots=True)
class Kept:
    """A state on disk: the next frame to be tracked, and the last thing that was said until then."""

    next: int
    serial: int
    path: Path


class VideoSession:
    """Objects in one video; made by `percepta.track`. Use it as a context manager, or call `close`.

    Args:
        segmenter: the model.
        frames: of the video.
        settings: of the model's session: memory, corrections, non_overlap, fill_holes.
        on_error: "collect" leaves out frames that cannot be read (see `failures`), "raise" stops at them.

    Attributes:
        frames: the pictures by number.
        names: of the objects by number.
        next: the frame at which the next run begins by itself; None before anything is pointed at.
        watch: None, or what is called as `watch.before(session, frame)` before each frame of a run forward, and may
            point at things in it and remove what is followed.
    """

    def __init__(self, segmenter: Segmenter, frames: Frames, settings: dict[str, Any], on_error: str) -> None:
        self.frames, self.names = frames, dict[int, str]()
        self.next: int | None = None
        self.watch: Any = None
        self.segmenter, self._settings, self._on_error = segmenter, settings, on_error
        self._folder = tempfile.TemporaryDirectory(prefix="percepta-track-")
        self.spool = Spool(Path(self._folder.name) / RESULTS)
        self._said: list[Said] = []
        self._serial, self._last_object = 0, 0
        self._visited = -1  # the last frame tracked forward
        self._kept: list[Kept] = []
        self._waiting: dict[int, Any] = {}  # objects whose first prompt lies ahead
        self._shown: dict[int, TrackedFrame] = {}  # what a prompt gave, until the frame is tracked
        self._session = self._fresh()

    # Pointing

    @property
    def objects(self) -> tuple[int, ...]:
        """The numbers of the objects, from 1, in the order in which they came."""
        return tuple(self.names)

    @property
    def failures(self) -> list[Failure]:
        """The frames that could not be read so far, in order."""
        return [Failure(f"{self.frames.name}, frame {n}", why) for n, why in sorted(self.frames.failures.items())]

    def add_point(
        self, frame: int, xy: tuple[float, float], label: int = 1, object: int | None = None, name: str = ""
    ) -> int:
        """One click; see `add_points`."""
        return self.add_points(frame, [xy], [label], object=object, name=name)

    def add_points(
        self,
        frame: int,
        points: Sequence[tuple[float, float]],
        labels: Sequence[int] | None = None,
        box: Sequence[float] | None = None,
        object: int | None = None,
        name: str = "",
    ) -> int:
        """Point at an object in a frame; clicks on an object's frame add up, a box begins anew.

        Args:
            frame: 0-based number.
            points: (x, y) in pixels of the frame as seen.
            labels: 1 inside (the default), 0 outside.
            box: left, top, right, bottom.
            object: the number of an object that is there already; None makes a new one.
            name: of a new object.

        Returns: the object's number. Raises: BadInput, and the session stays as it was: a frame that is not there, an
            unknown object, a point outside the frame or with both labels, a box without area, clicks that are all
            outside where there is no result to correct.
        """
        labels = [1] * len(points) if labels is None else list(labels)
        anywhere = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
        only_outside = len(points) > 0 and not any(labels)
        if only_outside and object is not None:  # checked as if inside, then as what it is
            prompt = prompts_of([list(points)], [[1] * len(points)])[0]
            prompt = Prompt(prompt.points, np.zeros(len(points), np.int64))
        else:
            given = prompts_of([list(points)] if len(points) else None, [labels] if len(points) else None, box)
            prompt = given[0] if given else anywhere
        return self._add(frame, object, prompt, name)

    def add_box(self, frame: int, box: Sequence[float], object: int | None = None, name: str = "") -> int:
        """A box (left, top, right, bottom) around an object; see `add_points`."""
        return self._add(frame, object, prompts_of(boxes=[box])[0], name)

    def add_mask(self, frame: int, mask: Any, object: int | None = None, name: str = "") -> int:
        """The mask of an object, as an array (H, W) or a picture file; see `add_points`."""
        return self._add(frame, object, prompts_of(masks=[mask])[0], name)

    def add(self, frame: int, prompts: Sequence[Prompt], name: str = "") -> tuple[int, ...]:
        """New objects from prompts, all or none of them."""
        for prompt in prompts:
            self._check(frame, None, prompt)
        return tuple(self._add(frame, None, prompt, name) for prompt in prompts)

    def clear(self, frame: int, object: int) -> None:
        """Take back what was said of an object in a frame; one without any prompt left is no longer followed."""
        self._known(object)
        if frame not in frames_of(self._said, object):
            raise BadInput(f"object {object} has no prompt in frame {frame}; there is nothing to take back.")
        self._go_back(frame)
        if object in self._waiting:
            self._session.tracked[object] = self._waiting.pop(object)
        with self.segmenter.evaluating():
            found = self._session.clear(frame, object)
        self._note(frame, object, None)
        self._show(found)
        if not frames_of(self._said, object):
            self._session.remove(object, strict=False)
        else:
            self._wait(object)

    def remove(self, object: int) -> None:
        """Forget an object and all results of it; the others are as if it had never been there."""
        self._known(object)
        del self.names[object]
        self._waiting.pop(object, None)
        self._session.remove(object, strict=False)
        self._said = [said for said in self._said if said.object != object]

    def reset(self) -> None:
        """Forget all objects; their numbers are not used again."""
        for number in self.objects:
            self.remove(number)
        self.next = None
        self._kept.clear()

    def at(self, frame: int) -> TrackedFrame | None:
        """The result of a frame: what its latest prompt or run gave; None where there is none yet."""
        found = self._shown[frame] if frame in self._shown else self.spool.get(frame)
        return None if found is None else found.only(self.names)

    def results(self, start: int = 0, stop: int | None = None) -> Iterator[TrackedFrame]:
        """The results so far of the frames from `start` to before `stop`, in order, from disk."""
        for found in self.spool.frames(start, stop):
            yield found.only(self.names)

    # Following

    def run(
        self, start: int | float | str | None = None, until: int | float | str | None = None, reverse: bool = False
    ) -> Run:
        """Follow all objects; results come frame by frame as they are made. Break off at any time and run again.

        Args:
            start: a frame's number, seconds, or a time such as "00:05". By default where the last run ended, or at
                the earliest frame that was pointed at since; backwards at the earliest prompt.
            until: stop before this frame or time; by default at the end (backwards at frame 0, which is included).
            reverse: go backwards, looking at the prompts but not at what was tracked forward.

        Raises: BadInput where nothing is pointed at, or for a frame that is not there.
        """
        prompted = self._prompted_frames()
        if not prompted and (self.watch is None or reverse):
            raise BadInput(f"nothing is pointed at in {self.frames.name}; add a point, a box or a mask first.")
        if start is None:
            first = min(prompted, default=0) if reverse or self.next is None else self.next
        else:
            first = self.frames.frame_at(start)
        last = None if until is None else self.frames.frame_at(until)
        ended = self.frames.length is not None and first >= self.frames.length
        if not ended or start is not None:
            self.frames.check(first)
        return Run(self, first, last, reverse)

    def visit(self, start: int, stop: int | None, reverse: bool) -> Iterator[TrackedFrame]:
        """The frames from `start` on, in either direction, to before `stop`; each is in the spool when it comes."""
        if self.frames.length is not None and start >= self.frames.length:
            return
        if not reverse and start != self._visited + 1 and self._visited >= 0 and start <= self._visited:
            self._go_back(start)
        if reverse:
            yield from self._backwards(start, stop)
            return
        walk: Iterator[Any] | None = None
        for frame in itertools.count(start):
            if stop is not None and frame >= stop:
                return
            if self.watch is not None and (self.frames.length is None or frame < self.frames.length):
                self.watch.before(self, frame)
            self._admit(frame, False)
            if self._session.tracked:
                walk = walk or self._session.propagate(start=frame)
                with self.segmenter.evaluating():
                    found = next(walk, None)
                if found is None:
                    return
                found = self._corrected(found)
                result = self._result(found)
            else:  # nothing to follow yet, or any more
                walk = None
                try:
                    _ = self.frames[frame]
                except IndexError:
                    return
                result = self._nothing(frame)
            self._visited, self.next = max(frame, self._visited), frame + 1
            self._store(result)
            self._keep()
            yield result

    def _backwards(self, start: int, stop: int | None) -> Iterator[TrackedFrame]:
        """As `visit`, from the prompts alone; afterwards the model stands where it stood before."""
        if self.frames.length is None:
            raise BadInput(f"{self.frames.name} can only be gone through forward.")
        before, waiting = self._state(), tuple(self._waiting)
        try:
            for one in self._session.tracked.values():
                one.tracked.clear()  # how far the video was gone through forward makes no difference
            self._admit(start, True)
            walk = self._session.propagate(start=start, reverse=True)
            for frame in range(start, -1 if stop is None else stop, -1):
                with self.segmenter.evaluating():
                    found = next(walk, None)
                if found is None:
                    return
                result = self._result(found)
                self._store(result)
                yield result
                self._admit(frame - 1, True)
        finally:
            self._session.load_state_dict({**before["facts"], "tensors": before["tensors"]})
            self._waiting = {number: self._session.tracked.pop(number) for number in waiting}

    def tracks(self) -> Tracks:
        """All results so far as one record in memory."""
        return tracks_of(self.results(), self.frames.name, self.frames.size, self.frames.rate)

    def _fresh(self) -> Any:
        """A session of the model without objects."""
        model, length = self.segmenter.model, self.frames.length
        frames: Any = _Prepared(self.frames, self.segmenter) if length is not None else self._flow()
        return model.session(frames, size=self.frames.size, **self._settings)

    def _flow(self) -> Iterator[Tensor]:
        """The frames of a source that only goes forward."""
        for frame in itertools.count():
            if frame < self._visited:  # passed while nothing was followed; nobody looks at it
                yield torch.empty(0)
                continue
            try:
                picture = self.frames[frame]
            except IndexError:
                return
            yield self.segmenter.frame(picture)

    def _admit(self, frame: int, reverse: bool) -> None:
        """Let take part the objects whose first prompt, in this direction, is reached."""
        for number in list(self._waiting):
            prompted = frames_of(self._said, number)
            if (prompted[-1] >= frame) if reverse else (prompted[0] <= frame):
                self._session.tracked[number] = self._waiting.pop(number)

    def _wait(self, object: int) -> None:
        """Let an object wait until its first prompt is reached."""
        prompted = frames_of(self._said, object)
        if prompted and prompted[0] > self._visited and object in self._session.tracked:
            self._waiting[object] = self._session.tracked.pop(object)

    def _store(self, result: TrackedFrame) -> None:
        self._shown.pop(result.frame, None)
        self.spool.put(result)
        if result.failure and self._on_error == "raise":
            raise BadMedia(result.failure)

    def _nothing(self, frame: int) -> TrackedFrame:
        """The result of a frame in which nothing is followed."""
        name, scores = self.frames.name, np.zeros(0, np.float32)
        failure = self.frames.failures.get(frame, "")
        return TrackedFrame(
            name, frame, self.frames.time(frame), (), Masks(name, self.frames.size, (), (), scores), failure
        )

    def _show(self, found: Any) -> None:
        """What a prompt gives: in place of the result, where the frame was tracked, else until it is."""
        result = self._result(found)
        if self.spool.get(result.frame) is not None:
            self.spool.put(result)
        while len(self._shown) >= 8:
            del self._shown[next(iter(self._shown))]
        self._shown[result.frame] = result

    def _result(self, found: Any) -> TrackedFrame:
        failure = self.frames.failures.get(found.frame, "")
        scores = found.object_scores.sigmoid().float().cpu().numpy()
        rows, counts = [], []
        for row in range(0 if failure else len(found.objects)):
            inside = (found.logits[row] > 0).cpu().numpy()
            if inside.any():
                rows.append(row)
                counts.append(encode(inside))
        objects = tuple(found.objects[row] for row in rows)
        names = tuple(self.names[number] or THING for number in objects)
        masks = Masks(self.frames.name, self.frames.size, tuple(counts), names, scores[rows])
        return TrackedFrame(self.frames.name, found.frame, self.frames.time(found.frame), objects, masks, failure)

    # What was said

    def _add(self, frame: int, object: int | None, prompt: Prompt, name: str) -> int:
        self._check(frame, object, prompt)
        number = self._last_object + 1 if object is None else object
        self._go_back(frame)
        if number in self._waiting:
            self._session.tracked[number] = self._waiting.pop(number)
        self.names.setdefault(number, name)
        try:
            found = self._tell(frame, number, prompt)
        except BaseException:
            if object is None:
                del self.names[number]
            raise
        self._last_object = max(self._last_object, number)
        self._note(frame, number, prompt)
        self._show(found)
        self._wait(number)
        return number

    def _check(self, frame: int, object: int | None, prompt: Prompt) -> None:
        """Raises BadInput before anything is changed."""
        self.frames.check(frame)
        if self.frames.length is None and frame > self._visited + 1:
            raise BadInput(
                f"frame {frame} of {self.frames.name} has not come yet; point at frame {self._visited + 1}, "
                "or run until there first."
            )
        if self.frames.length is None and frame < self._visited:
            raise self._passed(frame)
        _ = self.frames[frame]  # read now, so that it is known whether it can be
        if frame in self.frames.failures:
            raise BadInput(f"frame {frame} of {self.frames.name} cannot be read; point at another frame.")
        prompt.check(self.frames.size, f"frame {frame} of {self.frames.name}")
        if not len(prompt.points) and prompt.box is None and prompt.mask is None:
            raise BadInput("a prompt needs a point, a box or a mask; got nothing.")
        if object is None:
            return
        self._known(object)
        earlier = [said for said in self._said if said.object == object and said.frame == frame]
        if prompt.is_outside_only and not earlier and frame > self._visited:
            raise BadInput(
                f"frame {frame} has no result of object {object} to correct; click inside of it, or run there first."
            )
        kinds = {
            tuple(place): label
            for said in earlier
            if said.prompt is not None
            for place, label in zip(said.prompt.points.tolist(), said.prompt.labels.tolist(), strict=True)
        }
        for place, label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
            if kinds.get(tuple(place), label) != label and prompt.box is None:
                x, y = place
                raise BadInput(
                    f"the point ({x:g}, {y:g}) was labelled the other way before; take that back with clear."
                )

    def _passed(self, frame: int) -> BadInput:
        return BadInput(f"frame {frame} of {self.frames.name} has passed; point at frame {self._visited}.")

    def _known(self, object: int) -> None:
        if object not in self.names:
            known = ", ".join(str(number) for number in self.names) or "none"
            raise BadInput(f"object must be one of this session ({known}); got {object!r}.")

    def _tell(self, frame: int, number: int, prompt: Prompt) -> Any:
        """Give a prompt to the model; returns what it makes of the frame."""
        with self.segmenter.evaluating():
            if prompt.mask is not None:
                found = self._session.add_mask(frame, number, np.ascontiguousarray(prompt.mask))
                if not len(prompt.points) and prompt.box is None:
                    return found
            one = self._session.tracked.get(number)
            anew = prompt.box is not None or one is None or frame not in one.clicks
            points, labels = torch.from_numpy(prompt.points), torch.from_numpy(prompt.labels)
            return self._session.add_points(frame, number, points, labels, box=prompt.box, clear=anew)

    def _note(self, frame: int, number: int, prompt: Prompt | None) -> None:
        self._serial += 1
        self._said.append(Said(self._serial, frame, number, prompt, frame <= self._visited))
        self._kept = [kept for kept in self._kept if kept.next <= frame]
        self.next = frame if self.next is None else min(self.next, frame)

    def _prompted_frames(self) -> list[int]:
        """The frames in which something holds of any object."""
        return sorted({frame for number in self.names for frame in frames_of(self._said, number)})

    # Going back

    def _go_back(self, frame: int) -> None:
        """Bring the model to where it was when it had just tracked `frame`, if it has gone further since."""
        if frame >= self._visited or self._settings.get("memory") == "all":
            return
        if self.frames.length is None:
            raise self._passed(frame)
        kept = max((kept for kept in self._kept if kept.next <= frame), key=lambda kept: kept.next, default=None)
        self._session, self._waiting = self._fresh(), {}
        self._visited = -1 if kept is None else kept.next - 1
        if kept is not None:
            self._load(kept.path)
        for said in self._said:
            if not said.visited and (kept is None or said.serial > kept.serial):
                self._say_again(said)
        start = min([*self._prompted_frames(), frame]) if kept is None else kept.next
        for number in list(self._session.tracked):
            self._wait(number)
        self._admit(start, False)
        if start > frame or not self._session.tracked:
            return
        walk = self._session.propagate(start=start, max_frames=frame - start)
        for number in range(start, frame + 1):
            with self.segmenter.evaluating():
                self._corrected(next(walk))
            self._visited = number
            self._admit(number + 1, False)

    def _corrected(self, found: Any) -> Any:
        """What the model gives of a frame that is tracked again, corrected as it had been before."""
        if found.frame > self._visited:
            for said in self._said:
                if said.visited and said.frame == found.frame:
                    found = self._say_again(said) or found
        return found

    def _say_again(self, said: Said) -> Any:
        if said.object in self._waiting:
            self._session.tracked[said.object] = self._waiting.pop(said.object)
        if said.prompt is not None:
            return self._tell(said.frame, said.object, said.prompt)
        if said.object not in self._session.tracked:
            return None
        with self.segmenter.evaluating():
            return self._session.clear(said.frame, said.object)

    def _keep(self) -> None:
        """From time to time a state for going back; of many, those that lie closest together go."""
        if self.frames.length is None or self._settings.get("memory") == "all" or (self._visited + 1) % KEPT_EVERY:
            return
        path = Path(self._folder.name) / f"{self._visited + 1}.safetensors"
        state = self._state()
        write_safetensors(path, state["tensors"], state["facts"])
        self._kept = [kept for kept in self._kept if kept.next < self._visited + 1]
        self._kept.append(Kept(self._visited + 1, self._serial, path))
        if len(self._kept) > KEPT:
            places = [kept.next for kept in self._kept]
            gaps = [(places[i + 1] - places[i - 1]) / (places[-1] - places[i - 1]) for i in range(1, len(places) - 1)]
            self._kept.pop(1 + int(np.argmin(gaps))).path.unlink(missing_ok=True)

    # Saving

    def save(self, folder: str | Path) -> Path:
        """Write all that is needed to go on later, in this or another process, with `percepta.track(..., resume=)`.

        Returns: the folder that was made. Raises: OSError where it cannot be written.
        """
        home = Path(folder).expanduser() / SESSION
        self.spool.move(home / RESULTS)
        self.spool.flush()
        state = self._state()
        about = {"schema": SCHEMA, "source": self.frames.name, "size": list(self.frames.size)}
        about |= {"length": self.frames.length, "made_with": made_with(self.segmenter.model), "next": self.next}
        about |= {"visited": self._visited, "names": {str(key): name for key, name in self.names.items()}}
        about |= {
            "spooled": self.spool.length,
            "last_object": self._last_object,
            "said": [to_json(said) for said in self._said],
        }
        about |= {"watch": None if self.watch is None else self.watch.state()}
        write_safetensors(home / STATE, state["tensors"], about | {"settings": self._settings, "facts": state["facts"]})
        return Path(folder)

    def resume(self, folder: str | Path) -> None:
        """Go on where `save` was called. Raises: BadInput for a folder without a session, or one of another video,
        model or schema."""
        home = Path(folder).expanduser() / SESSION
        try:
            about = read_metadata(home / STATE)
        except MissingWeights:
            raise BadInput(f"{str(folder)!r} holds no session to resume; run without resume.") from None
        if about.get("schema") != SCHEMA:
            raise BadInput(f"the session in {str(folder)!r} must have schema {SCHEMA}; got {about.get('schema')}.")
        seen, here = (about["size"], about["length"]), (list(self.frames.size), self.frames.length)
        if seen != here:
            (height, width), (tall, wide) = about["size"], self.frames.size
            raise BadInput(
                f"the session in {str(folder)!r} is of {about['length']} frames of {width}x{height}, and "
                f"{self.frames.name} has {self.frames.length} of {wide}x{tall}; resume with the same video."
            )
        before, now = about["made_with"], made_with(self.segmenter.model)
        if before != now:
            told = [f"{made['model']} ({made['weights']}, {made['dtype']})" for made in (before, now)]
            raise BadInput(f"the session in {str(folder)!r} was made with {told[0]}, and now it is {told[1]}.")
        self._settings = about["settings"]
        self._session, self._waiting, self._kept = self._fresh(), {}, []
        self.names = {int(key): name for key, name in about["names"].items()}
        self._said = [from_json(entry, self.frames.size) for entry in about["said"]]
        self._serial = max((said.serial for said in self._said), default=0)
        self._last_object, self._visited, self.next = about["last_object"], about["visited"], about["next"]
        self._session.load_state_dict({**about["facts"], "tensors": read_tensors(home / STATE)})
        for number in list(self._session.tracked):
            self._wait(number)
        self.spool.close()
        self.spool = Spool(home / RESULTS, about["spooled"])
        if about.get("watch"):
            from percepta.tasks.words_in_video import WordWatch

            self.watch = WordWatch.resumed(about["watch"], self.segmenter)

    def _state(self) -> dict[str, Any]:
        """The model's state with the objects that wait."""
        self._session.tracked.update(self._waiting)
        state = self._session.state_dict()
        for number in self._waiting:
            del self._session.tracked[number]
        return {"tensors": state["tensors"], "facts": {"schema": state["schema"], "facts": state["facts"]}}

    def _load(self, path: Path) -> None:
        self._session.load_state_dict({**read_metadata(path), "tensors": read_tensors(path)})
        for number in list(self._session.tracked):
            if number not in self.names:
                self._session.remove(number, strict=False)

    def close(self) -> None:
        """Let go of the video; results that were not saved are gone."""
        self.spool.close()
        self.frames.close()
        self._folder.cleanup()

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoSession({self.frames!r}: objects {list(self.objects)}, next frame {self.next})"


class _Prepared:
    """The frames of a video as the model takes them, prepared when they are asked for."""

    def __init__(self, frames: Frames, segmenter: Segmenter) -> None:
        self.frames, self.segmenter = frames, segmenter

    def __len__(self) -> int:
        return int(self.frames.length or 0)

    def __getitem__(self, index: int) -> Tensor:
        return self.segmenter.frame(self.frames[index])
