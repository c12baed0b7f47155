"""Reports: self-contained, nothing fetched, every picture there and upright, text from outside escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.apps.report.page import SLIDER_SCRIPT, Page, chips, escape, found_figure, slider
from percepta.apps.report.pictures import moment_pictures
from percepta.results import Failure, Hit
from tests.tasks import nano

VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Pictures, visible text and the balance of tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[Image.Image] = []
        self.alts: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "action") and value]
        assert not any(key.startswith("on") for key in values)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            data = str(values["src"]).split("base64,")[1]
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            picture.load()
            assert picture.size == (int(str(values["width"])), int(str(values["height"])))
            self.pictures.append(picture)
            self.alts.append(str(values["alt"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def read(path: Path) -> Reader:
    """Parse a report and check that it fetches nothing, and runs nothing but the slider."""
    content = path.read_text(encoding="utf-8").replace(f"<script>{SLIDER_SCRIPT}</script>", "")
    reader = Reader()
    reader.feed(content)
    assert reader.open == []
    assert all(address.startswith("data:") for address in reader.addresses)
    assert not re.search(r"https?://|@import|url\(|<script", content)
    return reader


def words(reader: Reader) -> str:
    return " ".join(" ".join(reader.text).split())


def test_labels_report_says_what_was_asked_and_found(percepta: Any, media: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    report = tmp_path / "report.html"
    done = percepta("classify", media, tmp_path / "empty.jpg", "--labels", "a <b>cat</b>,a dog", "--report", report)
    assert done.code == 1
    reader = read(report)
    text = words(reader)
    assert "“a <b>cat</b>” or “a dog”?" in text  # escaped: seen as text, not as a tag
    assert "6 inputs labelled" in text
    assert "probability (softmax over 2 labels, not calibrated)" in text
    assert "1 input could not be used" in text
    assert "empty.jpg" in text
    assert "is a toy" in text
    assert "Apache-2.0" in text
    assert len(reader.pictures) == 6


def test_thumbnails_are_upright(percepta: Any, tmp_path: Path) -> None:
    array = np.zeros((40, 80, 3), dtype=np.uint8)
    array[:, :40] = (250, 20, 20)  # the left half is red; turned by 90 degrees to the right, the top half is
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    percepta("classify", tmp_path / "turned.jpg", "--labels", "a cat", "--report", tmp_path / "r.html")
    (picture,) = read(tmp_path / "r.html").pictures
    assert picture.size == (40, 80)
    seen = np.asarray(picture.convert("RGB"), dtype=int)
    assert seen[:36, :, 0].mean() > 200
    assert seen[44:, :, 0].mean() < 40


def test_search_report_shows_the_query_and_its_hits(percepta: Any, media: Path, tmp_path: Path) -> None:
    percepta("search", media, "a red square", "--limit", 3, "--report", tmp_path / "words.html")
    reader = read(tmp_path / "words.html")
    assert "Where is “a red square”?" in words(reader)
    assert "Searched: 6 pictures and moments of videos" in words(reader)
    assert len([alt for alt in reader.alts if alt != "frames of the moment"]) == 3
    percepta("search", media, "--picture", media / "red.png", "--limit", 3, "--report", tmp_path / "picture.html")
    reader = read(tmp_path / "picture.html")
    assert "What is like red.png?" in words(reader)
    assert len([alt for alt in reader.alts if alt != "frames of the moment"]) == 4
    assert reader.alts[1].endswith("red.png")


def test_layers_report_has_the_picture_beside_its_layers(percepta: Any, media: Path, tmp_path: Path) -> None:
    percepta("features", media / "red.png", media / "moving.mp4", "--layers", "0,-1", "--report", tmp_path / "r.html")
    reader = read(tmp_path / "r.html")
    assert reader.alts == ["the picture", "layer 0", "layer 5"] * 2
    assert "layers 0, 5 of 0 to 5" in words(reader)


def test_a_report_is_not_overwritten(percepta: Any, media: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    report.write_text("mine")
    done = percepta("classify", media, "--labels", "a", "--report", report)
    assert done.code == 2
    assert report.read_text() == "mine"


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>\n\x1b[31m\udcff\"'&"
    page = Page(nasty, nasty, nasty)
    page.section(nasty, nasty, chips([nasty]))
    page.failures([Failure(nasty, nasty)])
    content = page.write(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img" not in content
    assert "\x1b" not in content
    read(tmp_path / "r.html")
    assert escape("\udcff") == "\\udcff"


def test_many_failures_are_counted_not_listed(tmp_path: Path) -> None:
    page = Page("t")
    page.failures([Failure(str(number), f"file {number} is broken") for number in range(1000)])
    text = words(read(page.write(tmp_path / "r.html")))
    assert "1000 inputs could not be used" in text
    assert "and 800 more" in text


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16"])
def test_every_kind_of_picture_gets_a_thumbnail(percepta: Any, tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("picture.tif" if mode in ("CMYK", "I;16") else "picture.png")
    Image.new(mode, (30, 20), 0 if mode in ("P", "L", "I;16") else (0, 0, 0, 0)).save(name)
    percepta("classify", name, "--labels", "a cat", "--report", tmp_path / "r.html")
    (picture,) = read(tmp_path / "r.html").pictures
    assert picture.mode == "RGB"


def test_a_video_says_how_long_it_is(percepta: Any, tmp_path: Path) -> None:
    nano.clip(tmp_path / "clip.mp4", 20)
    percepta("classify", tmp_path / "clip.mp4", "--labels", "a cat", "--report", tmp_path / "r.html")
    assert "▶ 2.0 s" in words(read(tmp_path / "r.html"))


def test_hits_of_a_search_show_how_sure_they_are_and_can_be_hidden(tmp_path: Path) -> None:
    clip = nano.clip(tmp_path / "moving.mp4")
    middle, strip = moment_pictures(clip, 0.0, 0.2)
    assert strip.width > 3 * strip.height / 2
    likely = found_figure(middle, Hit("moving.mp4", 0.4, 0.83, 41.0, 47.5), strip, "▶")
    unlikely = found_figure(middle, Hit("a <b>.jpg", 0.2, 0.04))
    page = Page("Where?")
    page.script = SLIDER_SCRIPT
    page.section("Found", "", slider("at least", 0, 1, 0.1, True), likely, unlikely)
    reader = read(page.write(tmp_path / "page.html"))
    text = words(reader)
    assert "83 %" in text
    assert "00:41-00:48" in text
    assert "a <b>.jpg" in text
    assert 'data-sure="0.8300"' in likely
    assert 'class="hit likely"' in likely
    assert 'class="hit"' in unlikely
    assert len(reader.pictures) == 3
    assert "4 %" in text
    assert 'max="100"' in page.render()
