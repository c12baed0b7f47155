"""A small stand-in for a contrastive model: the four names that training needs, and nothing else."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from percepta.errors import BadMedia

VOCABULARY = 128
END = VOCABULARY - 1


class TinyModel(nn.Module):
    """Patches and words, each through two linear layers with a mean between."""

    def __init__(self, width: int = 48, size: int = 16, drop: float = 0.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=size)
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.drop = nn.Dropout(drop)
        self.blocks = nn.Sequential(nn.Linear(width * 17, width), nn.GELU(), nn.Linear(width, 32))
        self.words = nn.Embedding(VOCABULARY, width)
        self.text_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 32))
        self.logit_scale = nn.Parameter(torch.tensor(2.65926))
        self.norm = nn.BatchNorm1d(width)

    def encode_image(self, x: Tensor) -> Tensor:
        maps = self.patches(x).relu()
        pooled = nn.functional.adaptive_avg_pool2d(maps, 4).flatten(1)
        mean = self.norm(maps.mean((2, 3)))
        return self.blocks(self.drop(torch.cat([pooled, mean], 1)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        there = tokens.ne(0).unsqueeze(-1)
        return self.text_head((self.words(tokens) * there).sum(1) / there.sum(1))

    def tokenize(self, texts: list[str]) -> Tensor:
        rows = torch.zeros(len(texts), 40, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = [1 + sum(map(ord, word)) % (END - 1) for word in re.findall(r"\w+", text.lower())][:39]
            row[: len(words) + 1] = torch.tensor([*words, END])
        return rows


class BreaksElsewhere(TinyModel):
    """A model that cannot see in any process but the first."""

    def encode_image(self, x: Tensor) -> Tensor:
        if os.environ.get("RANK", "0") != "0":
            raise BadMedia("clip 17 cannot be read")
        return super().encode_image(x)
