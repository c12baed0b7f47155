"""Names to models and back: load, build, save.

A model is built on the meta device and filled from a memory-mapped file, so its weights never exist twice.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args, get_type_hints

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from percepta import catalog, checkpoints
from percepta.errors import BadInput, UnknownModel, nearest, one_of
from percepta.media import Preprocess
from percepta.media.chunks import ChunkPreprocess
from percepta.running import preparing
from percepta.running import settings as saved
from percepta.running.hub import fetch

FAMILIES = {
    "hiera": "percepta.models.hiera",
    "perception_encoder": "percepta.models.perception_encoder",
    "perception_lm": "percepta.models.perception_lm",
    "resnet": "percepta.models.resnet",
    "sam2": "percepta.models.sam2",
}
CONFIGS = {
    "hiera": "HieraConfig",
    "perception_encoder": "PerceptionEncoderConfig",
    "perception_lm": "PerceptionLMConfig",
    "resnet": "ResNetConfig",
    "sam2": "Sam2Config",
}
PREPROCESSES: dict[str, Any] = {"perception_lm": ChunkPreprocess}
"""What prepares the pictures and videos of a family, if not `Preprocess`; a card's `preprocess` holds its fields."""
SCHEMA = 1


def load(
    name: str | Path,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    prepare: bool = False,
    **overrides: Any,
) -> Any:
    """A model with its weights, in evaluation mode, float32 on the CPU unless told otherwise.

    Args:
        name: a name of `list_models()`, also of a setting that `speedup` saved (which then says what is prepared and
            merged), an official name, or a file or folder that `save` wrote.
        weights: a file or folder in any layout that the family knows; by default the packaged file, or the hub's,
            fetched on first use.
        device, dtype: where and how precise, such as "cuda" and "bfloat16".
        prepare: on the CPU, let `percepta.prepare` make it as fast as this processor allows with the same results,
            for up to as much memory again. With dtype "bfloat16", on a processor that is fast at it, its linear
            layers alone compute so and its parameters stay float32. On other devices and with float16 nothing changes.
        overrides: config fields to change, as in `build`; `text=None` loads a vision tower alone.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch (nothing is ever loaded in part), BadInput.
    """
    place, precision = as_device(device), as_dtype(dtype) or torch.float32
    if _is_merged(name):
        import percepta  # merging lies floors above; the file of a trunk with heads opens like any other

        return percepta.load_merged(name).to(device=place, dtype=precision)
    model = open_model(name, weights, **overrides)
    if model.setting is not None:
        return saved.apply(model.to(device=place, dtype=precision), model.setting)
    if prepare and place.type == "cpu" and precision in preparing.PRECISIONS:
        model = preparing.prepare(model.to(torch.float32), precision)
        if preparing.precision_of(model) == precision:
            return model
        preparing.unprepare(model)
    return model.to(device=place, dtype=precision)


def open_model(name: str | Path, weights: str | Path | None = None, **overrides: Any) -> Any:
    """A model whose parameters lie memory-mapped in their file, in its precision: what is not used is not read.

    For one that needs a part of it, or its hash. Arguments and errors as of `load`.
    """
    name = str(name)
    family, settings, card, preprocess = _look_up(name)
    if weights is None:
        weights = name if card is None else card.packaged_file or fetch(card)
    with _Unfilled():
        model = _construct(family, _configure(family, settings, overrides), "meta")
    fill(model, weights)
    _finish(model, name, preprocess)
    model.setting = saved.setting_of(card.setting["setting"], name) if card is not None and card.setting else None
    return model.eval()


def build(name: str, device: str | torch.device = "cpu", **overrides: Any) -> Any:
    """The architecture of a name with fresh weights; any config field may be overridden.

    Args:
        name: a name of `list_models()` or an official name.
        device: "meta" builds without memory.
        overrides: config fields, such as depth=4; of the text tower as text={"depth": 2}; text=None leaves it out.

    Raises: UnknownModel, BadInput for an unknown field or an impossible value.
    """
    family, settings, _, preprocess = _look_up(name)
    model = _construct(family, _configure(family, settings, overrides), as_device(device))
    _finish(model, name, preprocess)
    return model


def save(model: Any, path: str | Path, layout: str = "native", dtype: torch.dtype | str | None = None) -> Path:
    """Write a model's weights.

    Args:
        path: a file; `.pt` and `.pth` become a plain torch state dict, everything else safetensors.
        layout: "native", or any layout of the family ("official", "timm", "open_clip").
        dtype: precision of the file; by default the model's own.

    Returns: the path written. Raises: BadInput for an unknown layout.
    """
    path = Path(path)
    tensors: Mapping[str, torch.Tensor] = model.state_dict()
    if (precision := as_dtype(dtype)) is not None:
        tensors = {key: value.to(precision) for key, value in tensors.items()}
    if layout != "native":
        known = family_of(model).layouts(model.config)
        if layout not in known:
            raise one_of("layout", layout, ("native", *known), owner=getattr(model, "name", ""))
        tensors = known[layout].to_foreign(tensors)
    if path.suffix.lower() in (".pt", ".pth"):
        checkpoints.write_torch(path, tensors)
        return path
    family = family_of(model).__name__.rsplit(".", 1)[-1]
    metadata = {"schema": SCHEMA, "name": getattr(model, "name", ""), "family": family, "layout": layout}
    metadata |= {"config": asdict(model.config), "preprocess": preparation_of(model)}
    checkpoints.write_safetensors(path, tensors, metadata)
    return path


