"""Fine-tunes of one model: closed forms, what must not matter, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from percepta.errors import BadInput
from percepta.merging import (
    STATE_METHODS,
    average_states,
    breadcrumbs,
    dare,
    iso_merge,
    model_stock,
    task_arithmetic,
    ties,
    tsv_merge,
)
from percepta.merging.fine_tunes import CHUNK, _threshold
from percepta.merging.task_matrices import orthonormal

State = dict[str, Tensor]
SHAPES = {"a.weight": (6, 5), "a.bias": (6,), "conv.weight": (4, 3, 2, 2), "scale": ()}
WITH_BASE = [name for name, method in STATE_METHODS.items() if method.base]
SETTLED = [name for name in WITH_BASE if name != "dare"]  # whose result is no draw
SMALL = settings(max_examples=25, deadline=None)


def state(seed: int, width: float = 1.0, dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {key: (width * torch.randn(shape, generator=generator)).to(dtype) for key, shape in SHAPES.items()}


def tuned(base: State, seed: int, width: float = 0.1) -> State:
    return {key: base[key] + change for key, change in state(seed, width).items()}


def assert_near(found: State, wanted: State, tolerance: float = 1e-6) -> None:
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


def merged_by(method: str, base: State, models: list[State], **options: Any) -> State:
    chosen = STATE_METHODS[method]
    return chosen.function(base, models, **options) if chosen.base else chosen.function(models, **options)


def one(*values: float) -> State:
    return {"w": torch.tensor(values, dtype=torch.float32)}


def test_the_average_is_weighted_and_its_weights_are_shares() -> None:
    found = average_states([one(1, 2), one(3, 6)], weights=[3, 1])
    assert_near(found, one(1.5, 3))
    assert_near(average_states([one(1, 2), one(3, 6)]), one(2, 4))
    assert_near(average_states([one(1, 2), one(3, 6)], weights=[0, 2]), one(3, 6))


def test_task_arithmetic_by_hand() -> None:
    base, first, second = one(1, 1, 1), one(2, 1, 0), one(1, 3, 0)
    assert_near(task_arithmetic(base, [first, second], scale=0.5), one(1.5, 2, 0))
    assert_near(task_arithmetic(base, [first], scale=1), first)
    assert_near(task_arithmetic(base, [first], scale=-1), one(0, 1, 2))  # forgets
    assert_near(task_arithmetic(base, [first, second], scale=0), base)


def test_ties_by_hand() -> None:
    """Three task vectors of five entries, of which the two largest by magnitude stay."""
    base = one(0, 0, 0, 0, 10)
    vectors = [(5, -4, 1, 0.5, 0.1), (-2, -3, 1, 0.5, 0.1), (6, 1, 0.5, -7, 0.1)]
    models = [one(*(start + move for start, move in zip((0, 0, 0, 0, 10), vector, strict=True))) for vector in vectors]
    # Trimmed: (5, -4, ...), (-2, -3, ...), (6, ..., -7, .). Elected: + by 9, - by 7, none, - by 7, none.
    assert_near(ties(base, models, keep=0.4), one(5.5, -3.5, 0, -7, 10))
    assert_near(ties(base, models, keep=0.4, scale=2), one(11, -7, 0, -14, 10))


def test_ties_leaves_the_base_where_models_cancel_and_trims_over_the_whole_vector() -> None:
    base = {"large": torch.zeros(4), "small": torch.zeros(4)}
    models = [
        {"large": torch.tensor([1.0, 2, 3, 4]), "small": torch.full((4,), 0.5)},
        {"large": torch.tensor([-1.0, 2, 3, 4]), "small": torch.full((4,), 0.5)},
    ]
    found = ties(base, models, keep=0.5)
    assert_near(found, {"large": torch.tensor([0.0, 2, 3, 4]), "small": torch.zeros(4)})


@given(seed=st.integers(0, 10**6), keep=st.floats(0.001, 1))
@SMALL
def test_the_threshold_is_that_of_sorting(seed: int, keep: float) -> None:
    values = torch.randn(997, generator=torch.Generator().manual_seed(seed)) ** 3
    count = max(1, int(keep * len(values) + 1e-9))
    bits = values.abs().view(torch.int32)
    found = _threshold(lambda: iter(bits.split(100)), keep)
    wanted = values.abs().sort(descending=True).values[count - 1]
    assert found == (wanted if count < len(values) else 0)
    assert CHUNK > 100


def test_dare_keeps_the_mean_and_follows_its_seed() -> None:
    base, model = {"w": torch.zeros(200_000)}, {"w": torch.ones(200_000)}
    found = dare(base, [model], drop=0.75, scale=1)["w"]
    assert found.unique().tolist() == [0, 4]
    assert abs(float(found.mean()) - 1) < 4 * 3**0.5 / 200_000**0.5, "four deviations of the mean of so many draws"
    assert torch.equal(found, dare(base, [model], drop=0.75, scale=1)["w"])
    assert not torch.equal(found, dare(base, [model], drop=0.75, scale=1, seed=1)["w"])
    two = dare(base, [model, model], drop=0.5, scale=1)["w"]
    assert two.unique().tolist() == [0, 2, 4], "models draw for themselves"


def test_dare_without_dropping_is_what_follows() -> None:
    base = state(0)
    models = [tuned(base, seed) for seed in (1, 2, 3)]
    assert_near(dare(base, models, drop=0), task_arithmetic(base, models))
    assert_near(dare(base, models, drop=0, then="ties", keep=0.3), ties(base, models, keep=0.3))


def test_breadcrumbs_by_hand() -> None:
    base, model = one(0, 0, 0, 0, 0), one(1, -2, 3, -4, 5)
    assert_near(breadcrumbs(base, [model], small=0.4, large=0.2, scale=1), one(0, 0, 3, -4, 0))
    assert_near(breadcrumbs(base, [model], small=0, large=0, scale=1), model)


def test_model_stock_by_its_angle() -> None:
    base = one(1, 1)
    right = [one(2, 1), one(1, 2)]  # nothing in common
    assert_near(model_stock(base, right), base)
    assert_near(model_stock(base, [one(2, 1), one(3, 1)]), one(2.5, 1))
    half = [one(2, 1), one(1.5, 1 + 0.75**0.5)]  # 60 degrees: t = 2 c / (1 + c) = 2 / 3
    mean = average_states(half)["w"]
    assert_near(model_stock(base, half), {"w": base["w"] + (mean - base["w"]) * 2 / 3})


def test_tsv_of_one_model_is_that_model() -> None:
    base = state(0)
    model = tuned(base, 1)
    assert_near(tsv_merge(base, [model]), model, 1e-5)


def orthogonal_tasks() -> tuple[State, list[Tensor]]:
    """Task matrices of rank two whose rows and whose columns are at right angles to those of the others."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for size in (9, 7))
    lengths = torch.tensor([2.0, 1.0])
    tasks = [(left[:, i : i + 2] * lengths * (i + 1)) @ right[:, i : i + 2].T for i in (0, 2, 4)]
    return {"w": torch.randn(9, 7, generator=generator)}, tasks


