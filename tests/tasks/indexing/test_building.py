"""The verb `index`: what it makes, what it does again and what it does not, and what a killed run leaves."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.errors import BadInput, BadMedia, MissingExtra
from percepta.media import Source, VideoReader, collect
from percepta.running.progress import Progress
from percepta.tasks.encoder import Encoder
from percepta.tasks.indexing import Estimate, Index, Report, building, index
from percepta.tasks.indexing.building import facts_of
from tests.tasks import nano


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, one broken file and a video."""
    folder = tmp_path_factory.mktemp("many")
    draw = np.random.default_rng(0)
    for number in range(30):
        noise = draw.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize((40 + number, 48), 0).save(folder / f"{number:02d}.png")
    (folder / "12 broken.png").write_bytes((folder / "12.png").read_bytes()[:60])
    nano.clip(folder / "moving.mp4")
    return folder


def told_by(inputs: Any, to: Path, **settings: Any) -> tuple[Index, Report]:
    news: list[Any] = []
    found = index(inputs, to, model=nano.model(), told=news.append, **settings)
    assert isinstance(news[0], Estimate)
    return found, news[1]


def contents(place: Path) -> tuple[Any, ...]:
    with Index.open(place) as found:
        return found.entries, found.vectors.numpy().tobytes(), found.failures, found.files()


def test_an_index_holds_what_embed_gives(many: Path, tmp_path: Path) -> None:
    found, report = told_by(many, tmp_path / "x.index")
    pictures = [entry for entry in found.entries if entry.kind == "picture"]
    assert [entry.source for entry in pictures] == [f"{number:02d}.png" for number in range(30)]
    vectors = {Path(entry.source).name: entry.vector for entry in percepta.embed(many, nano.model())}
    for row, entry in enumerate(found.entries):
        if entry.kind == "picture":
            assert np.abs(found.vectors[row].float().numpy() - vectors[entry.source]).max() < 1e-3
    moments = [entry for entry in found.entries if entry.kind == "video"]
    assert moments[0].start == 0.0
    assert moments[-1].end == pytest.approx(nano_seconds(many / "moving.mp4"), abs=0.01)
    assert (report.added, report.moved, report.removed, report.unchanged) == (31, 0, 0, 0)
    assert ["broken" in failure.source for failure in report.failures] == [True]
    assert found.model == "pe-core-nano"


def nano_seconds(path: Path) -> float:
    with VideoReader(path) as reader:
        return reader.duration


