"""Merging of files: bit for bit as in memory, a few tensors at a time, whole or not at all, and loadable."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import percepta
from percepta.checkpoints import read_metadata, write_safetensors, write_torch
from percepta.errors import BadInput, CheckpointMismatch, MissingWeights
from percepta.merging import STATE_METHODS, StateFile, average_states, merge_files, ties
from percepta.merging.streams import NAMES, write_stream

LAYERS, WIDTH = 12, 32


def state(seed: int, layers: int = LAYERS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(layers):
        found[f"{number}.weight"] = torch.randn(WIDTH, WIDTH, generator=generator)
        found[f"{number}.bias"] = torch.randn(WIDTH, generator=generator).half()
        found[f"{number}.count"] = torch.tensor(seed)
        found[f"{number}.odd"] = torch.randn(3, generator=generator).bfloat16()
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The base, and three models."""
    return written(tmp_path)


def written(folder: Path, layers: int = LAYERS) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in ("base", "one", "two", "three")]
    for seed, path in enumerate(paths):
        write_safetensors(path, state(seed, layers))
    return paths


def call(method: str, files: list[Path], out: Path, **options: Any) -> Path:
    if STATE_METHODS[method].data:
        generator = torch.Generator().manual_seed(0)
        grams = []
        for _ in files[1:]:
            x = torch.randn(64, WIDTH, generator=generator)
            grams.append({f"{number}.weight": x.T @ x for number in range(LAYERS)})
        options["grams"] = grams
    base = files[0] if STATE_METHODS[method].base else None
    return merge_files(files[1:], out, method, base, **options)


@pytest.mark.parametrize("method", STATE_METHODS)
def test_streaming_is_bit_for_bit_as_in_memory(method: str, files: list[Path], tmp_path: Path) -> None:
    out = call(method, files, tmp_path / "out" / "merged.safetensors")
    chosen, states = STATE_METHODS[method], [load_file(path) for path in files]
    options = {}
    if chosen.data:
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randn(64, WIDTH, generator=generator) for _ in states[1:]]
        options["grams"] = [{f"{number}.weight": x.T @ x for number in range(LAYERS)} for x in rows]
    wanted = (
        chosen.function(*states[:1], states[1:], **options) if chosen.base else chosen.function(states[1:], **options)
    )
    found = load_file(out)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are read or made and still held by someone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.reads = 0

    def watch(self, value: Tensor) -> Tensor:
        size = value.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(value, self.release, size)
        return value

    def release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        known = {id(value) for value in tree_leaves((args, kwargs))}
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and id(value) not in known and not value._is_view():
                self.watch(value)
        return found


def measured(method: str, folder: Path, layers: int, monkeypatch: pytest.MonkeyPatch) -> Alive:
    folder.mkdir()
    files = written(folder, layers)
    alive, read = Alive(), StateFile.__getitem__

    def counted(self: StateFile, key: str) -> Tensor:
        alive.reads += 1
        return alive.watch(read(self, key))

    options: dict[str, Any] = {"grams": [{"0.weight": torch.eye(WIDTH)}] * 3} if STATE_METHODS[method].data else {}
    base = files[0] if STATE_METHODS[method].base else None
    with monkeypatch.context() as patch, alive:
        patch.setattr(StateFile, "__getitem__", counted)
        merge_files(files[1:], folder / "merged.safetensors", method, base, **options)
    return alive


