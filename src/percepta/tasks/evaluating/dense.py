"""The dense protocols for a model: patch tokens of any layers, and a run of each protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from percepta import evaluation
from percepta.datasets.picture_sets import parts_of
from percepta.errors import BadInput
from percepta.evaluation import EncodeMaps, Evaluation, Protocol
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.pictures import layers_named

Run = Callable[[Protocol, Batches, Mapping[str, Path]], Evaluation]


def maps_of(batches: Batches, layers: Sequence[int | str], norm: bool = False) -> EncodeMaps:
    """Pictures that have their final size to patch tokens by the names "layer 3", all from one pass.

    Args:
        layers: 0-based block numbers, negative from the end, "last", or "all".
        norm: apply the model's final norm.

    Raises: BadInput for a layer out of range, or "output", which has no patches.
    """
    encoder = batches.encoder
    if "output" in layers:
        raise BadInput("a dense protocol needs layers with patches: block numbers, last or all; got output.")
    blocks = {name: number for name, number in layers_named(encoder, layers).items() if number is not None}

    @torch.inference_mode()
    def encode(pictures: np.ndarray) -> dict[str, Tensor]:
        parts: list[list[Tensor]] = []
        for start in range(0, len(pictures), batches.size):
            views = [encoder.model.preprocess.tensor(Image.fromarray(one)) for one in pictures[start:][: batches.size]]
            batch = torch.stack(views).to(encoder.device, encoder.dtype)
            maps = encoder.model.intermediates(batch, list(blocks.values()), layout="NHWC", norm=norm)
            parts.append([values.float().cpu() for values in maps])
        return {name: torch.cat([part[place] for part in parts]) for place, name in enumerate(blocks)}

    return encode


def on_scenes(evaluate: Callable[[EncodeMaps, Protocol], Evaluation]) -> Run:
    """How a dense protocol on scenes runs."""

    def run(protocol: Protocol, batches: Batches, _: Mapping[str, Path]) -> Evaluation:
        encode = maps_of(batches, protocol.settings["layers"], protocol.settings["norm"])
        with batches.watch(protocol.name) as progress:
            progress.start(None)

            def watched(pictures: np.ndarray) -> Mapping[str, Tensor]:
                found = encode(pictures)
                progress.advance(len(pictures))
                return found

            return evaluate(watched, protocol)

    return run


def run_segmentation(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """How segmentation runs on folders of pictures and masks."""
    from percepta.datasets.masked import open_masked

    settings, config = protocol.settings, batches.encoder.model.config
    parts = (data["train"], data["data"]) if "train" in data else parts_of(data["data"])
    if parts is None:
        raise BadInput(f"{protocol.name} needs training data: pass train (--train), or sub-folders train and test.")
    train, test = (open_masked(part) for part in parts)
    encode = maps_of(batches, settings["layers"], settings["norm"])
    return evaluation.evaluate_segmentation(train, test, encode, config.patch_size, config.image_size, protocol)


def run_davis(protocol: Protocol, batches: Batches, data: Mapping[str, Path]) -> Evaluation:
    """How DAVIS runs on a folder in its published layout."""
    from percepta.datasets.davis import read_davis

    settings, config = protocol.settings, batches.encoder.model.config
    sequences = read_davis(data["data"], settings["split"], resolution=settings["resolution"])
    encode = maps_of(batches, settings["layers"], settings["norm"])
    return evaluation.evaluate_davis(sequences, encode, config.patch_size, config.image_size, protocol)
