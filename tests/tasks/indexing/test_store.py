"""The file of an index: what it keeps, how it fails, how an old one becomes new."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from percepta.errors import BadInput
from percepta.results import Failure
from percepta.tasks.indexing import schema
from percepta.tasks.indexing.schema import PAGE_BYTES, QUERY_TABLES, SCHEMA
from percepta.tasks.indexing.store import FileRow, Index, Maker, Part, packed

MAKER = Maker("some-model", "", "abcd", "{}", "{}", 4)


def part(*values: float, start: float | None = None, end: float | None = None) -> Part:
    vector = np.array(values, np.float32)
    return Part(vector / np.linalg.norm(vector), start, end)


def filled(path: Path | None, root: Path) -> Index:
    index = Index.create(path, root, MAKER)
    index.add(
        [
            (
                FileRow("clip.mp4", "video", 5, 6, b"c", 7.0),
                [part(0, 1, 0, 0, start=2, end=3), part(1, 0, 0, 0, start=0, end=2)],
            ),
            (FileRow("a/boat.jpg", "picture", 1, 2, b"b", 3.0), [part(0, 0, 1, 1)]),
            (FileRow("bad.jpg", "picture", 1, 2, None, None, "'bad.jpg' is broken."), []),
        ]
    )
    return index


@contextmanager
def nobody() -> Iterator[None]:
    """Root is refused nothing, so that what is forbidden is tried as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that anybody may read and nobody may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    with ExitStack() as stack:
        stack.callback(lambda: (folder.chmod(0o755), shutil.rmtree(folder)))
        yield folder


def test_what_is_put_in_comes_out_sorted(tmp_path: Path) -> None:
    filled(tmp_path / "x.index", tmp_path).close()
    with Index.open(tmp_path / "x.index") as index:
        assert [(entry.source, entry.start, entry.end) for entry in index.entries] == [
            ("a/boat.jpg", None, None),
            ("clip.mp4", 0.0, 2.0),
            ("clip.mp4", 2.0, 3.0),
        ]
        assert (index.entries[0].taken, index.entries[0].size, index.entries[0].modified) == (3.0, 1, 2)
        assert index.entries[0].path(index.root) == tmp_path / "a" / "boat.jpg"
        assert index.vectors.dtype == torch.float16
        assert index.vectors[1].tolist() == [1, 0, 0, 0]
        assert index.failures == [Failure("bad.jpg", "'bad.jpg' is broken.")]
        assert index.maker == MAKER
        assert len(index) == 3


def test_files_are_replaced_renamed_and_removed(tmp_path: Path) -> None:
    with filled(None, tmp_path) as index:
        index.add([(FileRow("clip.mp4", "video", 9, 9), [part(0, 0, 0, 1, start=0, end=1)])])
        assert len(index) == 2
        boat, clip = index.files()["a/boat.jpg"], index.files()["clip.mp4"]
        index.rename(
            [("a/boat.jpg", replace(boat, source="clip.mp4")), ("clip.mp4", replace(clip, source="a/boat.jpg"))]
        )
        assert index.vectors[0].tolist() == [0, 0, 0, 1]  # the two have swapped names
        index.remove(["clip.mp4"])
        assert [entry.source for entry in index.entries] == ["a/boat.jpg"]
        assert set(index.files()) == {"a/boat.jpg", "bad.jpg"}


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    odd = "odd \udcff name.jpg"
    with filled(None, tmp_path) as index:
        index.add([(FileRow(odd, "picture"), [part(1, 1, 1, 1)])])
        assert odd in index.files()
        assert index.entries[-1].source == odd


def test_vectors_of_words_are_remembered(tmp_path: Path) -> None:
    place, words = tmp_path / "x.index", torch.tensor([0.1, 0.2, 0.3, 0.4])
    filled(place, tmp_path).close()
    with Index.open(place) as index:
        assert index.cached_query("a boat") is None
        index.cache_query("a boat", words)
        assert index.bank is None
    with Index.open(place) as index:
        assert torch.equal(index.cached_query("a boat"), words)  # type: ignore[arg-type]
        index.keep_bank(["b", "a"], torch.stack([words, -words]))
        assert torch.equal(index.bank, torch.stack([words, -words]))  # type: ignore[arg-type]
    place.chmod(0o444)
    with Index.open(place) as index:
        index.cache_query("a ship", words)
        assert torch.equal(index.cached_query("a ship"), words)  # type: ignore[arg-type]