def preparation_of(model: Any) -> dict[str, Any]:
    """What a file must say of how pictures are prepared; their size is the config's."""
    prepare = getattr(model, "preprocess", None)
    if not is_dataclass(prepare):
        return {}
    names = [field.name for field in fields(prepare) if field.init and field.name != "image_size"]
    return {name: getattr(prepare, name) for name in names}


def construct(family: str, settings: Mapping[str, Any], preprocess: Mapping[str, Any], name: str = "") -> Any:
    """A model with fresh weights from what a file says of it. Raises BadInput for a family or field that is unknown."""
    if family not in FAMILIES:
        raise one_of("family", family, FAMILIES)
    model = _construct(family, _configure(family, settings, {}), "cpu")
    _finish(model, name, preprocess)
    return model


def fill(model: nn.Module, weights: str | Path) -> str:
    """Load a file or folder into a model, all or nothing; returns the layout that was recognised."""
    tensors = checkpoints.read_tensors(weights)
    module = family_of(model)
    layout, native = checkpoints.recognise(
        tensors, model.state_dict(), module.layouts(model.config), module.subtrees(model.config), str(weights)
    )
    model.load_state_dict(native, strict=True, assign=True)
    return layout


def family_of(model: nn.Module) -> ModuleType:
    """The family module that a model comes from."""
    return importlib.import_module(type(model).__module__.rsplit(".", 1)[0])


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A torch dtype from its name; raises BadInput for anything but a floating-point type."""
    if isinstance(dtype, str):
        found = getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(dtype, dtype), None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise one_of("dtype", dtype, ("float32", "bfloat16", "float16", "float64"))
        return found
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise one_of("dtype", dtype, ("float32", "bfloat16", "float16", "float64"))
    return dtype


def as_device(device: str | torch.device) -> torch.device:
    """A torch device from its name. Raises BadInput for one that torch does not know or this machine lacks."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise BadInput(f"device must be one of {', '.join(devices())} on this machine; got {str(device)!r}.") from error
    return found


def devices() -> list[str]:
    """The devices that torch can use here."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


class _Unfilled(TorchFunctionMode):
    """Leaves out random initial values: the meta device has none, and to fill it torch would import its compiler."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (nn.init.normal_, torch.Tensor.normal_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


def _look_up(name: str) -> tuple[str, dict[str, Any], catalog.Card | None, Mapping[str, Any]]:
    """Family, config settings, card and preprocessing of a name, or of a native file."""
    if _is_file_name(name):
        metadata = checkpoints.read_metadata(name)
        if metadata.get("family") not in FAMILIES or "config" not in metadata:
            raise BadInput(f"{name!r} does not say what model it holds; pass a model's name and weights={name!r}.")
        if metadata.get("schema", 0) > SCHEMA:
            raise BadInput(f"{name!r} has schema {metadata['schema']}, written by a newer version; update percepta.")
        return metadata["family"], dict(metadata["config"]), None, _prepared_as(metadata)
    card = catalog.describe(name)
    return card.family, dict(card.config), card, card.preprocess


def _prepared_as(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a native file says of preprocessing; files of before it was written have that of the model they name."""
    if "preprocess" in metadata:
        return dict(metadata["preprocess"])
    try:
        return catalog.describe(str(metadata.get("name", ""))).preprocess
    except UnknownModel:
        return {}


def _is_merged(name: str | Path) -> bool:
    """Whether this is the file of a trunk with heads."""
    return _is_file_name(str(name)) and checkpoints.read_metadata(name).get("family") == "merged"


def _is_file_name(name: str) -> bool:
    """Whether a name means a file or folder: a card's name never does, whatever lies in the working directory."""
    try:
        catalog.describe(name)
    except UnknownModel:
        return Path(name).expanduser().exists()
    return False


def _configure(family: str, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    config_class = getattr(importlib.import_module(FAMILIES[family]), CONFIGS[family])
    return _dataclass(config_class, settings, overrides)


def _dataclass(kind: type, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """A config dataclass from settings and overrides; nested dataclasses from nested dictionaries."""
    known = [field.name for field in fields(kind)]
    for key in (*settings, *overrides):
        if key not in known:
            close = nearest(key, known, count=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}."
            raise BadInput(f"{kind.__name__} has no field {key!r}; {hint}")
    values = dict(settings)
    hints = get_type_hints(kind)
    for key, value in overrides.items():
        merge = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        values[key] = {**values[key], **value} if merge else value
    for key, value in values.items():
        hint = hints[key]
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        nested = next((option for option in options if is_dataclass(option)), None)
        if isinstance(nested, type) and isinstance(value, Mapping):
            values[key] = _dataclass(nested, value, {})
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{kind.__name__} cannot be made: {error}.") from error


def _construct(family: str, config: Any, device: str | torch.device) -> Any:
    with torch.device(device):
        return importlib.import_module(FAMILIES[family]).build(config)


def _finish(model: Any, name: str, preprocess: Mapping[str, Any]) -> None:
    """Hang on the module what the verbs need to know: its name and how its pictures are prepared."""
    for part in (model, getattr(model, "vision", None)):
        if part is not None:  # the tower names its model in errors
            part.name = name
    prepare = PREPROCESSES.get(family_of(model).__name__.rsplit(".", 1)[-1], Preprocess)
    model.preprocess = prepare(**{**preprocess, "image_size": model.config.image_size})
