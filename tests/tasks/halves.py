"""Pictures of four colours, and small networks that know two of them each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import percepta

NAMES = ("blue", "green", "red", "white")
COLOURS = ((40, 40, 220), (40, 200, 40), (220, 40, 40), (230, 230, 230))


def colours(root: Path) -> Path:
    """A folder of four colours with noise, twelve pictures each."""
    random = np.random.default_rng(0)
    for name, colour in zip(NAMES, COLOURS, strict=True):
        (root / name).mkdir()
        for number in range(12):
            noise = random.normal(0, 25, (16, 16, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def trained(folder: Path, classes: tuple[int, ...], seed: int, outputs: int = 4, steps: int = 40) -> Any:
    """A narrow residual network that knows some of the colours."""
    torch.manual_seed(seed)
    model = percepta.build("resnet20", stages=(1, 1, 1), widths=(8, 12, 16), classes=outputs, image_size=16)
    pictures = [(path, number) for number in classes for path in sorted((folder / NAMES[number]).glob("*.png"))]
    x = torch.stack([model.preprocess(Image.open(path)) for path, _ in pictures])
    y = torch.tensor([number if outputs == 4 else classes.index(number) for _, number in pictures])
    optimiser = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def pair(root: Path, folder: Path) -> tuple[Path, Path]:
    """Files of two networks with four outputs: one knows blue and green, the other red and white."""
    paths = root / "a.safetensors", root / "b.safetensors"
    for seed, (path, classes) in enumerate(zip(paths, ((0, 1), (2, 3)), strict=True)):
        percepta.save(trained(folder, classes, seed), path)
    return paths
