"""Linear layers and MLPs over weights that oneDNN has packed for this processor: exact float32, or bfloat16 by request.

A prepared part stands where the plain one stood and *shares its tables*: the same dictionaries of parameters, buffers,
children and hooks, so that a state dict, an optimiser, `to`, `load_state_dict(assign=True)` or a hook sees one layer,
not two. All it adds is a packed copy of the weight, which is no state: it is made at the first call that can use it,
checked against its weight at every call, left out of copies and pickles, and dropped by `train()` and `to()`. It is
used in evaluation on the CPU without gradients and nowhere else; under autograd, autocast, tracing, compiling,
functorch or a dispatch mode the plain part runs on the same parameters. So nothing has to be reverted for a model to be
saved, copied, moved or trained. What it costs is memory: the packed weights in use lie beside the plain ones.

Unusual: the two operators are PyTorch's own but not public (`torch.ops.mkldnn`), hence `missing`, which says why
they cannot be used here, if so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode as _dispatch_mode

from percepta.layers.attention import Mlp

Choose = Callable[[str, tuple[int, ...], torch.dtype], str]
"""Which way is fastest here: (kind of part, its shape, precision) → the name of a way, "plain" for the plain one."""
Part = TypeVar("Part", bound=nn.Module)

SAMPLE = 64  # values of a weight that are compared before its packed copy is used
_stack = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)


def missing(dtype: torch.dtype = torch.float32) -> str:
    """Why packed weights of this precision cannot be used on this machine; "" where they can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch is built without oneDNN"
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off"
    operators = torch.ops.mkldnn
    if not (hasattr(operators, "_reorder_linear_weight") and hasattr(operators, "_linear_pointwise")):
        return f"torch {torch.__version__} lacks the operators"
    if dtype == torch.bfloat16 and not (
        hasattr(operators, "_is_mkldnn_bf16_supported") and operators._is_mkldnn_bf16_supported()
    ):
        return "this processor has no bfloat16 arithmetic"
    return ""


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """An opaque tensor from a weight (out, in), for `packed_linear` alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous())
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: tuple[str, str] = ("none", "")) -> Tensor:
    """(..., in) → (..., out) in the precision of `packed`, which `x` and `bias` must have.

    Args:
        activation: ("none", ""), ("relu", ""), ("gelu", "none") for the exact GELU, ("gelu", "tanh") for the other.
    """
    name, variant = activation
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], variant)
    return result


def runs_plain(x: Tensor) -> bool:
    """Whether something watches or differentiates what happens to `x`, so that only PyTorch's own layers will do."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or type(x) is not Tensor
        or x.device.type != "cpu"
        or not x.numel()
        or torch.is_autocast_enabled("cpu")
        or (torch.is_grad_enabled() and x.requires_grad)
        or _dispatch_mode() is not None
        or _stack() is not None
    )


def stand_in(kind: type[Part], plain: nn.Module) -> Part:
    """A module of another class over the tables of `plain`, which it keeps, unregistered, as `plain`."""
    part = kind.__new__(kind)
    part.__dict__.update(plain.__dict__)
    part.__dict__["plain"] = plain  # past nn.Module.__setattr__: a child would change the keys of the state dict
    return part


class Packing(NamedTuple):
    """A packed weight and what it was made from."""

    made_from: tuple[Any, ...]
    sample: Tensor
    weight: Tensor
    bias: Tensor | None


