"""The command line: one file a verb, with the argument names of the Python verbs.

Exit codes: 0 done, 1 some inputs failed (each named on standard error), 2 wrong usage, 130 interrupted. What goes wrong
is one sentence; --debug shows the traceback.
Unusual: importing this brings no torch, so that help and the list of models come at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import typer

from percepta.apps.cli import (
    ask,
    caption,
    classify,
    demo,
    duplicates,
    embed,
    evaluate,
    export,
    features,
    index,
    merge,
    models,
    search,
    segment,
    select,
    speedup,
    track,
    train,
)
from percepta.apps.cli.common import say
from percepta.errors import PerceptaError

ClickException: Any = typer.BadParameter.__mro__[2]  # typer brings its own copy of click, or uses the installed one
EXAMPLES = """\b
Examples:
  percepta demo
  percepta models "pe-core-*"
  percepta classify photos/ --labels "a cat,a dog"
  percepta search photos/ "a red boat"
  percepta embed photos/ -o photos.npy
  percepta segment truck.jpg --point 500,375 -o cut/
  percepta track field.mp4 --point 412,233 -o cow/
  percepta ask photo.jpg "what is the man holding?"
"""

app = typer.Typer(
    name="percepta",
    help="See, search and describe pictures and videos. Every verb runs offline on a packaged toy model; "
    "for real pictures pass --model pe-core-l14-336.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_VERBS: tuple[Any, ...] = (models, classify, embed, features, index, search, duplicates, segment, track, caption, ask)
for _verb in (*_VERBS, select, merge, speedup, train, evaluate, export, demo):
    _verb.register(app)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from percepta import __version__

        print(__version__)
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process; returns the exit code."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    command: Any = typer.main.get_command(app)  # calling the app itself would set an excepthook of its own
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        try:
            code = command.main(args=arguments or ["--help"], prog_name="percepta", standalone_mode=False)
            sys.stdout.flush()
        except ClickException as error:
            say(_sentence(error))
            return 2
        except PerceptaError as error:
            if debug:
                raise
            say(str(error))
            return 2
        except (KeyboardInterrupt, typer.Abort):
            say("interrupted; what was written so far is kept.")
            return 130
        except (BrokenPipeError, SystemExit):  # the reader of our output has seen enough; click then wants to exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:  # a full disk, a folder without permission
            if debug:
                raise
            where = f" {error.filename!r}" if error.filename else ""
            say(f"{error.strerror or type(error).__name__}:{where or ' the output'} cannot be used.")
            return 2
    if code == 130:
        say("interrupted; what was written so far is kept.")
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point `percepta`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may hold what no encoding can write
            stream.reconfigure(errors="backslashreplace")
    if "--debug" not in sys.argv:
        sys.excepthook = _unexpected
    sys.exit(run(sys.argv[1:]))


def _sentence(error: Any) -> str:
    message = " ".join(str(error.format_message()).split())
    command = getattr(getattr(error, "ctx", None), "command_path", "percepta")
    message = message if message.endswith((".", "?", ")")) else message + "."
    return f"{message} See: {command} --help"


def _show_warning(message: Warning | str, category: type[Warning], *_place: Any, **_more: Any) -> None:
    if issubclass(category, UserWarning):
        say(getattr(message, "on_command_line", str(message)))


def _unexpected(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """A defect of ours or of a library, without a wall of text."""
    text = " ".join(str(error).split())
    say(f"unexpected {kind.__name__}: {text[:300]} (run again with --debug for the traceback, and please report it)")
