"""`percepta search`."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import BatchSize, Debug, Device, Dtype, Json, Out, Overwrite, ReportFile, Weights
from percepta.errors import BadInput, PerceptaError

EXAMPLES = """\b
Examples:
  percepta search photos/ "a red boat"
  percepta search home.index "two people arguing" --since 2024-07-01 --kind video
  percepta search photos/ "a beach" --without "people" --copy-to beaches/
  percepta search photos/ --picture boat.jpg --limit 5 --report hits.html
  percepta search photos/ "a red boat" -0 | xargs -0 ls -l
  percepta search photos/                    (asks again and again, and stays warm)
  percepta search "a red boat"               (in the index of several folders)
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", epilog=EXAMPLES)(search)


def search(  # noqa: PLR0913 (the options of a command)
    where: Annotated[
        str,
        typer.Argument(
            metavar="INDEX|INPUTS",
            help="An index, a folder that has one, or what is to be indexed now; left out, that of several folders.",
        ),
    ],
    query: Annotated[
        str | None, typer.Argument(metavar="[WORDS|PICTURE]", help="What to look for; - reads a question a line.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Look for what is like this picture or video.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="WORDS", help="What is not wanted; repeatable.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE", help="Taken on this day or later.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Taken on this day or before.")] = None,
    folder: Annotated[str | None, typer.Option("--folder", metavar="DIR", help="Only below this folder.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="picture or video.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most N hits.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Show also what is neither likely nor possible.")] = False,
    copy_to: Annotated[
        Path | None, typer.Option("--copy-to", metavar="DIR", help="Copy the hits into a folder.")
    ] = None,
    link_to: Annotated[Path | None, typer.Option("--link-to", metavar="DIR", help="Link to the hits there.")] = None,
    print0: Annotated[
        bool, typer.Option("--print0", "-0", help="Names alone, each ended by NUL, for xargs -0.")
    ] = False,
    open_first: Annotated[bool, typer.Option("--open", help="Open the first hit, a video at its moment.")] = False,
    out: Out = None,
    report: ReportFile = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A name or file; by default that of the index.")
    ] = None,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Find pictures, videos and moments in them, by words, by a picture, or by both.

    Each hit has the probability that it shows what was asked for, where the model is calibrated, and the last line says
    how many are likely: "3 likely, 2 possible, nothing else", or "nothing above chance"."""
    from percepta.tasks.search import search as run

    common.check_ending(out, (".csv", ".jsonl", ".json"))
    common.check_output(out, overwrite)
    common.check_ending(report, (".html", ".htm"))
    common.check_output(report, overwrite)
    if picture is not None and not picture.is_file():
        raise BadInput(f"the picture {str(picture)!r} does not exist.")
    if query is None:
        where, query = _of_the_account(where, picture)
    asking_on = query == "-" or (query is None and picture is None)
    if asking_on and (report or out or copy_to or link_to or open_first):
        raise BadInput('search needs words or --picture FILE, such as: percepta search photos/ "a red boat"')
    settings: dict[str, Any] = {"model": model, "weights": weights, "device": device, "dtype": dtype}
    found, failures = _open(where, settings, batch_size)
    actions = _Actions(everything, print0, as_json, out, copy_to, link_to, overwrite)

    def ask(question: str | None) -> Any:
        return run(
            found,
            question,
            limit,
            picture=picture,
            without=without,
            since=since,
            until=until,
            folder=folder,
            kind=kind,
            **settings,
        )

    if asking_on:
        _ask_on(ask, actions, sys.stdin.isatty() and query != "-")
        return
    hits = ask(query)
    actions.run(hits)
    if report is not None:
        _write_report(report, hits, picture or _as_picture(query), (found, where), failures)
    if open_first:
        for hit in best_first(actions.shown(hits))[:1]:
            _open_hit(hit)
    common.finish(failures)


def _write_report(
    report: Path, hits: Any, picture: Path | None, searched: tuple[Any, str], failures: list[Any]
) -> None:
    """The page of a question; `searched` is the index and how it was called."""
    from percepta.apps.report import SearchPage

    found, where = searched
    page = SearchPage(found.model, [where], len(found), found.root)
    page.add(hits, picture)
    page.write(report, failures)
    common.say(f"wrote {report}")


def _as_picture(query: str | None) -> Path | None:
    """The query where it names a file."""
    from percepta.tasks.indexing.asking import names_a_file

    return Path(query).expanduser() if query is not None and names_a_file(query) else None


def _of_the_account(where: str, picture: Path | None) -> tuple[str, str | None]:
    """Where to search, and the words: a single argument that names nothing is words for the index of the account."""
    from percepta.tasks.indexing.places import account_place, names_nothing

    if picture is not None or not names_nothing(where):
        return where, None
    if not account_place().is_file():
        raise BadInput(
            f"{where!r} is no index and no folder, and there is no index of several folders to look for it in; make "
            "one: percepta index FOLDER FOLDER"
        )
    return str(account_place()), where


def _open(where: str, settings: dict[str, Any], batch_size: int | None) -> tuple[Any, list[Any]]:
    """The index, opened or made now, and what failed in making it."""
    from percepta.tasks.indexing import Index, index
    from percepta.tasks.search import check_there, index_at

    place = index_at(where)
    if place is not None:
        return Index.open(place), []
    check_there(where)
    reports: list[Any] = []
    made = index(where, batch_size=batch_size, progress=common.progress("index"), told=reports.append, **settings)
    return made, list(reports[-1].failures)


def _ask_on(ask: Callable[[str | None], Any], actions: _Actions, prompting: bool) -> None:
    """Question after question, with the model warm; a bad one does not end it."""
    for question in _questions(prompting):
        try:
            actions.run(ask(question))
        except PerceptaError as error:
            common.say(str(error))


def _questions(prompting: bool) -> Iterator[str]:
    """Lines of standard input; on a terminal an empty one ends, elsewhere it is passed over."""
    if not prompting:
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history)
    while True:
        try:
            line = input("look for: ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


@dataclass(frozen=True, slots=True)
class _Actions:
    """What is done with the hits of a question."""

    everything: bool
    print0: bool
    as_json: bool
    out: Path | None
    copy_to: Path | None
    link_to: Path | None
    overwrite: bool

    def run(self, hits: Any) -> None:
        """Show, write, copy."""
        shown = self.shown(hits)
        if self.out is not None:
            from percepta.results.formats.table import rows, to_csv

            table = self.out.suffix.lower() == ".csv"
            self.out.write_text(to_csv(rows(shown)) if table else json.dumps(shown.to_dict()) + "\n", encoding="utf-8")
            common.say(f"wrote {self.out}")
        elif self.as_json:
            print(json.dumps(shown.to_dict()), flush=True)
        elif self.print0:
            sys.stdout.write("".join(name + "\0" for name in _files(shown)))
            sys.stdout.flush()
        else:
            self.show(shown)
        for folder, way in ((self.copy_to, "copy"), (self.link_to, "link")):
            if folder is not None:
                self.gather(shown, folder, way)

    def shown(self, hits: Any) -> Any:
        """The hits that are worth showing: all where nothing is known of how likely they are."""
        if self.everything or hits.likely_count is None:
            return hits
        return replace(hits, hits=(*hits.likely, *hits.possible))

    def show(self, hits: Any) -> None:
        """A line a hit, and the answer."""
        for hit in best_first(hits):
            sure = "" if hit.probability is None else f"{100 * hit.probability:3.0f} %  "
            print(f"{sure}{hit.score:.3f}  {common.shown(hit.source)}{f'  {hit.moment}' if hit.moment else ''}")
        if hits.likely_count is None:
            print("uncalibrated: the numbers are cosines, they order the hits and say nothing of how likely they are")
        else:
            print(hits.answer)
        sys.stdout.flush()

    def gather(self, hits: Any, folder: Path, way: str) -> None:
        """Copy or link the files of the hits into a folder, the best first by name."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [Path(name) for name in _files(hits)]
        targets = [folder / f"{rank:03d} {file.name}" for rank, file in enumerate(files, start=1)]
        there = next((target for target in targets if target.exists() or target.is_symlink()), None)
        if there is not None and not self.overwrite:
            raise BadInput(f"{str(there)!r} exists; pass --overwrite to replace it, or name another folder.")
        for file, target in zip(files, targets, strict=True):
            target.unlink(missing_ok=True)
            if way == "copy":
                shutil.copy2(file, target)
            else:
                target.symlink_to(file.absolute())
        done = "copied" if way == "copy" else "linked"
        common.say(f"{done} {common.counted(len(files), 'file')} to {folder}")


def best_first(hits: Any) -> list[Any]:
    """The hits as people expect them: the most likely first, else the highest score."""
    return sorted(hits, key=lambda hit: -(hit.probability or 0.0))


def _files(hits: Any) -> list[str]:
    """The names of the files, the best first, each once."""
    return list(dict.fromkeys(hit.source for hit in best_first(hits)))


def _open_hit(hit: Any) -> None:
    """Show a hit in what this machine opens such files with; a moment in a player that can begin there."""
    player = next((name for name in ("mpv", "vlc") if shutil.which(name)), None)
    opener = next((name for name in ("xdg-open", "open") if shutil.which(name)), None)
    if hit.start is not None and player is not None:
        option = f"--start={hit.start:.1f}" if player == "mpv" else f"--start-time={hit.start:.1f}"
        command = [player, option, hit.source]
    elif opener is not None:
        command = [opener, hit.source]
    else:
        common.say(f"no program is at hand to open {hit.source}{f' at {hit.moment}' if hit.moment else ''}.")
        return
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
