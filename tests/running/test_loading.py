"""load, build, save: names, files, layouts, precision, and every refusal."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import percepta
from percepta.catalog import describe
from percepta.errors import BadInput, CheckpointMismatch, MissingWeights, UnknownModel
from percepta.running.loading import open_model

TINY = {"depth": 2, "width": 48, "heads": 3, "pooling_heads": 4, "patch_size": 8, "image_size": 32, "output_dim": 24}
TINY_TEXT = {"width": 32, "heads": 2, "depth": 1, "vocabulary": 64}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    model = percepta.build("pe-core-t16-384", **TINY, text=TINY_TEXT)
    return model, percepta.save(model, tmp_path / "model.safetensors")


def test_load_gives_eval_float32_cpu_and_a_preprocess(saved: tuple) -> None:
    model = percepta.load("pe-core-t16-384", weights=saved[1], **TINY, text=TINY_TEXT)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.requires_grad for p in model.parameters())
    assert model.preprocess.image_size == 32
    assert model.name == "pe-core-t16-384"
    assert model.config.depth == 2
    with pytest.raises(AttributeError):
        model.config.depth = 3


def test_an_opened_model_stays_in_its_file(saved: tuple, tmp_path: Path) -> None:
    half = percepta.save(saved[0], tmp_path / "half.safetensors", dtype="float16")
    model = open_model(half)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not model.training
    for name, value in saved[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half())


def test_loading_does_not_import_the_compiler_of_torch(saved: tuple) -> None:
    code = f"import sys, percepta; percepta.load({str(saved[1])!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_saved_file_is_a_name(saved: tuple) -> None:
    model = percepta.load(saved[1])
    assert model.config == saved[0].config
    assert torch.equal(model.vision.patches.weight, saved[0].vision.patches.weight)
    assert percepta.load(saved[1].parent).config == model.config


def test_a_tower_comes_out_of_a_whole_checkpoint(saved: tuple, tmp_path: Path) -> None:
    for layout, ending in (("native", "pt"), ("official", "PT"), ("open_clip", "pth")):
        path = percepta.save(saved[0], tmp_path / f"{layout}.{ending}", layout=layout)
        assert zipfile.is_zipfile(path)  # as torch writes them
        tower = percepta.load("pe-core-t16-384", weights=path, **TINY, text=None)
        assert torch.equal(tower.projection, saved[0].vision.projection)


def test_half_precision_files_load_as_float32(saved: tuple, tmp_path: Path) -> None:
    path = percepta.save(saved[0], tmp_path / "half.safetensors", dtype="float16")
    assert path.stat().st_size < 0.6 * saved[1].stat().st_size
    assert percepta.load(path).logit_scale.dtype == torch.float32
    assert percepta.load(path, dtype="bf16").logit_scale.dtype == torch.bfloat16
    with pytest.raises(BadInput, match="dtype must be one of"):
        percepta.load(path, dtype="int8")


def test_names_are_forgiving_and_unknown_ones_are_not() -> None:
    assert describe("PE-Core-L14-336").name == describe("facebook/pe-core-l14-336").name == "pe-core-l14-336"
    with pytest.raises(UnknownModel, match="did you mean pe-core-l14-336") as caught:
        percepta.build("pe-core-l14")
    assert not str(caught.value).startswith('"')
    with pytest.raises(UnknownModel, match="list_models"):
        percepta.build("zzzzzzzz")


def test_a_folder_does_not_shadow_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pe-core-t16-384").mkdir()
    monkeypatch.chdir(tmp_path)
    assert percepta.build("pe-core-t16-384", device="meta").name == "pe-core-t16-384"


def test_damaged_files_and_odd_devices(tmp_path: Path) -> None:
    header = b"{broken}"
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0" * 20)
    with pytest.raises(CheckpointMismatch, match="damaged"):
        percepta.load(tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="device must be"):
        percepta.build("pe-core-nano", device="nonsense")
    with pytest.raises(BadInput, match="dtype must be one of"):
        percepta.load("pe-core-nano", dtype=torch.int8)


def test_overrides() -> None:
    model = percepta.build("pe-core-l14-336", device="meta", depth=4, text={"depth": 2})
    assert len(model.vision.blocks) == 4
    assert len(model.text.blocks) == 2
    assert model.config.text.width == 1024  # the other fields of the text tower stay
    with pytest.raises(BadInput, match="has no field 'layers'"):
        percepta.build("pe-core-l14-336", layers=4)
    with pytest.raises(BadInput, match="did you mean 'width'"):
        percepta.build("pe-core-l14-336", widht=4)
    with pytest.raises(BadInput, match="needs output_dim"):
        percepta.build("pe-core-l14-336", output_dim=None)


def test_nothing_is_loaded_in_part(saved: tuple, tmp_path: Path) -> None:
    state = dict(saved[0].state_dict())
    del state["text.norm.bias"]
    torch.save(state, tmp_path / "partial.pt")
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(text.norm.bias\)"):
        percepta.load("pe-core-t16-384", weights=tmp_path / "partial.pt", **TINY, text=TINY_TEXT)
    with pytest.raises(CheckpointMismatch, match="misshapen"):
        percepta.load("pe-core-t16-384", weights=saved[1], **(TINY | {"patch_size": 4}), text=TINY_TEXT)


def test_weights_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match="pe-core-l14-336 are not on this machine") as caught:
        percepta.load("pe-core-l14-336")
    assert "PE-Core-L14-336.pt" in str(caught.value)
    with pytest.raises(MissingWeights, match="does not exist"):
        percepta.load("pe-core-l14-336", weights="nowhere.pt")


def test_unknown_layouts_and_files_without_a_name(saved: tuple, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="layout of pe-core-t16-384 must be one of native, official, open_clip"):
        percepta.save(saved[0], tmp_path / "x.pt", layout="timmm")
    path = percepta.save(saved[0], tmp_path / "x.pt")
    with pytest.raises(BadInput, match="does not say what model"):
        percepta.load(path)


def test_weights_exist_once_in_memory(saved: tuple) -> None:
    """Parameters are the tensors of the file: nothing is copied on the way in."""
    from percepta.running import loading

    seen = {}
    original = loading.checkpoints.read_tensors

    def spy(path: object) -> dict:
        seen.update(original(path))
        return dict(seen)

    loading.checkpoints.read_tensors = spy
    try:
        model = percepta.load(saved[1])
    finally:
        loading.checkpoints.read_tensors = original
    for key, value in model.state_dict().items():
        assert value.data_ptr() == seen[key].data_ptr()
