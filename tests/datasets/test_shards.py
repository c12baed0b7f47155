from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from percepta.datasets import shards as module
from percepta.datasets.shards import Shards, index_shard
from percepta.errors import BadInput, BadMedia


def write(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard, count in enumerate((3, 0, 5, 2)):
        members = {}
        for number in range(count):
            members[f"{shard}-{number}.jpg"] = f"picture {shard}-{number}".encode()
            members[f"{shard}-{number}.txt"] = f"text {shard}-{number}\n".encode()
            members[f"{shard}-{number}.json"] = b"{}"
        write(tmp_path / f"shard {shard}.tar", members)
    return tmp_path


def test_one_pass_gives_every_sample_once(folder: Path) -> None:
    data = Shards(str(folder / "*.tar"), mix=2)
    assert len(data) == 10
    passes = [[data.sample(position, seed=4).key for position in range(start, start + 10)] for start in (0, 10)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert len(set(passes[0])) == 10
    assert passes[0] != passes[1]


def test_pictures_and_texts_belong_together(folder: Path) -> None:
    data = Shards(str(folder / "*.tar"), mix=3)
    for position in range(25):
        sample = data.sample(position)
        assert sample.media.decode() == sample.caption.replace("text", "picture")


def test_samples_do_not_depend_on_what_was_asked_before(folder: Path) -> None:
    data = Shards(str(folder / "*.tar"), mix=2)
    forward = [data.sample(position, 1).key for position in range(20)]
    fresh = Shards(str(folder / "*.tar"), mix=2)
    assert [fresh.sample(position, 1).key for position in reversed(range(20))] == forward[::-1]
    assert [data.sample(position, 2).key for position in range(20)] != forward


def test_few_indexes_stay_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_INDEXES", 1)
    data = Shards(str(folder / "*.tar"))
    assert len({data.sample(position).key for position in range(10)}) == 10
    assert len(data._indexes) == 1


def test_sizes_file_saves_the_indexing(folder: Path) -> None:
    sizes = {"shard 0.tar": 3, "shard 2.tar": 5, "shard 3.tar": 2}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    assert Shards(str(folder / "*.tar")).sizes == [3, 0, 5, 2]
    (folder / "sizes.json").write_text(json.dumps(sizes | {"shard 0.tar": 9}))
    data = Shards(str(folder / "*.tar"), mix=1)
    with pytest.raises(BadMedia, match=r"fewer than sizes.json says"):
        [data.sample(position) for position in range(len(data))]


def test_incomplete_samples_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"d/x.png": b"1", "d/x.txt": b"t", "y.jpg": b"2", "z.txt": b"3", "e/x.txt": b"4"})
    index = index_shard(path)
    assert [entry[0] for entry in index.entries] == ["d/x"]


def test_unusable_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadMedia, match="nothing matches"):
        Shards(str(tmp_path / "*.tar"))
    (tmp_path / "bad.tar").write_bytes(b"no tar at all")
    with pytest.raises(BadMedia, match="must be a tar file"):
        Shards(str(tmp_path / "bad.tar"))
    write(tmp_path / "empty.tar", {"a.txt": b"x"})
    with pytest.raises(BadMedia, match="must hold pairs"):
        Shards(str(tmp_path / "empty.tar"))
    with pytest.raises(BadInput, match="mix of Shards"):
        Shards(str(tmp_path / "empty.tar"), mix=0)