def test_tsv_of_tasks_at_right_angles_is_their_sum() -> None:
    base, tasks = orthogonal_tasks()
    found = tsv_merge(base, [{"w": base["w"] + task} for task in tasks])
    assert_near(found, {"w": base["w"] + sum(tasks)}, 1e-5)


def test_tsv_as_published() -> None:
    """The formula of the paper step by step: the largest third of each, U and V whitened by their polar factors."""
    base = {"w": state(0)["a.weight"]}
    models = [{"w": base["w"] + state(seed, 0.3)["a.weight"]} for seed in (1, 2, 3)]
    parts = [np.linalg.svd((model["w"] - base["w"]).double().numpy(), full_matrices=False) for model in models]
    left = np.concatenate([u[:, :1] for u, _, _ in parts], axis=1)
    right = np.concatenate([v[:1] for _, _, v in parts])
    lengths = np.concatenate([s[:1] for _, s, _ in parts])
    (a, _, b), (c, _, d) = (np.linalg.svd(one, full_matrices=False) for one in (left, right))
    wanted = base["w"].double() + torch.from_numpy(a @ b @ np.diag(lengths) @ c @ d)
    assert_near(tsv_merge(base, models), {"w": wanted.float()}, 1e-5)


def test_tsv_averages_vectors_and_sees_kernels_as_matrices() -> None:
    base = state(0)
    models = [tuned(base, seed) for seed in (1, 2)]
    found, average = tsv_merge(base, models), average_states(models)
    flat = tsv_merge(
        {"k": base["conv.weight"].flatten(1)}, [{"k": model["conv.weight"].flatten(1)} for model in models]
    )
    for key in ("a.bias", "scale"):
        torch.testing.assert_close(found[key], average[key])
    assert torch.equal(found["conv.weight"].flatten(1), flat["k"])


