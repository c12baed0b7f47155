"""The classifier of the published protocol, by hand."""

from __future__ import annotations

import pytest
import torch

from percepta.errors import BadInput
from percepta.evaluation import classifier, predict

VECTORS = {"a cat.": [3.0, 0.0], "cat": [0.0, 0.5], "a dog.": [-1.0, 0.0], "dog": [-2.0, 0.0]}


def encode_text(texts):
    return torch.tensor([VECTORS[text] for text in texts])


def test_templates_are_averaged_after_scaling() -> None:
    classes = classifier(encode_text, ["cat", "dog"], ["a {}.", "{}"])
    half = 0.5**0.5
    torch.testing.assert_close(classes, torch.tensor([[half, half], [-1.0, 0.0]]))


def test_logits_are_a_hundred_cosines() -> None:
    logits = predict(torch.tensor([[0.0, 7.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(logits, torch.tensor([[100.0, 0.0]]))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [([], ["{}"], "needs names"), (["cat"], [], "needs names"), (["cat"], ["a cat"], "one {}")],
)
def test_bad_input(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        classifier(encode_text, names, templates)


def test_embeddings_of_another_shape() -> None:
    with pytest.raises(BadInput, match="text embeddings"):
        classifier(lambda texts: torch.ones(1, 2), ["cat", "dog"], ["{}"])
