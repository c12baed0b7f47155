"""Search: what is asked, what is searched, what is found, and how sure it is."""

from __future__ import annotations

import os
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.datasets import scenes
from percepta.errors import BadInput, BadMedia, UnknownModel
from percepta.results import Hits
from percepta.tasks import search as search_module
from percepta.tasks.indexing import Entry, Index
from percepta.tasks.indexing.asking import ForeignWordsWarning
from tests.tasks import nano

WORLD = scenes.SceneConfig(64)
COUNT, ABSENT = 60, 12


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = nano.pictures(tmp_path_factory.mktemp("media"))
    nano.clip(folder / "clips" / "moving.mp4")
    return folder


@pytest.fixture(scope="module")
def index(media: Path) -> Index:
    return percepta.index(media, model=nano.model())


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Scenes of test seeds, in an index of the packaged model, which is calibrated."""
    folder = tmp_path_factory.mktemp("album")
    for number, seed in enumerate(seeds()[:COUNT]):
        Image.fromarray(scenes.make_scene(seed, WORLD).picture).save(folder / f"{number:02d}.png")
    return percepta.index(folder, to=folder / "album.index")


def seeds() -> list[int]:
    found: list[int] = scenes.distinct_scenes(count=COUNT + ABSENT, config=WORLD).tolist()
    return found


def names(hits: Hits) -> list[str]:
    return [Path(hit.source).name for hit in hits]


def test_by_words_file_and_picture(index: Index, media: Path) -> None:
    hits = percepta.search(index, media / "green.png", 3)
    assert names(hits)[0] == "green.png"
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert names(percepta.search(index, str(media / "green.png"), 3)) == names(hits)
    assert names(percepta.search(index, Image.open(media / "green.png"), 3)) == names(hits)
    words = percepta.search(index, "a green square")
    assert len(words) == len(index)
    assert (words.score_kind, words.calibration, words.answer) == ("cosine", "uncalibrated", "uncalibrated")
    vector = index.encoder.words(["a green square"])[0]
    assert words[0].score == pytest.approx(float((index.vectors.float() @ vector).max()), abs=1e-6)
    both = percepta.search(index, "a green square", picture=media / "red.png")
    picture = percepta.search(index, media / "red.png")
    expected = dict.fromkeys(names(words), 0.0)
    for hits in (words, picture):
        for hit in hits:
            expected[Path(hit.source).name] += hit.score
    assert names(both)[0] == max(expected, key=expected.__getitem__)


def test_order_is_that_of_a_float32_product(album: Index) -> None:
    for seed in seeds()[:5]:
        caption = scenes.make_scene(seed, WORLD).caption
        hits = percepta.search(album, caption, COUNT)
        vector = album.encoder.words([caption])[0].numpy()
        scores = album.vectors.float().numpy() @ vector
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1].tolist(), abs=1e-6)
        assert names(hits) == [Path(album.entries[row].source).name for row in np.argsort(-scores, kind="stable")]


def test_present_is_found_and_absent_is_nothing_above_chance(album: Index) -> None:
    captions = [scenes.make_scene(seed, WORLD).caption for seed in seeds()]
    found = sum(f"{row:02d}.png" in names(percepta.search(album, captions[row]).likely) for row in range(20))
    empty = sum(percepta.search(album, caption).likely_count == 0 for caption in captions[COUNT:])
    assert found >= 16  # chance would find none; of 20
    assert empty >= 8  # of 12 that are nearly there; ranking alone would always show something
    answers = {percepta.search(album, caption).answer for caption in captions[COUNT:]}
    assert "nothing above chance" in answers
    hits = percepta.search(album, captions[0], 1)
    assert "scenes" in hits.calibration
    assert len(hits) == 1
    assert hits.likely_count is not None
    assert hits[0].probability is not None
    assert 0.5 < hits[0].probability < 1


def test_what_is_not_wanted_falls(album: Index) -> None:
    caption = scenes.make_scene(seeds()[0], WORLD).caption
    plain = percepta.search(album, "a yellow star", COUNT)
    less = percepta.search(album, "a yellow star", COUNT, without=caption)
    assert less.score_kind == "cosine with what is wanted less half of what is not"
    assert less.query == f"a yellow star, without {caption}"
    assert names(less).index("00.png") > names(plain).index("00.png")
    sure = {Path(hit.source).name: hit.probability for hit in plain}
    assert all((hit.probability or 0) <= (sure[Path(hit.source).name] or 0) for hit in less)


def test_filters(index: Index, media: Path, tmp_path: Path) -> None:
    assert names(percepta.search(index, "a cat", kind="video")) == ["moving.mp4"] * len(
        percepta.search(index, "a cat", kind="video")
    )
    assert all(name.endswith(("png", "jpg")) for name in names(percepta.search(index, "a cat", kind="picture")))
    assert set(names(percepta.search(index, "a cat", folder="clips"))) == {"moving.mp4"}
    assert set(names(percepta.search(index, "a cat", folder=media / "clips"))) == {"moving.mp4"}
    for name, day in (("a.png", 20), ("b.png", 21)):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
        moment = date(2024, 7, day).toordinal() - date(1970, 1, 1).toordinal()
        os.utime(tmp_path / name, (86400 * moment + 43200,) * 2)
    dated = percepta.index(tmp_path, model=nano.model())
    assert names(percepta.search(dated, "a cat", since="2024-07-21")) == ["b.png"]
    assert names(percepta.search(dated, "a cat", until=date(2024, 7, 20))) == ["a.png"]
    assert len(percepta.search(dated, "a cat", since="2024-07-20 00:00", until="2024-07-22")) == 2
    assert len(percepta.search(dated, "a cat", since="2025-01-01")) == 0


def test_an_index_is_found_by_its_file_and_by_its_folder(album: Index, tmp_path: Path) -> None:
    query = scenes.make_scene(seeds()[3], WORLD).caption
    assert album.path is not None
    by_file = percepta.search(album.path, query, 3)
    assert names(by_file) == names(percepta.search(album, query, 3))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    percepta.index(tmp_path, to=tmp_path / ".percepta.index", model=nano.model()).close()
    with pytest.raises(BadInput, match="hash"):  # the name now means other weights
        percepta.search(tmp_path, "a cat")


def test_words_that_were_asked_before_need_no_model(album: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert album.path is not None
    first = percepta.search(album.path, "a red circle", 2)
    monkeypatch.setattr(Index, "encoder", property(lambda self: pytest.fail("the model was loaded")))
    assert names(percepta.search(album.path, "a red circle", 2)) == names(first)


def test_wrong_questions_are_one_sentence(index: Index, media: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs words or a picture"):
        percepta.search(index)
    with pytest.raises(BadInput, match="empty text"):
        percepta.search(index, " ")
    with pytest.raises(BadInput, match="looks like a file and is none"):
        percepta.search(index, "photos/gone.jpg")
    with pytest.raises(BadInput, match="letters; got 10,000"):
        percepta.search(index, "a" * 10_000)
    with pytest.raises(BadInput, match="got two pictures"):
        percepta.search(index, media / "red.png", picture=media / "green.png")
    with pytest.raises(BadInput, match="limit of search must be"):
        percepta.search(index, "a cat", 0)
    with pytest.raises(BadInput, match="kind"):
        percepta.search(index, "a cat", kind="film")
    with pytest.raises(BadInput, match="since must be a date such as"):
        percepta.search(index, "a cat", since="yesterday")
    with pytest.raises(BadInput, match="must not be later than"):
        percepta.search(index, "a cat", since="2024-01-02", until="2024-01-01")
    with pytest.raises(BadInput, match="there is no folder"):
        percepta.search(index, "a cat", folder="gone")
    with pytest.raises(BadInput, match="there is no index"):
        percepta.search(tmp_path / "gone.index", "a cat")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(BadMedia):
        percepta.search(index, tmp_path / "broken.jpg")


def test_a_damaged_vector_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    found = percepta.index(tmp_path, model=nano.model())
    found.vectors[0, 0] = torch.nan
    with pytest.raises(BadInput, match="no finite numbers"):
        percepta.search(found, "a cat")


def test_nothing_likely_is_cut_off_by_the_limit_before_something_unlikely(
    album: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = scenes.make_scene(seeds()[5], WORLD).caption
    order = names(percepta.search(album, query, COUNT))
    last = [Path(entry.source).name for entry in album.entries].index(order[-1])

    def sure_of_the_last(self: object, scores: np.ndarray, kind: str) -> np.ndarray:
        return np.where(np.arange(len(scores)) == last, 0.9, 0.05)

    monkeypatch.setattr(search_module._Certainty, "of_scores", sure_of_the_last)
    hits = percepta.search(album, query, 3)
    assert names(hits) == [*order[:2], order[-1]]
    assert hits.answer == "1 likely, nothing else"
    assert names(hits.likely) == [order[-1]]


def test_likely_moments_that_touch_are_one_hit() -> None:
    moments = [
        ("a.mp4", 0, 4),
        ("a.mp4", 4, 9),
        ("a.mp4", 9, 12),
        ("a.mp4", 12, 20),
        ("b.mp4", 20, 25),
        ("b.mp4", 30, 31),
    ]
    sure = np.array([0.6, 0.9, 0.7, 0.2, 0.8, 0.8])
    entries = [Entry(source, "video", start, end) for source, start, end in moments]
    spans, covered = search_module._joined(entries, np.flatnonzero(sure >= 0.5), sure)
    assert spans == {1: (0, 12)}  # the surest stands for all; b.mp4 has a gap
    assert covered == [0, 2]
    assert search_module._joined(entries, np.array([0, 2]), sure) == ({}, [])
    pictures = [Entry("a.png", "picture"), Entry("a.png", "picture")]
    assert search_module._joined(pictures, np.array([0, 1]), np.ones(2)) == ({}, [])


def test_a_joined_hit_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano.clip(tmp_path / "clip.mp4", frames=300)
    found = percepta.index(tmp_path)
    assert len(found) > 1
    monkeypatch.setattr(search_module._Certainty, "of_scores", lambda self, scores, kind: np.full(len(scores), 0.7))
    hits = percepta.search(found, "a yellow square")
    assert len(hits) == 1
    assert (hits[0].start, hits[0].end) == (found.entries[0].start, found.entries[-1].end)
    assert hits.answer == "1 likely, nothing else"


def test_words_need_the_text_half_alone(album: Index) -> None:
    assert album.path is not None
    query = "a large green heart and nothing else"
    expected = percepta.search(album, query, COUNT)
    with Index.open(album.path) as opened:
        opened.connection.execute("DELETE FROM queries")
        opened.connection.commit()
        found = percepta.search(opened, query, COUNT)
        assert opened.loaded is None
        assert opened.reader is not None
        assert not [name for name, _ in opened.reader.model.named_parameters() if "vision" in name]
        assert names(found) == names(expected)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        coarse = percepta.search(opened, "a small pink ring", 3, dtype="bfloat16")
        assert len(coarse) == 3  # what is loaded stays as it is
        assert opened.reader.dtype == torch.float32
    with Index.open(album.path) as opened:
        opened.connection.execute("DELETE FROM queries")
        opened.connection.commit()
        percepta.search(opened, query, 1, dtype="bfloat16")
        assert opened.reader is not None
        assert opened.reader.dtype == torch.bfloat16
        opened.connection.execute("DELETE FROM queries")
        opened.connection.commit()


def test_first_scores_give_the_probabilities_of_exact_ones(album: Index) -> None:
    from percepta.calibration import load_prior, probabilities
    from percepta.tasks.indexing.ranking import scores_of

    prior = load_prior("pe-core-nano")
    assert prior is not None
    for seed in seeds()[:8]:
        vector = album.encoder.words([scenes.make_scene(seed, WORLD).caption])[0]
        neutral = search_module.neutral_of(album)
        exact = probabilities((album.vectors.double() @ vector.double()).float(), neutral, prior)
        first = probabilities(scores_of(album.vectors, vector), neutral, prior)
        assert np.abs(exact - first).max() < 0.01


def test_another_model_than_that_of_the_index_is_refused(album: Index) -> None:
    assert album.path is not None
    with pytest.raises(BadInput, match="was made with pe-core-nano and now pe-core-b16-224 is asked for"):
        percepta.search(album.path, "a cat", model="pe-core-b16-224")
    with pytest.raises(BadInput, match="hash"):
        percepta.search(album.path, "a cat", model=nano.model())
    with pytest.raises(UnknownModel):
        percepta.search(album.path, "a cat", model="pe-core-nanoo")
    assert len(percepta.search(album.path, "a cat", 1, model="pe-core-nano")) == 1


def test_other_scripts_are_searched_with_a_warning(index: Index) -> None:
    with pytest.warns(ForeignWordsWarning, match="learned from English; of '红色的船' it knows little"):
        assert len(percepta.search(index, "红色的船")) == len(index)
    with pytest.warns(ForeignWordsWarning):
        percepta.search(index, "a red лодка")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        percepta.search(index, "ein grünes Boot, 50 µm, 100 %, œuvre ½ ☃")
    with pytest.warns(UserWarning, match="longer than 32 tokens"):
        percepta.search(index, "a very long story " * 30)


@pytest.mark.parametrize("query", ["./boat", "~/boat", "/pictures/boat", "boat.MP4", "my boat.jpeg"])
def test_a_mistyped_file_is_not_searched_as_words(index: Index, query: str) -> None:
    with pytest.raises(BadInput, match="looks like a file and is none"):
        percepta.search(index, query)


def test_what_is_no_question_is_refused(index: Index, media: Path) -> None:
    with pytest.raises(BadInput, match=r"one picture; .* is a folder"):
        percepta.search(index, picture=media)
    with pytest.raises(BadInput, match="holds bytes that are none"):
        percepta.search(index, "caf\udce9")
    with pytest.raises(BadInput, match="empty text"):
        percepta.search(index, "a cat", without=["a dog", ""])
    with pytest.raises(BadInput, match="does not exist"):
        percepta.search(media / "gone", "a cat")


def test_an_index_of_any_name_is_known_by_its_first_bytes(album: Index, tmp_path: Path) -> None:
    assert album.path is not None
    place = tmp_path / "pictures.db"
    place.write_bytes(album.path.read_bytes())
    assert search_module.index_at(place) == place
    assert search_module.index_at(tmp_path) is None
    assert search_module.index_at("-") is None
    assert search_module.index_at("gone.index") == Path("gone.index")