def test_the_polar_factor_is_the_nearest_orthonormal_matrix() -> None:
    columns = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = orthonormal(columns)
    torch.testing.assert_close(found.T @ found, torch.eye(3), rtol=0, atol=1e-6)
    for seed in range(20):
        other = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))).Q
        assert (columns - found).norm() <= (columns - other).norm()


def test_iso_gives_all_directions_of_the_sum_one_length() -> None:
    base = {"w": torch.zeros(5, 4)}
    models = [{"w": state(seed, 1)["a.weight"][:5, :4]} for seed in (1, 2)]
    lengths = torch.linalg.svdvals(iso_merge(base, models)["w"])
    before = torch.linalg.svdvals(models[0]["w"] + models[1]["w"])
    torch.testing.assert_close(lengths, before.mean().expand(4))


@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)), method=st.sampled_from(SETTLED))
@SMALL
def test_the_order_of_models_does_not_matter(seed: int, order: list[int], method: str) -> None:
    base = state(seed)
    models = [tuned(base, seed + number) for number in (1, 2, 3)]
    found = merged_by(method, base, [models[number] for number in order])
    assert_near(found, merged_by(method, base, models), 2e-5)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 5))
@SMALL
def test_copies_merge_to_the_model(seed: int, count: int) -> None:
    base = state(seed)
    copies = [tuned(base, seed + 1)] * count
    average = average_states(copies)
    assert all(torch.equal(average[key], value) for key, value in copies[0].items())
    assert all(torch.equal(value, copies[0][key]) for key, value in average_states(copies, [0.1] * count).items())
    assert_near(ties(base, copies, keep=1), copies[0])
    assert_near(model_stock(base, copies), copies[0])
    assert_near(task_arithmetic(base, copies, scale=1 / count), copies[0])
    assert_near(tsv_merge(base, copies, share=1), copies[0], 1e-5)


@given(seed=st.integers(0, 10**6), factor=st.sampled_from((0.25, 2.0, 8.0)), method=st.sampled_from(WITH_BASE))
@SMALL
def test_larger_task_vectors_move_as_much_further(seed: int, factor: float, method: str) -> None:
    base = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    models = [tuned(base, seed + number) for number in (1, 2)]
    found = merged_by(method, base, models)
    larger = merged_by(method, base, [{key: factor * value for key, value in model.items()} for model in models])
    assert_near({key: value / factor for key, value in larger.items()}, found, 1e-5)


@pytest.mark.parametrize("method", WITH_BASE)
def test_without_tuning_the_base_stays(method: str) -> None:
    base = state(0)
    assert_near(merged_by(method, base, [base, base]), base)


@pytest.mark.parametrize("method", [name for name in STATE_METHODS if name != "regmean"])
def test_statistics_and_integers_are_averaged(method: str) -> None:
    base = {
        "norm.running_var": torch.full((3,), 1.0), "norm.running_mean": torch.zeros(3), "w": torch.ones(3),
        "norm.num_batches_tracked": torch.tensor(0), "mask": torch.tensor([True, False]),
    }  # fmt: skip
    models = [
        {**base, "norm.running_var": torch.full((3,), variance), "norm.num_batches_tracked": torch.tensor(count)}
        for variance, count in ((0.1, 10), (0.3, 21))
    ]
    found = merged_by(method, base, models)
    assert_near({"v": found["norm.running_var"]}, {"v": torch.full((3,), 0.2)})
    assert found["norm.num_batches_tracked"] == 16
    assert found["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(found["mask"], base["mask"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", SETTLED)
