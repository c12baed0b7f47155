"""The demonstration: pictures and clips are made, labelled, searched, looked into, and shown on one page.

Order of this file: the run, the media, one function a section of the page.
Unusual: all scenes come from seeds that no training uses, none is picked by hand, and what is wrong stays on the page.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from percepta.apps.cli.common import Settings, progress, say
from percepta.apps.report import Page
from percepta.apps.report.page import (
    chips,
    grid,
    hit_figure,
    hits_row,
    label_card,
    layer_figure,
    layers_row,
    pairs,
    plural,
    toy_notice,
)
from percepta.apps.report.pages import LAYER_TEXT
from percepta.apps.report.pictures import layer_picture, small
from percepta.datasets import scenes
from percepta.errors import BadInput
from percepta.media import Source, collect, open_picture, thumbnail, write_video
from percepta.results import Failure
from percepta.tasks.classify import classify
from percepta.tasks.encoder import Encoder
from percepta.tasks.features import features
from percepta.tasks.search import PictureIndex, index, search

SIDE, SCENES, CLIPS, FRAMES, RATE = 256, 24, 8, 24, 12
PHOTOGRAPHS = {
    "chelsea.png": "cat",
    "motorcycle_left.png": "motorcycle",
    "rocket.jpg": "rocket",
    "astronaut.png": "astronaut",
    "coffee.png": "coffee",
    "hubble_deep_field.jpg": "galaxies",
}
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class Made:
    """The media of the demonstration: by file name, the things in each scene, and captions of scenes and clips."""

    folder: Path
    things: dict[str, tuple[str, ...]]
    captions: dict[str, str]
    photographs: tuple[Path, ...]

    def path(self, name: str) -> Path:
        """The file of a scene or a clip."""
        return self.folder / ("clips" if name.endswith(".mp4") else "scenes") / name


def run(folder: Path, settings: Settings, overwrite: bool = False) -> str:
    """Run the demonstration in a folder; returns the last words, with the path of the report.

    Raises: BadInput where a report is there already; MissingWeights, UnknownModel.
    """
    report = folder / "report.html"
    if report.exists() and not overwrite:
        raise BadInput(f"{str(report)!r} exists; pass --overwrite to make it again, or -o DIR.")
    encoder = Encoder(settings.load())
    encoder.need_words("the demo")
    say(f"1/5 making {SCENES} pictures and {CLIPS} clips in {folder}")
    made = make_media(folder)
    page = Page("Can pictures be found and labelled by words alone?", "", toy_notice(encoder.name))
    say("2/5 searching by words")
    found = index(_sources(made), encoder, progress=progress("index"))
    first = _search_words(page, found, made)
    say("3/5 searching by picture")
    _search_pictures(page, found, made)
    say("4/5 labelling")
    right = _label_scenes(page, encoder, made)
    _label_photographs(page, encoder, made)
    say("5/5 looking into the layers")
    _show_layers(page, encoder, made)
    page.failures(list(found.failures))
    page.model(encoder.name)
    total = len(made.captions)
    page.lead = (
        f"Asked of {plural(SCENES, 'generated picture')}, {plural(CLIPS, 'clip')} and "
        f"{plural(len(made.photographs), 'photograph')}: "
        f"which picture fits these words, what is like this picture, and "
        f"which label fits. Found: for {first} of {total} captions the first hit is the picture or clip it was written "
        f"for, and {right} of {SCENES} scenes got a right label out of 64. All were made from seeds that no "
        "training uses."
    )
    path = page.write(report).resolve()
    toy = toy_notice(encoder.name)
    return f"{page.lead}\n{toy + chr(10) if toy else ''}Report: {path}"


def make_media(folder: Path) -> Made:
    """Write scenes, clips and photographs under `folder`."""
    config = scenes.SceneConfig(SIDE)
    things: dict[str, tuple[str, ...]] = {}
    captions: dict[str, str] = {}
    for part in ("scenes", "clips", "photographs", "queries"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with progress("make") as bar:
        bar.start(SCENES + CLIPS)
        for number, seed in enumerate(scenes.distinct_scenes(count=SCENES, config=config).tolist(), start=1):
            scene = scenes.make_scene(seed, config)
            name = f"scene-{number:02d}.png"
            Image.fromarray(scene.picture).save(folder / "scenes" / name)
            things[name] = tuple(f"{thing.colour} {thing.shape}" for thing in scene.objects)
            captions[name] = scene.caption
            bar.advance()
        for number, seed in enumerate(scenes.distinct_clips(count=CLIPS, config=config).tolist(), start=1):
            clip = scenes.make_clip(seed, config, FRAMES)
            name = f"clip-{number:02d}.mp4"
            write_video(folder / "clips" / name, clip.frames, RATE)
            captions[name] = clip.content_caption
            bar.advance()
    return Made(folder, things, captions, _copy_photographs(folder / "photographs"))


def _copy_photographs(folder: Path) -> tuple[Path, ...]:
    """The photographs that scikit-image's wheel ships; none where it is not installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        say('photographs are left out; for them: pip install "percepta[demo]"')
        return ()
    data = Path(package.origin).with_name("data")
    found = [data / name for name in PHOTOGRAPHS if (data / name).is_file()]
    return tuple(Path(shutil.copyfile(file, folder / file.name)) for file in found)


