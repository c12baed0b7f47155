"""The demonstration: pictures and videos are made, indexed, searched, labelled, looked into, cut out, followed, asked
about, and shown on one page.

Order of this file: the run, the media, one function a section of the page.
Unusual: all scenes come from seeds that no training uses, none is picked by hand, and what is wrong stays on the page.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from percepta.apps import demo_answers, demo_objects
from percepta.apps.cli.common import Settings, progress, say
from percepta.apps.report import Page
from percepta.apps.report.page import (
    chips,
    found_figure,
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
from percepta.apps.report.pictures import layer_picture, moment_pictures, small
from percepta.datasets import scenes
from percepta.errors import BadInput, how_to_install
from percepta.media import Source, collect, open_picture, thumbnail, write_video
from percepta.results import Hit
from percepta.results.hits import clock
from percepta.tasks.classify import classify
from percepta.tasks.encoder import Encoder
from percepta.tasks.features import features
from percepta.tasks.indexing import Index, index
from percepta.tasks.search import search

SIDE, SCENES, CLIPS, FRAMES, RATE = 256, 24, 8, 24, 12
ABSENT, SHOTS = 6, 4  # captions of scenes that are not there; clips that are joined into one film
FILM = "film.mp4"
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
    """The media of the demonstration: by file name, the things in each scene, and captions of scenes and clips.

    `shots` are the captions of the parts of the film, in order, `absent` captions of scenes that were not made.
    """

    folder: Path
    things: dict[str, tuple[str, ...]]
    captions: dict[str, str]
    shots: tuple[str, ...]
    absent: tuple[str, ...]
    photographs: tuple[Path, ...]

    def path(self, name: str) -> Path:
        """The file of a scene or a clip."""
        return self.folder / "media" / ("clips" if name.endswith(".mp4") else "scenes") / name


def run(folder: Path, settings: Settings, overwrite: bool = False) -> str:
    """Run the demonstration in a folder; returns the last words, with the path of the report.

    Raises: BadInput where a report is there already; MissingWeights, UnknownModel.
    """
    report = folder / "report.html"
    if report.exists() and not overwrite:
        raise BadInput(f"{str(report)!r} exists; pass --overwrite to make it again, or -o DIR.")
    encoder = Encoder(settings.load())
    encoder.need_words("the demo")
    say(f"1/8 making {SCENES} pictures, {CLIPS} clips and a film in {folder}")
    made = make_media(folder)
    page = Page("Can pictures be found and labelled by words alone?", "", toy_notice(encoder.name))
    say("2/8 indexing")
    found = index(made.folder / "media", folder / "media.index", encoder, overwrite=True, progress=progress("index"))
    say("3/8 searching by words, also for what is not there and for a moment")
    first = _search_words(page, found, made)
    empty = _search_absent(page, found, made)
    overlap = _search_moment(page, found, made)
    say("4/8 searching by picture")
    _search_pictures(page, found, made)
    say("5/8 labelling")
    right = _label_scenes(page, encoder, made)
    _label_photographs(page, encoder, made)
    say("6/8 looking into the layers")
    _show_layers(page, encoder, made)
    say("7/8 pointing at things and following them")
    pointed = " " + demo_objects.point_and_follow(page, folder)
    say("8/8 asking about pictures and clips")
    answered = " " + demo_answers.answer_questions(page, folder)
    page.failures(list(found.failures))
    page.model(encoder.name)
    total = len(made.captions)
    page.lead = (
        f"Asked of {plural(SCENES, 'generated picture')}, {plural(CLIPS, 'clip')}, a film and "
        f"{plural(len(made.photographs), 'photograph')}: which picture fits these words, what is like this picture, "
        f"and which label fits. For {first} of {total} captions the first hit is the picture or clip it was written "
        f"for. Of {len(made.absent)} captions of what is not there, {empty} got no likely hit. The moment of the film "
        f"was found with an overlap of {100 * overlap:.0f} %, and {right} of {SCENES} scenes got a right label out of "
        f"64.{pointed}{answered} All were made from seeds that no training uses."
    )
    path = page.write(report).resolve()
    toy = toy_notice(encoder.name)
    return f"{page.lead}\n{toy + chr(10) if toy else ''}Report: {path}"


def make_media(folder: Path) -> Made:
    """Write scenes, clips and photographs under `folder`."""
    config = scenes.SceneConfig(SIDE)
    things: dict[str, tuple[str, ...]] = {}
    captions: dict[str, str] = {}
    media = folder / "media"
    for part in (media / "scenes", media / "clips", media / "photographs", folder / "queries"):
        part.mkdir(parents=True, exist_ok=True)
    with progress("make") as bar:
        bar.start(SCENES + CLIPS)
        seeds = scenes.distinct_scenes(count=SCENES + ABSENT, config=config).tolist()
        for number, seed in enumerate(seeds[:SCENES], start=1):
            scene = scenes.make_scene(seed, config)
            name = f"scene-{number:02d}.png"
            Image.fromarray(scene.picture).save(media / "scenes" / name)
            things[name] = tuple(f"{thing.colour} {thing.shape}" for thing in scene.objects)
            captions[name] = scene.caption
            bar.advance()
        absent = tuple(scenes.make_scene(seed, config).caption for seed in seeds[SCENES:])
        clips = [
            scenes.make_clip(seed, config, FRAMES)
            for seed in scenes.distinct_clips(count=CLIPS + SHOTS, config=config).tolist()
        ]
        for number, clip in enumerate(clips[:CLIPS], start=1):
            name = f"clip-{number:02d}.mp4"
            write_video(media / "clips" / name, clip.frames, RATE)
            captions[name] = clip.content_caption
            bar.advance()
        write_video(media / "clips" / FILM, np.concatenate([clip.frames for clip in clips[CLIPS:]]), RATE)
    shots = tuple(clip.content_caption for clip in clips[CLIPS:])
    return Made(folder, things, captions, shots, absent, _copy_photographs(media / "photographs"))


def _copy_photographs(folder: Path) -> tuple[Path, ...]:
    """The photographs that scikit-image's wheel ships; none where it is not installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        say(f"photographs are left out; for them: {how_to_install('scikit-image', 'demo')}")
        return ()
    data = Path(package.origin).with_name("data")
    found = [data / name for name in PHOTOGRAPHS if (data / name).is_file()]
    return tuple(Path(shutil.copyfile(file, folder / file.name)) for file in found)