def test_the_root_is_found_where_folder_and_index_moved(tmp_path: Path) -> None:
    inside, beside = tmp_path / "photos" / ".hidden.index", tmp_path / "beside.index"
    inside.parent.mkdir()
    for place in (inside, beside):
        filled(place, inside.parent).close()
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    assert Index.open(tmp_path / "moved" / ".hidden.index").root == tmp_path / "moved"
    assert Index.open(beside).root == tmp_path / "photos"  # nothing says where it went
    assert Index.open(beside, root=tmp_path / "moved").root == tmp_path / "moved"
    (tmp_path / "all").mkdir()
    shutil.move(tmp_path / "moved", tmp_path / "all" / "photos")
    shutil.move(beside, tmp_path / "all" / "beside.index")
    assert Index.open(tmp_path / "all" / "beside.index").root == tmp_path / "all" / "photos"


def test_an_index_of_schema_1_is_migrated(closed: Path) -> None:
    closed.chmod(0o755)
    place, stored = closed / "old.index", Path(__file__).parent / "schema_1.sql"
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(stored.read_text())
    place.chmod(0o444)
    with nobody(), pytest.raises(BadInput, match="old schema 1 and cannot be written"):
        Index.open(place)
    place.chmod(0o644)
    with Index.open(place) as index:
        assert [entry.source for entry in index.entries] == ["a.jpg", "clip.mp4"]
        assert index.vectors.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
        assert index.entries[1].end == 2.5
        assert index.bank is None
        index.cache_query("words", torch.ones(4))
    with closing(sqlite3.connect(place)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert connection.execute("SELECT text FROM queries").fetchone() == ("words",)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    with pytest.raises(BadInput, match=r"there is no index .*make one"):
        Index.open(place)
    place.write_text("something else" * 1000)
    with pytest.raises(BadInput, match="is no index of Percepta"):
        Index.open(place)
    place.unlink()
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(BadInput, match="is no index of Percepta"):
        Index.open(place)
    with pytest.raises(BadInput, match="exists already"):
        Index.create(place, tmp_path, MAKER)


def test_a_newer_a_damaged_and_a_locked_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "x.index"
    filled(place, tmp_path).close()
    whole = place.read_bytes()
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(BadInput, match=f"has schema {SCHEMA + 1} .*update percepta"):
        Index.open(place)
    place.write_bytes(whole[: 2 * PAGE_BYTES])
    with pytest.raises(BadInput, match="is damaged"), Index.open(place) as index:
        _ = index.entries
    place.write_bytes(whole)
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("UPDATE moments SET vector = x'00'")
        connection.commit()
    with pytest.raises(BadInput, match="is damaged"), Index.open(place) as index:
        _ = index.vectors
    place.write_bytes(whole)
    monkeypatch.setattr("percepta.tasks.indexing.schema.WAIT_SECONDS", 0.0)
    with Index.open(place) as index, closing(sqlite3.connect(place)) as other:
        index.connection.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BadInput, match="locked by another program"):
            index.remove(["clip.mp4"])


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    with filled(place, tmp_path) as index:
        (pages,) = index.connection.execute("PRAGMA page_count").fetchone()
        index.connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [part(1, 2, 3, 4)] * 20_000
        with pytest.raises(BadInput, match=r"no room left.*what was indexed is kept"):
            index.add([(FileRow("long.mp4", "video"), many)])
        assert len(index) == 3
    with Index.open(place) as index:
        assert len(index) == 3


def test_makers_are_never_mixed() -> None:
    MAKER.check_same(replace(MAKER, weights="elsewhere.safetensors"), None)
    for change in (
        {"model": "other"},
        {"weights_hash": "ffff"},
        {"preprocess": "x"},
        {"moments": "x"},
        {"dimension": 5},
    ):
        with pytest.raises(BadInput, match="two makers do not compare"):
            MAKER.check_same(replace(MAKER, **change), Path("x.index"))


@pytest.mark.slow
def test_a_hundred_thousand_vectors_fit_into_230_megabytes(tmp_path: Path) -> None:
    maker, random = replace(MAKER, dimension=1024), np.random.default_rng(0)
    vectors = random.standard_normal((1000, 1024)).astype(np.float32)
    with Index.create(tmp_path / "big.index", tmp_path, maker) as index:
        for album in range(100):
            index.add(
                (
                    FileRow(
                        f"Pictures/2026/{album:03d} summer holiday/IMG_{row:05d}.jpg",
                        "picture",
                        row,
                        album,
                        bytes(16),
                        0.5,
                    ),
                    [Part(vectors[row])],
                )
                for row in range(1000)
            )
        assert (tmp_path / "big.index").stat().st_size <= 230e6
        assert len(index) == 100_000


