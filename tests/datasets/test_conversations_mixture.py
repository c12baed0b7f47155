"""Mixtures: orders, shares, readers, resuming in the middle, and what is lost on the way."""

from __future__ import annotations

import json
import logging
import pickle
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from percepta.datasets.conversations import Conversation, ConversationData
from percepta.datasets.conversations_index import ConversationIndex
from percepta.datasets.conversations_mixture import (
    ConversationMixture,
    ConversationReader,
    Losses,
    data_rank,
    parse_mix,
)
from percepta.datasets.conversations_official import OfficialMixture
from percepta.errors import BadInput, BadMedia
from percepta.media.chunks import ChunkPreprocess


def data_set(folder: Path, name: str, *counts: int, **fields: Any) -> ConversationData:
    """A data set of files with so many rows; row n answers "NAME n"."""
    files, number = [], 0
    for part, count in enumerate(counts):
        files.append(folder / f"{name}.chunk.{part}.jsonl")
        rows = [json.dumps({"text": f"{name} {number + row}", **fields}) for row in range(count)]
        files[-1].write_text("".join(f"{row}\n" + "\n" * (row.endswith('7"}')) for row in rows))
        number += count
    return ConversationData(name, tuple(files), folder)


def told(row: Conversation) -> str:
    return row.turns[-1][1]


def test_rows_by_number_in_the_order_of_the_files(tmp_path: Path) -> None:
    index = ConversationIndex(data_set(tmp_path, "a", 150, 3, 70))
    assert len(index) == 223
    for number in (0, 1, 63, 64, 127, 128, 149, 150, 152, 153, 222):
        assert told(index.row(number)) == f"a {number}"
    assert told(index.row(223 + 5)) == "a 5"


def test_each_epoch_of_a_shuffled_data_set_gives_every_row_once_in_another_order(tmp_path: Path) -> None:
    data = data_set(tmp_path, "a", 5000, 77)
    index = ConversationIndex(data, seed=3)
    epochs = [[int(told(index.row(epoch * 5077 + place)).split()[1]) for place in range(5077)] for epoch in (0, 1)]
    assert [sorted(order) for order in epochs] == [list(range(5077))] * 2
    assert epochs[0] != epochs[1]
    near = np.mean(np.abs(np.diff(epochs[0])) < 100)  # neighbours that were neighbours
    assert near < 0.1
    again = ConversationIndex(data, seed=3)
    assert told(again.row(7000)) == f"a {epochs[1][7000 - 5077]}"
    assert told(ConversationIndex(data, seed=4).row(0)) != told(index.row(0))


def test_the_memory_of_an_index_does_not_hold_the_file(tmp_path: Path) -> None:
    data = data_set(tmp_path, "a", 20_000, id="x" * 400)
    size = data.files[0].stat().st_size
    assert size > 8_000_000
    tracemalloc.start()
    index = ConversationIndex(data, seed=0)
    for number in range(0, 40_000, 997):
        index.row(number)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size / 8


def test_a_file_that_became_shorter_is_said(tmp_path: Path) -> None:
    data = data_set(tmp_path, "a", 70)
    index = ConversationIndex(data)
    data.files[0].write_text(json.dumps({"text": "a 0"}) + "\n")
    with pytest.raises(BadInput, match="has changed since it was opened"):
        index.row(69)
    with pytest.raises(BadInput, match="must have rows; its files are empty"):
        ConversationIndex(data_set(tmp_path, "b", 0))


@pytest.fixture
def mixture(tmp_path: Path) -> ConversationMixture:
    data = {name: data_set(tmp_path, name, count) for name, count in (("a", 300), ("b", 3), ("c", 90))}
    return ConversationMixture(data, {"a": 3, "b": 1, "c": 2}, seed=5)


def test_shares_are_those_asked_for_and_reported(mixture: ConversationMixture) -> None:
    samples = 9000
    names = Counter(mixture.source(sample) for sample in range(samples))
    assert dict(zip(mixture.names, mixture.counts(samples).tolist(), strict=True)) == dict(names)
    report = mixture.report(samples)
    assert {name: entry["rows"] for name, entry in report.items()} == dict(names)
    for name, wanted in (("a", 1 / 2), ("b", 1 / 6), ("c", 1 / 3)):
        assert report[name]["wanted"] == pytest.approx(wanted)
        assert report[name]["share"] == pytest.approx(wanted, abs=0.02)
    assert report["b"]["epochs"] == names["b"] / 3
    assert mixture.counts(0).tolist() == [0, 0, 0]


