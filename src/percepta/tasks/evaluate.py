"""Evaluate a model by named protocols: figures that carry their protocol, its hash, intervals and baselines.

The protocols stand in `percepta.tasks.evaluating.table`, one entry each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from percepta.errors import BadInput, one_of, out_of_range
from percepta.evaluation import Evaluation, Protocol
from percepta.running.feed import ON_ERROR
from percepta.running.preparing import precision_of
from percepta.running.progress import Progress
from percepta.tasks.encoder import NANO, Encoder
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.table import GROUPS, PROTOCOLS, Data
from percepta.tasks.evaluating.videobench import run_answering
from percepta.tasks.prompts import class_names, templates_of
from percepta.tasks.segment import NANO as PROMPTABLE_NANO

TOGETHER = 64  # pictures, frames or texts at once
RESOLVED: dict[str, Callable[[Any], Any]] = {"templates": templates_of, "classes": class_names}
"""Settings that may be given by a name, and what they become before the protocol is hashed."""
CHOICES = frozenset({"pooling", "criterion", "resize", "sampling", "split", "resolution", "question", "prompt", "mode"})
CHOICES |= {"judge", "variant", "prompts", "option rule"}
"""Settings in words that may be replaced; the others in words only say what is done."""
KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    ((float, int), "a number"),
    (str, "a word"),
    ((list, tuple), "a list"),
    (Mapping, "settings by name"),
)


def evaluate(
    protocols: str | Protocol | Sequence[str | Protocol],
    model: Any = None,
    weights: str | Path | None = None,
    data: str | Path | Mapping[str, str | Path] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    progress: Callable[[str], Progress] | None = None,
    settings: Mapping[str, Any] | None = None,
    on_error: str = "collect",
) -> Iterator[Evaluation]:
    """The figures of each protocol, as they are made.

    Args:
        protocols: names of `PROTOCOLS`, "nano" for those of the nano model's card, or protocols of these names with
            other settings.
        model: a name or a loaded model; None is the nano model of the kind that the protocols are for. Most need one
            with a text tower, some one that takes prompts, some one that answers: for these also any callable
            (frames, prompt) → text.
        weights: a file or folder for the model's name, in any layout of its family.
        data: where the data of protocols lie that need some; {"data": ..., "train": ...} where the training part lies
            elsewhere; {"run": ...}, a folder in which a protocol of models that answer keeps the answers, and goes on.
        batch_size: pictures, frames or texts at once, 1 or more; 64, of questions about videos 4.
        progress: makes the Progress of a piece of work from its name, such as the class itself; None keeps silent.
        settings: of the protocols given by name, to be replaced: such as {"layers": [3, -1]}. Each must be a setting
            of one of them. Templates may be named as for `classify`, classes "imagenet" or by a file of names.
        on_error: "collect" leaves out pictures of the data that cannot be read (see `failures` of each evaluation),
            "raise" raises BadMedia for the first.

    Raises:
        BadInput: an unknown protocol or setting, no data where they are needed, weights beside a loaded model, a model
            without words or prompts, protocols for both kinds of models at once, a batch size below 1. BadMedia: the
            data cannot be read. UnknownModel, MissingWeights, CheckpointMismatch.
    """
    if on_error not in ON_ERROR:
        raise one_of("on_error", on_error, ON_ERROR)
    chosen = protocols_of(protocols, settings)
    if batch_size is not None and batch_size < 1:
        raise out_of_range("batch_size", batch_size, "1 or more", "evaluate")
    places = _places(data)
    for protocol in chosen:
        needed = PROTOCOLS[protocol.name].data
        if needed and "data" not in places:
            raise BadInput(f"{protocol.name} needs {needed}: pass data (on the command line --data).")
    if _are(chosen, "answers"):
        return run_answering(chosen, model, weights, places, device, dtype, batch_size, progress)
    prompts = _are(chosen, "prompts")
    encoder = Encoder((PROMPTABLE_NANO if prompts else NANO) if model is None else model, device, dtype, weights)
    if hasattr(encoder.model, "session") and not prompts:
        raise BadInput(f"{chosen[0].name} measures encoders; {encoder.name} takes prompts and gives masks.")
    if any(PROTOCOLS[protocol.name].words for protocol in chosen):
        encoder.need_words("evaluate")
    batches = Batches(encoder, TOGETHER if batch_size is None else batch_size, progress, on_error)
    return _run(chosen, batches, places, "" if weights is None else Path(weights).name)


WORK = {"prompts": "take prompts and {} for encoders", "answers": "answer questions and {} for others"}


def _are(protocols: Sequence[Protocol], kind: str) -> bool:
    """Whether protocols are for models of a kind ("prompts", "answers"). Raises: BadInput where only some are."""
    kinds = {one.name: getattr(PROTOCOLS[one.name], kind) for one in protocols}
    if len(set(kinds.values())) > 1:
        first, other = (next(name for name, own in kinds.items() if own is wanted) for wanted in (True, False))
        raise BadInput(f"{first} is for models that {WORK[kind].format(other)}; run them one by one.")
    return any(kinds.values())


def protocols_of(
    protocols: str | Protocol | Sequence[str | Protocol], settings: Mapping[str, Any] | None = None
) -> tuple[Protocol, ...]:
    """Protocols by name, with settings replaced, or as they are; groups opened, each once.

    Raises: BadInput for an unknown name, none, or a setting that none of those given by name has.
    """
    wanted = {
        key: RESOLVED[key](value) if key in RESOLVED and value is not None else value
        for key, value in (settings or {}).items()
    }
    given = [protocols] if isinstance(protocols, str | Protocol) else list(protocols)
    found: dict[str, Protocol] = {}
    known: set[str] = set()
    for item in given:
        name = item.name if isinstance(item, Protocol) else item
        if name not in PROTOCOLS and (isinstance(item, Protocol) or name not in GROUPS):
            raise one_of("protocol", name, (*PROTOCOLS, *GROUPS))
        if isinstance(item, Protocol):
            found.setdefault(item.hash, item)
            continue
        for single in GROUPS.get(name, (name,)):
            made = PROTOCOLS[single].make()
            open_ones = {key for key, value in made.settings.items() if not isinstance(value, str) or key in CHOICES}
            known |= open_ones
            replaced = {
                key: _fitting(f"{key} of {single}", made.settings[key], value)
                for key, value in wanted.items()
                if key in open_ones
            }
            made = replace(made, settings={**made.settings, **replaced})
            found.setdefault(made.hash, made)
    if not found:
        raise BadInput(f"evaluate needs a protocol: {', '.join((*PROTOCOLS, *GROUPS))}; got none.")
    for key in wanted:
        if key not in known:
            raise one_of("setting", key, sorted(known), owner=", ".join(one.name for one in found.values()))
    return tuple(found.values())


def _fitting(what: str, usual: Any, given: Any) -> Any:
    """A setting of the kind that it usually is, a single value as a list where lists are usual.

    Raises: BadInput for another kind.
    """
    if isinstance(usual, list | tuple) and isinstance(given, str | int | float):
        return (given,)
    for kinds, words in KINDS:
        if isinstance(usual, kinds):
            if not isinstance(given, kinds) or isinstance(given, bool) != isinstance(usual, bool):
                raise BadInput(f"{what} must be {words}, such as {usual!r}; got {given!r}.")
            break
    return given


def _places(data: str | Path | Mapping[str, str | Path] | None) -> Data:
    given = {} if data is None else data if isinstance(data, Mapping) else {"data": data}
    for name in given:
        if name not in ("data", "train", "run"):
            raise one_of("data", name, ("data", "train", "run"), "evaluate")
    return {name: Path(place).expanduser() for name, place in given.items()}


def _run(protocols: Sequence[Protocol], batches: Batches, data: Data, weights: str) -> Iterator[Evaluation]:
    preprocess = batches.encoder.model.preprocess
    described = {
        "name": batches.encoder.name,
        "weights": weights,
        "image size": preprocess.image_size,
        "resize": preprocess.resize,
        "dtype": str(precision_of(batches.encoder.model)).removeprefix("torch."),
    }
    for protocol in protocols:
        began = time.perf_counter()
        found = PROTOCOLS[protocol.name].run(protocol, batches, data)
        seconds = round(time.perf_counter() - began, 1)
        failed = {"left out": f"{len(found.failures)} that cannot be read"} if found.failures else {}
        yield replace(found, model=described, details={**found.details, **failed, "seconds": seconds})
