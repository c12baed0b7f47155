"""Packed rows against padded ones in the training of answers: tokens a second on the mixture of plm-nano.

    python benchmarks/packing.py
    python benchmarks/packing.py --batch-size 20 --rounds 5

The same conversations, weights and threads, one process; the ways take turns. Each goes forward and backward through
decoder and head (`--tower` adds the tower).

- padded: one conversation a row, as long as the longest of the step; its picture encoded for it alone.
- packed: the same conversations one after the other in one row, without padding.
- shared: what training does: conversations about the same picture share its tokens.

Tokens are those of the conversations, padding not counted, the same number for all ways (what is shared counts as often
as it is used). The losses are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

import percepta
from percepta.models.perception_lm.layout import MediaLayout
from percepta.training.answering import examples_of
from percepta.training.answering_rows import Branches, document_of, joined_row
from percepta.training.answering_start import begin_from, chat_for
from percepta.training.augmentation import prepare_pictures
from percepta.training.question_sources import QUESTION_SOURCES
from percepta.training.recipe import read_recipe


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=20, help="pictures and clips of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", action="store_true", help="encode pictures in the timed part")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    recipe = read_recipe("plm-nano", [f"batch_size={given.batch_size}"])
    model = percepta.build("plm-nano")
    begin_from(model, ["pe-core-nano"])
    model.vision.requires_grad_(False)
    samples = samples_of(recipe, model)
    ways = {"padded": padded, "packed": packed, "shared": shared}
    steps = {name: way(model, samples, given.tower) for name, way in ways.items()}
    tokens = sum(example.inputs for examples, _ in samples for example in examples)
    rows = sum(len(examples) for examples, _ in samples)
    longest = max(example.inputs for examples, _ in samples for example in examples)
    print(f"{len(samples)} pictures and clips, {rows} conversations, {tokens} tokens, the longest of {longest}")
    losses = {name: step() for name, step in steps.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.rounds):
        for name in steps if turn % 2 == 0 else reversed(steps):
            start = time.perf_counter()
            steps[name]()
            taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        ratios = sorted(slow / own for own, slow in zip(seconds, taken["padded"], strict=True))
        print(
            f"{name:7} {tokens / min(seconds):8.0f} tokens/s, {statistics.median(ratios):.2f} times padded "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


Samples = list[tuple[list[Any], Tensor]]
Step = Callable[[], float]


def samples_of(recipe: Any, model: Any) -> Samples:
    """Conversations and chunks (C, 3, S, S) of one step of a recipe's mixture, by the weights of its sources."""
    template = chat_for(model, "plm-nano", recipe.answer)
    sources = [recipe.data.scene_questions, recipe.data.clip_questions]
    share = recipe.batch_size / sum(source.weight for source in sources)
    found: Samples = []
    for source in sources:
        part = QUESTION_SOURCES[type(source)](source, 0).part(0, np.arange(round(source.weight * share)))
        chunks = prepare_pictures(part.pictures.reshape(-1, *part.pictures.shape[-3:]), model.config.image_size)
        for index, own in enumerate(chunks.split(part.frames)):
            examples, _ = examples_of(template, part, index, recipe.answer.length)
            found.append((examples, own))
    return found


def back(model: Any, logits: Tensor, targets: Tensor) -> float:
    """The loss, after its gradients."""
    loss = functional.cross_entropy(logits, targets)
    model.zero_grad()
    loss.backward()
    return float(loss.detach())


def features(model: Any, chunks: Tensor, tower: bool) -> Callable[[], Tensor]:
    """What gives the patches of chunks: made each time, or once."""
    with torch.no_grad():
        kept = model.vision_tokens(chunks)
    return (lambda: model.vision_tokens(chunks)) if tower else (lambda: kept)


def padded(model: Any, samples: Samples, tower: bool) -> Step:
    """One conversation a row."""
    pairs = [(example, chunks) for examples, chunks in samples for example in examples]
    longest = max(example.inputs for example, _ in pairs)
    tokens, shown = torch.zeros(len(pairs), longest, dtype=torch.int64), torch.zeros(len(pairs), longest).bool()
    trained, targets = torch.zeros(len(pairs), longest).bool(), torch.zeros(len(pairs), longest, dtype=torch.int64)
    for row, (example, _) in enumerate(pairs):
        length = example.inputs
        tokens[row, :length] = torch.from_numpy(example.tokens[:length])
        shown[row, :length] = torch.from_numpy(example.pictures[:length])
        trained[row, :length] = torch.from_numpy(example.supervised[1 : length + 1])
        targets[row, :length] = torch.from_numpy(example.tokens[1 : length + 1])
    places = torch.where(shown, shown.cumsum(dim=1) - 1, -1)
    layout = MediaLayout(places, tuple(len(chunks) for _, chunks in pairs), ("image",) * len(pairs))
    patches = features(model, torch.cat([chunks for _, chunks in pairs]), tower)

    def step() -> float:
        hidden = model.hidden(tokens, model.projector(patches()), layout)
        return back(model, model.logits(hidden[trained]), targets[trained])

    return step


def packed(model: Any, samples: Samples, tower: bool) -> Step:
    """One row of conversations that share nothing."""
    pairs = [([example], chunks) for examples, chunks in samples for example in examples]
    return shared(model, pairs, tower)


def shared(model: Any, samples: Samples, tower: bool) -> Step:
    """One row in which conversations about one picture share it."""
    row = joined_row([document_of(examples) for examples, _ in samples])
    layout = MediaLayout(row.pictures, (sum(len(chunks) for _, chunks in samples),), ("image",))
    patches = features(model, torch.cat([chunks for _, chunks in samples]), tower)

    def step() -> float:
        embeddings = model.embed(row.tokens, model.projector(patches()), layout)
        hidden = model.decode(embeddings, row.positions, Branches(row.shapes, embeddings.device))
        return back(model, model.logits(hidden[0, row.places]), row.targets)

    return step


if __name__ == "__main__":
    main()
