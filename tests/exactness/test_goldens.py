"""Outputs of the official code under seeded weights, through the public interface.

Every JSON of the folder PERCEPTA_GOLDENS is one test; its kind chooses the handler, in the file of its system. Handlers
read every field and never look at a file's name. Checkpoints are written in the official layout from the seeded weights
and loaded like any other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exactness import (
    hiera,
    hydra,
    merge_picture,
    parc,
    perception_encoder,
    plm,
    plm_data,
    plm_videobench,
    sam2,
    sam2_loss,
    sam2_pipeline,
    sam2_scores,
    token_merging,
    token_merging_diffusion,
    zipit,
)
from tests.exactness.golden import Golden

FOLDER = Path(os.environ.get("PERCEPTA_GOLDENS", Path(__file__).parents[3] / "shared" / "goldens"))
CASES = sorted(FOLDER.glob("*.json")) if FOLDER.is_dir() else []

ISA = "ONEDNN_MAX_CPU_ISA"

NOT_BUILT_YET = {
    "cot/tasks",
    "gaze-lle/full",
    "gaze-lle/head",
    "gaze-lle/metrics",
    "icl/minimizers",
    "linguistic-calibration/continuous",
    "linguistic-calibration/metrics",
    "low-light/sci",
    "perception-encoder/detection-backbone",
    "proving/trees",
    "schedules/wsds",
    "vitdet/backbone",
    "vitdet/cascade",
    "vitdet/heads",
}
"""Kinds of systems that are not built yet; the set shrinks with each of them."""

HANDLERS = {
    **hiera.HANDLERS,
    **hydra.HANDLERS,
    **merge_picture.HANDLERS,
    **parc.HANDLERS,
    **perception_encoder.HANDLERS,
    **plm.HANDLERS,
    **plm_data.HANDLERS,
    **plm_videobench.HANDLERS,
    **sam2.HANDLERS,
    **sam2_loss.HANDLERS,
    **sam2_pipeline.HANDLERS,
    **sam2_scores.HANDLERS,
    **token_merging.HANDLERS,
    **token_merging_diffusion.HANDLERS,
    **zipit.HANDLERS,
}
"""What runs a case, by its kind."""

SLOW = {"sam2-pipeline-tiny21", "sam2-video-tiny21"}
"""Stems of cases that take more than 20 seconds."""

EDGES = {"sam2/video"}
"""Kinds that turn logits into masks and go on from there. On which side of zero a pixel within rounding of it falls,
the processor's instructions say, and a memory follows: these cases run with those of AVX2 wherever there are more."""

pytestmark = pytest.mark.skipif(not CASES, reason=f"no goldens in {FOLDER}")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in CASES]
)
def test_golden(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    kind = content["kind"]
    if kind in NOT_BUILT_YET:
        pytest.skip(f"the system of {kind} is not built yet")
    if kind in EDGES and torch.backends.cpu.get_cpu_capability() == "AVX512" and ISA not in os.environ:
        command = [sys.executable, "-m", "pytest", "-m", "", f"{__file__}::test_golden[{path.stem}]"]
        told = subprocess.run(command, env=os.environ | {ISA: "AVX2"}, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout[-2000:]
        return
    arrays = path.with_suffix(".npz")
    golden = Golden(content, dict(np.load(arrays)) if arrays.exists() else {}, tmp_path)
    HANDLERS[kind](golden)
