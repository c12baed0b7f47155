"""A model over many inputs: decoding in a few threads while the model computes, batches by shape, results in order.

Order of this file: the stream, one slot per input, the feed, memory.
Unusual: results come out one by one in the order of the inputs, whatever their shapes, and the look-ahead is bounded,
so that memory does not grow with the number of inputs. When memory runs out, the batch is halved and tried again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from percepta.errors import BadInput, BadMedia, PerceptaError, one_of, out_of_range
from percepta.media import Source
from percepta.media.sniffing import name_of
from percepta.results import Failure
from percepta.running.progress import Progress

Result = TypeVar("Result")
Prepare = Callable[[Source], Tensor]
Compute = Callable[[Tensor, list[Source]], Sequence[Any]]
ON_ERROR = ("collect", "raise")
DEFAULT_BATCH = {"cpu": 8, "cuda": 32}
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class Stream(Generic[Result]):
    """Results one by one, in the order of the inputs; iterate once.

    Attributes:
        failures: inputs that could not be used so far, in order.
        total: the number of inputs where it is known beforehand.
    """

    def __init__(self, total: int | None, results: Iterator[Result], failures: list[Failure]) -> None:
        self.failures = failures
        self.total = total
        self.progress: Progress | None = None
        self._told = 0
        self._results = results

    def watched(self, progress: Progress | None) -> Stream[Result]:
        """The same stream, telling `progress` of every result and failure."""
        self.progress = progress
        return self

    def __iter__(self) -> Iterator[Result]:
        if self.progress is None:
            yield from self._results
            return
        with self.progress as progress:
            progress.start(self.total)
            for result in self._results:
                self._tell(progress)
                progress.advance()
                yield result
            self._tell(progress)

    def close(self) -> None:
        """Stop decoding; nothing more will come."""
        close = getattr(self._results, "close", None)
        if close is not None:
            close()

    def _tell(self, progress: Progress) -> None:
        for failure in self.failures[self._told :]:
            progress.fail(failure)
        self._told = len(self.failures)


def run_over(
    sources: Iterable[Source | Failure],
    prepare: Prepare,
    compute: Compute,
    batch_size: int | None = None,
    workers: int = 2,
    on_error: str = "collect",
) -> Stream[Any]:
    """Prepare every source in a thread, compute in batches of one shape, give one result a source, in order.

    Args:
        sources: what `media.collect` yields; a Failure in it becomes a failure of the stream.
        prepare: a source to its tensor; called in threads. Its PerceptaError, OSError and MemoryError fail the input.
        compute: (batch (B, ...), its B sources) to B results; called in the consumer's thread.
        batch_size: at most so many pictures in a batch; a tensor (T, 3, H, W) counts as T of them. None is 8.
        workers: decoding threads, 1 or more.
        on_error: "collect" puts failures into `failures` and goes on, "raise" raises BadMedia for the first.

    Raises:
        BadInput: a setting out of range, or (now, before anything is computed) inputs that hold nothing.
    """
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    batch_size = DEFAULT_BATCH["cpu"] if batch_size is None else batch_size
    for what, number in (("batch_size", batch_size), ("workers", workers)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise out_of_range(what, number, "a whole number of 1 or more")
    total = len(sources) if isinstance(sources, Sized) else None
    remaining = iter(sources)
    first = list(itertools.islice(remaining, 1))  # an empty folder is an error now, not at the first result
    feed = _Feed(prepare, compute, batch_size, workers, on_error)
    return Stream(total, feed.results(itertools.chain(first, remaining)), feed.failures)


@dataclass(slots=True, eq=False)
class _Slot:
    """One input on its way: being prepared, prepared, then with its result or failure."""

    source: Source | None
    future: Future[Tensor] | None = None
    failure: Failure | None = None
    result: Any = None
    done: bool = False

    def tensor(self) -> Tensor | None:
        """The prepared tensor, waiting for it; None when the input failed or is done."""
        if self.done or self.future is None or self.source is None:
            return None
        try:
            return self.future.result()
        except MemoryError:
            self.fail(f"{name_of(self.source.name)} does not fit into memory.")
        except (PerceptaError, OSError) as error:
            self.fail(str(error))
        return None

    def finish(self, result: Any) -> None:
        self.result, self.done, self.future = result, True, None

    def fail(self, reason: str) -> None:
        name = "" if self.source is None else self.source.name
        self.failure, self.done, self.future = Failure(name, reason), True, None


class _Feed:
    """The look-ahead window of one run."""

    def __init__(self, prepare: Prepare, compute: Compute, batch_size: int, workers: int, on_error: str) -> None:
        self.prepare, self.compute, self.on_error = prepare, compute, on_error
        self.limit, self.workers = batch_size, workers
        self.ahead = 2 * batch_size + workers
        self.window: deque[_Slot] = deque()
        self.failures: list[Failure] = []

    def results(self, sources: Iterator[Source | Failure]) -> Iterator[Any]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="percepta-feed")
        try:
            self._refill(sources, pool)
            while self.window:
                head = self.window[0]
                if not head.done:
                    self._compute_batch_of(head)
                self.window.popleft()
                self._refill(sources, pool)
                if head.failure is None:
                    yield head.result
                else:
                    self._report(head.failure)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self.window.clear()

    def _refill(self, sources: Iterator[Source | Failure], pool: ThreadPoolExecutor) -> None:
        while len(self.window) < self.ahead:
            source = next(sources, None)
            if source is None:
                return
            if isinstance(source, Failure):
                self.window.append(_Slot(None, failure=source, done=True))
            else:
                self.window.append(_Slot(source, pool.submit(self.prepare, source)))

    def _report(self, failure: Failure) -> None:
        if self.on_error == "raise":
            raise BadMedia(failure.reason)
        self.failures.append(failure)

    def _compute_batch_of(self, head: _Slot) -> None:
        """Compute the head of the window together with those behind it that have its shape."""
        first = head.tensor()
        if first is None:
            return
        size = max(1, self.limit // _pictures_in(first))
        members, tensors = [head], [first]
        for slot in itertools.islice(self.window, 1, None):
            if len(members) == size:
                break
            tensor = slot.tensor()
            if tensor is not None and tensor.shape == first.shape:
                members.append(slot)
                tensors.append(tensor)
        self._compute(members, tensors)

    def _compute(self, members: list[_Slot], tensors: list[Tensor]) -> None:
        start, size = 0, len(members)
        while start < len(members):
            part = slice(start, start + size)
            try:
                results = self._call(members[part], tensors[part])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                for slot, result in zip(members[part], results, strict=True):
                    slot.finish(result)
                start += size
                continue
            _release_memory()  # outside the handler, where the traceback no longer holds the tensors
            if size == 1:
                name = name_of(getattr(members[start].source, "name", ""))
                members[start].fail(f"{name} does not fit into memory, even alone; choose a smaller size or model.")
                start += 1
                continue
            size = max(1, size // 2)
            self.limit = max(1, min(self.limit, size * _pictures_in(tensors[0])))

    def _call(self, members: list[_Slot], tensors: list[Tensor]) -> Sequence[Any]:
        sources = [slot.source for slot in members if slot.source is not None]
        results = self.compute(torch.stack(tensors), sources)
        if len(results) != len(members):
            raise BadInput(f"compute must give one result a source; got {len(results)} for {len(members)}.")
        return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _pictures_in(tensor: Tensor) -> int:
    """How many pictures a prepared tensor holds: the frames of a video, else one."""
    return max(1, tensor.shape[0]) if tensor.ndim == 4 else 1
