"""`percepta embed`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from percepta.apps.cli import common
from percepta.apps.cli.common import (
    BatchSize,
    Debug,
    Device,
    Dtype,
    Inputs,
    Json,
    Limit,
    Model,
    Out,
    Overwrite,
    Resume,
    Settings,
    Weights,
)
from percepta.errors import BadInput

EXAMPLES = """\b
Examples:
  percepta embed photos/ -o photos.npy
  percepta embed "clips/**/*.mp4" -o clips.parquet --model pe-core-l14-336
  percepta embed photos/ -o photos.safetensors --resume
  percepta embed cat.jpg --json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("embed", epilog=EXAMPLES)(embed)


def embed(  # noqa: PLR0913 (the options of a command)
    inputs: Inputs,
    out: Out = None,
    raw: Annotated[bool, typer.Option("--raw", help="Keep the model's own length instead of length 1.")] = False,
    model: Model = common.NANO,
    weights: Weights = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    debug: Debug = False,
) -> None:
    """Turn every picture and video into one vector.

    -o FILE.npy and FILE.safetensors come with FILE.ids.csv, the names of the rows; FILE.parquet holds both.
    """
    from percepta.apps.cli.vectors import ENDINGS, VectorFile, check_vectors, names_beside, need_parquet
    from percepta.running.fingerprint import made_with
    from percepta.tasks.embed import embed as run

    if out is None and not as_json:
        raise BadInput(f"embed needs -o FILE ending in {', '.join(ENDINGS)}, or --json.")
    if out is not None and as_json:
        raise BadInput("-o and --json exclude each other; --json writes to standard output.")
    common.check_ending(out, ENDINGS)
    if resume and out is None:
        raise BadInput("--resume needs -o FILE, the output to go on with.")
    if resume and out is not None and out.is_file():
        common.say(f"{out} is complete; pass --overwrite instead of --resume to make it again.")
        return
    common.check_output(out, overwrite)
    if out is not None:
        check_vectors(out, overwrite, resume)
        if out.suffix.lower() == ".parquet":
            need_parquet()
    sources = common.gather(inputs, limit)
    loaded = Settings(model, weights, device, dtype, batch_size).load()
    bar = common.progress("embed")
    if out is None:
        printed = run(sources, loaded, not raw, batch_size=batch_size)
        for result in printed.watched(bar):
            print(json.dumps(result.to_dict()), flush=True)
        common.finish(printed.failures)
        return
    file = VectorFile(out, made_with(loaded) | {"raw": raw}, resume)
    todo = file.todo(sources)
    common.say_resumed(sources, todo)
    stream = run(todo, loaded, not raw, batch_size=batch_size) if todo else None
    with file:
        for result in stream.watched(bar) if stream else ():
            file.write(result.source, result.vector)
        file.complete()
    failures = stream.failures if stream else []
    names = names_beside(out)
    beside = "" if names is None else f" and {names}"
    common.say(f"wrote {common.counted(len(file.names), 'vector')} of {file.width} numbers to {out}{beside}")
    common.finish(failures)
