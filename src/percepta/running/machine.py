"""Which ways of computing this machine can use, and which of them is fastest: probed, checked, measured, remembered.

A class of shapes is measured once, at its first use, for about 50 ms: the ways take turns on seeded inputs, each one's
result is compared with the plain one's, and the fastest of those that agree is chosen. What was found is kept in
`percepta/machine.json` of the user's cache folder under a name made of the processor, torch's version, the number of
threads and the switches that change either library, so that another process need not measure. A file that cannot be
read or written changes nothing but that.

Unusual: plain wins ties, and a way must be 3 % faster to be worth the memory of a packed weight. What was found stays,
also if other programs kept the machine busy, so that a run which is killed and resumed computes the same to the last
bit; `percepta doctor` measures such findings again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from percepta.layers.chunked import WAYS, attend_in_tiles
from percepta.layers.packed import missing, pack, packed_linear

SCHEMA = 1
SECONDS = 0.05  # spent on one class of shapes, beyond four rounds
ROUNDS = (4, 20)
QUIET = 1.5  # median over best of the rounds, above which another program was in the way
WORK = 2.5e9  # floating-point operations of one timed call, at most about
GAIN = 1.03
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
SWITCHES = ("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA")
Way = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found for one class of shapes.

    Attributes:
        way: the chosen way, "plain" or "fused" where nothing is faster.
        gain: times as fast as the plain way, by way, of those that agree with it.
        change: relative change of the result, by way.
        refused: why a way is out of the question, by way.
        quiet: whether no other program was in the way.
    """

    way: str
    gain: dict[str, float]
    change: dict[str, float]
    refused: dict[str, str]
    quiet: bool = True

    def __str__(self) -> str:
        others = [name for name in self.gain if name in self.change]
        words = [f"{name} {self.gain[name]:.2f} times as fast, within {self.change[name]:.0e}" for name in others]
        words += [f"not {name}: {reason}" for name, reason in self.refused.items()]
        words += [] if self.quiet else ["measured on a busy machine"]
        return f"{self.way} ({'; '.join(words)})" if words else self.way


