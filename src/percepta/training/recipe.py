"""Training recipes: frozen dataclasses, read from YAML, changed by `key=value`.

Order of this file: stages, masks, rates, recipe, reading, overrides, errors; the data part is in `data_recipe`.
Unusual: there is no second schema. Pydantic checks a file against these very classes, and an unknown field is refused
with the file, the field and the nearest name that exists.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from percepta.errors import BadInput, nearest, one_of, out_of_range
from percepta.training.aligning_recipe import AlignRecipe, DistilRecipe
from percepta.training.answering_recipe import AnswerRecipe
from percepta.training.data_recipe import (
    FORBID,
    PHOTOGRAPHS,
    RELATIONS,
    AugmentRecipe,
    CifarRecipe,
    ClipsRecipe,
    DataRecipe,
    FolderRecipe,
    ScenesRecipe,
    ShardsRecipe,
    VideosRecipe,
)
from percepta.training.objective_table import OBJECTIVES
from percepta.training.picture_recipe import ClassifyRecipe, MaskedRecipe
from percepta.training.schedules import schedule_factor
from percepta.training.segment_recipe import SegmentRecipe

__all__ = [
    "PHOTOGRAPHS",
    "RELATIONS",
    "AugmentRecipe",
    "CifarRecipe",
    "ClipsRecipe",
    "DataRecipe",
    "FolderRecipe",
    "MaskRecipe",
    "Precision",
    "RatesRecipe",
    "Recipe",
    "ScenesRecipe",
    "ShardsRecipe",
    "Stage",
    "VideosRecipe",
    "find_recipe",
    "list_recipes",
    "make_recipe",
    "parse_override",
    "read_recipe",
    "recipe_folders",
]

Precision = Literal["float32", "bfloat16-products", "bfloat16-mixed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Part of a run at one picture size (progressive resolution).

    Attributes:
        share: part of the run, relative to the other stages.
        image_size: side in pixels.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    share: float
    image_size: int

    def __post_init__(self) -> None:
        for name in ("share", "image_size"):
            if not getattr(self, name) > 0:
                raise out_of_range(name, getattr(self, name), "positive", "a stage")


@dataclass(frozen=True, slots=True)
class MaskRecipe:
    """Mask regularisation (arXiv 2504.13181, section 2.1): hidden patches are to come out as if they had been seen.

    The paper gives share and ratio; the other fields are unpublished, and the defaults are ours.

    Attributes:
        share: part of the pictures of a batch that pass a second time with hidden patches.
        ratio: part of their patches that is hidden.
        weight: of this loss beside the contrastive one.
        fill: what stands at hidden places before positions are added: "zero", or "learned", one embedding for all.
        after_norm: whether tokens are compared after the final norm of the tower, or before.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    share: float = 1 / 16
    ratio: float = 0.4
    weight: float = 1.0
    fill: Literal["zero", "learned"] = "zero"
    after_norm: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise out_of_range("share", self.share, "above 0 and at most 1", "mask")
        if not 0 < self.ratio < 1:
            raise out_of_range("ratio", self.ratio, "above 0 and below 1", "mask")
        if not self.weight > 0:
            raise out_of_range("weight", self.weight, "positive", "mask")