def test_half_precision_is_computed_in_single(method: str, dtype: torch.dtype) -> None:
    base, *models = (state(seed, dtype=dtype) for seed in (0, 1, 2))
    found = merged_by(method, base, models)
    wide, *others = ({key: value.float() for key, value in one.items()} for one in (base, *models))
    wanted = merged_by(method, wide, others)
    assert all(torch.equal(value, wanted[key].to(dtype)) for key, value in found.items())


def test_inputs_stay_as_they_are() -> None:
    base = state(0)
    models = [tuned(base, seed) for seed in (1, 2)]
    before = [{key: value.clone() for key, value in one.items()} for one in (base, *models)]
    for method in WITH_BASE:
        merged_by(method, base, models)
    average_states(models, [1, 2])
    for found, wanted in zip((base, *models), before, strict=True):
        assert all(torch.equal(found[key], value) for key, value in wanted.items())


def broken(key: str, value: Tensor | None) -> State:
    changed = state(2)
    if value is None:
        changed.pop(key)
    else:
        changed[key] = value
    return changed


BASE, MODEL = state(0), state(1)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "one model": (lambda: average_states([MODEL]), r"average needs at least 2 models; got 1\."),
    "no model": (lambda: ties(BASE, []), r"ties needs at least 1 model; got 0\."),
    "no list": (lambda: average_states(MODEL), "average takes a list of models; got one dict"),  # type: ignore[arg-type]
    "shape": (lambda: average_states([MODEL, broken("a.bias", torch.zeros(7))]), r"a\.bias .* \(7,\) in model 2"),
    "missing": (lambda: average_states([MODEL, broken("a.bias", None)]), r"a\.bias is \(6,\) .* missing in model 2"),
    "more": (lambda: average_states([MODEL, broken("new", torch.zeros(1))]), "new is missing in the first model"),
    "base": (lambda: ties(broken("scale", torch.zeros(2)), [MODEL]), r"scale is \(\) .* \(2,\) in the base"),
    "nan": (lambda: ties(BASE, [MODEL, broken("scale", torch.tensor(torch.nan))]), "scale of model 2 holds NaN"),
    "infinite": (lambda: ties(broken("scale", torch.tensor(torch.inf)), [MODEL]), "scale of the base holds NaN or inf"),
    "integers": (lambda: average_states([MODEL, broken("scale", torch.tensor(1))]), "scale of model 2 is torch.int64"),
    "weights": (lambda: average_states([MODEL, MODEL], [1]), "weights of average must be 2 numbers"),
    "no weight": (lambda: average_states([MODEL, MODEL], [0, 0]), "not all of them zero"),
    "below": (lambda: average_states([MODEL, MODEL], [2, -1]), "none below zero"),
    "keep": (lambda: ties(BASE, [MODEL], keep=0), "keep of ties must be above 0 and up to 1; got 0"),
    "scale": (lambda: task_arithmetic(BASE, [MODEL], scale=float("nan")), "scale of task_arithmetic must be a finite"),
    "drop": (lambda: dare(BASE, [MODEL], drop=1), "drop of dare must be from 0 to below 1"),
    "then": (lambda: dare(BASE, [MODEL], then="tie"), "did you mean 'ties'"),
    "tails": (lambda: breadcrumbs(BASE, [MODEL], small=0.9, large=0.1), "shares of together less than 1"),
    "share": (lambda: tsv_merge(BASE, [MODEL], share=2), "share of tsv must be above 0"),
    "range": (
        lambda: task_arithmetic(one(0) | {}, [{"w": torch.tensor([60000.0]).half()}], scale=2),
        "task_arithmetic takes w beyond the range of torch.float16; use a smaller scale",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(BadInput, match=words) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")


def test_every_method_has_a_line() -> None:
    assert all(method.about and len(method.about) < 60 for method in STATE_METHODS.values())
    assert [name for name, method in STATE_METHODS.items() if method.data] == ["regmean"]
