"""The pages of single verbs: labels, hits, layers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from percepta.apps.report.page import (
    SLIDER_SCRIPT,
    Page,
    chips,
    counts,
    found_figure,
    grid,
    hit_figure,
    hits_row,
    label_card,
    layer_figure,
    layers_row,
    pairs,
    plural,
    short,
    slider,
    toy_notice,
)
from percepta.apps.report.pictures import layer_picture, merge_picture, moment_pictures, small
from percepta.errors import BadInput, BadMedia
from percepta.media import Source
from percepta.media.groups import counted_groups
from percepta.results import Failure, FeatureMap, Hit, Hits, Labels
from percepta.results.hits import POSSIBLE, UNCALIBRATED

MOST = 400  # inputs shown on one page; the others are counted


class LabelPage:
    """The page of classify; add results as they come, then write."""

    def __init__(self, labels: list[str], model: Any, inputs: list[str]) -> None:
        self.labels, self.model, self.inputs = labels, model, inputs
        self._cards: list[str] = []
        self._found: Counter[str] = Counter()
        self._kind = ""

    def add(self, source: Source, labels: Labels) -> None:
        """One result."""
        self._found[labels.top[0]] += 1
        self._kind = labels.score_kind
        if len(self._cards) < MOST:
            picture, badge = small(source)
            self._cards.append(label_card(picture, labels, badge))

    def write(self, path: Path, failures: list[Failure]) -> Path:
        """Write the page."""
        total = sum(self._found.values())
        best = ", ".join(f"{name} ({number})" for name, number in self._found.most_common(3))
        page = Page(
            _question(self.labels),
            f"{plural(total, 'input')} labelled" + (f"; most often: {best}." if best else "."),
            toy_notice(self.model.name),
        )
        asked = {"asked": chips(self.labels), "of": chips(self.inputs, 12), "a score is a": chips([self._kind])}
        cut = f" The first {len(self._cards)} are shown." if total > len(self._cards) else ""
        page.section("What was found", f"Each picture with its best labels.{cut}", pairs(asked), counts(self._found))
        page.section("Picture by picture", "", grid(self._cards))
        page.failures(failures)
        page.model(self.model.name)
        return page.write(path)


class SearchPage:
    """The page of search; add one or more queries, then write.

    Args:
        model: name of the model.
        inputs: what was searched, in words.
        count: how many pictures and moments were searched.
        root: the folder of the index.
    """

    def __init__(self, model: str, inputs: list[str], count: int, root: Path) -> None:
        self.model, self.inputs, self.count, self.root = model, inputs, count, root
        self._rows: list[str] = []
        self._title = ""
        self._answers: list[str] = []
        self._sure: list[float] = []
        self._calibration = UNCALIBRATED

    def add(self, hits: Hits, picture: Path | None = None) -> None:
        """One query with its hits; `picture` is the query where it is one."""
        words = hits.query if picture is None else f"like {short(str(picture))}"
        self._title = self._title or (f"What is {words}?" if picture else f"Where is “{words}”?")
        self._answers.append(hits.answer)
        self._calibration = hits.calibration
        figures = []
        for hit in list(hits)[:MOST]:
            figures.append(self._figure(hit))
            self._sure.append(hit.score if hit.probability is None else hit.probability)
        query = hit_figure(_query_picture(picture), str(picture)) if picture is not None else ""
        label = "looked for what is like this picture" if picture is not None else "looked for"
        self._rows.append(hits_row(short(str(picture)) if picture else f"“{hits.query}”", figures, label, query))

    def write(self, path: Path, failures: list[Failure]) -> Path:
        """Write the page."""
        calibrated = self._calibration != UNCALIBRATED
        answers = "; ".join(answer[0].upper() + answer[1:] for answer in self._answers if answer != UNCALIBRATED)
        lead = f"{answers + '. ' if answers else ''}Searched: {plural(self.count, 'picture')} and moments of videos."
        page = Page(self._title, lead, toy_notice(self.model))
        text = CALIBRATED_TEXT.format(self._calibration) if calibrated else UNCALIBRATED_TEXT
        parts = [pairs({"searched": chips(self.inputs, 12)})]
        if self._sure:
            low, high = (0.0, 1.0) if calibrated else (min(self._sure), max(self._sure))
            parts.append(slider("show from", low, high, POSSIBLE if calibrated else low, calibrated))
            page.script = SLIDER_SCRIPT
        page.section("What was found", text, *parts, *self._rows)
        page.failures(failures)
        page.model(self.model)
        return page.write(path)

    def _figure(self, hit: Hit) -> str:
        place = Path(hit.source)
        try:
            if hit.start is not None and hit.end is not None:
                middle, strip = moment_pictures(place, hit.start, hit.end)
                return found_figure(middle, hit, strip, f"▶ {hit.end - hit.start:.1f} s")
            return found_figure(small(place)[0], hit)
        except (BadMedia, BadInput):  # gone or broken since it was indexed
            return found_figure(Image.new("RGB", (64, 64), (127, 127, 127)), hit, badge="not there any more")


CALIBRATED_TEXT = (
    "The number is the probability that a hit shows what was asked for; hits from 50 % are ringed. Fitted on {}; on "
    "pictures of another kind it may be off."
)
UNCALIBRATED_TEXT = "The number is a cosine: it orders the hits of one query, and is no probability."


class LayerPage:
    """The page of features; add maps as they come, then write."""

    def __init__(self, model: Any, layers: list[int], inputs: list[str]) -> None:
        self.model, self.layers, self.inputs = model, layers, inputs
        self._figures: dict[str, list[str]] = {}

    def add(self, source: Source, result: FeatureMap) -> None:
        """One map."""
        if source.name not in self._figures:
            if len(self._figures) >= MOST:
                return
            self._figures[source.name] = [layer_figure(small(source)[0], "the picture")]
        self._figures[source.name].append(layer_figure(layer_picture(result, source), f"layer {result.layer}", True))
        if result.groups is not None:
            caption = f"{counted_groups(result.groups)} groups"
            self._figures[source.name].append(layer_figure(merge_picture(result, source), caption, True))

    def write(self, path: Path, failures: list[Failure]) -> Path:
        """Write the page."""
        depth = self.model.config.depth
        page = Page(
            f"What do the layers of {self.model.name} see?",
            f"{plural(len(self._figures), 'picture')}; layers {', '.join(str(layer % depth) for layer in self.layers)} "
            f"of 0 to {depth - 1}.",
            toy_notice(self.model.name),
        )
        rows = [layers_row(short(name), figures) for name, figures in self._figures.items()]
        page.section("Like patches have like colours", LAYER_TEXT, *rows)
        page.failures(failures)
        page.model(self.model.name)
        return page.write(path)


LAYER_TEXT = (
    "Every patch of a picture becomes a vector; its three principal components are shown as a colour. Colours can be "
    "compared within one picture of one layer, not between them."
)


def _question(labels: list[str]) -> str:
    """What was asked, in a line: the labels themselves where they are few."""
    if not 2 <= len(labels) <= 5:
        return f"Which of {plural(len(labels), 'label')} fits each picture?"
    return f"{', '.join(f'“{label}”' for label in labels[:-1])} or “{labels[-1]}”?"


def _query_picture(path: Path) -> Image.Image:
    from percepta.media import collect

    source = next(collect(path))
    if isinstance(source, Failure):
        raise BadMedia(source.reason)
    return small(source)[0]
