"""The feed: order, batches by shape, bounded look-ahead, memory, failures."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from percepta.errors import BadInput, BadMedia
from percepta.media import Source
from percepta.results import Failure
from percepta.running.feed import is_out_of_memory, run_over
from percepta.running.progress import Progress


def sources(count: int) -> list[Source]:
    return [Source(str(number), "picture", data=number) for number in range(count)]


def by_parity(source: Source) -> Tensor:
    """Two shapes in turn, filled with the number; the early ones come late."""
    time.sleep(0.002 * (source.data % 3))
    return torch.full((2 + source.data % 2,), float(source.data))


def names(batch: Tensor, members: list[Source]) -> list[str]:
    assert [int(row[0]) for row in batch] == [member.data for member in members]
    return [member.name for member in members]


def test_results_come_in_the_order_of_the_inputs_whatever_their_shapes() -> None:
    stream = run_over(sources(41), by_parity, names, batch_size=4, workers=3)
    assert list(stream) == [str(number) for number in range(41)]
    assert stream.failures == []
    assert stream.total == 41


def test_batches_are_full_and_of_one_shape() -> None:
    sizes = []

    def compute(batch: Tensor, members: list[Source]) -> list[int]:
        sizes.append(tuple(batch.shape))
        return [0] * len(members)

    list(run_over(sources(16), by_parity, compute, batch_size=4))
    assert sizes == [(4, 2), (4, 3), (4, 2), (4, 3)]


def test_a_video_counts_as_its_frames() -> None:
    sizes = []

    def compute(batch: Tensor, members: list[Source]) -> list[int]:
        sizes.append(len(batch))
        return [0] * len(members)

    list(run_over(sources(6), lambda source: torch.zeros(4, 3, 2, 2), compute, batch_size=8))
    assert sizes == [2, 2, 2]


def test_the_look_ahead_is_bounded_and_starts_nothing_late() -> None:
    taken = 0

    def many() -> Iterator[Source]:
        nonlocal taken
        for source in sources(1000):
            taken += 1
            yield source

    stream = iter(run_over(many(), by_parity, names, batch_size=4, workers=2))
    for done in range(1, 21):
        next(stream)
        assert taken <= done + 2 * 4 + 2 + 1
    stream.close()
    assert taken < 40


def test_decoding_overlaps_with_computing() -> None:
    seen = set()

    def prepare(source: Source) -> Tensor:
        seen.add(threading.current_thread().name)
        return torch.zeros(1)

    def compute(batch: Tensor, members: list[Source]) -> list[str]:
        return [threading.current_thread().name] * len(members)

    computed = set(run_over(sources(20), prepare, compute, batch_size=2))
    assert computed == {threading.current_thread().name}
    assert computed.isdisjoint(seen)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory."),
        RuntimeError("can't allocate memory"),
        MemoryError(),
        torch.OutOfMemoryError(),
    ],
)
def test_the_batch_is_halved_when_memory_runs_out(error: Exception) -> None:
    sizes = []

    def compute(batch: Tensor, members: list[Source]) -> list[str]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise error
        return names(batch, members)

    stream = run_over(sources(24), lambda source: torch.full((1,), float(source.data)), compute, batch_size=8)
    assert list(stream) == [str(number) for number in range(24)]
    assert sizes[:4] == [8, 4, 2, 2]
    assert max(sizes[4:]) == 2  # what was learnt is kept


def test_one_that_never_fits_fails_alone() -> None:
    def compute(batch: Tensor, members: list[Source]) -> list[str]:
        if any(member.data == 5 for member in members):
            raise MemoryError
        return [member.name for member in members]

    stream = run_over(sources(8), lambda source: torch.zeros(1), compute, batch_size=4)
    assert list(stream) == ["0", "1", "2", "3", "4", "6", "7"]
    assert [str(failure) for failure in stream.failures] == [
        "'5' does not fit into memory, even alone; choose a smaller size or model."
    ]


def test_other_errors_are_not_taken_for_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))

    def compute(batch: Tensor, members: list[Source]) -> list[str]:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(run_over(sources(2), by_parity, compute))


def prepare_some(source: Source) -> Tensor:
    if source.data % 3 == 1:
        raise BadMedia(f"{source.name} is damaged")
    if source.data == 6:
        raise OSError("the disk went away")
    return torch.zeros(1)


def test_failures_are_collected_in_order_and_the_others_done() -> None:
    mixed = [*sources(4), Failure("x", "x is no picture"), *sources(8)[4:]]
    stream = run_over(mixed, prepare_some, lambda batch, members: [member.name for member in members], batch_size=2)
    assert list(stream) == ["0", "2", "3", "5"]
    assert [failure.source for failure in stream.failures] == ["1", "x", "4", "6", "7"]
    assert stream.failures[3].reason == "the disk went away."


def test_failures_can_be_raised() -> None:
    stream = iter(run_over(sources(4), prepare_some, lambda batch, members: [0] * len(members), 1, on_error="raise"))
    assert next(stream) == 0
    with pytest.raises(BadMedia, match="1 is damaged"):
        next(stream)


def test_interruption_leaves_cleanly() -> None:
    before = threading.active_count()

    def compute(batch: Tensor, members: list[Source]) -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_over(sources(100), by_parity, compute, batch_size=2))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BadInput, match=r"batch_size must be a whole number of 1 or more; got 0\."):
        run_over(sources(1), by_parity, names, batch_size=0)
    with pytest.raises(BadInput, match="workers must be"):
        run_over(sources(1), by_parity, names, workers=0)
    with pytest.raises(BadInput, match="on_error must be one of collect, raise; got 'ignore'"):
        run_over(sources(1), by_parity, names, on_error="ignore")


def test_progress_speaks_in_plain_lines_when_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percepta.running.progress.PLAIN_EVERY", 0.0)
    text = io.StringIO()
    stream = run_over(sources(5), prepare_some, lambda batch, members: [0] * len(members), batch_size=1)
    assert len(list(stream.watched(Progress("look", text)))) == 3
    last = text.getvalue().splitlines()[-1]
    assert last.startswith("look: 5 of 5, ")
    assert last.endswith("items/s, 2 failed")


def test_progress_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    text = Terminal()
    with Progress("look", text) as progress:
        progress.start(4)
        progress.advance(3)
        progress.fail(Failure("x", "x is gone"))
    assert "look" in text.getvalue()
    assert "1 failed" in text.getvalue()


def test_a_quick_piped_run_says_nothing() -> None:
    text = io.StringIO()
    list(run_over(sources(3), by_parity, names).watched(Progress("look", text)))
    assert text.getvalue() == ""
