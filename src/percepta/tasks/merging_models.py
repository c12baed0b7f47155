"""The models that `merge` takes: ours by name or file, or files of one architecture of timm or torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from percepta import checkpoints
from percepta.errors import BadInput, CheckpointMismatch
from percepta.media import Source
from percepta.merging.trunks import Maker, make, maker_of
from percepta.running.backbones import open_backbone
from percepta.running.loading import load

LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True, eq=False)
class Mergeable:
    """A model to merge.

    Attributes:
        name: what to call it.
        model: in evaluation mode.
        prepare: a picture to the tensor (3, H, W) that it takes.
        maker: how its network is made, for files of trunks with heads.
        file: where its weights came from, or None.
    """

    name: str
    model: Any
    prepare: Callable[[Source], Tensor]
    maker: Maker
    file: Path | None


def open_mergeable(model: str | Path | nn.Module, architecture: str | None = None) -> Mergeable:
    """A model by name, by file, or in hand.

    Args:
        model: a name of `list_models()`, a file that `save` wrote, or one of our modules; with an architecture, a file
            with its state dict.
        architecture: "timm/NAME" or "torchvision/NAME"; the number of classes is read from the file.

    Raises: UnknownModel, MissingWeights, CheckpointMismatch, BadInput.
    """
    if isinstance(model, nn.Module):
        return _ours(model, getattr(model, "name", "") or type(model).__name__, None)
    path = Path(str(model)).expanduser()
    if architecture is None:
        return _ours(load(str(model)), path.stem if path.exists() else str(model), path if path.exists() else None)
    tensors = checkpoints.read_tensors(path)
    maker = _fitting_maker(architecture, tensors, str(path))
    network = make(maker)
    network.load_state_dict(tensors)
    backbone = open_backbone(network)
    return Mergeable(path.stem, network.eval(), backbone.prepare, maker, path)


def _ours(model: Any, name: str, file: Path | None) -> Mergeable:
    if not hasattr(model, "preprocess"):
        raise BadInput(f"a model in hand must come from percepta.load or percepta.build; got {type(model).__name__}.")
    return Mergeable(name, model.eval(), lambda source: model.preprocess(source.thing), maker_of(model), file)


def _fitting_maker(architecture: str, tensors: Mapping[str, Tensor], file: str) -> Maker:
    """An architecture with as many classes as the file's last layer has."""
    library, _, name = architecture.partition("/")
    if library not in LIBRARIES or not name:
        raise BadInput(f"architecture must be timm/NAME or torchvision/NAME; got {architecture!r}.")
    try:
        expected = make({"library": library, "name": name, "classes": 1000}).state_dict()
    except (RuntimeError, ValueError) as error:  # what these libraries raise for names that they do not know
        raise BadInput(
            f"{library} has no architecture called {name!r} ({' '.join(str(error).split())[:120]})."
        ) from None
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    odd = [key for key, value in expected.items() if key in tensors and tensors[key].shape != value.shape]
    heads = {
        len(tensors[key]) for key in odd if tensors[key].ndim and tensors[key].shape[1:] == expected[key].shape[1:]
    }
    if missing or unexpected or len(heads) > 1 or any(tensors[key].shape[1:] != expected[key].shape[1:] for key in odd):
        raise CheckpointMismatch(file, missing, unexpected, odd)
    return {"library": library, "name": name, "classes": heads.pop() if heads else 1000}


def open_all(models: Sequence[str | Path | nn.Module], architecture: str | None) -> list[Mergeable]:
    """All of them. Raises BadInput for fewer than two."""
    if isinstance(models, str | Path) or len(models) < 2:
        count = 1 if isinstance(models, str | Path) else len(models)
        raise BadInput(f"merge takes two models or more; got {count}.")
    found = [open_mergeable(model, architecture) for model in models]
    names = _apart([one.name for one in found], [one.file for one in found])
    return [replace(one, name=name) for one, name in zip(found, names, strict=True)]


def _apart(names: Sequence[str], files: Sequence[Path | None]) -> list[str]:
    """Names that differ: with their folders, or else with their numbers, where files are called alike."""
    if len(set(names)) == len(names):
        return list(names)
    folders = [name if file is None else f"{file.absolute().parent.name}/{name}" for name, file in zip(names, files)]
    if len(set(folders)) == len(folders):
        return folders
    return [f"{name} ({number + 1})" for number, name in enumerate(names)]
