"""Models as ONNX files, always compared with eager afterwards; a file that differs is not left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from percepta.errors import BadInput, MissingExtra, one_of
from percepta.running.modes import evaluating

PARTS = ("image", "text")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and how far it is from eager.

    Attributes:
        path: the file.
        differences: largest difference of an output over the largest output, by input shape.
        tolerance: what was allowed.
    """

    path: Path
    differences: dict[str, float]
    tolerance: float

    def __str__(self) -> str:
        worst = max(self.differences.values())
        shapes = ", ".join(self.differences)
        return f"{self.path}: equal to eager within {worst:.1e} (allowed {self.tolerance:.0e}) at {shapes}"


def export(
    model: nn.Module,
    path: str | Path,
    part: str = "image",
    dynamic_size: bool = True,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a model as ONNX with dynamic batch and size, then run the file beside eager.

    Args:
        model: an encoder from `load` or `build`; exported as it is, in evaluation mode.
        path: the `.onnx` file.
        part: "image" (pictures (B, 3, H, W) → what `forward` of the vision tower gives) or "text" (ids → embedding).
        dynamic_size: let H and W vary as well as the batch; otherwise the trained size is fixed.
        tolerance: largest difference allowed, relative to the largest output.

    Returns: the differences at two batch sizes and, if dynamic, two picture sizes.

    Raises: MissingExtra without onnx and onnxruntime; BadInput when the file differs from eager (it is deleted).
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch needs it)
    except ImportError as error:
        raise MissingExtra("onnx, onnxscript and onnxruntime", "export", "export to ONNX") from error
    weights = next(model.parameters())
    if weights.dtype != torch.float32 or weights.device.type != "cpu":
        raise BadInput(f"export needs a float32 model on the CPU; got {weights.dtype} on {weights.device}.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    module, examples, shapes = _plan(model, part, dynamic_size)
    try:
        with evaluating(model), torch.no_grad():
            program = torch.onnx.export(
                module, (examples[0],), dynamo=True, dynamic_shapes=shapes, input_names=["input"],
                output_names=["output"], verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(path))
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences = {str(tuple(x.shape)): _difference(session, module, x) for x in examples}
    except BaseException:
        _remove(path)
        raise
    return _judge(ExportReport(path, differences, tolerance))


def _judge(report: ExportReport) -> ExportReport:
    """The report, if the file equals eager; otherwise the file goes and the difference is told."""
    if all(difference <= report.tolerance for difference in report.differences.values()):  # false for NaN
        return report
    _remove(report.path)
    worst = max(report.differences.values(), key=lambda difference: (np.isnan(difference), difference))
    raise BadInput(
        f"{report.path} differed from eager by {worst:.1e} of the largest output, more than the {report.tolerance:.0e} "
        "allowed, and was deleted; pass a larger tolerance to keep such a file."
    )


def _remove(path: Path) -> None:
    for leftover in (path, path.with_name(path.name + ".data")):
        leftover.unlink(missing_ok=True)


def _plan(model: Any, part: str, dynamic_size: bool) -> tuple[nn.Module, list[Tensor], Any]:
    """The module to export, inputs to compare on (the first one is traced), and which axes vary."""
    if part not in PARTS:
        raise one_of("part", part, PARTS)
    if part == "text":
        if getattr(model, "text", None) is None:
            raise BadInput("part='text' needs a model with a text tower; this one has pictures alone.")
        length = model.text.config.context_length
        draw = torch.Generator().manual_seed(0)
        high = model.text.config.vocabulary
        texts = [torch.randint(1, high, (count, length), generator=draw) for count in (2, 3)]
        return model.text, texts, ({0: torch.export.Dim.DYNAMIC},)
    size, patch = model.config.image_size, model.config.patch_size
    # The traced sides differ from one another and from the trained one, so that nothing is taken for a constant.
    sizes = [(size + patch, size + 2 * patch), (size, size)] if dynamic_size else [(size, size), (size, size)]
    pictures = _pictures([(2 + index, 3, *sides) for index, sides in enumerate(sizes)])
    axes = (0, 2, 3) if dynamic_size else (0,)
    return getattr(model, "vision", model), pictures, (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)


def _pictures(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=draw) * 2 - 1 for shape in shapes]


def _difference(session: Any, module: Callable[[Tensor], Tensor], x: Tensor) -> float:
    want = module(x).float().numpy()
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return float(np.abs(got - want).max() / max(1e-12, float(np.abs(want).max())))