def choose(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """The fastest way on this machine; measured at the first use of a class of shapes. Safe between threads.

    Args:
        kind, shape: "linear" (rows, in, out), "mlp" (rows, in, hidden, out), "attention" (B, heads, N, head_dim) or
            "precision" (rows, in, out): whether bfloat16 beats float32.
        dtype: the precision of the packed weights, or of queries and keys.

    Returns: "plain" or "packed"; for attention one of `layers.chunked.WAYS`.
    """
    key = (kind, _class(kind, shape), dtype, torch.get_num_threads())
    found = _ways.get(key)
    return _decide(key, shape) if found is None else found


def choice(kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, again: bool = False) -> Choice:
    """What `choose` goes by, with the figures; `again` measures anew what was found on a busy machine."""
    with _lock:
        name = " ".join([kind, *map(str, _class(kind, shape)), str(dtype).removeprefix("torch.")])
        machine = signature()
        known = _remembered().setdefault(machine, {})
        found = _read(known.get(name), kind)
        if found is None or (again and not found.quiet):
            found = _measure(kind, shape, dtype)
            known[name] = asdict(found)
            _remember(machine, name, found)
        return found


def forget() -> None:
    """Forget what was found in this process; the file stays."""
    with _lock:
        _ways.clear()
        _files.clear()


def tune_allocator() -> bool:
    """Keep freed memory instead of giving it back to the system at once; whether that could be done.

    Process-wide, for good, glibc alone: blocks of up to 1 GB come from the heap and stay there, so a tensor that an
    operator makes finds pages that are already mapped. Costs that the process keeps its largest footprint.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(threshold, 1 << 30)) and bool(mallopt(trim, 2**31 - 1))


@functools.cache
def processor() -> str:
    """The processor's name, family, model and stepping, and what torch makes of it."""
    wanted = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            field, _, value = line.partition(":")
            if field.strip() in wanted:
                found.setdefault(field.strip(), value.strip())
    except (OSError, ValueError):
        found["model name"] = platform.processor() or platform.machine()
    return " ".join([*(found[name] for name in wanted if name in found), torch.backends.cpu.get_cpu_capability()])


def signature() -> str:
    """The name under which findings of this machine are kept."""
    switches = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    return " | ".join([processor(), f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", *switches])


def cache_file() -> Path:
    """Where findings are kept: `$XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "percepta" / "machine.json"


_lock = threading.RLock()
_ways: dict[tuple[Any, ...], str] = {}
_files: dict[Path, dict[str, dict[str, Any]]] = {}


def _decide(key: tuple[Any, ...], shape: tuple[int, ...]) -> str:
    kind, _, dtype, _ = key
    with _lock:
        way = choice(kind, shape, dtype).way
        if way != _plain(kind) and not _trusted(dtype):
            way = _plain(kind)
        _ways[key] = way
    return way


def _plain(kind: str) -> str:
    return "fused" if kind == "attention" else "plain"


@functools.cache
def _trusted(dtype: torch.dtype) -> bool:
    """Whether packed products are still right in this process, on a few values: what the file says is from another."""
    if missing(dtype):
        return False
    x, weight, bias = _draw((5, 48), dtype), _draw((24, 48), dtype), _draw((24,), dtype)
    try:
        change = _change(packed_linear(x, pack(weight, dtype), bias), F.linear(x, weight, bias))
    except RuntimeError:
        return False
    return change <= TOLERANCE[dtype]


def _class(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shapes of which one measurement holds for all: sizes rounded up to a power of two, large ones as one."""
    if kind == "attention":
        batch, heads, count, head_dim = shape
        return _step(batch, 4), heads, _step(count), head_dim
    return _step(shape[0], 512), *shape[1:]


def _step(size: int, most: int = 1 << 40) -> int:
    return int(min(most, 1 << max(0, size - 1).bit_length()))


def _measure(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Choice:
    """What is found by trying."""
    plain = _plain(kind)
    refused: dict[str, str] = {}
    if dtype not in TOLERANCE:
        return Choice(plain, {plain: 1.0}, {}, {})
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        ways = {"linear": _linear_ways, "mlp": _mlp_ways, "precision": _precision_ways, "attention": _attention_ways}[
            kind
        ](shape, dtype, refused)
        want, change = ways[plain](), {}
        tolerance = TOLERANCE[torch.bfloat16 if kind == "precision" else dtype]
        for name in [name for name in ways if name != plain]:
            try:
                change[name] = _change(ways[name](), want)
            except RuntimeError as error:
                refused[name] = " ".join(str(error).split())[:80]
            else:
                if not change[name] <= tolerance:
                    refused[name] = f"its results differ by {change[name]:.0e}"
            if name in refused:
                del ways[name]
        gain, quiet = _gains(ways, plain)
    best = max(gain, key=lambda name: gain[name])
    return Choice(best if gain[best] >= GAIN else plain, gain, change, refused, quiet)


def _gains(ways: Mapping[str, Way], plain: str) -> tuple[dict[str, float], bool]:
    """How many times as fast as the plain way each one is, by the best of rounds in which all take their turn; and
    whether the machine was quiet: half of the rounds near the best."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names, start = list(ways), time.perf_counter()
    for turn in range(ROUNDS[1]):
        for name in names if turn % 2 else reversed(names):
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
        if turn + 1 >= ROUNDS[0] and time.perf_counter() - start > SECONDS:
            break
    quiet = not _crowded() and all(statistics.median(mine) < QUIET * min(mine) for mine in seconds.values())
    return {name: round(min(seconds[plain]) / min(mine), 3) for name, mine in seconds.items()}, quiet


def _crowded() -> bool:
    """Whether more programs than processors were running in the last minute."""
    try:
        return os.getloadavg()[0] > 1.25 * (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return False


def _linear_ways(shape: tuple[int, ...], dtype: torch.dtype, refused: dict[str, str]) -> dict[str, Way]:
    rows, inner, outer = shape
    x, weight, bias = _operands(rows, inner, outer, dtype)
    ways: dict[str, Way] = {"plain": lambda: F.linear(x, weight, bias)}
    if _allowed(dtype, "packed", refused):
        packed = pack(weight, dtype)
        ways["packed"] = lambda: packed_linear(x, packed, bias)
    return ways


def _mlp_ways(shape: tuple[int, ...], dtype: torch.dtype, refused: dict[str, str]) -> dict[str, Way]:
    rows, inner, hidden, outer = shape
    x, first, bias = _operands(rows, inner, hidden, dtype, share=0.5)
    second = _draw((outer, hidden), dtype) * hidden**-0.5
    ways: dict[str, Way] = {"plain": lambda: F.linear(F.gelu(F.linear(x, first, bias)), second)}
    if _allowed(dtype, "packed", refused):
        a, b = pack(first, dtype), pack(second, dtype)
        ways["packed"] = lambda: packed_linear(packed_linear(x, a, bias, ("gelu", "none")), b, None)
    return ways


def _precision_ways(shape: tuple[int, ...], dtype: torch.dtype, refused: dict[str, str]) -> dict[str, Way]:
    """float32 in its fastest form against bfloat16 with the conversions that it brings."""
    rows, inner, outer = shape
    x, weight, bias = _operands(rows, inner, outer, torch.float32)
    full = pack(weight, torch.float32) if not missing() else None
    ways: dict[str, Way] = {
        "plain": lambda: F.linear(x, weight, bias) if full is None else packed_linear(x, full, bias)
    }
    if _allowed(dtype, "packed", refused):
        low, low_bias = pack(weight, dtype), bias.to(dtype)
        ways["packed"] = lambda: packed_linear(x.to(dtype), low, low_bias).float()
    return ways


def _attention_ways(shape: tuple[int, ...], dtype: torch.dtype, refused: dict[str, str]) -> dict[str, Way]:
    batch, heads, count, head_dim = shape
    most = max(1, int(WORK / (4 * count * count * head_dim)))
    heads, batch = min(heads, most), min(batch, 4, max(1, most // heads))
    query, key, value = _draw((batch, count, 3, heads, head_dim), dtype).permute(2, 0, 3, 1, 4)
    names = [way for way in WAYS if way != "rows" or _allowed(dtype, "rows", refused)]
    return {way: functools.partial(attend_in_tiles, query, key, value, None, way) for way in names}


def _allowed(dtype: torch.dtype, way: str, refused: dict[str, str]) -> bool:
    if reason := missing(dtype):
        refused[way] = reason
    return not reason


def _operands(
    rows: int, inner: int, outer: int, dtype: torch.dtype, share: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Seeded input, weight and bias of a layer, with fewer rows where the product would take long."""
    rows = max(1, min(rows, int(share * WORK / (2 * inner * outer))))
    return _draw((rows, inner), dtype), _draw((outer, inner), dtype) * inner**-0.5, _draw((outer,), dtype)


def _draw(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _change(got: Tensor, want: Tensor) -> float:
    """The relative change of a result."""
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


def _remembered() -> dict[str, dict[str, Any]]:
    """What the file says, by machine; read once in a process."""
    path = cache_file()
    if path not in _files:
        _files[path] = _load(path)
    return _files[path]


def _load(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return {}
    machines = content.get("machines")
    if not isinstance(machines, dict):
        return {}
    return {name: dict(found) for name, found in machines.items() if isinstance(found, dict)}


def _read(entry: Any, kind: str) -> Choice | None:
    """A remembered choice, or None where it is none."""
    allowed = WAYS if kind == "attention" else ("plain", "packed")
    try:
        found = Choice(**entry)
        numbers = [*found.gain.values(), *found.change.values()]
        good = found.way in allowed and all(math.isfinite(float(number)) for number in numbers)
        return found if good and found.way in found.gain and isinstance(found.refused, dict) else None
    except (TypeError, ValueError, AttributeError):
        return None


def _remember(machine: str, name: str, found: Choice) -> None:
    """Add one finding to the file, whole or not at all; what others wrote meanwhile stays."""
    path = cache_file()
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _load(path)
        content.setdefault(machine, {})[name] = asdict(found)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            json.dump({"schema": SCHEMA, "machines": content}, file, indent=1)
        os.replace(file.name, path)