@pytest.mark.parametrize("method", STATE_METHODS)
def test_no_model_is_ever_held(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve layers more take not a byte more."""
    few, many = (measured(method, tmp_path / str(layers), layers, monkeypatch) for layers in (4, 16))
    assert few.most > 4 * WIDTH * WIDTH
    assert many.most == few.most
    assert many.reads <= 4 * few.reads, "each tensor as often, whatever their number"
    assert many.reads <= 3 * 7 * len(state(0, 16)), "three passes over three models, each with the base"


def test_half_files_never_appear(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "merged.safetensors"
    count = 0

    def stop(_: int) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt

    for content in (None, b"what was there before"):
        count = 0
        if content is not None:
            out.write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            merge_files(files[1:], out, "average", progress=stop)
        assert (out.read_bytes() if out.exists() else None) == content
        assert {path.name for path in tmp_path.iterdir()} <= {*(path.name for path in files), out.name}


def test_a_file_may_be_merged_into_itself(files: list[Path]) -> None:
    wanted = average_states(files[1:])
    merge_files(files[1:], files[1], "average")
    assert all(torch.equal(value, wanted[key]) for key, value in load_file(files[1]).items())


def test_written_tensors_are_whole_and_lie_at_multiples_of_their_width(tmp_path: Path) -> None:
    values = {dtype: torch.randint(0, 2, (3, 5)).to(dtype) for dtype in NAMES}
    tensors = {str(dtype): value for dtype, value in values.items()} | {"empty": torch.zeros(0, 4), "π": torch.ones(())}
    forms = {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()}
    path = write_stream(tmp_path / "all.safetensors", forms, tensors.__getitem__, {"note": "kept"})
    file, found = StateFile(path), load_file(path)
    assert file.metadata == {"note": "kept"}
    assert file.forms == forms
    assert all(
        torch.equal(found[key].view(torch.uint8), value.view(torch.uint8))
        for key, value in tensors.items()
        if value.ndim
    )
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    for key, (dtype, _) in forms.items():
        assert header[key]["data_offsets"][0] % dtype.itemsize == 0


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """pe-core-nano, and two models near it."""
    folder = tmp_path_factory.mktemp("tunes")
    model = percepta.load("pe-core-nano")
    start = {key: value.clone() for key, value in model.state_dict().items()}
    paths = [percepta.save(model, folder / "base.safetensors")]
    for seed in (1, 2):
        torch.manual_seed(seed)
        model.load_state_dict(
            {key: value + 0.02 * value.std(correction=0) * torch.randn_like(value) for key, value in start.items()}
        )
        paths.append(percepta.save(model, folder / f"{seed}.safetensors"))
    return paths


@pytest.mark.parametrize("method", ["average", "ties", "tsv"])
def test_two_tunes_of_a_model_of_ours_merge_and_load(method: str, tunes: list[Path], tmp_path: Path) -> None:
    base = tunes[0] if STATE_METHODS[method].base else None
    out = merge_files(tunes[1:], tmp_path / "merged.safetensors", method, base)
    model, ancestor = percepta.load(out), percepta.load(tunes[0])
    assert read_metadata(out) == read_metadata(tunes[1])
    assert json.loads(StateFile(out).metadata["merging"]) == {
        "schema": 1, "method": method, "models": ["1.safetensors", "2.safetensors"]
    }  # fmt: skip
    x = torch.rand(2, 3, *[model.config.image_size] * 2)
    with torch.no_grad():
        found, near, *others = (
            one.encode_image(x, normalize=True) for one in (model, ancestor, *map(percepta.load, tunes[1:]))
        )
    assert torch.isfinite(found).all()
    assert not torch.equal(found, near)
    assert all(float((found * other).sum(-1).min()) > 0.5 for other in (near, *others))


def test_other_files_and_folders_are_read_too(files: list[Path], tmp_path: Path) -> None:
    write_torch(tmp_path / "one.pt", state(1))
    folder = tmp_path / "folder"
    folder.mkdir()
    files[2].rename(folder / "model.safetensors")
    found = ties(files[0], [tmp_path / "one.pt", folder, StateFile(files[3])])
    wanted = ties(state(0), [state(1), state(2), state(3)])
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_the_parts_of_one_checkpoint_are_one_model(files: list[Path], tmp_path: Path) -> None:
    folder, whole = tmp_path / "parts", state(1)
    for number in (1, 2):
        part = {key: value for place, (key, value) in enumerate(whole.items()) if place % 2 == number - 1}
        write_safetensors(folder / f"model-0000{number}-of-00002.safetensors", part)
    out = merge_files([files[2], folder], tmp_path / "merged.safetensors", "average")
    wanted = average_states([state(2), whole])
    assert all(torch.equal(value, wanted[key]) for key, value in load_file(out).items())


def test_what_cannot_be_is_refused_in_a_sentence(files: list[Path], tunes: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"

    def refused(words: str, *arguments: Any, kind: type[Exception] = BadInput, **options: Any) -> None:
        with pytest.raises(kind, match=words):
            merge_files(*arguments, **options)
        assert not out.exists()

    refused("method of merging must be one of .*did you mean 'ties'", files, out, "tie")
    refused("ties needs the model that the others were tuned from; pass base", files, out, "ties")
    refused("average takes no base", files, out, "average", files[0])
    refused(
        "option of ties must be one of keep, scale; got 'kep' .did you mean 'keep'", files, out, "ties", files[0], kep=1
    )
    refused("regmean needs grams", files, out, "regmean")
    refused("goes into a file; .* is a folder", files, tmp_path, "average")
    refused("average needs at least 2 models; got 1", files[:1], out, "average")
    refused("is .* missing in model 2", [tunes[1], files[1]], out, "average")
    refused("does not exist", [files[1], tmp_path / "none"], out, "average", kind=MissingWeights)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(files[1].read_bytes()[:500])
    refused("damaged", [files[1], damaged], out, "average", kind=CheckpointMismatch)
    broken = state(1)
    broken["3.weight"][0, 0] = torch.nan
    write_safetensors(tmp_path / "nan.safetensors", broken)
    refused(r"3\.weight of model 2 holds NaN", [files[1], tmp_path / "nan.safetensors"], out, "average")
    other = tmp_path / "other.safetensors"
    entry = read_metadata(tunes[1])
    entry["config"]["vision"] = "other"
    write_safetensors(other, load_file(tunes[1]), entry)
    refused("has another config than", [tunes[1], other], out, "average")
    assert not list(tmp_path.glob(".*partial"))