def test_a_second_run_looks_at_what_changed_alone(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, place = tmp_path / "photos", tmp_path / "x.index"
    shutil.copytree(many, folder)
    told_by(folder, place)[0].close()
    before = contents(place)
    seen: list[int] = []
    embed = Encoder.embed

    def counted(self: Encoder, batch: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        seen.append(len(batch))
        return embed(self, batch, normalize)

    monkeypatch.setattr(Encoder, "embed", counted)
    found, report = told_by(folder, place)
    found.close()
    assert (report.added, report.unchanged) == (0, 31)
    assert len(report.failures) == 1
    assert seen == [1]  # the grey picture that tells the length of vectors
    assert contents(place) == before
    shutil.move(folder / "00.png", folder / "zz.png")
    (folder / "01.png").unlink()
    Image.new("RGB", (9, 9), "red").save(folder / "02.png")
    found, report = told_by(folder, place)
    assert (report.added, report.moved, report.removed, report.unchanged) == (1, 1, 1, 28)
    assert found.entries[-1].source == "zz.png"
    assert torch.equal(
        found.vectors[-1], torch.frombuffer(bytearray(before[1]), dtype=torch.float16)[: found.vectors.shape[1]]
    )


def test_in_memory(many: Path) -> None:
    red = Image.new("RGB", (30, 30), "red")
    with index([many / "00.png", red, np.zeros((8, 8, 3), np.uint8)], model=nano.model()) as found:
        assert {entry.source for entry in found.entries} == {"00.png", "picture 2", "picture 3"}
        assert found.path is None
        assert found.encoder.model is nano.model()


def test_wrong_use_is_one_sentence(many: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    with pytest.raises(BadInput, match="came in memory"):
        index([Image.new("RGB", (8, 8))], place, model=nano.model())
    (tmp_path / "empty").mkdir()
    nothing: list[Any] = [tmp_path / "empty", []]
    for empty in nothing:
        with pytest.raises(BadInput, match=r"holds no picture|at least one"):
            index(empty, tmp_path / "empty.index", model=nano.model())
    assert not (tmp_path / "empty.index").exists()
    with pytest.raises(BadInput, match="is a folder; name a file in it"):
        index(many, tmp_path, model=nano.model())
    with pytest.raises(BadInput, match="batch_size of index must be"):
        index(many, batch_size=0, model=nano.model())
    with pytest.raises(BadInput, match="on_error"):
        index(many, on_error="ignore", model=nano.model())
    with pytest.raises(BadMedia, match="broken"):
        index(many, model=nano.model(), on_error="raise")
    place.write_text("notes")
    with pytest.raises(BadInput, match="is no index of Percepta"):
        index(many / "00.png", place, model=nano.model())


def test_another_model_is_refused_unless_begun_anew(many: Path, tmp_path: Path) -> None:
    place, one = tmp_path / "x.index", many / "00.png"
    index(one, place, model=nano.model()).close()
    torch.manual_seed(8)
    other = percepta.build("pe-core-nano").eval()
    with pytest.raises(BadInput, match=r"made with weights .* do not compare"):
        index(one, place, model=other)
    with pytest.raises(BadInput, match="the model 'pe-core-nano' and now 'pe-core-l14-336'"):
        index(one, place, model="PE-Core-L14-336")  # its weights are not asked for
    with index(one, place, model=other, overwrite=True) as found:
        assert len(found) == 1


def test_when_a_picture_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:20 20:17:40"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    os.utime(tmp_path / "b.jpg", (100, 100))
    first, second = (facts_of(source)[1] for source in collect(tmp_path) if isinstance(source, Source))
    assert first == time.mktime((2019, 7, 20, 20, 17, 40, 0, 0, -1))
    assert second == 100


def test_the_index_itself_is_no_input(many: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(many, tmp_path / "photos"))
    for _ in range(2):
        with index(folder, folder / "found here", model=nano.model()) as found:
            assert [Path(failure.source).name for failure in found.failures] == ["12 broken.png"]
    (folder / "other.index").write_bytes((folder / "found here").read_bytes())
    found, report = told_by(folder, folder / "found here")
    found.close()
    assert len(report.failures) == 1


def test_the_index_goes_where_its_folder_went(many: Path, tmp_path: Path) -> None:
    folder, place = Path(shutil.copytree(many, tmp_path / "photos")), tmp_path / "x.index"
    told_by(folder, place)[0].close()
    shutil.move(folder, tmp_path / "pictures")
    found, report = told_by(tmp_path / "pictures", place)
    found.close()
    assert (report.added, report.moved, report.removed, report.unchanged) == (0, 0, 0, 31)
    with Index.open(place) as again:
        assert again.root == tmp_path / "pictures"


def test_a_further_folder_joins(many: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    first, second = (Path(shutil.copytree(many, tmp_path / name)) for name in ("one", "two"))
    told_by(first, place)[0].close()
    found, report = told_by(second, place)
    assert report.added == 31
    assert found.root == tmp_path
    assert {entry.source.split("/")[0] for entry in found.entries} == {"one", "two"}
    found.close()
    found, report = told_by([first, second], place)
    found.close()
    assert (report.added, report.unchanged, report.removed) == (0, 62, 0)


def test_nothing_is_written_when_nothing_has_changed(many: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    told_by(many, place)[0].close()
    with Index.open(place) as other:
        other.connection.execute("BEGIN IMMEDIATE")  # who wanted to write would have to wait
        found, report = told_by(many, place)
        assert report.unchanged == 31
        assert found.bank is not None
        found.close()
        other.connection.rollback()


def test_a_model_of_a_file_is_found_again(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    percepta.save(nano.model(), tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    index(many / "00.png", "x.index", model="mine.safetensors").close()
    monkeypatch.chdir("/")
    with Index.open(tmp_path / "x.index") as found:
        assert found.model == "mine.safetensors"
        assert found.encoder.model.config == nano.model().config
    with index(many / "01.png", tmp_path / "x.index") as found:
        assert len(found) == 2
    with pytest.raises(BadInput, match="the model"):
        index(many / "00.png", tmp_path / "x.index", model=nano.model())


def test_nothing_that_can_be_indexed_makes_no_file(many: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        index(tmp_path / "nowhere", tmp_path / "x.index", model=nano.model())
    assert not (tmp_path / "x.index").exists()


def test_the_estimate_of_long_work(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "WORTH_AN_ESTIMATE", 20)
    news: list[Any] = []
    found = index(many, tmp_path / "x.index", model=nano.model(), told=news.append)
    estimate, report = news
    assert (estimate.pictures, estimate.videos) == (31, 1)
    assert estimate.video_seconds == pytest.approx(nano_seconds(many / "moving.mp4"))
    assert 0 < estimate.seconds < 60
    assert 0.5 < estimate.bytes / (len(found) * 2 * found.vectors.shape[1]) < 3
    assert report.seconds > 0


@pytest.mark.parametrize(
    "trouble", [MissingExtra("pillow-heif", "heic", "Reading"), OSError(5, "Input/output error"), MemoryError()]
)
def test_only_what_is_broken_itself_is_not_tried_again(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    prepare = Encoder.prepare

    def failing(self: Encoder, source: Source) -> torch.Tensor:
        if source.name.endswith(("05.png", "06.png")):
            raise trouble
        return prepare(self, source)

    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "prepare", failing)
        found, report = told_by(many, tmp_path / "x.index")
        found.close()
    assert [Path(failure.source).name for failure in report.failures] == ["05.png", "06.png", "12 broken.png"]
    found, report = told_by(many, tmp_path / "x.index")
    assert (report.added, report.unchanged) == (2, 29)
    assert [Path(failure.source).name for failure in report.failures] == ["12 broken.png"]
    assert len({entry.source for entry in found.entries}) == 31


def test_a_video_that_goes_away_meanwhile(many: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(many, tmp_path / "photos"))
    place = tmp_path / "x.index"
    found, report = told_by(folder, place, progress=_Vanishing(folder / "moving.mp4"))
    assert "moving.mp4' does not exist" in report.failures[-1].reason
    assert {entry.kind for entry in found.entries} == {"picture"}
    assert "moving.mp4" not in found.files()


class _Vanishing(Progress):
    """Takes a file away when the last picture is done."""

    def __init__(self, path: Path) -> None:
        super().__init__("index", shown=False)
        self.path = path

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        if self.done == 30:
            self.path.unlink()


class Killed(BaseException):
    """Stands for a kill after a commit."""


def test_a_resumed_run_forms_the_same_batches(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where so many files are broken that a batch is not full."""
    folder = Path(shutil.copytree(many, tmp_path / "photos"))
    for number in range(14):
        (folder / f"09 broken {number}.png").write_bytes((folder / "09.png").read_bytes()[:60])
    batches: list[bytes] = []
    embed, add = Encoder.embed, Index.add

    def counted(self: Encoder, batch: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        if batch.shape[0] > 1 or batch.std() > 0:  # not the grey picture that tells the length of vectors
            batches.append(batch.numpy().tobytes())
        return embed(self, batch, normalize)

    def one_commit(self: Index, files: Any) -> None:
        add(self, files)
        raise Killed

    monkeypatch.setattr(building, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "embed", counted)
    index(folder, tmp_path / "whole.index", model=nano.model(), batch_size=4).close()
    whole = list(batches)
    batches.clear()
    monkeypatch.setattr(Index, "add", one_commit)
    for _ in range(99):
        try:
            index(folder, tmp_path / "killed.index", model=nano.model(), batch_size=4).close()
        except Killed:
            continue
        break
    assert batches == whole
    assert len(whole) > 8
    assert contents(tmp_path / "killed.index") == contents(tmp_path / "whole.index")


def _index(folder: Path, place: Path) -> None:
    building.COMMIT_SECONDS = 0.0  # in the child alone
    index(folder, place, model=nano.model(), batch_size=4)


def kill_and_resume(folder: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """Kill runs at random moments, with a signal that none can catch, until one is let through; compare."""
    whole, place = tmp_path / "whole.index", tmp_path / "killed.index"
    _run_child(folder, tmp_path / "warm.index", None)  # the first child waits for the server that forks
    began = time.monotonic()
    _run_child(folder, whole, None)
    lasting = time.monotonic() - began
    draw, died = random.Random(seed), 0
    for _ in range(10 * kills):
        if died == kills:
            break
        if _run_child(folder, place, draw.uniform(0.1, 0.9) * lasting):
            died += 1
        else:
            place.unlink()  # it was done before the kill came: begin again
    assert died == kills
    _run_child(folder, place, None)
    assert contents(place) == contents(whole)
    assert not list(tmp_path.glob("*-journal"))


def _run_child(folder: Path, place: Path, kill_after: float | None) -> bool:
    # Not a fork of this process: its threads, which other tests have started, would be missing in the child.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=_index, args=(folder, place))
    child.start()
    child.join(kill_after)
    if kill_after is not None:
        child.kill()
    child.join()
    killed = child.exitcode == -signal.SIGKILL
    assert killed or child.exitcode == 0
    return killed


def test_three_kills_lose_and_double_nothing(many: Path, tmp_path: Path) -> None:
    nano.model()
    kill_and_resume(many, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_twenty_kills_lose_and_double_nothing(many: Path, tmp_path: Path) -> None:
    nano.model()
    kill_and_resume(many, tmp_path, kills=20, seed=1)
