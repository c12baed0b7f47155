"""300 broken files: no crash, no connection, no handle left open, and every file is named."""

from __future__ import annotations

import os
import socket
import warnings
from collections import Counter
from pathlib import Path

import pytest

from percepta.errors import BadMedia
from percepta.media import Preprocess, VideoReader, collect, write_video
from percepta.results import Failure
from tests.media import broken
from tests.media.clips import arrays


def outcome(source: object, prepare: Preprocess) -> str | Failure:
    """ "picture", "video", or the failure of one source."""
    if isinstance(source, Failure):
        return source
    try:
        if source.kind == "picture":  # type: ignore[attr-defined]
            assert prepare(source.thing).shape == (3, 16, 16)  # type: ignore[attr-defined]
        else:
            assert prepare.video(source.thing, count=3).shape == (3, 3, 16, 16)  # type: ignore[attr-defined]
    except BadMedia as error:
        return Failure(source.name, str(error))  # type: ignore[attr-defined]
    return source.kind  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media") / "corpus"


def test_every_file_is_read_or_named(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = broken.build(corpus)
    assert len(files) == broken.COUNT

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    prepare, seen, kinds = Preprocess(16), [], Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for source in collect(corpus):
            result = outcome(source, prepare)
            seen.append(Path(source.source if isinstance(source, Failure) else source.name))
            kinds[result if isinstance(result, str) else "failure"] += 1
            if isinstance(result, Failure):
                check_sentence(result)
    assert sorted(seen) == files
    assert kinds["failure"] > 150  # most of them really are broken
    assert kinds["picture"] > 20  # and the others are really read
    assert kinds["video"] > 20
    if handles is not None:
        assert len(os.listdir("/proc/self/fd")) <= handles


def check_sentence(failure: Failure) -> None:
    text = failure.reason
    assert text.endswith(".")
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 600
    assert repr(Path(failure.source).name)[1:-1] in text


def test_the_corpus_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = broken.build(tmp_path / "first"), broken.build(tmp_path / "second")
    assert [path.name for path in first] == [path.name for path in second]
    pictures = [(a, b) for a, b in zip(first, second, strict=True) if a.is_file() and a.suffix in (".png", ".jpeg")]
    assert all(a.read_bytes() == b.read_bytes() for a, b in pictures)


def test_every_cut_of_a_video(tmp_path: Path) -> None:
    """A file cut anywhere is either refused or read to its end."""

    data = write_video(tmp_path / "whole.mp4", arrays(12), 25).read_bytes()
    counts = []
    for share in range(5, 101, 5):
        (tmp_path / "cut.mp4").write_bytes(data[: len(data) * share // 100])
        try:
            with VideoReader(tmp_path / "cut.mp4") as reader:
                assert len(reader.read(range(reader.frames))) == reader.frames
                assert not reader.damaged
                counts.append(reader.frames)
        except BadMedia:
            counts.append(0)
    assert counts == sorted(counts)
    assert counts[-1] == 12
    assert len(set(counts)) > 3