def _label_scenes(page: Page, encoder: Encoder, made: Made) -> int:
    """Scenes among all 64 pairs of colour and shape; returns how many are right."""
    names = scenes.scene_classes()
    cards, right = [], 0
    chance = sum(len(made.things[name]) for name in made.things) / len(made.things) / len(names)
    stream = classify(made.folder / "media" / "scenes", names, encoder.model).watched(progress("classify"))
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


def _search_words(page: Page, found: Index, made: Made) -> int:
    """Captions as queries over everything; returns for how many the first hit is right."""
    first, rows = 0, []
    shown = ("scene-01.png", "scene-02.png", "scene-03.png", "clip-01.mp4", "clip-02.mp4")
    for name, caption in made.captions.items():
        hits = search(found, caption, limit=6)
        good = Path(hits[0].source).name == name
        first += good
        if name not in shown:
            continue
        right = "these words were written for it"
        rows.append(
            hits_row(f"“{caption}”", [_figure(hit, name, right) for hit in hits], f"words looked for: {hits.answer}")
        )
    page.section(
        f"Search by words: {first} of {len(made.captions)} right at first",
        f"Every caption was looked for among all {len(found)} pictures and moments; the first of them, for three "
        f"scenes and two clips, are shown. Best hits are on the left. {_number(found)} A green ring marks the picture "
        "the words were written for.",
        *rows,
    )
    return first


def _search_absent(page: Page, found: Index, made: Made) -> int:
    """Captions of scenes that were not made; returns for how many nothing is called likely."""
    answers = [search(found, caption, limit=3) for caption in made.absent]
    empty = sum(not hits.likely_count for hits in answers)
    rows = [
        hits_row(f"“{hits.query}”", [_figure(hit) for hit in hits], f"words looked for: {hits.answer}")
        for hits in answers[:2]
    ]
    page.section(
        f"Nothing here: said of {empty} of {len(answers)}",
        "Captions of scenes that are not among the pictures. A search that only ranks would show its best hits as if "
        f"they were answers; here they are with what they are worth, for the first two. {_number(found)}",
        *rows,
    )
    return empty


def _search_moment(page: Page, found: Index, made: Made) -> float:
    """One shot of the film by its caption; returns how well the interval overlaps."""
    shot, seconds = SHOTS // 2, FRAMES / RATE
    start, end = shot * seconds, (shot + 1) * seconds
    hits = search(found, made.shots[shot], limit=4)
    best = next((hit for hit in hits if Path(hit.source).name == FILM and hit.start is not None), None)
    overlap = 0.0
    if best is not None and best.start is not None and best.end is not None:
        shared = min(best.end, end) - max(best.start, start)
        overlap = max(0.0, shared) / (max(best.end, end) - min(best.start, start))
    page.section(
        f"A moment of a film: found with {100 * overlap:.0f} % overlap",
        f"Each video is cut where its picture changes. {FILM} has {SHOTS} shots; the words are true of the one from "
        f"{clock(start)} to {clock(end)}.",
        hits_row(f"“{made.shots[shot]}”", [_figure(hit) for hit in hits], f"words looked for: {hits.answer}"),
    )
    return overlap


def _figure(hit: Hit, right: str = "", mark: str = "") -> str:
    """A hit with its picture; `mark` where its file is the right one."""
    told = mark if Path(hit.source).name == right else ""
    if hit.start is None or hit.end is None:
        return found_figure(small(Path(hit.source))[0], hit, mark=told)
    middle, strip = moment_pictures(Path(hit.source), hit.start, hit.end)
    return found_figure(middle, hit, strip, f"▶ {hit.end - hit.start:.1f} s", told)


def _number(found: Index) -> str:
    if search(found, "anything", limit=1).likely_count is None:
        return "The number is a cosine: it orders the hits of one query and is no probability."
    return "The number is the probability that the hit shows what was asked for."


def _search_pictures(page: Page, found: Index, made: Made) -> None:
    rows = []
    for query, origin, words in _queries(made):
        figures = [_figure(hit, origin, "where the query came from") for hit in search(found, query, limit=5)]
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
