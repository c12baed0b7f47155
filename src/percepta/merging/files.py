"""The methods for models of one ancestor by name, and merging of files without holding a model in memory."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from percepta.errors import BadInput, one_of
from percepta.merging import fine_tunes as tuned
from percepta.merging import regression_mean as regression
from percepta.merging import task_matrices as matrices
from percepta.merging.streams import FineTunes, KeyRule, StateFile, same_architecture, write_stream

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StateMethod:
    """A method that merges state dicts.

    Attributes:
        function: of state dicts; its arguments behind the models are the options.
        rule: the same, tensor by tensor: of `FineTunes` and the options.
        about: in a few words.
        base: whether it needs the common ancestor.
        data: whether it needs data, as Grams.
        least: the number of models it needs.
    """

    function: Callable[..., dict[str, Any]]
    rule: Callable[..., KeyRule]
    about: str
    base: bool = True
    data: bool = False
    least: int = 1

    def options(self) -> dict[str, Any]:
        """The names of the options and their defaults; `inspect.Parameter.empty` for one that must be given."""
        found = list(inspect.signature(self.rule).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in found}


STATE_METHODS: Mapping[str, StateMethod] = MappingProxyType({
    "average": StateMethod(tuned.average_states, tuned.average_rule, "the weighted mean", base=False, least=2),
    "task_arithmetic": StateMethod(tuned.task_arithmetic, tuned.task_arithmetic_rule, "the base plus task vectors"),
    "ties": StateMethod(tuned.ties, tuned.ties_rule, "trim, elect signs, mean of those that agree"),
    "dare": StateMethod(tuned.dare, tuned.dare_rule, "drop at random, make up for it, then add or TIES"),
    "breadcrumbs": StateMethod(tuned.breadcrumbs, tuned.breadcrumbs_rule, "leave out both tails, then add"),
    "model_stock": StateMethod(tuned.model_stock, tuned.model_stock_rule, "mean and base, by their angle", least=2),
    "tsv": StateMethod(matrices.tsv_merge, matrices.tsv_rule, "singular vectors of all tasks, turned apart"),
    "iso": StateMethod(matrices.iso_merge, matrices.iso_rule, "summed task matrices, all directions of one length"),
    "regmean": StateMethod(
        regression.regmean, regression.regmean_rule, "least squares on what layers read", base=False, data=True, least=2
    ),
})  # fmt: skip
"""By the name that `merge_files` takes."""


def merge_files(
    paths: Sequence[str | Path],
    out: str | Path,
    method: str,
    base: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Path:
    """Merge files of state dicts into a safetensors file, tensor by tensor.

    No model is ever held: what is in memory is a few tensors of one key. A run that is killed leaves no file, or the
    file that was there before.

    Args:
        paths: safetensors files (others are mapped, or read as a whole where that cannot be), or folders of one.
        out: the file to write, with the header of the first: what `percepta.load` needs is kept.
        method: of `STATE_METHODS`.
        base: the common ancestor, for methods that need one.
        progress: called with 1 after each tensor.
        options: of the method, see `StateMethod.options`.

    Returns: the file. Raises: BadInput for an unknown method or option, a base that is missing or not needed, models
        that do not fit together, and NaN, each with its name; MissingWeights, CheckpointMismatch for files.
    """
    if method not in STATE_METHODS:
        raise one_of("method", method, STATE_METHODS, "merging")
    chosen = STATE_METHODS[method]
    if chosen.base and base is None:
        raise BadInput(f"{method} needs the model that the others were tuned from; pass base.")
    if base is not None and not chosen.base:
        raise BadInput(f"{method} takes no base; leave it out, or choose a method that needs one, such as 'ties'.")
    known = chosen.options()
    for name in options:
        if name not in known:
            raise one_of("option", name, known, method)
    lacking = [name for name, default in known.items() if default is inspect.Parameter.empty and name not in options]
    if lacking:
        raise BadInput(f"{method} needs {lacking[0]}; pass {lacking[0]}=.")
    models = FineTunes(paths, base, method, chosen.least)
    same_architecture([*models.states, *([] if models.base is None else [models.base])])
    first = models.states[0]
    metadata = {"format": "pt"} | (first.metadata if isinstance(first, StateFile) else {})
    metadata["merging"] = json.dumps(
        {"schema": SCHEMA, "method": method, "models": [Path(path).name for path in paths]}
    )
    return write_stream(out, models.forms, chosen.rule(models, **options), metadata, progress)
