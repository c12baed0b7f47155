"""Figures on held-out samples during a run: which caption belongs to which picture.

Accuracies are shares between 0 and 1. They steer a run; a published score has its own protocol in
`percepta.evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from percepta.training.batching import Tokens, heldout_inputs, sample_means
from percepta.training.sources import Part

CHUNK = 250


@torch.no_grad()
def validate(model: Any, parts: Sequence[Part], size: int, tokens: Tokens, device: torch.device) -> dict[str, float]:
    """Figures by source.

    Returns:
        "NAME.accuracy": the best of all distinct captions is the picture's own (for class names: zero-shot accuracy).
        "NAME.recall": the best of all pictures has the caption (text to picture R@1).
        "NAME.hard_accuracy": the own caption is better than the hard negative; where there are any.
    """
    was_training = model.training
    model.eval()
    figures: dict[str, float] = {}
    for part in parts:
        inputs = heldout_inputs(part, size, tokens).to(device)
        pictures = torch.cat([model.encode_image(chunk) for chunk in torch.split(inputs.pictures, CHUNK)])
        images = sample_means(pictures, inputs.runs)
        texts = torch.cat([model.encode_text(chunk) for chunk in torch.split(inputs.tokens, CHUNK)])
        images, texts = functional.normalize(images.float(), dim=-1), functional.normalize(texts.float(), dim=-1)
        own = inputs.caption_ids
        # Rows are given out in the order of first use: positive captions come first.
        similarities = images @ texts[: int(own.max()) + 1].T
        figures[f"{part.source}.accuracy"] = (similarities.argmax(1) == own).float().mean().item()
        found = own[similarities.argmax(0)] == torch.arange(similarities.shape[1], device=own.device)
        figures[f"{part.source}.recall"] = found.float().mean().item()
        if inputs.negative_ids is not None:
            right = (images * texts[own]).sum(1) > (images * texts[inputs.negative_ids]).sum(1)
            figures[f"{part.source}.hard_accuracy"] = right.float().mean().item()
    model.train(was_training)
    return {name: round(value, 4) for name, value in figures.items()}
