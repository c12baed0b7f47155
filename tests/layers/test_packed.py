"""Packed linear layers and MLPs: the same numbers, the same tables, and plain wherever packing would not do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from percepta.layers import Mlp
from percepta.layers.packed import (
    PackedLinear,
    PackedMlp,
    missing,
    pack,
    packed_linear,
    packed_linear_of,
    packed_mlp_of,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"packed weights: {missing()}")


def always(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return "packed"


def never(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    return "plain"


def apart(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def layer(choose: Any = always, bias: bool = True) -> tuple[nn.Linear, PackedLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).eval()
    return plain, packed_linear_of(plain, choose)


def mlp(choose: Any = always) -> tuple[Mlp, PackedMlp]:
    torch.manual_seed(0)
    plain = Mlp(24, 56).eval()
    part = packed_mlp_of(plain, choose)
    for name in part.ends:
        part._modules[name] = packed_linear_of(getattr(plain, name), choose)
    return plain, part


X = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (("none", ""), lambda y: y),
        (("gelu", "none"), F.gelu),
        (("gelu", "tanh"), lambda y: F.gelu(y, approximate="tanh")),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_is_linear_and_its_activation(
    activation: tuple[str, str], function: Callable[[Tensor], Tensor], bias: bool
) -> None:
    plain, _ = layer(bias=bias)
    packed = pack(plain.weight, torch.float32)
    with torch.no_grad():
        assert apart(packed_linear(X, packed, plain.bias, activation), function(plain(X))) < 1e-6


@torch.no_grad()
def test_a_layer_packs_once_and_gives_the_same() -> None:
    plain, part = layer()
    assert part.packing is None
    assert apart(part(X), plain(X)) < 1e-6
    first = part.packing
    assert first is not None
    part(X)
    assert part.packing is first
    part.drop()
    assert part.packing is None


@torch.no_grad()
def test_the_choice_is_asked_about_the_shape() -> None:
    asked = []

    def choose(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
        asked.append((kind, shape, dtype))
        return "plain"

    plain, part = layer(choose)
    assert torch.equal(part(X), plain(X))
    assert part.packing is None
    _, both = mlp(choose)
    both(X)
    assert asked[:2] == [("linear", (21, 24, 40), torch.float32), ("mlp", (21, 24, 56, 24), torch.float32)]


@torch.no_grad()
def test_a_changed_weight_is_packed_again() -> None:
    plain, part = layer()
    part(X)
    plain.weight.mul_(2)
    plain.bias.add_(1)
    assert apart(part(X), plain(X)) < 1e-6
    plain.weight.data.neg_()  # past the counter of versions
    assert apart(part(X), plain(X)) < 1e-6
    other = nn.Linear(24, 40)
    part.load_state_dict(other.state_dict(), assign=True)
    assert plain.weight is part.weight
    assert apart(part(X), other(X)) < 1e-6


def test_training_moving_and_copying_drop_the_packed_weight() -> None:
    plain, part = layer()
    with torch.no_grad():
        want = part(X)
    copied, pickled = copy.deepcopy(part), pickle.loads(pickle.dumps(part.plain))
    assert part.packing is not None
    assert copied.packing is None
    assert copied.plain is not plain
    assert copied.plain.weight is copied.weight
    with torch.no_grad():
        assert torch.equal(copied(X), want)
        assert apart(pickled(X), want) < 1e-6
    part.train()
    assert part.packing is None
    assert plain.training
    part.eval()
    assert not plain.training
    with torch.no_grad():
        part(X)
    part.double()
    assert part.packing is None
    assert plain.weight.dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(part(X.double()), plain(X.double()))


@pytest.mark.parametrize("make", [layer, mlp])
def test_gradients_are_those_of_the_plain_part(make: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    plain, part = make()
    wanted = torch.autograd.grad(plain(X).square().sum(), list(plain.parameters()))
    got = torch.autograd.grad(part(X).square().sum(), list(part.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    part.requires_grad_(False)
    x = X.clone().requires_grad_()
    part(x).sum().backward()
    assert x.grad is not None


def watched(part: nn.Module) -> list[str]:
    """The ways of calling a part in which nothing may be packed; packing raises."""
    done = []
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            part(X)
            done.append("autocast")
        torch.func.vmap(part)(X)
        done.append("vmap")
        torch.jit.trace(part, (X,), check_trace=False)
        done.append("trace")
        part(X[:0])
        done.append("empty")
        part.train()(X)
        done.append("training")
        part.eval().double()(X.double())
        part.float()
        done.append("float64")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        part(torch.empty(3, 7, 24))
        done.append("fake")
    part(X)
    done.append("gradients")
    torch.export.export(part, (X,))
    done.append("export")
    torch.compile(part, backend="eager", fullgraph=True)(X)
    done.append("compile")
    return done


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [layer, mlp])
def test_whoever_watches_sees_pytorchs_own_layers(
    make: Callable[[], tuple[nn.Module, nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("packed")

    monkeypatch.setattr("percepta.layers.packed.packed_linear", refuse)
    _, part = make()
    with torch.no_grad(), pytest.raises(AssertionError):
        part(X)
    assert len(watched(part)) == 10


def test_one_layer_and_not_two() -> None:
    plain, part = layer()
    assert list(part.state_dict()) == list(plain.state_dict()) == ["weight", "bias"]
    assert part.weight is plain.weight
    assert [name for name, _ in part.named_modules()] == [""]
    seen = []
    plain.register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad():
        part(X)
    assert seen == ["hook"]


@torch.no_grad()
def test_an_mlp_fuses_and_a_hook_inside_still_sees_its_layer() -> None:
    plain, part = mlp()
    want, shapes = plain(X), []
    assert apart(part(X), want) < 1e-6
    part.expand.register_forward_hook(lambda module, given, result: shapes.append(tuple(result.shape)))
    assert apart(part(X), want) < 1e-6
    assert shapes == [(3, 7, 56)]
    assert torch.equal(mlp(never)[1](X), plain(X))


@torch.no_grad()
def test_inference_tensors_and_odd_strides() -> None:
    plain, part = layer()
    x = X.transpose(0, 1)
    with torch.inference_mode():
        assert apart(part(x), plain(x)) < 1e-6
        inside = nn.Linear(24, 40).eval()
        assert apart(packed_linear_of(inside, always)(x), inside(x)) < 1e-6
    assert apart(part(x[..., ::1][:, :1]), plain(x[:, :1])) < 1e-6
    turned = nn.Linear(40, 24, bias=False).eval()
    turned.weight = nn.Parameter(torch.randn(40, 24).T)  # not contiguous: stays plain
    plainly = packed_linear_of(turned, always)
    y = torch.randn(2, 40)
    assert torch.equal(plainly(y), turned(y))
    assert plainly.packing is None


@pytest.mark.skipif(bool(missing(torch.bfloat16)), reason=f"packed bfloat16: {missing(torch.bfloat16)}")
@torch.no_grad()
def test_bfloat16_by_request_keeps_dtypes_outside() -> None:
    plain, _ = layer()
    part = packed_linear_of(plain, always, torch.bfloat16)
    got = part(X)
    assert got.dtype == plain.weight.dtype == torch.float32
    assert 1e-5 < apart(got, plain(X)) < 1e-2
