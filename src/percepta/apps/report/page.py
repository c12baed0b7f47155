"""The frame of a report, and the parts it is made of: cards, rows of hits, rows of layers, tables.

Order of this file: the page, parts, small helpers. All text from outside is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from percepta.apps.report.pictures import data_uri
from percepta.apps.report.style import CSS
from percepta.results import Failure, Hit, Labels
from percepta.results.hits import LIKELY
from percepta.tasks.encoder import real_model

SHOWN_FAILURES = 200


class Page:
    """A report that grows by sections and is written once.

    Args:
        title: what was asked, in one line.
        lead: what was found, in a sentence or two.
        notice: what a reader must know before believing it; "" for none.
    """

    def __init__(self, title: str, lead: str = "", notice: str = "") -> None:
        self.title, self.lead, self.notice = title, lead, notice
        self._sections: list[str] = []
        self.script = ""

    def section(self, title: str, text: str, *parts: str) -> None:
        """Add a section; `parts` are HTML from the functions below."""
        about = f"<p>{escape(text)}</p>" if text else ""
        self._sections.append(f"<section><h2>{escape(title)}</h2>{about}{''.join(parts)}</section>")

    def failures(self, failures: Sequence[Failure]) -> None:
        """Add the inputs that could not be used, if there are any."""
        if not failures:
            return
        items = "".join(f"<li>{escape(failure.reason)}</li>" for failure in failures[:SHOWN_FAILURES])
        more = f"<li>... and {len(failures) - SHOWN_FAILURES} more.</li>" if len(failures) > SHOWN_FAILURES else ""
        count = f"{len(failures)} input{'s' if len(failures) > 1 else ''} could not be used"
        self.section(count, "The others were.", f'<ul class="failures">{items}{more}</ul>')

    def model(self, name: str) -> None:
        """Add the card of the model with its limits."""
        self.section("The model", "", table(card_rows(name)))

    def render(self) -> str:
        """The whole page."""
        from percepta import __version__

        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        notice = f'<p class="notice">{escape(self.notice)}</p>' if self.notice else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{CSS}</style></head><body>"
            f'<header><div class="kicker">Percepta report</div><h1>{escape(self.title)}</h1>{lead}{notice}</header>'
            f"<main>{''.join(self._sections)}</main>"
            f"{f'<script>{self.script}</script>' if self.script else ''}"
            f"<footer>Made by percepta {__version__} on this machine. This file holds all it shows; it fetches nothing."
            "</footer></body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page; it appears when it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.render(), encoding="utf-8")
        partial.replace(path)
        return path


def escape(text: object) -> str:
    """Text for HTML; control characters and undecodable bytes are shown as codes."""
    plain = "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in str(text))
    return html.escape(plain.encode("utf-8", "backslashreplace").decode("utf-8"))


def image(picture: Image.Image, alt: str, badge: str = "", lossless: bool = False) -> str:
    """A picture in its frame."""
    mark = f'<span class="badge">{escape(badge)}</span>' if badge else ""
    return (
        f'<div class="shot"><img src="{data_uri(picture, lossless)}" {_size(picture)} alt="{escape(alt)}">{mark}</div>'
    )


def label_card(
    picture: Image.Image, labels: Labels, badge: str = "", count: int = 3, truth: tuple[bool, str] | None = None
) -> str:
    """A picture with its best labels as bars; `truth` says whether they are right, and in what words."""
    best = list(labels)[:count]
    bars = "".join(
        f"<li><span>{escape(name)}</span><b>{_per_cent(score)}</b>"
        f'<div class="bar"><i style="width:{100 * max(0.0, min(1.0, score)):.1f}%"></i></div></li>'
        for name, score in best
    )
    told = "" if truth is None else f'<div class="{"tick" if truth[0] else "cross"}">{escape(truth[1])}</div>'
    return (
        f'<figure class="card">{image(picture, labels.source, badge)}<figcaption>'
        f'<div class="top">{escape(best[0][0])}</div><div class="name">{escape(short(labels.source))}</div>'
        f'<ul class="bars">{bars}</ul>{told}</figcaption></figure>'
    )


def hit_figure(picture: Image.Image, caption: str, score: float | None = None, badge: str = "", mark: str = "") -> str:
    """One hit: picture, score, name; a `mark` rings it."""
    shown = "" if score is None else f'<span class="score">{score:.2f}</span> '
    tick = f'<div class="mark">✓ {escape(mark)}</div>' if mark else ""
    kind = "hit right" if mark else "hit" if score is not None else "hit query-picture"
    return (
        f'<figure class="{kind}">{image(picture, caption, badge)}'
        f"<figcaption>{shown}{escape(short(caption))}{tick}</figcaption></figure>"
    )


def found_figure(
    picture: Image.Image, hit: Hit, strip: Image.Image | None = None, badge: str = "", mark: str = ""
) -> str:
    """One hit of a search: picture, probability or score, name, and of a moment its interval and a row of frames.

    A `mark` rings it as right. The slider of the page hides it by its `data-sure`.
    """
    sure = hit.score if hit.probability is None else hit.probability
    shown = f"{hit.score:.2f}" if hit.probability is None else _per_cent(hit.probability)
    likely = "hit likely" if hit.probability is not None and hit.probability >= LIKELY else "hit"
    kind = "hit right" if mark else likely
    tick = f'<div class="mark">✓ {escape(mark)}</div>' if mark else ""
    row = (
        ""
        if strip is None
        else f'<img class="strip" src="{data_uri(strip)}" {_size(strip)} alt="frames of the moment">'
    )
    place = f'<div class="moment">{escape(hit.moment)}</div>' if hit.moment else ""
    return (
        f'<figure class="{kind}" data-sure="{sure:.4f}">{image(picture, hit.source, badge)}{row}'
        f'<figcaption><span class="score">{shown}</span> {escape(short(hit.source))}{place}{tick}</figcaption></figure>'
    )


def slider(title: str, low: float, high: float, value: float, per_cent: bool) -> str:
    """A slider that hides every figure of the page that is less sure, and says how many are left."""
    unit = "%" if per_cent else ""
    scale, step = (100, 1) if per_cent else (1, 0.005)
    return (
        f'<div class="slider"><label for="least">{escape(title)}</label>'
        f'<input type="range" id="least" min="{low * scale:.3g}" max="{high * scale:.3g}" step="{step}" '
        f'value="{value * scale:.3g}" data-scale="{scale}" data-unit="{unit}"><output id="shown"></output></div>'
    )


SLIDER_SCRIPT = """
const least = document.getElementById("least"), shown = document.getElementById("shown");
function show() {
  const figures = [...document.querySelectorAll("[data-sure]")], bound = least.value / least.dataset.scale;
  for (const figure of figures) figure.hidden = Number(figure.dataset.sure) < bound - 1e-9;
  const left = figures.filter(figure => !figure.hidden).length;
  shown.textContent = `${least.value}${least.dataset.unit}: ${left} of ${figures.length} shown`;
}
least.addEventListener("input", show);
show();
"""


def hits_row(query: str, hits: Iterable[str], label: str, query_picture: str = "") -> str:
    """A query in large type, or as a picture, and its hits from left to right."""
    found = f'<div class="hits">{"".join(hits)}</div>'
    head = f'<div class="label">{escape(label)}</div><div class="query">{escape(query)}</div>'
    body = f'<div class="asked">{query_picture}{found}</div>' if query_picture else found
    return f'<div class="row">{head}{body}</div>'


def layers_row(title: str, figures: Iterable[str]) -> str:
    """An input beside the pictures of its layers."""
    head = f'<div class="label">{escape(title)}</div>'
    return f'<div class="row">{head}<div class="layers" style="margin-top:10px">{"".join(figures)}</div></div>'


def layer_figure(picture: Image.Image, caption: str, lossless: bool = False) -> str:
    """One picture of such a row."""
    return (
        f'<figure class="hit">{image(picture, caption, lossless=lossless)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def grid(cards: Iterable[str]) -> str:
    """Cards side by side."""
    return f'<div class="grid">{"".join(cards)}</div>'


def chips(words: Sequence[str], most: int = 80) -> str:
    """Words as small plates."""
    more = [f"and {len(words) - most} more"] if len(words) > most else []
    plates = "".join(f'<span class="chip">{escape(word)}</span>' for word in [*words[:most], *more])
    return f'<div class="chips">{plates}</div>'


def pairs(entries: Mapping[str, str]) -> str:
    """Terms and what they are; values are HTML."""
    return f'<dl class="pair">{"".join(f"<dt>{escape(k)}</dt><dd>{v}</dd>" for k, v in entries.items())}</dl>'


def counts(entries: Mapping[str, int], most: int = 12) -> str:
    """How many inputs have each label, as bars."""
    largest = max(entries.values(), default=1)
    rows = sorted(entries.items(), key=lambda entry: -entry[1])[:most]
    bars = "".join(
        f'<span>{escape(name)}</span><div class="bar"><i style="width:{100 * number / largest:.1f}%"></i></div>'
        f"<span>{number}</span>"
        for name, number in rows
    )
    return f'<div class="counts">{bars}</div>'


def table(rows: Mapping[str, str]) -> str:
    """Two columns."""
    lines = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows.items() if value)
    return f"<table>{lines}</table>"


def card_rows(name: str) -> dict[str, str]:
    """What the model's card says, or only its name where there is no card."""
    from percepta.catalog import describe
    from percepta.errors import UnknownModel

    try:
        card = describe(name)
    except UnknownModel:
        return {"name": name}
    size = f"{card.parameters / 1e6:,.1f} M parameters" if card.parameters else ""
    scores = "; ".join(f"{key} {value}" for key, value in card.scores.items())
    limits = card.limits or "Scores are not calibrated: a high one is no proof. The paper says what it was tested on."
    rows = {"name": card.name, "what": card.summary, "size": size, "inputs": card.inputs, "trained on": card.trained_on}
    return rows | {"scores": scores, "limits": limits, "licence": card.licence, "paper": card.paper}


def toy_notice(name: str) -> str:
    """For pages made with a nano model: what to pass for real pictures."""
    if not name.endswith("-nano"):
        return ""
    return (
        f"{name} is a toy that fits on a laptop, trained on small pictures, most of them generated: do not trust it "
        f"with real ones. For those pass --model {real_model(name)}."
    )


def short(name: str) -> str:
    """The last part of a path."""
    return Path(name).name or name


def plural(number: int, word: str) -> str:
    """Such as "1 picture" and "3 pictures"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _size(picture: Image.Image) -> str:
    return f'width="{picture.width}" height="{picture.height}"'


def _per_cent(score: Any) -> str:
    return "<1 %" if 0 < score < 0.005 else f"{100 * score:.0f} %"
