"""Zero-shot classification: the labels are texts (arXiv 2103.00020 §3.1.4, 2504.13181).

Every template is filled with the class name, encoded and scaled to length 1; the mean over the templates, scaled to
length 1 again, stands for the class. Logits are 100 times the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from percepta.errors import BadInput, wrong_shape

LOGIT_SCALE = 100.0  # fixed in the published protocol, not the model's own


def classifier(
    encode_text: Callable[[Sequence[str]], Tensor], names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """(K, D) float32 unit vectors, one per class.

    Args:
        encode_text: n texts → (n, D), of any length; called once with all K * len(templates) texts.
        names: K class names.
        templates: texts with {} for the name, filled literally.

    Raises:
        BadInput: no names, no templates, a template without {}, or embeddings of another shape.
    """
    if not names or not templates:
        raise BadInput(f"a classifier needs names and templates; got {len(names)} and {len(templates)}.")
    for template in templates:
        if template.count("{}") != 1:
            raise BadInput(f"a template must be a text with one {{}} for the class name; got {template!r}.")
    texts = [template.format(name) for name in names for template in templates]
    vectors = unit(encode_text(texts))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise wrong_shape("text embeddings", vectors.shape, f"({len(texts)}, D)")
    return unit(vectors.unflatten(0, (len(names), len(templates))).mean(dim=1))


def predict(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Logits (N, K) of embeddings (N, D), of any length, against a classifier (K, D)."""
    return LOGIT_SCALE * unit(embeddings) @ classes.T


def unit(vectors: Tensor) -> Tensor:
    """Rows (..., D) scaled to length 1, float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