def test_by_default_a_data_set_weighs_as_many_as_its_rows(tmp_path: Path) -> None:
    data = {name: data_set(tmp_path, name, count) for name, count in (("a", 30), ("b", 10))}
    assert ConversationMixture(data).shares.tolist() == [0.75, 0.25]
    assert ConversationMixture(data, {"a": None, "b": 90}).shares.tolist() == [0.25, 0.75]


def test_readers_share_the_stream_of_one(mixture: ConversationMixture) -> None:
    """Also where there are more readers than a data set has rows, on which the official reader spins for ever."""
    whole = [told(shown.row) for shown in islice(ConversationReader(mixture), 60)]
    for readers in (2, 3, 5):
        parts = [ConversationReader(mixture, reader, readers) for reader in range(readers)]
        dealt = [told(next(parts[sample % readers]).row) for sample in range(60)]
        assert dealt == whole
    assert len(set(whole)) > 30


def test_a_reading_goes_on_where_it_stood(mixture: ConversationMixture, tmp_path: Path) -> None:
    whole = [told(shown.row) for shown in islice(ConversationReader(mixture, 1, 2), 40)]
    reader = ConversationReader(mixture, 1, 2)
    first = [told(next(reader).row) for _ in range(17)]
    state = json.loads(json.dumps(reader.state_dict()))
    same = {name: index.data for name, index in zip(mixture.names, mixture.indices, strict=True)}
    fresh = ConversationReader(ConversationMixture(same, {"a": 3, "b": 1, "c": 2}, seed=5), 1, 2)
    fresh.load_state_dict(state)
    assert first + [told(next(fresh).row) for _ in range(23)] == whole


def test_a_run_goes_on_with_another_number_of_readers(mixture: ConversationMixture) -> None:
    whole = [told(shown.row) for shown in islice(ConversationReader(mixture), 42)]
    two = [ConversationReader(mixture, reader, 2) for reader in range(2)]
    dealt = [told(next(two[sample % 2]).row) for sample in range(12)]
    three = [ConversationReader(pickle.loads(pickle.dumps(mixture)), reader, 3, start=12) for reader in range(3)]
    assert dealt + [told(next(three[sample % 3]).row) for sample in range(30)] == whole


def test_every_process_reads_its_own() -> None:
    """The official rank of 2 replicas of 3 shards is replica x 2 + shard: six processes read as five."""
    places = [(replica, shard) for replica in range(2) for shard in range(3)]
    assert [data_rank(replica, shard, 3) for replica, shard in places] == list(range(6))
    assert len({replica * 2 + shard for replica, shard in places}) == 5
    with pytest.raises(BadInput, match="shard of data_rank must be 0 to 2"):
        data_rank(0, 3, 3)


def test_a_reading_of_another_mixture_is_not_gone_on_with(mixture: ConversationMixture) -> None:
    state = ConversationReader(mixture, 0, 2).state_dict()
    with pytest.raises(BadInput, match=r"reader was \[0, 2\] and is now \[0, 3\]"):
        ConversationReader(mixture, 0, 3).load_state_dict(state)
    with pytest.raises(BadInput, match="rows was"):
        ConversationReader(mixture, 0, 2).load_state_dict(state | {"rows": {"a": 1}})
    with pytest.raises(BadInput, match="schema 1; got 9"):
        ConversationReader(mixture, 0, 2).load_state_dict(state | {"schema": 9})
    with pytest.raises(BadInput, match="reader of a mixture must be 0 to 1; got 2"):
        ConversationReader(mixture, 2, 2)


def test_mixes_in_words() -> None:
    assert parse_mix("a: 3, b:0.5,c", ["a", "b", "c"]) == {"a": 3, "b": 0.5, "c": None}
    with pytest.raises(BadInput, match="'docvqq' that is not in the registry; did you mean 'docvqa'"):
        parse_mix("docvqq:1", ["docvqa", "sa1b"])
    with pytest.raises(BadInput, match="each data set once; a stands there twice"):
        parse_mix("a:1,a:2", ["a"])
    for weight in ("0", "-1", "nan", "many", ""):
        with pytest.raises(BadInput, match="weight of a of a mix must be a number above 0"):
            parse_mix(f"a:{weight}", ["a"])
    with pytest.raises(BadInput, match="at least one data set"):
        ConversationMixture({})


