"""What `ask` and `caption` share: how pictures and videos are looked at and answers drawn, as people type it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from percepta.errors import BadInput

NANO = "plm-nano"

Frames = Annotated[int | None, typer.Option("--frames", metavar="N", help="Frames of a video at most; 32, of a toy 8.")]
Tiles = Annotated[int | None, typer.Option("--tiles", metavar="N", help="Tiles of a picture; 36, of a toy 0.")]
VisualTokens = Annotated[
    int | None, typer.Option("--visual-tokens", metavar="N", help="Tokens for what is seen at most: time and memory.")
]
ChunkTokens = Annotated[
    int | None, typer.Option("--chunk-tokens", metavar="N", help="Tokens of each picture, tile or frame, by merging.")
]
Start = Annotated[float | None, typer.Option("--start", metavar="SECONDS", help="Where in a video to begin.")]
End = Annotated[float | None, typer.Option("--end", metavar="SECONDS", help="Where in a video to end.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="X", help="0 says the likeliest, more varies; 0.7 for samples.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Length of an answer at most; 256, or what is left.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of what is drawn.")]
System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="System text; by default that of the checkpoint.")
]
Chat = Annotated[
    Path | None, typer.Option("--chat", metavar="PATH", help="Tokenizer and template, if not beside the weights.")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Hold the language model's weights in 8 bits.")]
Region = Annotated[
    str | None, typer.Option("--region", metavar="X,Y,W,H", help="A box in pixels that the question is about.")
]


def region_of(text: str | None) -> tuple[float, float, float, float] | None:
    """The box of --region. Raises BadInput."""
    if text is None:
        return None
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--region must be X,Y,W,H, four numbers with commas; got {text!r}.") from None
    return left, top, width, height


def speaker(model: str, weights: str | None, device: str, dtype: str | None, how: dict[str, Any]) -> Any:
    """The model with its chat. Raises: UnknownModel, MissingWeights, CheckpointMismatch, BadInput."""
    from percepta.tasks.asking import Speaker

    return Speaker(model, device, dtype, weights, **how)


def made_with(speaker: Any, asked: dict[str, Any]) -> str:
    """What answers depend on, in words on one line: the model, its system text, and what was asked for."""
    told = [f"{name} {value}" for name, value in asked.items() if value is not None and value is not False]
    return " ".join(", ".join([speaker.maker, *told]).split())
