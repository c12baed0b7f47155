"""The layer study: the best layer for each task, over models that differ in their seed alone.

    python benchmarks/layer_study.py --models A B C [--beside pe-core-nano] [--data cifar10-test.parquet
        --train cifar10-train.parquet] [-o layers.json] [--picture layers.png]

Models are names of `percepta models` or files that training wrote, all of one depth; `--beside` is drawn as well but
has no part in the verdict. Five tasks need no data: position, depth, segmentation and tracking on generated scenes,
and the objects that a scene shows as a whole. With --data (any labelled pictures, such as CIFAR-10) the class of a
photograph is the sixth. What was measured lies in --cache and is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import percepta
from percepta.evaluation import Baseline, Evaluation, Measure, Protocol
from percepta.evaluation.layer_study import GLOBAL, TASKS, Curve, Verdict, curves_of, judge
from percepta.media.curves import LINE_COLOURS, Line, Panel, draw_curves
from percepta.running.progress import Progress
from percepta.tasks.evaluate import evaluate, protocols_of

BESIDE_COLOUR = (170, 174, 182)
TITLES = {
    "position": ("Position", "object's centre, error in sides"),
    "depth": ("Depth", "linear probe, RMSE in metres"),
    "segmentation": ("Segmentation", "linear probe, mIoU in %"),
    "tracking": ("Tracking", "zero-shot, J&F in %"),
    "objects": ("Objects of a scene", "ridge on the mean token, % named"),
    "class": ("Class of a photograph", "ridge on the mean token, % right"),
}
LEVELS = {"position": "place alone", "depth": "place alone", "segmentation": "place alone", "tracking": "colours"}


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--beside", metavar="MODEL")
    parser.add_argument("--data", type=Path, help="labelled pictures for the class, such as the CIFAR-10 test set")
    parser.add_argument("--train", type=Path, help="their training part")
    parser.add_argument("--train-count", type=int, default=10_000, help="training pictures of the class probe")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of the protocols")
    parser.add_argument("--cache", type=Path, default=Path("runs/layer-study"), help="folder for what was measured")
    parser.add_argument("-o", "--out", type=Path, help="curves and verdict as JSON")
    parser.add_argument("--picture", type=Path, help="the curves as PNG")
    given = parser.parse_args()
    settings = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in given.set)}
    tasks = [task for task in TASKS if task in given.tasks and (task != "class" or given.data)]
    curves = curves_of({name: measure(name, tasks, settings, given) for name in given.models})
    verdict = judge(curves)
    beside = curves_of({given.beside: measure(given.beside, tasks, settings, given)}) if given.beside else ()
    print(table(curves, verdict))
    print(verdict.sentence)
    if given.out:
        record = {"curves": [one.to_dict() for one in curves], "verdict": verdict.to_dict()}
        record["beside"] = [one.to_dict() for one in beside]
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    if given.picture:
        picture(curves, beside).quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            given.picture, optimize=True
        )


def measure(model: str, tasks: Sequence[str], settings: dict[str, Any], given: argparse.Namespace) -> list[Evaluation]:
    """The evaluations of one model on all layers, taken from the cache where they are."""
    loaded = None
    found = []
    for task in tasks:
        chosen = {"layers": ["all"], **settings, **({"train count": given.train_count} if task == "class" else {})}
        protocol = protocols_of(TASKS[task][0])[0]
        chosen = {name: value for name, value in chosen.items() if name in protocol.settings}
        (protocol,) = protocols_of(TASKS[task][0], chosen)
        data = {"data": given.data, "train": given.train} if task == "class" else {}
        place = [str(data.get(name)) for name in ("data", "train")]
        key = hashlib.sha256(json.dumps([_identity(model), protocol.hash, *place]).encode()).hexdigest()[:16]
        file = given.cache / f"{task}-{key}.json"
        if not file.is_file():
            loaded = loaded or percepta.load(model)
            places = {name: path for name, path in data.items() if path is not None} or None
            (result,) = evaluate(protocol, loaded, data=places, progress=Progress)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result.to_dict(), indent=1))
        found.append(_read(file, protocol))
    return found


def _identity(model: str) -> str:
    """A file by its name, size and time, a packaged model by its name."""
    path = Path(model)
    return f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else model


def _read(file: Path, protocol: Protocol) -> Evaluation:
    """What `Evaluation.to_dict` wrote, as far as curves need it."""
    record = json.loads(file.read_text())
    measures = tuple(
        Measure(one["name"], one["value"], *one["interval"], one["count"], one["chance"], one["headline"],
                one.get("unit", ""))
        for one in record["measures"]
    )  # fmt: skip
    baselines = tuple(Baseline(**one) for one in record["baselines"])
    return Evaluation(protocol, measures, baselines, record["details"], record["model"], record["tables"])


def table(curves: Sequence[Curve], verdict: Verdict) -> str:
    """The findings as a table of Markdown."""
    rows = [
        "| task | best layer of each model | best (mean) | last (mean) | margin by model | mean margin, 95 % | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for curve, found in zip(curves, verdict.findings, strict=True):
        factor, decimals = (1, 3) if curve.unit else (100, 1)
        chosen = curve.values[np.arange(len(curve.models)), list(found.chosen), 0].mean()
        margins = ", ".join(f"{factor * one:+.{decimals}f}" for one in found.margins)
        cells = (
            f"{curve.task} ({TASKS[curve.task][1]}{', ' + curve.unit if curve.unit else ', %'})",
            ", ".join(str(layer) for layer in found.best) + f" of 0 – {found.depth - 1}",
            f"{factor * chosen:.{decimals}f}",
            f"{factor * curve.values[:, -1, 0].mean():.{decimals}f}",
            margins,
            f"{factor * found.mean:+.{decimals}f} ({factor * found.low:+.{decimals}f} to "
            f"{factor * found.high:+.{decimals}f})",
            "yes" if found.holds else "no",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def picture(curves: Sequence[Curve], beside: Sequence[Curve]) -> Image.Image:
    """One panel a task: each model thin, their mean on top with a dot on its best layer, better always up."""
    grey = {curve.task: curve for curve in beside}
    panels = []
    for curve in curves:
        factor = 1 if curve.unit else 100
        colour = LINE_COLOURS[1] if curve.kind == GLOBAL else LINE_COLOURS[0]
        lines = []
        if curve.task in grey:
            lines.append(_line(grey[curve.task].values[0, :, 0] * factor, BESIDE_COLOUR))
        faint = tuple(round(255 - 0.45 * (255 - part)) for part in colour)
        lines += [_line(row * factor, faint, thin=True) for row in curve.values[..., 0]]
        best = int(curve.gains.mean(axis=0).argmax())
        lines.append(_line(curve.values[..., 0].mean(axis=0) * factor, colour, mark=best))
        title, subtitle = TITLES[curve.task]
        level = LEVELS.get(curve.task)
        depth = len(curve.layers)
        panels.append(
            Panel(
                f"{title}: best {best} of 0 to {depth - 1}",
                subtitle,
                lines,
                {number / max(depth - 1, 1): str(number) for number in range(0, depth, 1 if depth < 8 else 2)}
                | {1.0: str(depth - 1)},
                None if level is None else (level, curve.beside[level] * factor),
                downwards=bool(curve.unit),
            )
        )
    if len(panels[0].ticks) > 6:
        panels = [_thinned(panel) for panel in panels]
    models = len(curves[0].models)
    legend = [
        ("spatial task, mean of the models", LINE_COLOURS[0], False),
        ("global task", LINE_COLOURS[1], False),
        *([(f"each of {models} models", (150, 170, 200), True)] if models > 1 else []),
    ]
    if beside:
        name, depth = beside[0].models[0], len(beside[0].layers)
        legend.append((f"{name} ({depth} layers, stretched)", BESIDE_COLOUR, False))
    return draw_curves("Which layer is best for what? Up is better.", panels, legend)


def _line(values: Any, colour: tuple[int, ...], thin: bool = False, mark: int | None = None) -> Line:
    places = np.linspace(0, 1, len(values))
    return Line(places.tolist(), [float(value) for value in values], colour, thin, mark)  # type: ignore[arg-type]


def _thinned(panel: Panel) -> Panel:
    """Without the last but one tick where that would touch the last."""
    places = sorted(panel.ticks)
    if places[-1] - places[-2] < 0.12:
        panel.ticks.pop(places[-2])
    return panel


if __name__ == "__main__":
    main()