def test_a_vector_is_kept_in_16_bit() -> None:
    assert np.frombuffer(packed(np.array([0.1, -2], np.float32)), "<f2").tolist() == [np.float16(0.1), -2]
    assert "queries" in QUERY_TABLES


def test_an_index_is_read_where_nothing_can_be_written(closed: Path, tmp_path: Path) -> None:
    closed.chmod(0o755)
    filled(closed / "x.index", tmp_path).close()
    (closed / "x.index").chmod(0o444)
    closed.chmod(0o555)
    with nobody():
        with Index.open(closed / "x.index") as index:  # the root is a folder that nobody may even look at
            assert len(index) == len(index.entries) == 3
            index.cache_query("a boat", torch.ones(4))
            assert index.cached_query("a boat") is not None
            with pytest.raises(BadInput, match="cannot be written; check its permissions"):
                index.remove(["clip.mp4"])
        with pytest.raises(BadInput, match="cannot be opened or made there"):
            Index.create(closed / "new.index", tmp_path, MAKER)
    assert [path.name for path in closed.iterdir()] == ["x.index"]


HALF_A_COMMIT = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # pages are written long before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE moments SET vector = x'00'")
connection.execute("UPDATE files SET kind = 'neither'")
connection.executemany("INSERT INTO moments (file, vector) VALUES (1, ?)", [(os.urandom(50_000),)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_commit_that_was_killed_half_way_is_rolled_back(tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    with filled(place, tmp_path) as index:
        before = index.entries, index.vectors.tolist()
    whole = place.read_bytes()
    killed = subprocess.run([sys.executable, "-c", HALF_A_COMMIT, str(place)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert place.read_bytes()[: len(whole)] != whole
    assert place.with_name("x.index-journal").stat().st_size
    with Index.open(place) as index:
        assert (index.entries, index.vectors.tolist()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.index"]
    assert place.read_bytes() == whole


def test_a_wider_root_and_another_place(tmp_path: Path) -> None:
    inner, place = tmp_path / "a" / "b", tmp_path / "x.index"
    inner.mkdir(parents=True)
    with filled(place, inner) as index:
        # What a name becomes may be a name that is there already.
        index.add([(FileRow(name, "picture"), [part(1, 0, 0, 0)]) for name in ("b/clip.mp4", "odd \udcff", "b/odd")])
        names = {entry.source for entry in index.entries}
        index.settle(tmp_path / "a", "")
        assert {entry.source for entry in index.entries} == {f"b/{name}" for name in names}
        index.settle(tmp_path / "a", "other.safetensors")
    with Index.open(place) as index:
        assert index.root == tmp_path / "a"
        assert index.maker.weights == "other.safetensors"
        assert {entry.source for entry in index.entries} == {f"b/{name}" for name in names}


def test_an_index_tells_what_it_is_by_its_first_bytes(tmp_path: Path) -> None:
    place = tmp_path / "x"
    assert not schema.is_index(place)
    filled(place, tmp_path).close()
    assert schema.is_index(place)
    place.with_name("x-journal").write_bytes(b"left over")
    schema.delete(place)
    assert not list(tmp_path.iterdir())
    place.write_bytes(b"SQLite format 3\0" + bytes(100))
    assert not schema.is_index(place)
    with pytest.raises(BadInput, match="is no index"):
        schema.delete(place)
    assert place.exists()


def test_a_disk_that_fails_is_no_damage() -> None:
    with pytest.raises(BadInput, match="its disk fails or is gone"), schema.in_words(Path("x.index")):
        raise sqlite3.OperationalError("disk I/O error")


def test_two_runs_on_one_index_do_not_double(tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    with filled(place, tmp_path) as one, Index.open(place) as other:
        boat = other.files()["a/boat.jpg"]
        one.remove(["a/boat.jpg"])
        other.rename([("a/boat.jpg", replace(boat, source="b/boat.jpg"))])  # gone by now
        for index in (one, other):
            index.add([(FileRow("new.jpg", "picture"), [part(1, 2, 3, 4)])])
        assert [entry.source for entry in one.entries] == ["clip.mp4", "clip.mp4", "new.jpg"]