def _sources(made: Made) -> list[Any]:
    return list(collect([made.folder / "scenes", made.folder / "clips", made.folder / "photographs"][: _parts(made)]))


def _parts(made: Made) -> int:
    return 3 if made.photographs else 2


def _label_scenes(page: Page, encoder: Encoder, made: Made) -> int:
    """Scenes among all 64 pairs of colour and shape; returns how many are right."""
    names = scenes.scene_classes()
    cards, right = [], 0
    chance = sum(len(made.things[name]) for name in made.things) / len(made.things) / len(names)
    stream = classify(made.folder / "scenes", names, encoder.model).watched(progress("classify"))
    for labels in stream:
        things = made.things[Path(labels.source).name]
        good = labels.top[0] in things
        right += good
        words = f"{'✓ right' if good else '✗ wrong'}; there: {', '.join(things)}"
        cards.append(label_card(thumbnail(labels.source), labels, truth=(good, words)))
    page.section(
        f"{right} of {SCENES} scenes labelled right",
        f"Asked: which of {len(names)} things (colour and shape) is in the picture? Guessing would be right in "
        f"{100 * chance:.0f} % of them. The bars are probabilities over the labels; the last line tells what is there.",
        pairs({"labels": chips(names, 16)}),
        grid(cards),
    )
    return right


def _label_photographs(page: Page, encoder: Encoder, made: Made) -> None:
    if not made.photographs:
        return
    cards = []
    for labels in classify(list(made.photographs), THINGS, encoder.model, none=True):
        name = Path(labels.source).name
        truth = PHOTOGRAPHS[name]
        if truth in THINGS:
            good = labels.top[0] == truth
            told = (good, f"{'✓ right' if good else '✗ wrong'}: it is a {truth}")
        else:
            good = labels.top[0] == "none of these"
            told = (good, f"{'✓' if good else '✗'} it shows {truth}, which is not among the labels")
        cards.append(label_card(thumbnail(labels.source, 320), labels, truth=told))
    toy = (
        " The toy model has seen photographs only as small as 32 pixels and of these ten things; on anything else it "
        "guesses, and its sureness means nothing."
        if encoder.name.endswith("-nano")
        else ""
    )
    page.section(
        "Photographs: ten labels, or none of these",
        f"Asked: which of ten everyday labels fits, or none of these?{toy}",
        pairs({"labels": chips([*THINGS, "none of these"])}),
        grid(cards),
    )


