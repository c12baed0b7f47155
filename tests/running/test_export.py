"""ONNX files equal eager at sizes they were not traced at; a file that does not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import percepta
from percepta.errors import BadInput
from percepta.running import export as exporting
from tests.battery import pictures, small


def test_dynamic_batch_and_size(tmp_path: Path) -> None:
    import onnxruntime

    model = small("pe-core-t16-384", depth=1).train()
    model.vision.eval()
    modes = [module.training for module in model.modules()]
    report = percepta.export(model, tmp_path / "image.onnx")
    assert [module.training for module in model.modules()] == modes
    assert len(report.differences) == 2
    assert max(report.differences.values()) < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "image.onnx"))
    x = pictures(5, 3, 24, 56)
    (got,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        want = model.encode_image(x)
    assert (torch.from_numpy(got) - want).abs().max() < 1e-5 * (1 + want.abs().max())


@pytest.mark.slow
def test_text_and_towers_without_pooling(tmp_path: Path) -> None:
    core, spatial = small("pe-core-t16-384", depth=1), small("pe-spatial-t16-512", depth=1)
    assert max(percepta.export(core, tmp_path / "text.onnx", part="text").differences.values()) < 1e-5
    assert max(percepta.export(spatial, tmp_path / "spatial.onnx").differences.values()) < 1e-5
    with pytest.raises(BadInput, match="text tower"):
        percepta.export(spatial, tmp_path / "x.onnx", part="text")


def test_a_file_that_differs_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = exporting._difference
    monkeypatch.setattr(exporting, "_difference", lambda s, module, x: compare(s, lambda y: 1.5 * module(y), x))
    with pytest.raises(BadInput, match="differed from eager by"):
        percepta.export(small("pe-core-t16-384", depth=1), tmp_path / "broken.onnx", part="text")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="differed from eager by nan"):
        exporting._judge(exporting.ExportReport(tmp_path / "x", {"a": 0.0, "b": float("nan")}, 1e-4))


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="float32 model on the CPU"):
        percepta.export(small("pe-core-t16-384", depth=1).bfloat16(), tmp_path / "x.onnx")


def test_unknown_part() -> None:
    with pytest.raises(BadInput, match="part must be one of image, text"):
        percepta.export(small("pe-core-t16-384", depth=1), "never.onnx", part="audio")
