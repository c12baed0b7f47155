from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from percepta.errors import BadInput
from percepta.layers.attention import Attention
from percepta.layers.hydra import KERNELS, HydraAttention, HydraState, hydra, hydra_contributions


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def streams(tokens: int = 7, width: int = 12, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = numbers(3, batch, tokens, width).unbind(0)
    return q, k, v


def explicit(q: Tensor, k: Tensor, v: Tensor, kernel: str, causal: bool = False) -> Tensor:
    """D heads of one feature, each with its own N x N matrix of similarities."""
    width = q.shape[-1]
    if kernel == "cosine":
        left, right = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    elif kernel == "mean":
        left, right = q / width**0.5, k / width**0.5
    else:
        left, right = (q.sigmoid() if kernel == "sigmoid-softmax" else q.tanh()), k.exp() / k.exp().sum(1, keepdim=True)
    scores = torch.einsum("btd,bsd->bdts", left, right)
    return torch.einsum("bdts,bsd->btd", scores.tril() if causal else scores, v)


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_kernel_attention_with_a_head_for_every_feature(kernel: str) -> None:
    q, k, v = streams()
    torch.testing.assert_close(hydra(q, k, v, kernel=kernel), explicit(q, k, v, kernel), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", ["cosine", "mean"])
def test_causal_is_the_lower_triangle(kernel: str) -> None:
    q, k, v = streams()
    found = hydra(q, k, v, causal=True, kernel=kernel)
    torch.testing.assert_close(found, explicit(q, k, v, kernel, causal=True), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[:, -1], hydra(q, k, v, kernel=kernel)[:, -1])


def test_the_norm_runs_over_all_features() -> None:
    """Norms of heads one feature wide would leave signs: another result, and the usual mistake."""
    q, k, v = streams()
    signs = q.sign() * (k.sign() * v).sum(1, keepdim=True)
    assert not torch.allclose(hydra(q, k, v), signs, rtol=0.1)


def test_queries_may_come_from_elsewhere() -> None:
    _, k, v = streams()
    other = numbers(2, 3, 12, seed=9)
    torch.testing.assert_close(hydra(other, k, v), explicit(other, k, v, "cosine"), rtol=1e-12, atol=1e-14)
    with pytest.raises(BadInput, match="one query a key"):
        hydra(other, k, v, causal=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_tokens_does_not_matter(kernel: str) -> None:
    q, k, v = streams()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    moved = hydra(q[:, order], k[:, order], v[:, order], kernel=kernel)
    torch.testing.assert_close(moved, hydra(q, k, v, kernel=kernel)[:, order])


def test_lengths_of_queries_and_keys_do_not_matter_and_values_act_linearly() -> None:
    q, k, v = streams()
    lengths = numbers(2, 2, 7, 1, seed=3).exp()
    torch.testing.assert_close(hydra(q * lengths[0], k * lengths[1], v), hydra(q, k, v))
    other = numbers(2, 7, 12, seed=4)
    torch.testing.assert_close(hydra(q, k, 2 * v - 3 * other), 2 * hydra(q, k, v) - 3 * hydra(q, k, other))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalise", ["none", "mean"])
def test_a_masked_token_is_a_deleted_one(kernel: str, normalise: str) -> None:
    q, k, v = streams()
    mask = torch.tensor([True, False, True, True, False, True, True]).expand(2, -1)
    k[:, 1], v[:, 4] = float("nan"), float("inf")  # what is hidden may be anything
    found = hydra(q, k, v, mask, kernel=kernel, normalise=normalise)
    torch.testing.assert_close(found, hydra(q, k[:, mask[0]], v[:, mask[0]], kernel=kernel, normalise=normalise))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalise", ["none", "mean"])
def test_where_all_is_masked_nothing_comes(kernel: str, normalise: str) -> None:
    q, k, v = (x.requires_grad_() for x in streams())
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    found = hydra(q, k, v, mask, kernel=kernel, normalise=normalise)
    assert bool((found[1] == 0).all())
    torch.testing.assert_close(found[0], hydra(q, k, v, kernel=kernel, normalise=normalise)[0])
    assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(found.square().sum(), (q, k, v)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalise", ["none", "mean"])
def test_equal_tokens_merged_into_one_give_the_same(kernel: str, normalise: str) -> None:
    q, k, v = streams(4)
    size = torch.tensor([1.0, 3.0, 1.0, 2.0])
    copies = torch.repeat_interleave(torch.arange(4), size.long())
    whole = hydra(q, k[:, copies], v[:, copies], kernel=kernel, normalise=normalise)
    merged = hydra(q, k, v, size=size.expand(2, -1), kernel=kernel, normalise=normalise)
    torch.testing.assert_close(merged, whole)


@pytest.mark.parametrize("kernel", ["cosine", "mean"])
@pytest.mark.parametrize("normalise", ["none", "mean"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_stream_gives_what_causal_attention_gives(kernel: str, normalise: str, chunk: int) -> None:
    q, k, v = streams()
    state, found = HydraState.start(2, 12), []
    for part in zip(*(x.split(chunk, dim=1) for x in (q, k, v)), strict=True):
        output, state = hydra(*part, causal=True, kernel=kernel, normalise=normalise, state=state)
        found.append(output)
    torch.testing.assert_close(torch.cat(found, 1), hydra(q, k, v, causal=True, kernel=kernel, normalise=normalise))
    assert state.total.shape == (2, 1, 12)
    assert state.tokens.flatten().tolist() == [7.0, 7.0]


def test_the_state_counts_sizes_and_masks() -> None:
    q, k, v = streams(3)
    mask, size = torch.tensor([[True, True, False]] * 2), torch.tensor([[1.0, 4.0, 9.0]] * 2)
    output, state = hydra(q, k, v, mask, size=size, normalise="mean", state=HydraState.start(2, 12))
    assert state.tokens.flatten().tolist() == [5.0, 5.0]
    torch.testing.assert_close(output, hydra(q, k, v, mask, size=size) / 5)


def test_the_mean_divides_by_the_number_of_tokens() -> None:
    q, k, v = streams()
    torch.testing.assert_close(hydra(q, k, v, normalise="mean"), hydra(q, k, v) / 7)
    steps = torch.arange(1, 8, dtype=torch.float64)[:, None]
    causal = hydra(q, k, v, causal=True, normalise="mean")
    torch.testing.assert_close(causal, hydra(q, k, v, causal=True) / steps)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(kernel: str, causal: bool) -> None:
    if causal and kernel.endswith("softmax"):
        with pytest.raises(BadInput, match="changes with every new one"):
            hydra(*streams(), causal=True, kernel=kernel)
        return
    q, k, v = (x.requires_grad_() for x in streams(3, 4))
    mask, size = torch.tensor([[True, False, True]] * 2), torch.tensor([[1.0, 1.0, 2.0]] * 2)
    assert torch.autograd.gradcheck(lambda *x: hydra(*x, mask, causal, size, kernel, "mean"), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_sums_in_float32(dtype: torch.dtype, causal: bool) -> None:
    """8,000 terms: a sum in half precision would be off by many times the rounding of its result."""
    q, k, v = (x.to(dtype) for x in streams(8000, 16, 1))
    k, v = k.abs() * 100, v.abs()  # the squares of 16 such keys leave the range of float16
    found, exact = hydra(q, k, v, causal=causal), hydra(q.double(), k.double(), v.double(), causal=causal)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zero_vectors_give_zero_and_finite_gradients(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in streams())
    q[0, 2], k[1, 3] = 0, 0
    inputs = [x.requires_grad_() for x in (q, k, v)]
    found = hydra(*inputs)
    assert bool(found.isfinite().all())
    assert bool((found[0, 2] == 0).all())
    kept = [i for i in range(7) if i != 3]
    torch.testing.assert_close(found[1], hydra(q, k[:, kept], v[:, kept])[1])
    assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(found.sum(), inputs))


def test_no_tensor_grows_faster_than_tokens_times_features() -> None:
    class Largest(TorchFunctionMode):
        numbers, calls = 0, 0

        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.numbers, self.calls = max(self.numbers, result.numel()), self.calls + 1
            return result

    calls = []
    for tokens in (64, 1024):
        inputs = streams(tokens, 8, 1)
        for causal in (False, True):
            with Largest() as seen:
                hydra(*(x.requires_grad_() for x in inputs), causal=causal)
            assert seen.numbers == tokens * 8
            calls.append(seen.calls)
        with torch.no_grad(), Largest() as seen:
            hydra(*inputs)
        assert seen.numbers == tokens * 8
    assert calls[:2] == calls[2:]


@pytest.mark.parametrize("kernel", ["cosine", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_part_by_part_is_all_at_once(kernel: str, dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in streams(700, 8, 2))
    given = {"key_mask": numbers(2, 700) > 0, "size": numbers(2, 700, seed=1).abs(), "kernel": kernel}
    whole = hydra(q.requires_grad_(), k, v, **given)  # for a gradient nothing is taken apart
    parts = hydra(q.detach(), k, v, **given)
    assert whole.requires_grad
    assert parts.dtype == dtype
    torch.testing.assert_close(parts, whole.detach(), atol=1e-4 if dtype != torch.bfloat16 else 0.3, rtol=2e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": "cosin"}, "did you mean 'cosine'"),
        ({"normalise": "sum"}, "normalise of Hydra attention must be one of none, mean"),
        ({"q": torch.zeros(2, 3, 7, 4)}, "not split into heads"),
        ({"k": torch.zeros(2, 7, 11)}, "k of Hydra attention must have the shape"),
        ({"v": torch.zeros(2, 6, 12)}, "v of Hydra attention must have the shape"),
        ({"key_mask": torch.ones(2, 7)}, "must be bool"),
        ({"key_mask": torch.ones(7, dtype=torch.bool)}, "one value a key"),
        ({"size": torch.ones(2, 7, 1)}, "size of Hydra attention must have the shape"),
        ({"kernel": "tanh-softmax", "state": HydraState.start(2, 12)}, "need kernel 'cosine' or 'mean'"),
    ],
)
def test_mistakes_are_named(change: dict, words: str) -> None:
    q, k, v = streams()
    with pytest.raises(BadInput, match=words):
        hydra(**{"q": q, "k": k, "v": v, **change})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalise", ["none", "mean"])
def test_contributions_add_up_to_what_the_gradient_sees(kernel: str, normalise: str) -> None:
    q, k, v = streams()
    gradient, size = numbers(2, 7, 12, seed=5), torch.tensor([[1.0, 2, 1, 1, 3, 1, 1]] * 2)
    mask = torch.tensor([[True, True, False, True, True, True, True]] * 2)
    options = {"key_mask": mask, "size": size, "kernel": kernel, "normalise": normalise}
    found = hydra_contributions(gradient, q, k, v, **options)
    torch.testing.assert_close(found.sum(1), (gradient * hydra(q, k, v, **options)).sum((1, 2)))
    assert bool((found[:, 2] == 0).all())


def test_the_paper_s_map_is_the_case_of_one_query() -> None:
    q, k, v = streams()
    gradient = torch.zeros(2, 7, 12, dtype=torch.float64)
    gradient[:, 0] = numbers(2, 12, seed=6)
    unit = torch.nn.functional.normalize
    heads = gradient[:, :1] * unit(q, dim=-1)[:, :1] * unit(k, dim=-1) * v
    torch.testing.assert_close(hydra_contributions(gradient, q, k, v), heads.sum(-1))


def test_the_module_takes_the_weights_and_the_call_of_attention() -> None:
    softmax, module = Attention(12, 3), HydraAttention(12, 3)
    module.load_state_dict(softmax.state_dict())
    softmax.load_state_dict(module.state_dict())
    x = numbers(2, 7, 12, dtype=torch.float32)
    update, keys = module(x)
    q, k, v = softmax.qkv(x).chunk(3, -1)
    torch.testing.assert_close(update, softmax.proj(hydra(q, k, v)))
    torch.testing.assert_close(keys, softmax(x)[1])
    torch.testing.assert_close(copy.deepcopy(module)(x)[0], update)


def test_the_logarithm_of_sizes_is_read_as_sizes() -> None:
    module = HydraAttention(12, 3)
    x, size = numbers(2, 4, 12, dtype=torch.float32), torch.tensor([[1.0, 3.0, 1.0, 2.0]] * 2)
    copies = torch.repeat_interleave(torch.arange(4), size[0].long())
    merged = module(x, bias=size.log()[:, None, None])[0]
    torch.testing.assert_close(merged[:, [0, 1, 2, 3]], module(x[:, copies])[0][:, [0, 1, 4, 5]])
    for wrong in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 1, 5), torch.zeros(2, 4)):
        with pytest.raises(BadInput, match="logarithm of token sizes"):
            module(x, bias=wrong)


def test_rotary_positions_are_refused_until_dropping_them_is_asked_for() -> None:
    x, rotation = numbers(1, 4, 12, dtype=torch.float32), torch.ones(4, 2)
    module = HydraAttention(12, 3)
    with pytest.raises(BadInput, match="drop_rotation=True"):
        module(x, rotation)
    dropping = HydraAttention(12, 3, drop_rotation=True, qkv=module.qkv, proj=module.proj)
    torch.testing.assert_close(dropping(x, rotation)[0], module(x)[0])


@pytest.mark.parametrize("causal", [False, True])
def test_it_compiles_without_graph_breaks(causal: bool) -> None:
    module = HydraAttention(12, 3, causal=causal)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    bias = torch.tensor([1.0, 2.0, 1.0]).log().expand(2, 1, 1, 3)
    for tokens in (3, 5):
        x = numbers(2, tokens, 12, dtype=torch.float32)
        given = bias if tokens == 3 else None
        torch.testing.assert_close(compiled(x, bias=given)[0], module(x, bias=given)[0])