def _search_words(page: Page, found: PictureIndex, made: Made) -> int:
    """Captions as queries over everything; returns for how many the first hit is right."""
    places = _places(made)
    first, rows = 0, []
    shown = ("scene-01.png", "scene-02.png", "scene-03.png", "clip-01.mp4", "clip-02.mp4")
    for name, caption in made.captions.items():
        hits = search(found, caption, 6)
        good = Path(hits[0].source).name == name
        first += good
        if name not in shown:
            continue
        figures = []
        for hit in hits:
            picture, badge = small(places[hit.source])
            mark = "these words were written for it" if Path(hit.source).name == name else ""
            figures.append(hit_figure(picture, hit.source, hit.score, badge, mark))
        rows.append(hits_row(f"“{caption}”", figures, f"words looked for, in {len(found)} pictures and clips"))
    page.section(
        f"Search by words: {first} of {len(made.captions)} right at first",
        f"Every caption was looked for among all {len(found)} pictures and clips; the first of them, for "
        "three scenes and two clips, are shown. Best hits are on the left. The number is a cosine: it orders the "
        "hits of one query and is no probability. A green ring marks the picture the words were written for.",
        *rows,
    )
    return first


def _search_pictures(page: Page, found: PictureIndex, made: Made) -> None:
    places = _places(made)
    rows = []
    for query, origin, words in _queries(made):
        figures = []
        for hit in search(found, query, 5):
            picture, badge = small(places[hit.source])
            mark = "where the query came from" if Path(hit.source).name == origin else ""
            figures.append(hit_figure(picture, hit.source, hit.score, badge, mark))
        rows.append(hits_row(words, figures, "picture looked for", hit_figure(thumbnail(query), "the query")))
    page.section(
        "Search by picture",
        "The picture with the orange ring, on the left, is the query; it is not among those searched. A green "
        "ring marks the hit that it was made from.",
        *rows,
    )


def _queries(made: Made) -> list[tuple[Path, str, str]]:
    """Query pictures: file, the name of what it was made from, what it is in words."""
    from percepta.media import VideoReader

    folder = made.folder / "queries"
    with VideoReader(made.path("clip-03.mp4")) as reader:
        reader.read([reader.frames // 4])[0].save(folder / "one-frame.png")
    queries = [(folder / "one-frame.png", "clip-03.mp4", "One frame of a clip")]
    scene = open_picture(made.path("scene-05.png")).convert("RGB")
    edge = SIDE // 16
    cropped = scene.crop((edge, edge, SIDE - edge, SIDE - edge)).point(lambda value: round(value * 0.75))
    cropped.save(folder / "cropped-and-darkened.png")
    queries.append((folder / "cropped-and-darkened.png", "scene-05.png", "A scene, cropped and darkened"))
    cat = next((path for path in made.photographs if path.name == "chelsea.png"), None)
    if cat is not None:
        ImageOps.mirror(open_picture(cat).convert("RGB")).save(folder / "mirrored-cat.png")
        queries.append((folder / "mirrored-cat.png", "chelsea.png", "A cat, mirrored"))
    return queries


def _show_layers(page: Page, encoder: Encoder, made: Made) -> None:
    depth = encoder.model.config.depth
    layers = sorted({0, depth // 3, 2 * depth // 3, depth - 1})
    chosen = [made.path("scene-01.png"), made.path("scene-02.png")]
    chosen += [path for path in made.photographs if path.name in ("chelsea.png", "astronaut.png")]
    sources = {source.name: source for source in collect(chosen) if isinstance(source, Source)}
    rows: dict[str, list[str]] = {}
    side = max(SIDE, encoder.model.config.image_size)
    for result in features(chosen, layers, encoder.model, size=side):
        source = sources[result.source]
        figures = rows.setdefault(source.name, [layer_figure(small(source)[0], "the picture")])
        figures.append(layer_figure(layer_picture(result, source), f"layer {result.layer} of 0 to {depth - 1}", True))
    parts = [layers_row(Path(name).name, figures) for name, figures in rows.items()]
    page.section("What the layers see", LAYER_TEXT, *parts)


def _places(made: Made) -> dict[str, Source]:
    return {source.name: source for source in _sources(made) if not isinstance(source, Failure)}
