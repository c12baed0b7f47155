"""What is installed, what is missing and how to get it.

Unusual: what ought to be there is read from the package's own metadata, so that nothing here can fall behind it.
Nothing that is missing stops the doctor.
"""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from percepta import catalog
from percepta.errors import how_to_install

PURPOSES = {
    "train": "training",
    "export": "ONNX export",
    "demo": "photographs of the demo",
    "heic": "HEIC pictures",
    "diffusion": "faster diffusion models",
}
FOR_DEVELOPERS = ("test", "docs")
SPEED = {
    "linear, 256 rows": ("linear", (256, 768, 2304), "float32"),
    "linear, 8 rows": ("linear", (8, 768, 2304), "float32"),
    "MLP, 256 rows": ("mlp", (256, 768, 3072, 768), "float32"),
    "attention, 256 tokens": ("attention", (1, 12, 256, 64), "float32"),
    "attention, 1024 tokens": ("attention", (1, 12, 1024, 64), "float32"),
    "bfloat16, 256 rows": ("precision", (256, 768, 768), "bfloat16"),
}
"""Parts of a ViT-B whose fastest way on this machine is told: as `running.machine.choice` takes them."""
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[.*?\])?\s*(?:>=\s*([\d.]+))?[^;]*(?:;.*extra\s*==\s*['\"](\w+)['\"])?")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: a topic ("version", "device", "speed", "weights", "index", "extra", "network"), a
    subject, whether all is well, what was found, and what to do where it is not."""

    topic: str
    subject: str
    good: bool
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in ("topic", "subject", "good", "found", "advice")}


def doctor() -> list[Finding]:
    """Versions, devices, weights, the index and extras of this installation; nothing is fetched, no model is loaded."""
    return [*_versions(), *_devices(), *_speed(), *_weights(), *_index(), *_extras(), _network()]


def requirements() -> dict[str, list[tuple[str, str]]]:
    """For each extra, and "" for percepta itself: packages with the least version, "" for any."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in metadata.requires("percepta") or ():
        parts = _REQUIREMENT.match(line)
        assert parts is not None
        found.setdefault(parts[3] or "", []).append((parts[1], parts[2] or ""))
    return found


def _versions() -> Iterator[Finding]:
    yield Finding("version", "python", True, platform.python_version())
    try:
        yield Finding("version", "percepta", True, metadata.version("percepta"))
        needed = requirements()[""]
    except metadata.PackageNotFoundError:
        yield Finding("version", "percepta", False, "not installed", "in the folder of its source: pip install .")
        return
    for package, least in needed:
        state = _lacking(package, least)
        advice = f'pip install "{package}>={least}"' if least else f"pip install {package}"
        yield Finding("version", package, not state, state or metadata.version(package), advice if state else "")
    yield from _together()


def _together() -> Iterator[Finding]:
    """A complaint where torch and torchvision are there, each for itself, and cannot be loaded together."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:  # told already
        return
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        advice = "take both from one place: pip install --force-reinstall torch torchvision"
        yield Finding("version", "torch + torchvision", False, f"do not fit together ({reason})", advice)


def _lacking(package: str, least: str) -> str:
    """What is wrong with a package, in words; "" where nothing is."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
    return f"{version} is too old" if _numbers(version) < _numbers(least) else ""


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.match(r"[\d.]*", version)[0].split(".") if number]  # type: ignore[index]
    while numbers and numbers[-1] == 0:  # 3.0 is 3
        numbers.pop()
    return tuple(numbers)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        advice = "pip install --force-reinstall torch torchvision"
        yield Finding("device", "cpu", False, f"torch cannot be loaded ({reason})", advice)
        return
    yield Finding("device", "cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    for number in range(torch.cuda.device_count()):
        yield Finding("device", f"cuda:{number}", True, torch.cuda.get_device_name(number))
    if not torch.cuda.device_count():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield Finding("device", "cuda", True, f"none found (torch is {built})")
    if torch.backends.mps.is_available():
        yield Finding("device", "mps", True, "Apple GPU")


def _speed() -> Iterator[Finding]:
    """Which way of computing is taken on this machine, by kind of part; measured where that was not done before."""
    try:
        import torch

        from percepta.running import machine
    except (ImportError, OSError):  # told already
        return
    yield Finding("speed", "processor", True, machine.processor())
    for subject, (kind, shape, precision) in SPEED.items():
        yield Finding("speed", subject, True, str(machine.choice(kind, shape, getattr(torch, precision), again=True)))


def _weights() -> Iterator[Finding]:
    for name in catalog.list_models():
        card = catalog.describe(name)
        try:
            state = card.weights
        except ImportError as error:
            yield Finding("weights", name, False, f"cannot be looked for ({error})", how_to_install("huggingface_hub"))
            return
        if state == "none":
            advice = f"train it: percepta train {name}" if card.packaged else "pass --weights FILE"
            yield Finding("weights", name, False, "not there", advice)
        elif state == "on the hub" and _offline():
            advice = f"unset HF_HUB_OFFLINE, or bring {card.hub_file} of {card.hub} and pass --weights FILE"
            yield Finding("weights", name, False, "not in the cache", advice)
        elif state == "on the hub":
            yield Finding("weights", name, True, f"fetched on first use ({card.hub})")
        else:
            yield Finding("weights", name, True, state)


def _index() -> Iterator[Finding]:
    yield Finding("index", "sqlite", True, sqlite3.sqlite_version)
    try:
        from percepta.tasks.indexing.places import account_place
    except (ImportError, OSError):  # without torch, which is told already
        return
    place, what = account_place(), "of your account"
    try:
        yield Finding("index", what, True, f"{place}, {place.stat().st_size / 1e6:.1f} MB")
    except FileNotFoundError:
        yield Finding("index", what, True, f"none yet at {place} (percepta index FOLDER FOLDER ... makes one)")
    except OSError as error:
        yield Finding("index", what, False, f"{place} cannot be read: {error.strerror}", f"look at: ls -l {place}")


def _extras() -> Iterator[Finding]:
    try:
        needed = requirements()
    except metadata.PackageNotFoundError:  # told already
        return
    for extra, packages in needed.items():
        if not extra or extra in FOR_DEVELOPERS:
            continue
        lacking = [(package, state) for package, least in packages if (state := _lacking(package, least))]
        words = ", ".join(f"{package} {state}" for package, state in lacking)
        names = " ".join(package for package, _ in lacking)
        advice = f"for {PURPOSES.get(extra, extra)}: {how_to_install(f'--upgrade {names}', extra)}" if lacking else ""
        yield Finding("extra", extra, not lacking, words or "complete", advice)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _network() -> Finding:
    state = "HF_HUB_OFFLINE is set: weights come from the cache only" if _offline() else "used only to fetch weights"
    return Finding("network", "hub", True, state)