@dataclass(frozen=True, slots=True)
class RatesRecipe:
    """Learning rates that differ between parameters, as factors of the recipe's rate.

    A parameter's factor is that of the first pattern which fits its name, times its layer's: with n blocks, block k
    gets layer_decay ** (n - k), what stands before the blocks layer_decay ** (n + 1).

    Attributes:
        layer_decay: factor from one block to the one below; 1 is off.
        layers: dotted name of the module that holds `blocks`, such as "image_encoder.trunk"; empty for the model.
        exempt: patterns of names inside `layers` that keep their full rate, such as "*pos_embed*".
        factors: patterns of names ("image_encoder.*") and factors.
        undecayed: patterns of names without weight decay, beside all vectors; Hiera exempts its position tables.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    layer_decay: float = 1.0
    layers: str = ""
    exempt: tuple[str, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)
    undecayed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise out_of_range("layer_decay", self.layer_decay, "above 0 and at most 1", "rates")
        for pattern, factor in self.factors.items():
            if not 0 <= factor < math.inf:
                raise out_of_range(f"the factor of {pattern!r}", factor, "0 or more", "rates")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run; two runs of one recipe on one machine give the same weights.

    Attributes:
        model, model_overrides: what `percepta.build` gets.
        objective: what is learned: a name of `percepta.training.objective_table.OBJECTIVES`.
        weights: what the run starts from: empty for fresh weights, "pretrained" for the model's own (packaged, or from
            the hub), or a file or folder in any layout of the family.
        hydra: blocks of the vision tower to train with Hydra attention, as `speedups.chosen_blocks` takes them, such
            as "back:2"; None for none. Saved weights keep the plain layout: convert again what is loaded from them.
        data: the mixture.
        rates: learning rates that differ between parameters, or None for one rate.
        out: folder of the run: training.safetensors (to resume), model.safetensors (the result), log.jsonl, log.csv.
        batch_size, steps: samples per update (of all devices and passes together), number of updates.
        accumulate: passes (micro-batches) that an update is made of in each process; the update is that of the whole
            batch in one pass, in that part of the memory. Only for objectives that can weigh passes: "answer".
        warmup, decay: steps, or a share of all steps where below 1.
        gradient_clip: largest global norm of the gradient; 0 does not clip.
        hard_negative_weight: how many ordinary negatives a hard one counts as; 0 leaves them out.
        mask: mask regularisation, or None for none.
        segment: the simulated user of the objective "segment", or None for the paper's.
        masked, classify, answer: what the objectives of these names need, or None for their defaults.
        align, distil: what the objectives align-spatial and distil need; there is no default.
        stages: progressive resolution, in order; empty trains at the model's own size.
        ema: decay of the averaged weights, which then are the result; 0 is off.
        precision: "float32", "bfloat16-products" (float32 weights and sums, matrix products in bfloat16) or
            "bfloat16-mixed" (autocast).
        accelerator, devices: Fabric's; several devices share every batch, one process each.
        strategy: of several devices: "ddp", where each holds the whole model, or "fsdp", where each holds a share of
            weights, gradients and averages (the objective "answer" with AdamW).
        threads: CPU threads for torch in each process; 0 leaves them as they are, or shares them out.
        log_every, save_every, evaluate_every: in steps; 0 is never (the last step is always saved).
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    model: str
    data: DataRecipe
    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    objective: str = "contrastive"
    out: str = "runs/{model}"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    hydra: str | tuple[int, ...] | None = None
    optimiser: Literal["adamw", "lamb", "muon", "sgd"] = "adamw"
    weight_decay: float = 0.05
    rates: RatesRecipe | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    gradient_clip: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    decay: float = 0.1
    hard_negative_weight: float = 1.0
    mask: MaskRecipe | None = None
    segment: SegmentRecipe | None = None
    masked: MaskedRecipe | None = None
    classify: ClassifyRecipe | None = None
    answer: AnswerRecipe | None = None
    align: AlignRecipe | None = None
    distil: DistilRecipe | None = None
    stages: tuple[Stage, ...] = ()
    ema: float = 0.0
    precision: Precision = "float32"
    accelerator: str = "cpu"
    devices: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    threads: int = 0
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "accumulate", "devices"):
            if not 0 < getattr(self, name) < math.inf:
                raise out_of_range(name, getattr(self, name), "positive", "a recipe")
        if not 0 <= self.ema < 1:
            raise out_of_range("ema", self.ema, "at least 0 and below 1", "a recipe")
        if self.objective not in OBJECTIVES:
            raise one_of("objective", self.objective, OBJECTIVES, "a recipe")
        if self.hydra is not None:
            from percepta.speedups.hydra import chosen_blocks

            chosen_blocks(self.hydra)
        schedule_factor(self.schedule, 0, self.steps, self.warmup_steps, self.decay_steps)

    @property
    def warmup_steps(self) -> int:
        """Warm-up in steps."""
        return _steps(self.warmup, self.steps)

    @property
    def decay_steps(self) -> int:
        """Final decay in steps."""
        return _steps(self.decay, self.steps)

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out.format(model=self.model)).expanduser()

    def image_size(self, step: int) -> int | None:
        """Side of the pictures for update number `step` (from 0); None for the model's own."""
        whole = sum(stage.share for stage in self.stages)
        passed = 0.0
        for stage in self.stages:
            passed += stage.share / whole
            if step < round(passed * self.steps):
                return stage.image_size
        return self.stages[-1].image_size if self.stages else None


