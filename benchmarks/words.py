"""How to look at a region so that words find it: crops, backgrounds, tokens in context, with true masks on scenes.

    python benchmarks/words.py --scenes 150

For each scene and each object that is alone in its colour and shape: is it, of all objects of the scene, the one whose
region is closest to "a COLOUR SHAPE"? No training sees these seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

import percepta
from percepta.datasets.scenes import SceneConfig, make_scene
from percepta.evaluation.words import phrase
from percepta.media.cutouts import cut_out

FIRST_SEED = 900_500
Look = Callable[[np.ndarray, np.ndarray], Image.Image]


def square(pixels: np.ndarray, mask: np.ndarray, context: float | None) -> Image.Image:
    """A square around the object; what lies beyond the picture is its mean colour."""
    if context is None:
        return Image.fromarray(pixels)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    side = round(context * max(rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]))
    top = (rows[0] + rows[-1] + 1 - side) // 2
    left = (columns[0] + columns[-1] + 1 - side) // 2
    found = Image.new("RGB", (side, side), tuple(int(v) for v in pixels.reshape(-1, 3).mean(0)))
    found.paste(Image.fromarray(pixels), (-int(left), -int(top)))
    return found


def surroundings(picture: np.ndarray, mask: np.ndarray, context: float | None) -> Image.Image:
    return square(picture, mask, context)


def blurred(picture: np.ndarray, mask: np.ndarray, context: float | None) -> Image.Image:
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(10)))
    return square(np.where(mask[..., None], picture, soft), mask, context)


def grey(picture: np.ndarray, mask: np.ndarray, context: float | None) -> Image.Image:
    return square(np.where(mask[..., None], picture, np.uint8(128)), mask, context)


WAYS: dict[str, Any] = {"surroundings": surroundings, "blurred": blurred, "grey": grey, "mean colour": cut_out}


@torch.no_grad()
def in_context(model: Any, picture: np.ndarray, masks: list[np.ndarray]) -> torch.Tensor:
    """Attention pooling over the tokens that lie at least a quarter inside of each mask."""
    tokens = model.vision.last_tokens(model.preprocess(picture)[None])
    side = model.config.grid
    prefix = tokens.x.shape[1] - side * side
    rows = []
    for mask in masks:
        share = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), side).flatten()
        inside = share > min(0.25, float(share.max()) - 1e-6)
        chosen = torch.cat([torch.zeros(prefix, dtype=torch.bool), inside])
        rows.append(model.vision.read_out(tokens._replace(x=tokens.x[:, chosen]))[0])
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--model", default="pe-core-nano")
    given = parser.parse_args()
    model = percepta.load(given.model)
    ways = [(name, context) for name in WAYS for context in (1.2, 2.0, 3.0, 4.0, None)]
    ways.remove(("surroundings", None))
    vectors: dict[Any, list[torch.Tensor]] = {way: [] for way in [*ways, "tokens in context"]}
    owners, pairs = [], []
    for number in range(given.scenes):
        scene = make_scene(FIRST_SEED + number, SceneConfig(size=given.size))
        seen = [row for row, mask in enumerate(scene.visible_masks) if mask.sum() >= 20]
        masks = [scene.visible_masks[row] for row in seen]
        owners += [number] * len(seen)
        pairs += [(scene.objects[row].colour, scene.objects[row].shape) for row in seen]
        for way in ways:
            shown = [model.preprocess(WAYS[way[0]](scene.picture, mask, way[1])) for mask in masks]
            vectors[way].append(model.encode_image(torch.stack(shown), normalize=True))
        vectors["tokens in context"].append(in_context(model, scene.picture, masks))
    place = np.array(owners)
    asked = [
        row for row, pair in enumerate(pairs) if sum(pairs[k] == pair for k in np.flatnonzero(place == place[row])) == 1
    ]
    texts = model.encode_text(model.tokenize([phrase(*pairs[row]) for row in asked]), normalize=True)
    cosines = {way: texts @ torch.cat(rows).T for way, rows in vectors.items()}
    cosines[("mean colour", "3.0 and whole")] = cosines[("mean colour", 3.0)] + cosines[("mean colour", None)]
    guess = np.mean([1 / (place == place[row]).sum() for row in asked])
    print(f"{len(asked)} questions about {given.scenes} scenes; guessing finds {guess:.1%}")
    for way, table in cosines.items():
        right = 0
        for number, row in enumerate(asked):
            others = np.flatnonzero(place == place[row])
            right += int(others[int(table[number, others].argmax())] == row)
        name = way if isinstance(way, str) else f"{way[0]}, {'whole picture' if way[1] is None else way[1]}"
        print(f"{name:32} {right / len(asked):.1%}")


if __name__ == "__main__":
    main()
