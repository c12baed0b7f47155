"""The tower of a vision-language model as a model of its own, such as pe-lang-nano (language alignment).

    python -m percepta.training.answering_tower runs/plm-nano-align [FILE] [--dtype float16]

writes it beside the run's model, as tower.safetensors, in the layout that `percepta.load` reads.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from percepta.checkpoints import write_safetensors
from percepta.errors import BadInput
from percepta.models.perception_encoder import build
from percepta.running.loading import SCHEMA, as_dtype, load
from percepta.training.loop import MODEL_FILE


def tower_of(model: Any) -> Any:
    """The vision tower of a PerceptionLM as a Perception Encoder by itself, which gives patches; a copy.

    Raises: BadInput for another model.
    """
    if not hasattr(model, "encode_media"):
        raise BadInput(f"only a vision-language model has a tower to give; got {type(model).__name__}.")
    encoder = build(model.config.vision)
    encoder.load_state_dict(model.vision.state_dict())
    return encoder.eval()


def save_tower(model: Any, path: Path, dtype: str | None = None) -> Path:
    """Write the tower of a model as a native file of the Perception Encoder family."""
    encoder = tower_of(model)
    precision = as_dtype(dtype)
    tensors = encoder.state_dict()
    if precision is not None:
        tensors = {name: value.to(precision) for name, value in tensors.items()}
    metadata = {"schema": SCHEMA, "name": "", "family": "perception_encoder", "layout": "native"}
    write_safetensors(path, tensors, metadata | {"config": asdict(encoder.config)})
    return path


def main(arguments: list[str] | None = None) -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description="Write the tower of a trained vision-language model.")
    parser.add_argument("run", type=Path, help="folder of the run, or the file of its model")
    parser.add_argument("out", type=Path, nargs="?", help="by default tower.safetensors beside the model")
    parser.add_argument("--dtype", default=None, help="precision of the file, such as float16")
    given = parser.parse_args(arguments)
    file = given.run / MODEL_FILE if given.run.is_dir() else given.run
    print(save_tower(load(file), given.out or file.parent / "tower.safetensors", given.dtype))


if __name__ == "__main__":
    main()