def test_missing_pictures_are_logged_counted_and_refused_above_a_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "there.png")
    data = {
        "there": data_set(tmp_path, "there", 20, image="there.png"),
        "gone": data_set(tmp_path, "gone", 20, image="gone.png"),
    }
    prepare = ChunkPreprocess(8, tiles=1)
    mixture = ConversationMixture(data, {"there": 9, "gone": 1}, seed=1)
    losses = Losses(limit=0.5, least=0)
    reader = ConversationReader(mixture, prepare=prepare, losses=losses)
    with caplog.at_level(logging.WARNING):
        shown = list(islice(reader, 50))
    assert {one.row.source for one in shown} == {"there"}
    assert all(one.chunks.pixels.shape == (2, 3, 8, 8) for one in shown)
    assert losses.by_source == {"gone": reader.sample - 50}
    assert losses.seen == reader.sample
    assert losses.count > 0
    assert len(caplog.records) == losses.count
    assert "gone.png' does not exist" in caplog.text
    strict = ConversationReader(mixture, prepare=prepare, losses=Losses(limit=0.01, least=2))
    with pytest.raises(BadMedia, match=r"3 of \d+ rows \(3 of gone\) had to be left out, more than the 1%.*gone\.png"):
        list(islice(strict, 200))
    with pytest.raises(BadMedia, match=r"gone\.chunk\.0\.jsonl, line \d+: .*gone\.png' does not exist"):
        list(islice(ConversationReader(mixture, prepare=prepare), 50))
    kept = Losses(limit=0.5)
    kept.load_state_dict(json.loads(json.dumps(losses.state_dict())))
    assert kept.state_dict() == losses.state_dict()
    with pytest.raises(BadInput, match="limit of Losses must be 0 to 1"):
        Losses(2)


def test_rows_of_words_show_nothing_and_need_no_file(tmp_path: Path) -> None:
    mixture = ConversationMixture({"a": data_set(tmp_path, "a", 3)})
    assert next(ConversationReader(mixture, prepare=ChunkPreprocess(8))).chunks is None


def test_a_line_that_is_wrong_does_not_end_its_data_set(tmp_path: Path) -> None:
    """Officially the generator of the file ends at it, and nothing of the data set comes ever again."""
    data = data_set(tmp_path, "a", 4)
    lines = data.files[0].read_text().splitlines()
    data.files[0].write_text("\n".join([lines[0], "{nonsense", *lines[1:]]) + "\n")
    losses = Losses(limit=1)
    reader = ConversationReader(ConversationMixture({"a": data}, shuffle=False), losses=losses)
    assert [told(shown.row) for shown in islice(reader, 8)] == [f"a {number}" for number in range(4)] * 2
    assert losses.by_source == {"a": 2}  # once in each of two rounds
    assert "line 2: must be a JSON object" in losses.first
    official = OfficialMixture([data], [1.0], seed=0)
    next(official)
    with pytest.raises(BadInput, match="line 2: must be a JSON object"):
        next(official)
    assert told(next(official)) == "a 1"


def test_the_official_order_refuses_a_data_set_with_fewer_rows_than_readers(tmp_path: Path) -> None:
    data = [data_set(tmp_path, "a", 9), data_set(tmp_path, "b", 3)]
    with pytest.raises(BadInput, match="the data set b has 3 rows for 4 readers; each needs one"):
        OfficialMixture(data, [1.0, 1.0], 0, rank=1, world=2, worker=0, workers=2)
    OfficialMixture(data, [1.0, 1.0], 0, rank=2, world=3)
    data[1].files[0].write_text('{"text": "b"}\n\n')
    assert told(next(OfficialMixture(data[1:], [1.0], 0, rank=0, world=2))) == "b"
    with pytest.raises(BadInput, match="the data set b has only empty lines for reader 1 of 2"):
        next(OfficialMixture(data[1:], [1.0], 0, rank=1, world=2))


def test_the_official_order_goes_on_from_byte_positions(tmp_path: Path) -> None:
    data = [data_set(tmp_path, "a", 9, 5), data_set(tmp_path, "b", 8)]
    places = {"rank": 1, "world": 2, "worker": 1, "workers": 2}
    whole = [told(row) for row in islice(OfficialMixture(data, [2.0, 1.0], 7, **places), 30)]
    mixture = OfficialMixture(data, [2.0, 1.0], 7, **places)
    first = [told(next(mixture)) for _ in range(11)]
    state = json.loads(json.dumps(mixture.state_dict()))
    assert state["sources"]["b"]["byte"] > 0
    fresh = OfficialMixture(data, [2.0, 1.0], 99, **places)
    fresh.load_state_dict(state)
    assert first + [told(next(fresh)) for _ in range(19)] == whole
    assert {name: entry["rows"] for name, entry in fresh.report().items()} == Counter(text[0] for text in whole)
    with pytest.raises(BadInput, match="must be of reader 1 of 4; it is of"):
        OfficialMixture(data, [2.0, 1.0], 7, rank=0, world=2, worker=1, workers=2).load_state_dict(state)
    with pytest.raises(BadInput, match="is of the data sets a, b; got b, a"):
        OfficialMixture(data[::-1], [2.0, 1.0], 7, **places).load_state_dict(state)
