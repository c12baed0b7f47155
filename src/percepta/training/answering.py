"""Training a vision-language model to answer: next-token loss on what is to be said (PLM, arXiv 2504.13180 §3).

Order of this file: inputs, from samples to documents, learner, objective. Parts train or stay as the stage says: the
projector alone, everything, or tower and decoder from a chosen vision layer on (language alignment, as PE-lang is
made). Unusual: the loss is the mean over supervised tokens of the whole step, over all devices, so that no sample
counts more for being short or dealt to a device with few words; the questions about one picture share its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from percepta.errors import BadInput
from percepta.models.perception_lm.chat import ChatTemplate, Example, Message, training_example
from percepta.models.perception_lm.layout import MediaLayout
from percepta.training.answering_recipe import AnswerRecipe
from percepta.training.answering_rows import Branches, Document, Row, document_of, joined_row
from percepta.training.answering_start import begin_from, chat_for
from percepta.training.answering_validation import validate_answers
from percepta.training.augmentation import prepare_pictures
from percepta.training.data import Batch
from percepta.training.low_rank import LowRank
from percepta.training.objective_table import Objective
from percepta.training.precision import forward_precision
from percepta.training.ranks import Ranks
from percepta.training.recipe import Recipe
from percepta.training.sharding import shared_out
from percepta.training.sources import Part

PARTS = ("vision", "projector", "decoder")


class AnswerInputs(NamedTuple):
    """One step: a row of documents and the pictures that belong to it, (C, 3, S, S) normalised, or None."""

    row: Row
    chunks: Tensor | None

    def to(self, device: torch.device) -> AnswerInputs:
        """The same on another device."""
        return AnswerInputs(self.row.to(device), None if self.chunks is None else self.chunks.to(device))


class Gathered(NamedTuple):
    """What became of samples.

    Attributes:
        documents: one or more of each sample.
        chunks: their pictures, in order.
        kinds: of each conversation.
        skipped: conversations without anything to learn.
        lost: rows of files that were wrong or could not be read.
    """

    documents: list[Document]
    chunks: list[Tensor]
    kinds: list[str]
    skipped: int
    lost: int


def examples_of(template: ChatTemplate, part: Part, index: int, length: int) -> tuple[list[Example], list[str]]:
    """The conversations about one sample as tokens, with what kind of question each is."""
    assert part.dialogues is not None
    chunks = part.frames if part.chunks is None else part.chunks[index]
    media = ("video" if part.frames > 1 else "image") if part.media is None else part.media[index]
    examples, kinds = [], []
    for dialogue in part.dialogues[index]:
        messages = [Message(role, text) for turn in dialogue.turns for role, text in zip(("human", "assistant"), turn)]
        examples.append(training_example(template, messages, chunks, media, length))
        kinds.append(dialogue.kind)
    return examples, kinds


def gather(template: ChatTemplate, parts: Sequence[Part], size: int, length: int) -> Gathered:
    """Documents of all samples; conversations without a supervised token are left out and counted.

    Raises: BadInput for a source without conversations.
    """
    found = Gathered([], [], [], 0, 0)
    skipped, lost = 0, 0
    for part in parts:
        if part.dialogues is None:
            raise BadInput(f"the objective answer needs conversations; the source {part.source} has none.")
        pictures = prepare_pictures(part.pictures.reshape(-1, *part.pictures.shape[-3:]), size)
        counts = part.chunks or (part.frames,) * len(part)
        if part.media is not None:
            lost += sum(not dialogues for dialogues in part.dialogues)
        for index, chunks in enumerate(pictures.split(list(counts))):
            examples, kinds = examples_of(template, part, index, length)
            kept = [number for number, example in enumerate(examples) if example.trains]
            skipped += len(examples) - len(kept)
            if not kept:
                continue
            groups = [[number] for number in kept]  # conversations whose pictures stand anywhere are documents apart
            if part.media is None or part.media[index] in ("image", "video"):
                groups = [kept]
            for group in groups:
                document = document_of([examples[number] for number in group])
                found.documents.append(document)
                found.kinds.extend(kinds[number] for number in group)
                if document.pictures.any():
                    found.chunks.append(chunks)
    return found._replace(skipped=skipped, lost=lost)


def inputs_of(found: Gathered) -> AnswerInputs:
    """The row of gathered documents; one that has nothing to learn is empty."""
    if not found.documents:
        empty = torch.zeros(0, dtype=torch.int64)
        return AnswerInputs(Row(empty[None], empty[None], empty[None], empty, empty, empty, ()), None)
    return AnswerInputs(joined_row(found.documents), torch.cat(found.chunks) if found.chunks else None)


def with_picture(inputs: AnswerInputs, config: Any) -> AnswerInputs:
    """The same with a document more that shows a grey picture and says nothing, where there is no picture at all.

    Processes that gather weights from each other must all use every block; this one adds zeros to each gradient.
    """
    if inputs.chunks is not None:
        return inputs
    row, count = inputs.row, config.tokens_per_chunk
    shown = torch.arange(count, device=row.tokens.device)[None]
    row = replace(
        row,
        tokens=torch.cat([row.tokens, torch.full_like(shown, config.image_token)], 1),
        positions=torch.cat([row.positions, shown], 1),
        pictures=torch.cat([row.pictures, shown], 1),
        shapes=(*row.shapes, (0, (count,))),
    )
    return AnswerInputs(row, torch.zeros(1, 3, config.image_size, config.image_size, device=shown.device))


def answer_logits(model: Any, inputs: AnswerInputs) -> Tensor:
    """(S, vocabulary) logits at the supervised places of a row."""
    row, visual = inputs.row, None
    if inputs.chunks is not None:
        visual = model.encode_media(inputs.chunks)
    layout = MediaLayout(row.pictures, (0 if visual is None else len(visual),), ("image",))
    embeddings = model.embed(row.tokens, visual, layout)
    hidden = model.decode(embeddings, row.positions, Branches(row.shapes, embeddings.device))
    logits: Tensor = model.logits(hidden[0, row.places])
    return logits


class AnswerLearner(nn.Module):
    """A vision-language model and its loss.

    Args:
        model: a `PerceptionLM`; which of its weights need a gradient is the objective's business.
        recipe: precision.
        ranks: the processes that share the step.
        low_rank: changes that train in place of weights, or None.
    """

    names = ("loss", "token_accuracy", "tokens")
    summed = ("tokens",)

    def __init__(self, model: Any, recipe: Recipe, ranks: Ranks, low_rank: LowRank | None) -> None:
        super().__init__()
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.low_rank = low_rank

    def units(self) -> list[nn.Module]:
        """The modules that are gathered one at a time where weights are shared out."""
        return [*self.model.vision.blocks, *self.model.decoder.layers]

    def forward(self, inputs: AnswerInputs) -> Tensor:
        """(losses,) float32: loss, share of supervised tokens that are foreseen, their number on this device."""
        targets = inputs.row.targets
        device = targets.device
        count = self.weight(inputs).clamp(min=1 / self.ranks.size)
        sharded, unused = shared_out(self.recipe, self.ranks), torch.zeros((), device=device)
        if sharded:
            inputs = with_picture(inputs, self.model.config)
        elif self.ranks.size > 1 or inputs.chunks is None or not len(targets):
            unused = self._every_weight()
        if not len(targets) and not sharded:
            return torch.stack([unused, unused.detach(), unused.detach()])
        with forward_precision(device.type, self.recipe.precision):
            logits = answer_logits(self.model, inputs)
        logits = logits.float()
        loss = functional.cross_entropy(logits, targets, reduction="sum") / count + unused
        right = (logits.detach().argmax(1) == targets).sum() / count
        return torch.stack([loss, right, torch.tensor(float(len(targets)), device=device)])

    def weight(self, inputs: AnswerInputs) -> Tensor:
        """() float32, what the loss of these inputs counts: supervised tokens, the mean over devices."""
        targets = inputs.row.targets
        return self.ranks.mean(torch.tensor(float(len(targets)), device=targets.device))

    def _every_weight(self) -> Tensor:
        """A 0 that depends on all weights: each has a gradient in every step, in whatever processes it is used."""
        return 0 * torch.stack([weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()


class Answer(Objective):
    """See `Objective`; the model is a PerceptionLM."""

    def __init__(self, recipe: Recipe, model: Any, ranks: Ranks) -> None:
        self.recipe, self.model = recipe, model
        self.settings = recipe.answer or AnswerRecipe()
        if not hasattr(model, "encode_media"):
            raise BadInput(f"the objective answer needs a vision-language model, such as plm-nano; got {recipe.model}.")
        if recipe.stages:
            raise BadInput("the objective answer trains at the model's own size; leave out stages.")
        self.template = chat_for(model, recipe.model, self.settings)
        begin_from(model, self.settings.begin)
        for name in PARTS:
            trains = name in self.settings.train
            part = getattr(model, name)
            part.requires_grad_(trains)
            part.train(trains)  # a part that stays has no drop path either
        if model.head is not None:
            model.head.requires_grad_("decoder" in self.settings.train)
        low_rank = None if self.settings.lora is None else LowRank(model, self.settings.lora, recipe.seed)
        if self.settings.recompute:
            model.set_grad_checkpointing(True)
        self.learner = AnswerLearner(model, recipe, ranks, low_rank)
        self.counted: dict[str, float] = {"skipped": 0, "lost": 0}

    def size(self) -> int:
        """See `Objective`."""
        return int(self.model.config.image_size)

    def inputs(self, batch: Batch, size: int) -> AnswerInputs:
        """See `Objective`."""
        found = gather(self.template, batch.parts, size, self.settings.length)
        self.counted["skipped"] += found.skipped
        self.counted["lost"] += found.lost
        return inputs_of(found)

    def figures(self) -> dict[str, float]:
        """What was left out so far: conversations without anything to learn, rows that were wrong or unreadable."""
        return dict(self.counted)

    def resume(self, figures: Mapping[str, float]) -> None:
        """See `Objective`."""
        self.counted |= {name: figures.get(name, 0) for name in self.counted}

    def validate(self, model: Any, parts: Sequence[Part], size: int, device: torch.device) -> dict[str, float]:
        """See `answering_validation.validate_answers`."""

        def prepared(part: Part) -> tuple[AnswerInputs, list[str]]:
            found = gather(self.template, [part], size, self.settings.length)
            return inputs_of(found).to(device), found.kinds

        return validate_answers(model, parts, prepared, answer_logits)


def make(recipe: Recipe, model: Any, ranks: Ranks) -> Answer:
    """See `objective_table`."""
    return Answer(recipe, model, ranks)