class PackedLinear(nn.Linear):
    """`nn.Linear` over a packed weight wherever that is the faster way; made by `packed_linear_of`.

    Attributes:
        plain: the layer that this one stands for.
        precision: of the packed weight; None for the weight's own. The result has the dtype of the input in any case.
        choose: which way is fastest, "plain" or "packed", by (rows, in, out).
    """

    plain: nn.Linear
    precision: torch.dtype | None
    choose: Choose
    packing: Packing | None

    def forward(self, x: Tensor) -> Tensor:
        if runs_plain(x) or not self.ready(x) or not self._pays(x):
            return F.linear(x, self.weight, self.bias)
        return self.run(x).to(x.dtype)

    def run(self, x: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor:
        """The packed layer, with an activation; in the precision of the packed weight. Ask `ready` first."""
        packing = self._packed()
        return packed_linear(x.to(packing.weight.dtype), packing.weight, packing.bias, activation)

    def ready(self, x: Tensor) -> bool:
        """Whether the packed weight can be used for `x`, for which `runs_plain` is false."""
        weight, bias = self.weight, self.bias
        return (
            not self.training
            and type(weight) in (nn.Parameter, Tensor)
            and x.dtype == weight.dtype
            and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and self.precision is None))
            and weight.device.type == "cpu"
            and weight.is_contiguous()
            and weight.numel() > 0
            and (bias is None or bias.dtype == weight.dtype)
            and not (
                torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
            )
        )  # fmt: skip

    def drop(self) -> None:
        """Give the memory of the packed weight back; the next call that can use it packs again."""
        self.packing = None

    def train(self, mode: bool = True) -> PackedLinear:
        if mode:
            self.drop()
        self.plain.training = mode
        return super().train(mode)

    def _apply(self, function: Any, recurse: bool = True) -> PackedLinear:
        self.drop()
        return super()._apply(function, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packing": None}

    def _pays(self, x: Tensor) -> bool:
        precision = self.precision or self.weight.dtype
        shape = (x.numel() // self.in_features, self.in_features, self.out_features)
        return self.choose("linear", shape, precision) == "packed"

    def _packed(self) -> Packing:
        """The packed weight, made again where the weight is another one, or holds other values."""
        weight, bias, packing = self.weight, self.bias, self.packing
        made_from = (
            weight.data_ptr(),
            -1 if weight.is_inference() else weight._version,
            None if bias is None else (bias.data_ptr(), -1 if bias.is_inference() else bias._version),
            self.precision,
        )
        # A change through `weight.data` leaves the version as it is: a sample of the values betrays it.
        stride = max(1, weight.numel() // SAMPLE - 1)
        sample = weight.detach().as_strided((min(SAMPLE, weight.numel() // stride),), (stride,))
        if packing is not None and packing.made_from == made_from and torch.equal(packing.sample, sample):
            return packing
        dtype = self.precision or weight.dtype
        with torch.inference_mode(False), torch.no_grad():
            kept = None if bias is None else bias.detach() if bias.dtype == dtype else bias.detach().to(dtype)
            packing = Packing(made_from, sample.clone(), pack(weight, dtype), kept)
        self.packing = packing  # one assignment: threads may pack twice, never see half of it
        return packing


def packed_linear_of(plain: nn.Linear, choose: Choose, precision: torch.dtype | None = None) -> PackedLinear:
    """What stands in for a linear layer; see `PackedLinear`."""
    part = stand_in(PackedLinear, plain)
    part.precision, part.choose, part.packing = precision, choose, None
    return part


class PackedMlp(Mlp):
    """Linear, activation, linear over packed weights, the activation fused into the first; made by `packed_mlp_of`.

    Stands in for any module that is just that, whatever its two layers are called; they must be `PackedLinear`. With
    bfloat16 the hidden values are bfloat16, and the result has the dtype of the input.

    Attributes:
        plain: the module that this one stands for.
        ends: the names of the two layers.
        activation: as of `packed_linear`.
    """

    plain: nn.Module
    ends: tuple[str, str]
    activation: tuple[str, str]
    choose: Choose

    def forward(self, x: Tensor) -> Tensor:
        if runs_plain(x):
            return self._plainly(x)
        first, second = (self._modules[name] for name in self.ends)
        if (
            isinstance(first, PackedLinear)
            and isinstance(second, PackedLinear)
            and not self.training
            and first.ready(x)
            and second.ready(x)
            and not (_observed(first) or _observed(second))
            and self._pays(x, first, second)
        ):
            return second.run(first.run(x, self.activation)).to(x.dtype)
        return self._plainly(x)

    def train(self, mode: bool = True) -> PackedMlp:
        self.plain.training = mode
        super().train(mode)
        return self

    def _pays(self, x: Tensor, first: PackedLinear, second: PackedLinear) -> bool:
        rows = x.numel() // first.in_features
        shape = (rows, first.in_features, first.out_features, second.out_features)
        return self.choose("mlp", shape, first.precision or first.weight.dtype) == "packed"

    def _plainly(self, x: Tensor) -> Tensor:
        result: Tensor = self.plain.forward(x)
        return result


def packed_mlp_of(
    plain: nn.Module,
    choose: Choose,
    ends: tuple[str, str] = ("expand", "contract"),
    activation: tuple[str, str] = ("gelu", "none"),
) -> PackedMlp:
    """What stands in for an MLP; see `PackedMlp`."""
    part = stand_in(PackedMlp, plain)
    part.ends, part.activation, part.choose = ends, activation, choose
    return part


def _observed(module: nn.Module) -> bool:
    """Whether a hook waits for the calls of a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
