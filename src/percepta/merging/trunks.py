"""What was merged as one file, which opens like any model's: a trunk with its heads, or a network of another library.

The file says how each network was made and where the zip stops; opening builds them with fresh weights, cuts them there
and fills in what is left of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from percepta import checkpoints
from percepta.errors import BadInput, CheckpointMismatch, MissingExtra
from percepta.merging.partial import MultiHead, front_of, split_at
from percepta.merging.tracing import trace
from percepta.merging.zipping import Merged
from percepta.running import loading

FAMILY, SCHEMA = "merged", 1
Maker = Mapping[str, Any]
"""How a network is made: {"family", "config", "preprocess"} of ours, {"library": "timm" | "torchvision", "name",
"classes"} of others."""


def maker_of(model: Any) -> Maker:
    """How one of our models is made. Raises BadInput for any other."""
    if not type(model).__module__.startswith("percepta.models."):
        raise BadInput(
            f"a trunk with heads of {type(model).__name__} needs makers: how each network is built, such as "
            "{'library': 'timm', 'name': 'resnet18', 'classes': 10}."
        )
    return {
        "family": loading.family_of(model).__name__.rsplit(".", 1)[-1],
        "config": asdict(model.config),
        "preprocess": loading.preparation_of(model),
    }


def save_merged(
    merged: Merged, models: Sequence[nn.Module], path: str | Path, makers: Sequence[Maker] | None = None
) -> Path:
    """Write what was merged: a plain model's file, or a trunk with its heads.

    Args:
        merged: of `merge_models`.
        models: those that were merged, for how they are made.
        path: a safetensors file.
        makers: one for each model, for networks of other libraries.

    Returns: the path. Raises: BadInput.
    """
    path = Path(path)
    if makers is None:
        makers = [maker_of(model) for model in models]
    if not isinstance(merged.model, MultiHead) and "family" in makers[0]:
        return loading.save(merged.model, path)
    metadata: dict[str, Any] = {"schema": SCHEMA, "family": FAMILY, "makers": [dict(one) for one in makers]}
    if merged.cut is not None and isinstance(merged.model, MultiHead):
        metadata |= {"stop": merged.cut.node, "dim": merged.model.dim, "joined": merged.model.joined}
    checkpoints.write_safetensors(path, merged.model.state_dict(), metadata)
    return path


def load_merged(path: str | Path) -> Any:
    """A trunk with heads, or a merged network of another library, from its file; in evaluation mode.

    A trunk's pictures are prepared as those of its first model.

    Raises: BadInput for a file of another kind or a newer version, CheckpointMismatch, MissingExtra.
    """
    metadata = checkpoints.read_metadata(path)
    if metadata.get("family") != FAMILY:
        raise BadInput(f"{str(path)!r} holds no trunk with heads; percepta.load opens a plain model.")
    if metadata.get("schema", 0) > SCHEMA:
        raise BadInput(f"{str(path)!r} has schema {metadata['schema']}, written by a newer version; update percepta.")
    tensors = checkpoints.read_tensors(path)
    model = _empty(metadata, tensors, str(path))
    expected = model.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [key for key in expected if key in tensors and tensors[key].shape != expected[key].shape]
    if missing or unexpected or misshapen:
        raise CheckpointMismatch(str(path), missing, unexpected, misshapen)
    model.load_state_dict(tensors)
    model.name = str(path)
    return model.eval()


def _empty(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> Any:
    """What a file holds, with fresh weights."""
    if "stop" not in metadata:
        return make(metadata["makers"][0])
    bases = [make(maker) for maker in metadata["makers"]]
    graphs, stop = [trace(base) for base in bases], str(metadata["stop"])
    if any(stop not in [node.name for node in graph.graph.nodes] for graph in graphs):
        raise BadInput(f"{path!r} was cut at {stop}, which these versions of its libraries do not have.")
    trunk, heads = front_of(graphs[0], stop), [split_at(graph, stop)[1] for graph in graphs]
    index = torch.zeros_like(tensors["index"]) if "index" in tensors else torch.zeros(len(heads), 0, dtype=torch.int64)
    model: Any = MultiHead(trunk, heads, index, int(metadata["dim"]), bool(metadata["joined"]))
    model.preprocess = getattr(bases[0], "preprocess", None)
    return model


def make(maker: Maker) -> Any:
    """A network with fresh weights. Raises BadInput for a library that is not known, MissingExtra."""
    if "family" in maker:
        return loading.construct(maker["family"], maker["config"], maker.get("preprocess", {})).eval()
    library, name, classes = maker.get("library"), str(maker.get("name")), maker.get("classes")
    if library == "timm":
        try:
            import timm
        except ImportError as error:
            raise MissingExtra("timm", "train", "A model of timm") from error
        return timm.create_model(name, pretrained=False, num_classes=classes).eval()
    if library == "torchvision":
        return torchvision.models.get_model(name, weights=None, num_classes=classes).eval()
    raise BadInput(f"library must be timm or torchvision; got {library!r}.")
