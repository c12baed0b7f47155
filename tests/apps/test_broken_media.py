"""300 broken files through the verbs: no crash, every file either done or named, exit code 1."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from percepta.apps.report.page import SHOWN_FAILURES
from tests.media import broken


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "broken"
    assert len(broken.build(folder)) == 300
    return folder


@pytest.mark.filterwarnings("ignore")
def test_every_broken_file_is_done_or_named(percepta: Any, corpus: Path) -> None:
    paths = [Path(top) / name for top, _, names in os.walk(corpus) for name in names]
    names = [str(path) for path in paths]
    done = percepta("classify", *names, "--labels", "a cat,a dog", "--json")
    assert done.code == 1
    results = {json.loads(line)["source"] for line in done.lines}
    sentences = [line for line in done.err.splitlines() if line.startswith("percepta: ")]
    assert f"percepta: {len(names) - len(results)} inputs could not be used." in sentences
    assert "Traceback" not in done.err
    named = "\n".join(sentences)
    for name in set(names) - results:
        # a name with odd characters is shown with escapes, so its plain parts are looked for
        assert repr(os.path.basename(name))[1:-1] in named or repr(name)[1:-1] in named


NO_MEDIA = "is no picture or video that can be read here."
NO_STREAM = "holds no video stream."
LARGE = (
    "is absurdly large: it has more than 178,956,970 pixels, the limit against decompression bombs; "
    "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
)
GOOD = "a result"
# What the bytes of a file alone decide: by the start of its name, what is said of it. The first that fits counts.
CERTAIN = (
    *((f"really_{kind}", GOOD) for kind in ("jpeg", "png", "gif", "webp", "tiff", "bmp", "mp4", "webm", "avi")),
    *((name, GOOD) for name in ("-dash.bmp", "Größe", "[x]*", "a:b", "tab\there")),
    ("empty", "is empty (zero bytes)."),
    *((name, LARGE) for name in ("bomb.png", "bomb.bmp", "wide.png")),
    ("bomb.gif", "is damaged: it starts like a GIF picture but cannot be read as one."),
    ("palette.png", "is damaged: it cannot be converted (palette index out of range)."),
    ("itself.jpg", "cannot be opened: Too many levels of symbolic links."),
    ("nowhere.png", "does not exist."),
    *((name, NO_MEDIA) for name in ("essay", "page", "drawing", "list", "concat", "script", "archive", "song", "prog")),
    *((f"cut_0.002.{ending}", NO_MEDIA) for ending in ("gif", "jpeg", "png", "webp")),
    *((f"noise_{number}.", (NO_MEDIA, None, NO_STREAM)[number % 3]) for number in range(60)),
)
# A share of an MP4 is not certain: how long it is depends on the processor that encoded it.
# Of the others libraries say what is wrong, and some of them a library can read; but how the sentence begins is ours.
DAMAGED = (
    "is damaged: ", NO_STREAM, "holds a video stream that no decoder here can read.", "holds frames (", NO_MEDIA,
    "is absurdly large: ",
)  # fmt: skip
# No library can read these: a picture of which at least a thirtieth is missing, or noise behind the head of a picture.
CERTAINLY_DAMAGED = re.compile(
    r"cut_0\.(?!97|99).*\.(jpeg|png|gif|webp|tiff|bmp)|noise_.*|magic_.*|cut\.jpeg|two words.*"
)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_them_says_what_is_wrong_with_each(percepta: Any, corpus: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    done = percepta("classify", corpus, "--labels", "a cat,a dog", "--json", "--report", page)
    assert done.code == 1
    outcomes = {json.loads(line)["source"]: GOOD for line in done.lines}
    names = [os.path.join(top, name) for top, _, names in os.walk(corpus) for name in names]
    said = [line.removeprefix("percepta: ") for line in done.err.splitlines()]
    for name in names:
        sentences = [line.removeprefix(f"{name!r} ") for line in said if line.startswith(f"{name!r} ")]
        assert len(sentences) == (name not in outcomes), name
        if sentences:
            outcomes[name] = sentences[0]
    assert len(outcomes) == len(names) == 300
    told = 0
    for path, outcome in outcomes.items():
        name = os.path.basename(path)
        expected = next((words for start, words in CERTAIN if name.startswith(start)), None)
        told += expected is not None
        assert outcome == expected or (expected is None and outcome.startswith((GOOD, *DAMAGED))), (name, outcome)
        assert outcome != GOOD or not CERTAINLY_DAMAGED.fullmatch(name), name
    assert told > 70
    text = html.unescape(page.read_text(encoding="utf-8"))
    failed = [f"{path!r} {outcome}" for path, outcome in outcomes.items() if outcome != GOOD]
    assert sum(f"<li>{sentence}</li>" in text for sentence in failed) == SHOWN_FAILURES
    assert f"... and {len(failed) - SHOWN_FAILURES} more." in text
