"""`percepta speedup`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import Debug, Device, Json, Overwrite, Resume, Weights
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta speedup pe-core-b16-224 --on photos/ --loss-at-most 1% --save fast
  percepta classify photos/ --labels "a cat,a dog" --model fast
  percepta speedup pe-core-nano --on by-class/ --loss-at-most 2% -o report/     # one sub-folder a class
  percepta speedup pe-core-nano --on photos/ --labels none --compile --json
"""
TRIALS, REPORT, PICTURE = "trials.jsonl", "report.json", "trade-off.png"

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A name from `percepta models`, or a file.")]
On = Annotated[str, typer.Option("--on", metavar="DATA", help="Pictures; one sub-folder a class, tar, parquet count.")]
Bound = Annotated[str, typer.Option("--loss-at-most", metavar="SHARE", help="Such as 1% or 0.01.")]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", metavar="LIST", help="Classes of the data to look at, or a file of them; none: no classes."
    ),
]
Measure = Annotated[
    str | None, typer.Option("--measure", metavar="NAME", help="What a loss is: accuracy, cosine or neighbours.")
]
Folder = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the trials, the report and its picture.")
]
Save = Annotated[str | None, typer.Option("--save", metavar="NAME", help="Keep what was chosen as a model's name.")]
Most = Annotated[int, typer.Option("--limit", metavar="N", help="Pictures to try on, evenly spread.")]
Strategies = Annotated[str | None, typer.Option("--strategies", metavar="LIST", help="Ways to merge; all by default.")]
Templates = Annotated[str | None, typer.Option("--templates", metavar="NAME", help="For class names, as in classify.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Try torch's compiler; by default on a GPU only.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("speedup", epilog=EXAMPLES)(speedup)


def speedup(  # noqa: PLR0913 (the options of a command)
    model: Name,
    on: On,
    loss_at_most: Bound = "1%",
    labels: Labels = None,
    measure: Measure = None,
    out: Folder = None,
    save: Save = None,
    limit: Most = 200,
    strategies: Strategies = None,
    templates: Templates = None,
    compile: Compile = None,
    weights: Weights = None,
    device: Device = "cpu",
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Find the fastest way to run a model on your pictures within a loss that you allow.

    Tries prepared parts, fewer tokens, bfloat16, the compiler and batch sizes, each against the plain model."""
    from percepta.catalog import setting_file
    from percepta.tasks.speeding import speedup as run

    if save is not None and setting_file(save).exists() and not overwrite:
        raise BadInput(f"a setting called {save!r} exists; pass --overwrite to replace it, or another name.")
    asked = {"model": model, "weights": weights, "on": on, "labels": labels, "limit": limit, "device": device}
    trials = _Trials(out, {**asked, "templates": templates}, overwrite, resume)
    found = run(
        model,
        on,
        parse_share(loss_at_most),
        labels if labels is None or not Path(labels).is_file() else _labels(labels),
        measure,
        limit,
        None if strategies is None else [name.strip() for name in strategies.split(",")],
        compile=compile,
        templates=templates,
        device=device,
        weights=weights,
        progress=common.progress,
        known=trials.known,
        tell=trials.add,
    )
    print(json.dumps(found.to_dict())) if as_json else show(found)
    if out is not None:
        trials.finish(found)
    if save is not None:
        found.save(save, overwrite)
        common.say(f"saved as {save}: pass --model {save} to any verb, or percepta.load({save!r}).")
    common.finish(list(found.failures))


def parse_share(text: str) -> float:
    """0.01 of "1%" or "0.01". Raises BadInput."""
    try:
        return float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise BadInput(f"--loss-at-most must be a share, such as 1% or 0.01; got {text!r}.") from None


def show(found: Any) -> None:
    """The trials as a table, and what was chosen, on standard output."""
    import rich.box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 118
    accuracy = found.accuracy is not None
    table = Table(title=f"{found.model} on {found.data}, {found.pictures} pictures", box=rich.box.SIMPLE_HEAD)
    table.add_column("setting", no_wrap=True)
    heads = ["batch", "MACs", "times as fast", "1 - cosine", "worst"]
    for name in (*heads, *(["% right", "lost ± error"] if accuracy else ["same neighbour"])):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in sorted(found.trials, key=lambda trial: trial.speedup):
        lost = 100 * trial.loss("accuracy", found.accuracy) if accuracy else 0.0
        table.add_row(
            f"{trial.setting}{' *' if trial is found.chosen else ''}",
            str(trial.setting.batch_size),
            f"{trial.flops:.0%}",
            f"{trial.speedup:.2f} ({trial.low:.2f} - {trial.high:.2f})",
            f"{trial.change:.5f}",
            f"{trial.worst:.4f}",
            *(
                [f"{100 * trial.accuracy:.1f}", f"{lost:.1f} ± {100 * trial.error:.1f}"]
                if accuracy
                else [f"{trial.kept:.1%}"]
            ),
            style="bold" if trial is found.chosen else None,
        )
    console.print(table)
    chosen, to = found.chosen, found.to_dict()
    console.print(
        f"* chosen: {chosen.setting}, batch {chosen.setting.batch_size}: {chosen.speedup:.2f} times as fast as plain, "
        f"{100 * found.loss(chosen):.3g} % lost ({to['measure']}; allowed {100 * found.loss_at_most:.3g} %); "
        f"{chosen.start:.1f} s to the first batch."
    )
    error = chosen.error or 0.0
    if found.measure == "accuracy" and found.loss(chosen) + 2 * error > found.loss_at_most:
        console.print(
            f"{found.pictures} pictures cannot tell whether the loss is below the bound (two standard errors reach "
            f"{100 * (found.loss(chosen) + 2 * error):.1f} %); more with --limit can."
        )
    for line in (*found.notes, f"speed is that of the vision tower alone, on {found.machine}."):
        console.print(line, style="dim")


class _Trials:
    """The folder of a run: what was asked, each trial as it is made, at the end the report and its picture."""

    def __init__(self, folder: Path | None, asked: dict[str, Any], overwrite: bool, resume: bool) -> None:
        self.folder, self.asked = folder, {"schema": 1, **asked}
        self.known: list[Any] = []
        if folder is None:
            if resume:
                raise BadInput("--resume needs -o DIR, the folder to go on with.")
            return
        common.check_writable(folder)
        self.file = folder / TRIALS
        if self.file.exists() and not overwrite and not resume:
            raise BadInput(f"{str(folder)!r} holds a run; pass --resume to go on, --overwrite to begin anew.")
        if resume and self.file.exists():
            self.known = self._read()

    def add(self, trial: Any) -> None:
        """Write one trial at once."""
        if self.folder is None:
            return
        self._begin()
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(trial.to_dict()) + "\n")

    def finish(self, found: Any) -> None:
        """Write the report and its picture."""
        assert self.folder is not None
        self._begin()
        (self.folder / REPORT).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        found.picture().save(self.folder / PICTURE)
        common.say(f"wrote {self.folder / REPORT} and {self.folder / PICTURE}")

    def _begin(self) -> None:
        """The folder with a file that says what was asked and holds the trials that are known."""
        if getattr(self, "begun", False):
            return
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [self.asked, *(trial.to_dict() for trial in self.known)]
        self.file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.begun = True

    def _read(self) -> list[Any]:
        from percepta.tasks.trials import trial_of

        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            asked = json.loads(lines[0])
            known = [trial_of(json.loads(line)) for line in lines[1:] if line.endswith("\n")]
        except (ValueError, KeyError, TypeError, IndexError):
            raise BadInput(f"{str(self.file)!r} is damaged; pass --overwrite to begin anew.") from None
        if asked != self.asked:
            raise BadInput(f"{str(self.file)!r} is of another run; resume with the same arguments, or --overwrite.")
        return known


def _labels(file: str) -> list[str]:
    from percepta.tasks.prompts import read_labels

    return read_labels(file)
