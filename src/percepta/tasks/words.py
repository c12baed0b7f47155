"""Objects by words: masks of everything in a picture, each looked at alone, and how likely it is what was asked for.

SAM 2 (arXiv 2408.00714) says what things there are, the Perception Encoder (arXiv 2504.13181) what they are.
Order of this file: one picture's candidates, how they are read, the finder, the verb's seam.
Unusual: each object is seen twice without its surroundings, in its place in the picture and enlarged to a third of its
frame; the mean of both told objects apart best on generated scenes, better than crops with surroundings, blurred
surroundings or the encoder's tokens inside of the mask (docs/words.md). The answer may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from percepta.calibration.neutral import neutral_texts, summarise
from percepta.calibration.words import LIKELY, WordsPrior, load_words_prior, region_inputs
from percepta.media import Source
from percepta.media.cutouts import cut_out
from percepta.models.sam2.everything import EverythingSettings, everything
from percepta.results import Masks
from percepta.running.fingerprint import weights_hash
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.segment import Segmenter

VIEWS = (None, 3.0)
"""Contexts in which an object is looked at, as of `media.cutouts.cut_out`."""
SEARCH = EverythingSettings(points_per_side=16, iou_threshold=0.6, stability_threshold=0.7)
"""How candidates are looked for: a sparser grid than everything's, and less strict, since words choose afterwards."""
OVERLAP = 0.5
"""IoU from which on two masks are the same object."""
CALIBRATED = "probability that this is what was asked for"
UNCALIBRATED = "cosine (this pair of models is not calibrated: the best match always comes back)"


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The objects of one picture.

    Attributes:
        masks: N masks; the scores are the predicted IoU.
        vectors: (N, D) unit embeddings of each object in each of the `VIEWS`, (views, N, D).
        neutral: (N, 2) mean and spread of their cosines with the neutral texts.
    """

    masks: Masks
    vectors: Tensor
    neutral: NDArray[np.float32]


class WordFinder:
    """Finds objects by words.

    Args:
        segmenter: what makes masks.
        encoder: what knows words: a name, or a model in hand.
        prior: how cosines become probabilities; by default the packaged one of the encoder's weights, if there is one.
        settings: how candidates are looked for.

    Raises: BadInput for an encoder without words.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        encoder: str | torch.nn.Module = NANO,
        prior: WordsPrior | None = None,
        settings: EverythingSettings = SEARCH,
    ) -> None:
        self.segmenter, self.settings = segmenter, settings
        self.encoder = Encoder(encoder, device=str(segmenter.device) if isinstance(encoder, str) else None)
        self.encoder.need_words("text")
        known = prior or load_words_prior(self.encoder.name)
        if prior is None and known is not None and known.weights != weights_hash(self.encoder.model):
            known = None
        self.prior = known
        self._neutral = self._texts(neutral_texts())

    @property
    def score_kind(self) -> str:
        """What the scores of an answer are."""
        return CALIBRATED if self.prior is not None else UNCALIBRATED

    def candidates(self, pixels: Tensor, name: str = "") -> Candidates:
        """All objects of a picture (3, H, W) uint8."""
        with self.segmenter.evaluating():
            found = everything(self.segmenter.model, pixels, self.settings)
        return self.read(pixels.permute(1, 2, 0).cpu().numpy(), found.masks(name))

    def read(self, picture: NDArray[np.uint8], masks: Masks) -> Candidates:
        """Look at given masks of a picture (H, W, 3); empty ones are left out."""
        masks = masks.select(masks.area > 0)
        if not len(masks):
            return Candidates(masks, torch.zeros(len(VIEWS), 0, 1), np.zeros((0, 2), np.float32))
        shown = Image.fromarray(picture)
        views = [self._pictures([cut_out(shown, mask, context) for mask in masks]) for context in VIEWS]
        cosines = torch.stack([view @ self._neutral.T for view in views]).mean(0)
        return Candidates(masks, torch.stack(views), summarise(cosines))

    def cosines(self, candidates: Candidates, text: str) -> NDArray[np.float32]:
        """(N,) of every candidate with the words, the mean over its views."""
        found: NDArray[np.float32] = (candidates.vectors @ self._texts([text])[0]).mean(0).numpy()
        return found

    def ask(self, candidates: Candidates, text: str) -> Masks:
        """All candidates, the likeliest first; the scores are as `score_kind` says."""
        masks = candidates.masks
        if not len(masks):
            return replace(masks, scores=np.zeros(0, np.float32))
        cosines = self.cosines(candidates, text)
        scores = np.asarray(cosines, np.float64)
        if self.prior is not None:
            share = masks.area / (masks.size[0] * masks.size[1])
            assert masks.scores is not None
            scores = self.prior.probability(region_inputs(cosines, candidates.neutral, masks.scores, share))
        order = np.argsort(-scores, kind="stable")
        found = replace(masks, names=(text,) * len(masks), scores=scores.astype(np.float32))
        return found.select(order)

    def answer(self, candidates: Candidates, text: str) -> Masks:
        """What fits: every likely object, the likeliest first, perhaps none; without a prior the best match."""
        found = self.ask(candidates, text)
        if self.prior is None or found.scores is None:
            return found.select(list(range(min(1, len(found)))))
        return _without_doubles(found.select(np.flatnonzero(found.scores >= LIKELY)))

    def _pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        model = self.encoder.model
        rows = []
        with self.encoder.evaluating():
            for start in range(0, len(pictures), 64):
                batch = torch.stack([model.preprocess(picture) for picture in pictures[start : start + 64]])
                rows.append(model.encode_image(batch.to(self.encoder.device, self.encoder.dtype), normalize=True))
        return torch.cat(rows).float().cpu()

    def _texts(self, texts: Sequence[str]) -> Tensor:
        model = self.encoder.model
        with self.encoder.evaluating():
            tokens = model.tokenize(list(texts)).to(self.encoder.device)
            return model.encode_text(tokens, normalize=True).float().cpu()


def _without_doubles(masks: Masks) -> Masks:
    """Of masks that are the same object, the first."""
    kept: list[int] = []
    seen: list[NDArray[np.bool_]] = []
    for row, mask in enumerate(masks):
        if all((mask & other).sum() < OVERLAP * (mask | other).sum() for other in seen):
            kept.append(row)
            seen.append(mask)
    return masks.select(kept)


def find_in_picture(
    text: str, segmenter: Segmenter, encoder: str | torch.nn.Module = NANO
) -> Callable[[Tensor, Tensor, Source], Masks]:
    """What the verb `segment` asks of every picture, given whole as (1, 3, H, W) uint8."""
    finder = WordFinder(segmenter, encoder)

    def ask(pixels: Any, size: Tensor, source: Source) -> Masks:
        return finder.answer(finder.candidates(pixels[0], source.name), text)

    ask.whole = True  # type: ignore[attr-defined]
    ask.score_kind = finder.score_kind  # type: ignore[attr-defined]
    return ask
