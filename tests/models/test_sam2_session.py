"""Video sessions: objects are independent, time has no direction, memory is bounded, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from percepta.errors import BadInput
from tests.models.sam2_tiny import tiny_model, tiny_video

SIZE = (48, 80)
BOX = (10, 8, 50, 40)
CLICK = [(60, 20)]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def session(model: Any, frames: Any = None, **settings: Any) -> Any:
    return model.session(tiny_video() if frames is None else frames, SIZE, **settings)


def run(opened: Any, **arguments: Any) -> dict[int, torch.Tensor]:
    return {masks.frame: masks.logits for masks in opened.propagate(**arguments)}


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal to rounding: batches of another size are summed in another order, and memories are rounded to bfloat16."""
    return torch.allclose(first, second, atol=2e-2)


def same(first: dict[int, torch.Tensor], second: dict[int, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for frame, logits in first.items():
        assert torch.equal(logits, second[frame]), frame


def test_some_objects_are_there_and_some_frames_are_empty(model: Any) -> None:
    opened = session(model)
    opened.add_box(0, 1, BOX)
    opened.add_points(0, 2, CLICK, [1])
    found = torch.stack(list(run(opened).values()))
    assert found.shape == (12, 2, *SIZE)
    assert (found > 0).any()
    assert torch.isfinite(found).all()


def test_objects_do_not_know_of_each_other(model: Any) -> None:
    both = session(model, memory="all")
    both.add_box(0, 1, BOX)
    both.add_points(3, 2, CLICK, [1])
    together = run(both)
    for row, (identity, frame) in enumerate([(1, 0), (2, 3)]):
        alone = session(model, memory="all")
        if identity == 1:
            alone.add_box(frame, 1, BOX)
        else:
            alone.add_points(frame, 2, CLICK, [1])
        for place, logits in run(alone, start=0).items():
            assert close(logits[0], together[place][row]), (identity, place)


def test_backwards_is_forwards_through_the_reversed_video(model: Any) -> None:
    frames = tiny_video(9)
    forward, backward = session(model, frames), session(model, frames.flip(0))
    forward.add_box(0, 1, BOX)
    backward.add_box(8, 1, BOX)
    found = run(backward, start=8, reverse=True)
    for frame, logits in run(forward).items():
        assert torch.equal(logits, found[8 - frame]), frame


@pytest.mark.parametrize("reverse", [False, True])
def test_bounded_memory_changes_no_mask(model: Any, reverse: bool) -> None:
    frames = tiny_video(40)
    results = []
    for memory in ("all", "bounded"):
        opened = session(model, frames, memory=memory)
        opened.add_box(39 if reverse else 0, 1, BOX)
        opened.add_points(20, 2, CLICK, [1])
        results.append(run(opened, start=39 if reverse else 0, reverse=reverse))
        kept = [len(one.tracked) for one in opened.tracked.values()]
        assert (max(kept) <= 16) == (memory == "bounded")
    same(*results)


def test_bounded_memory_with_a_stride(model: Any) -> None:
    strided = tiny_model(memory_stride=3)
    results = []
    for memory in ("all", "bounded"):
        opened = session(strided, tiny_video(40), memory=memory)
        opened.add_box(0, 1, BOX)
        results.append(run(opened))
    same(*results)


def test_an_endless_stream_equals_the_video(model: Any) -> None:
    frames = tiny_video(24)

    def camera() -> Iterator[torch.Tensor]:
        yield from frames

    whole, stream = session(model, frames), session(model, camera())
    for opened in (whole, stream):
        opened.add_box(0, 1, BOX)
    same(run(whole), run(stream))
    with pytest.raises(BadInput, match="has passed"):
        stream.add_box(3, 1, BOX)


def test_fed_frame_by_frame_equals_propagation(model: Any) -> None:
    frames = tiny_video(20)
    whole, fed = session(model, frames), session(model, iter(()))
    whole.add_box(0, 1, BOX)
    wanted = run(whole)
    fed.step(frames[0])
    fed.add_box(0, 1, BOX)
    for frame in range(1, 20):
        masks = fed.step(frames[frame])
        assert masks.frame == frame
        assert torch.equal(masks.logits, wanted[frame]), frame


def test_a_late_object_leaves_the_others_untouched(model: Any) -> None:
    plain, joined = session(model, memory="all"), session(model, memory="all")
    for opened in (plain, joined):
        opened.add_box(0, 1, BOX)
    wanted, found = run(plain), {}
    for masks in joined.propagate():
        found[masks.frame] = masks.logits
        if masks.frame == 5:
            joined.add_points(5, 7, CLICK, [1])
    assert joined.objects == (1, 7)
    for frame, logits in found.items():
        assert close(logits[0], wanted[frame][0]), frame
        assert len(logits) == (1 if frame <= 5 else 2)


def test_going_through_frames_before_the_first_prompt(model: Any) -> None:
    """The official code stops here on a CPU: a memory without pointers."""
    opened = session(model)
    opened.add_box(6, 1, BOX)
    assert list(run(opened, start=0)) == list(range(12))


def test_corrections_stick_unless_asked_not_to(model: Any) -> None:
    kept, lost = (session(model, corrections=name, memory="all") for name in ("stick", "official"))
    for opened in (kept, lost):
        opened.add_box(0, 1, BOX)
        run(opened)
        shown = opened.add_points(4, 1, [(30, 30)], [0]).logits
        again = run(opened)
        assert torch.equal(again[4], shown) == (opened is kept)


def test_a_correction_changes_what_follows(model: Any) -> None:
    opened = session(model, memory="all")
    opened.add_box(0, 1, BOX)
    before = run(opened)
    opened.add_mask(4, 1, torch.ones(SIZE))
    after = run(opened)
    assert not torch.equal(before[5], after[5])


def test_a_removed_object_leaves_no_trace(model: Any) -> None:
    plain, opened = session(model, memory="all"), session(model, memory="all")
    plain.add_points(0, 2, CLICK, [1])
    opened.add_box(0, 1, BOX)
    opened.add_points(0, 2, CLICK, [1])
    left = opened.remove(1)
    assert [masks.frame for masks in left] == [0]
    assert opened.objects == (2,)
    same(run(plain), run(opened))
    with pytest.raises(BadInput, match="object must be one"):
        opened.remove(1)
    assert opened.remove(1, strict=False) == []


def test_taking_all_prompts_back_lets_the_others_go_on(model: Any) -> None:
    opened = session(model, memory="all")
    opened.add_box(0, 1, BOX)
    opened.add_points(0, 2, CLICK, [1])
    opened.clear(0, 1)
    found = run(opened)
    assert len(found) == 12
    assert (found[5][0] < -1000).all()
    assert torch.isfinite(found[5][1]).all()


def test_no_pixel_belongs_to_two(model: Any) -> None:
    opened = session(model, non_overlap=True)
    opened.add_box(0, 1, BOX)
    opened.add_box(0, 2, (12, 10, 55, 45))
    assert all(((logits > 0).sum(0) <= 1).all() for logits in run(opened).values())


def test_holes_are_filled(model: Any) -> None:
    plain, filled = session(model), session(model, fill_holes=16)
    masks = [opened.add_box(0, 1, BOX).logits > 0 for opened in (plain, filled)]
    assert (masks[1] >= masks[0]).all()


def test_saved_and_resumed_equals_uninterrupted(model: Any, tmp_path: Any) -> None:
    from safetensors.torch import load_file, save_file

    whole, first = session(model), session(model)
    for opened in (whole, first):
        opened.add_box(0, 1, BOX)
        opened.add_points(0, 9, CLICK, [1])
    wanted = run(whole)
    for masks in first.propagate():
        if masks.frame == 5:
            break
    state = first.state_dict()
    save_file({name: value.contiguous() for name, value in state["tensors"].items()}, tmp_path / "state.safetensors")
    second = session(model)
    second.load_state_dict({**state, "tensors": load_file(tmp_path / "state.safetensors")})
    found = run(second, start=6)
    assert list(found) == list(range(6, 12))
    for frame, logits in found.items():
        assert torch.equal(logits, wanted[frame]), frame


def test_short_videos_scale_the_times_of_pointers(model: Any) -> None:
    frames = tiny_video(8)
    short, streamed = session(model, frames), session(model, iter(frames))
    for opened in (short, streamed):
        opened.add_box(0, 1, BOX)
    told = session(model, iter(frames), length=8)
    told.add_box(0, 1, BOX)
    wanted = run(short)
    same(wanted, run(told))
    assert not torch.equal(wanted[7], run(streamed)[7])


BAD = {
    "outside": (lambda s: s.add_points(0, 1, [(99, 5)], [1]), "within the video"),
    "not a number": (lambda s: s.add_points(0, 1, [(float("nan"), 5)], [1]), "within the video"),
    "no area": (lambda s: s.add_box(0, 1, (10, 10, 10, 20)), "with an area"),
    "both labels": (lambda s: s.add_points(0, 1, [(5, 5), (5, 5)], [1, 0]), "both inside and outside"),
    "label": (lambda s: s.add_points(0, 1, [(5, 5)], [3]), "labels must be"),
    "no prompt": (lambda s: s.add_points(0, 1), "at least one point"),
    "frame": (lambda s: s.add_box(12, 1, BOX), "frame must be one"),
    "before the first": (lambda s: s.add_box(-1, 1, BOX), "frame must be one"),
    "unknown object": (lambda s: s.clear(0, 3), "object must be one"),
    "mask": (lambda s: s.add_mask(0, 1, torch.ones(2, 3, 4)), "mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_the_session_as_it_was(model: Any, name: str) -> None:
    opened, wrong = session(model), BAD[name]
    opened.add_box(0, 4, BOX)
    before = opened.state_dict()
    with pytest.raises(BadInput, match=wrong[1]):
        wrong[0](opened)
    after = opened.state_dict()
    assert before["facts"] == after["facts"]
    assert all(torch.equal(value, after["tensors"][name]) for name, value in before["tensors"].items())
    assert len(run(opened)) == 12


def test_nothing_to_track(model: Any) -> None:
    with pytest.raises(BadInput, match="needs an object"):
        run(session(model))
    with pytest.raises(BadInput, match="at least one frame"):
        session(model, tiny_video(0))


def test_all_objects_of_a_frame_go_through_in_one_batch(model: Any) -> None:
    """The published code runs one object after the other."""
    calls = {"encode": 0, "attend": 0, "decode": 0}

    def count(name: str) -> Any:
        def seen(*_: Any) -> None:
            calls[name] += 1

        return seen

    opened = session(model)
    for identity in range(5):
        opened.add_box(0, identity, (5 + identity, 5, 40 + identity, 40))
    hooks = [
        part.register_forward_hook(count(name))
        for name, part in (
            ("encode", model.image_encoder),
            ("attend", model.memory_attention),
            ("decode", model.mask_decoder),
        )
    ]
    run(opened)
    for hook in hooks:
        hook.remove()
    assert calls == {"encode": 11, "attend": 11, "decode": 11}  # frame 0 was encoded for its prompts


def test_a_batch_of_objects_equals_one_by_one(model: Any) -> None:
    boxes = [(5, 5, 40, 40), (30, 10, 70, 44), (2, 20, 30, 47)]
    together = session(model)
    for identity, box in enumerate(boxes):
        together.add_box(0, identity, box)
    found = run(together)
    for identity, box in enumerate(boxes):
        alone = session(model)
        alone.add_box(0, identity, box)
        for frame, logits in run(alone).items():
            assert close(found[frame][identity], logits[0]), (identity, frame)


def test_frames_are_decoded_when_they_are_needed(model: Any) -> None:
    class Lazy:
        def __init__(self, frames: torch.Tensor) -> None:
            self.frames, self.read = frames, list[int]()

        def __len__(self) -> int:
            return len(self.frames)

        def __getitem__(self, frame: int) -> torch.Tensor:
            self.read.append(frame)
            return self.frames[frame]

    lazy = Lazy(tiny_video())
    opened = session(model, lazy)
    opened.add_box(2, 1, BOX)
    assert lazy.read == [2]
    walk = opened.propagate()
    next(walk), next(walk)
    assert lazy.read == [2, 3]


def test_forgetting_around_prompts(model: Any) -> None:
    """The published switch calls a method that does not exist."""
    opened = session(model, memory="all", forget_around_prompts=True)
    opened.add_box(0, 1, BOX)
    run(opened)
    opened.add_points(8, 1, [(30, 30)], [1])
    list(opened.propagate(start=8, max_frames=0))
    assert set(opened.tracked[1].tracked) == set()
    assert set(opened.tracked[1].prompted) == {0, 8}


def test_prompting_again_after_tracking(model: Any) -> None:
    opened = session(model, memory="all")
    opened.add_box(0, 1, BOX)
    run(opened)
    opened.add_points(0, 1, CLICK, [1])
    opened.add_points(0, 1, [(20, 20)], [0], clear=False)
    assert opened.tracked[1].clicks[0].points.shape == (1, 2, 2)
    assert len(run(opened)) == 12
    with pytest.raises(BadInput, match="before all clicks"):
        opened.add_points(0, 1, CLICK, [1], box=BOX, clear=False)


def test_without_memory_a_frame_knows_nothing_of_its_past(model: Any) -> None:
    frames = tiny_video()
    frames[7] = frames[3]
    blind = session(model, frames, memory="off")
    blind.add_box(0, 1, BOX)
    blind.add_points(0, 2, CLICK, [1])
    found = run(blind)
    assert torch.equal(found[3], found[7])
    assert torch.equal(found[5][0], found[5][1])