def _steps(amount: float, total: int) -> int:
    return round(amount * total) if amount < 1 else round(amount)


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, or a packaged one by name, with `key=value` changes.

    Args:
        name: path of a file, or a name such as "pe-core-nano".
        overrides: changes such as "steps=100" or "data.scenes.weight=0.5"; values are YAML.

    Raises:
        BadInput: no such recipe, a field that does not exist, a value that does not fit; one sentence each.
    """
    path = find_recipe(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} must be YAML; {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} must hold fields of a recipe (name: value); got {type(values).__name__}.")
    for override in overrides:
        keys, value = parse_override(override)
        _set(values, keys, value, override)
    return make_recipe(values, str(path))


def make_recipe(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Checked recipe from nested mappings; `source` names them in errors."""
    try:
        return TypeAdapter(Recipe).validate_python(dict(values))
    except ValidationError as error:
        raise BadInput(_explain(error, source)) from error


def find_recipe(name: str | Path) -> Path:
    """Path of a recipe given by path or by name (packaged recipes, or the checkout's)."""
    given = Path(name).expanduser()
    if given.is_file():
        return given
    known = {path.stem: path for folder in recipe_folders() for path in sorted(folder.glob("*.yaml"))}
    if str(name) in known:
        return known[str(name)]
    close = nearest(str(name), known, count=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise BadInput(f"recipe must be a YAML file or one of {', '.join(sorted(known)) or 'none'}; got {name!s}{hint}.")


def recipe_folders() -> list[Path]:
    """Folders that hold recipes: beside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "recipes", package.parents[1] / "recipes"]
    return [folder for folder in candidates if folder.is_dir()]


def list_recipes() -> list[str]:
    """Names of the recipes that `read_recipe` finds."""
    return sorted({path.stem for folder in recipe_folders() for path in folder.glob("*.yaml")})


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`"data.scenes.weight=0.5"` to `(("data", "scenes", "weight"), 0.5)`; the value is YAML."""
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(part.isidentifier() or part.isdigit() for part in keys):
        raise BadInput(f"an override must look like key=value or data.scenes.weight=0.5; got {text!r}.")
    try:
        return keys, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadInput(f"the value of override {text!r} must be YAML; quote it.") from error


def _set(values: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    here: Any = values
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise BadInput(f"override {override!r} needs a number below {len(here)} where it says {key!r}.")
            position: Any = int(key)
        elif isinstance(here, dict):
            position = key
        else:
            raise BadInput(f"override {override!r} goes below {'.'.join(keys[:depth])}, which has no fields.")
        if last:
            here[position] = value
        else:
            if isinstance(here, dict) and here.get(position) is None:
                here[position] = {}
            here = here[position]


def _explain(error: ValidationError, source: str) -> str:
    """One sentence for the first thing that is wrong: file, field, what is allowed, what came."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    where = [str(part) for part in first["loc"]]
    name = ".".join(where)
    if first["type"] in unknown:
        close = nearest(".".join(part for part in where if not part.isdigit()), _dotted(Recipe), count=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{source}: {name} is not a field of a recipe{hint}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{source}: {name} is missing; add it."
    if first["type"] == "value_error":
        prefix = f"{name}: " if name else ""
        return f"{source}: {prefix}{first['ctx']['error']}"
    return f"{source}: {name} cannot be {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}."


def _dotted(cls: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a recipe class and of the classes inside it."""
    for name, kind in typing.get_type_hints(cls).items():
        if name.startswith("__"):
            continue
        yield prefix + name
        inner = [kind, *(typing.get_args(kind) if not isinstance(kind, type) or _is_generic(kind) else ())]
        for part in inner:
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from _dotted(part, f"{prefix}{name}.")


def _is_generic(kind: Any) -> bool:
    return isinstance(kind, types.GenericAlias)
