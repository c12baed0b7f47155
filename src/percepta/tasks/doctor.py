"""What is installed, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from percepta import catalog

CORE = ("torch", "torchvision", "numpy", "pillow", "av", "open_clip_torch", "safetensors", "huggingface_hub", "rich")
# For each extra: what it is for, and the modules it brings with the names of their packages.
EXTRAS: dict[str, tuple[str, dict[str, str]]] = {
    "train": ("training", {"lightning": "lightning", "timm": "timm", "webdataset": "webdataset", "pyarrow": "pyarrow"}),
    "export": ("ONNX export", {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"}),
    "demo": ("photographs of the demo", {"skimage": "scikit-image"}),
    "heic": ("HEIC pictures", {"pillow_heif": "pillow-heif"}),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: a topic ("version", "device", "weights", "extra", "network"), a subject, whether all
    is well, what was found, and what to do where it is not."""

    topic: str
    subject: str
    good: bool
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in ("topic", "subject", "good", "found", "advice")}


def doctor() -> list[Finding]:
    """Versions, devices, weights and extras of this installation; nothing is fetched and no model is loaded."""
    return [*_versions(), *_devices(), *_weights(), *_extras(), _network()]


def _versions() -> list[Finding]:
    found = [Finding("version", "python", True, platform.python_version())]
    for package in ("percepta", *CORE):
        try:
            found.append(Finding("version", package, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append(Finding("version", package, False, "not installed", f"pip install {package}"))
    return found


def _devices() -> list[Finding]:
    import torch

    found = [Finding("device", "cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")]
    cards = range(torch.cuda.device_count())
    found += [Finding("device", f"cuda:{number}", True, torch.cuda.get_device_name(number)) for number in cards]
    if torch.backends.mps.is_available():
        found.append(Finding("device", "mps", True, "Apple GPU"))
    return found


def _weights() -> list[Finding]:
    found = []
    for name in catalog.list_models():
        card = catalog.describe(name)
        state = card.weights
        if state == "none":
            advice = f"train it: percepta train {name}" if card.packaged else "pass --weights FILE"
            found.append(Finding("weights", name, False, "not there", advice))
        else:
            found.append(Finding("weights", name, True, state if state != "on the hub" else f"on the hub ({card.hub})"))
    return found


def _extras() -> list[Finding]:
    found = []
    for extra, (purpose, modules) in EXTRAS.items():
        missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
        state = f"missing {', '.join(missing)}" if missing else "complete"
        advice = f'for {purpose}: pip install "percepta[{extra}]"' if missing else ""
        found.append(Finding("extra", extra, not missing, state, advice))
    return found


def _network() -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    state = "HF_HUB_OFFLINE is set: weights come from the cache only" if offline else "used only to fetch weights"
    return Finding("network", "hub", True, state)
