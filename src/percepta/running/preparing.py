"""The prepared path: the parts of a model replaced by faster exact ones, and given back as they were.

`prepare` walks a model and puts, in place of linear layers, MLPs with a GELU and our attention, parts that compute the
same on packed weights and in tiles (`layers.packed`, `layers.chunked`). Classes and forwards stay as they are; only the
parents' entries change. Each part shares the tables of parameters, children and hooks with the one it stands for, so
the state dict keeps its keys and values, and `unprepare` puts the very same modules back. Where the prepared way cannot
be taken (training, gradients, another device, tracing, compiling) the part runs plainly by itself.

What a machine cannot do, or does no faster, stays plain, silently: `running.machine` probes, checks and measures.

Unusual: with bfloat16 the parameters stay float32. Only packed copies of the linear weights are bfloat16; norms,
tables, rotations, pools and the state dict keep their precision, and `unprepare` is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from percepta.errors import one_of
from percepta.layers import Attention, AttentionPooling, Mlp
from percepta.layers.chunked import PreparedAttention, prepared_attention_of
from percepta.layers.packed import Choose, PackedLinear, PackedMlp, missing, packed_linear_of, packed_mlp_of
from percepta.running import machine
from percepta.running.preparing_decoder import PreparedDecoderLayer, decoder_layer_of

Model = TypeVar("Model", bound=nn.Module)
PARTS = (PackedLinear, PackedMlp, PreparedAttention, PreparedDecoderLayer)
FOREIGN_MLPS = {
    "timm.layers.mlp.Mlp",
    "transformers.models.clip.modeling_clip.CLIPMLP",
    "transformers.models.dinov2.modeling_dinov2.Dinov2MLP",
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersMLP",
    "transformers.models.siglip.modeling_siglip.SiglipMLP",
    "transformers.models.vit.modeling_vit.ViTMLP",
}
"""Classes of other libraries that are `fc1`, an activation, `fc2`; each one is tried before it is believed."""
ACTIVATIONS = ("act", "activation_fn", "activation")
"""What they call the activation."""
TRANSFORMERS_GELUS = {"GELUActivation": "none", "GELUTanh": "tanh", "PytorchGELUTanh": "tanh"}
PRECISIONS = (torch.float32, torch.bfloat16)
fastest: Choose = machine.choose
CHECK_ROWS = 5
TOLERANCE = 1e-5


def prepare(
    model: Model, dtype: torch.dtype | str | None = None, allocator: str = "default", choose: Choose | None = None
) -> Model:
    """Make a model faster in evaluation on the CPU, with the same results: float32 to rounding (relative 1e-6).

    Works on every encoder of percepta, and on models of timm, transformers and others: there linear layers are
    replaced, and MLPs that are known to be linear, GELU, linear. A replaced part of a foreign class is first run on
    seeded inputs and left plain unless it agrees within 1e-5. Preparing again takes the newer settings.

    Args:
        model: changed in place; on any device, in any mode. Elsewhere than on the CPU nothing becomes faster.
        dtype: "bfloat16" computes the linear layers and attention of a float32 model in bfloat16 where this machine
            is faster at that (the norms, tables, rotations and pools stay float32); None or "float32" stays exact.
        allocator: "tuned" calls `machine.tune_allocator`, which holds for the whole process; "default" leaves it.
        choose: which way to take for which shape, instead of the fastest on this machine.

    Returns: the model. Its packed weights need as much memory again as the linear weights in use (half of that with
    bfloat16), from the first call on; `unprepare` gives it back.

    Raises: BadInput for another dtype or allocator.
    """
    precision = _precision(dtype)
    if allocator not in ("default", "tuned"):
        raise one_of("allocator", allocator, ("default", "tuned"))
    if allocator == "tuned":
        machine.tune_allocator()
    unprepare(model)
    if missing(precision or torch.float32):
        precision = None
        if missing():
            return model
    decide = fastest if choose is None else choose
    if precision is not None and decide("precision", (256, 768, 768), precision) != "packed":
        precision = None
    kept_full = _pools(model)
    for old in _replace(model, lambda part: _linear(part, decide, None if part in kept_full else precision)):
        assert type(old) is nn.Linear
    list(_replace(model, lambda part: _composed(part, decide)))
    return model


def unprepare(model: Model) -> Model:
    """Put back the very modules that `prepare` replaced, with the parameters, children and hooks that the parts have
    by now. A model that is not prepared stays as it is. Returns the model."""
    list(_replace(model, lambda part: part.plain if isinstance(part, PARTS) else None))
    return model


def is_prepared(model: nn.Module) -> bool:
    """Whether any part of a model stands in for a plain one."""
    return any(isinstance(part, PARTS) for part in model.modules())


def precision_of(model: nn.Module) -> torch.dtype:
    """What a model computes most in: bfloat16 where it was prepared so, else the dtype of its parameters."""
    low = [part.precision for part in model.modules() if isinstance(part, PackedLinear) and part.precision is not None]
    return low[0] if low else next(model.parameters()).dtype


def summary(model: nn.Module) -> str:
    """What was replaced, in words, such as "48 linear layers, 12 MLPs and 12 attentions prepared, in float32"."""
    count: Counter[type[nn.Module]] = Counter(type(part) for part in model.modules())
    words = {PackedLinear: "linear layers", PackedMlp: "MLPs", PreparedAttention: "attentions"}
    words[PreparedDecoderLayer] = "decoder layers"
    parts = [f"{count[kind]} {name}" for kind, name in words.items() if count[kind]]
    if not parts:
        return f"nothing prepared ({missing() or 'no part of it is known'})"
    together = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"{together} prepared, in {str(precision_of(model)).removeprefix('torch.')}"


def _precision(dtype: torch.dtype | str | None) -> torch.dtype | None:
    names: dict[Any, torch.dtype | None] = {None: None, "float32": None, torch.float32: None}
    names |= dict.fromkeys(("bfloat16", "bf16", torch.bfloat16), torch.bfloat16)
    if dtype not in names:
        raise one_of("dtype of prepare", dtype, ("float32", "bfloat16"))
    return names[dtype]


def _replace(model: nn.Module, stand_in: Callable[[nn.Module], nn.Module | None]) -> Iterator[nn.Module]:
    """Ask `stand_in` about every module below `model`, children first, and put what it gives in all places where the
    module stood; yields the modules that were replaced."""
    known: dict[nn.Module, nn.Module | None] = {}
    parents = list(model.modules())
    for parent in reversed(parents):  # children come behind their parents
        table = parent._modules
        for name, child in list(table.items()):
            if child is None:
                continue
            if child not in known:
                known[child] = stand_in(child)
            new = known[child]
            if new is not None:
                new.training = child.training
                table[name] = new
                yield child


def _pools(model: nn.Module) -> set[nn.Module]:
    """The modules inside attention pools, whose precision is kept."""
    return {part for pool in model.modules() if isinstance(pool, AttentionPooling) for part in pool.modules()}


def _linear(part: nn.Module, choose: Choose, precision: torch.dtype | None) -> nn.Module | None:
    if type(part) is not nn.Linear or _altered(part) or type(part._parameters.get("weight")) is not nn.Parameter:
        return None
    if part.weight.dtype != torch.float32:
        precision = None
    return packed_linear_of(part, choose, precision)


def _composed(part: nn.Module, choose: Choose) -> nn.Module | None:
    """What stands in for an attention or an MLP whose linear layers are packed."""
    if _altered(part):
        return None
    if type(part) is Attention:
        return prepared_attention_of(part, choose)
    if type(part) is Mlp:
        return packed_mlp_of(part, choose)
    if (layer := decoder_layer_of(part)) is not None:
        return layer
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    if name not in FOREIGN_MLPS:
        return None
    ends = ("fc1", "fc2")
    activation = _activation(next((part._modules[name] for name in ACTIVATIONS if name in part._modules), None))
    if activation is None or not all(isinstance(part._modules.get(end), PackedLinear) for end in ends):
        return None
    new = packed_mlp_of(part, choose, ends, activation)
    return new if _agrees(new) else None


def _altered(part: nn.Module) -> bool:
    """Whether somebody put another forward on a module, or hooks that change its parameters before it runs."""
    return "forward" in part.__dict__ or bool(part._forward_pre_hooks)


def _activation(module: nn.Module | None) -> tuple[str, str] | None:
    """What `layers.packed` calls an activation, or None for one that it cannot fuse."""
    if isinstance(module, nn.GELU):
        return "gelu", module.approximate
    variant = TRANSFORMERS_GELUS.get(type(module).__name__)
    known = variant is not None and type(module).__module__ == "transformers.activations"
    return ("gelu", str(variant)) if known else None


@torch.no_grad()
def _agrees(part: PackedMlp) -> bool:
    """Whether a foreign part gives what the plain one gives, on a few seeded inputs."""
    first: Any = part._modules[part.ends[0]]
    if first.weight.device.type != "cpu" or first.weight.dtype != torch.float32:
        return True  # it will run plainly; where it is moved later, `to` changes no arithmetic
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(CHECK_ROWS, first.in_features, generator=draw)
    training = [module for module in part.modules() if module.training]
    part.eval()
    try:
        second: Any = part._modules[part.ends[1]]
        low = first.precision is not None
        got: Tensor = second.run(first.run(x, part.activation)).float()
        want: Tensor = part.plain(x)
        return bool((got - want).norm() <= (3e-2 if low else TOLERANCE) * want.norm())
    except (RuntimeError, TypeError, ValueError):
        return False
    finally:
        for module in training:
            module.training = True
        first.drop(), second.drop()
