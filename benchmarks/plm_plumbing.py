"""Official sizes of the Perception Language Model on real media under seeded weights: does it fit, and how long?

    python benchmarks/plm_plumbing.py --photo truck.jpg --video dog.mp4 [--model plm-1b] [--tiles 36] [--frames 32]
        [--depth N] [--vision-depth N] [--dtype bfloat16] [--int8] [--tokens 16]

The weights are random, so the answers mean nothing; what is shown is that `ask` runs at the sizes of the official
models, on a photograph, on a video and on words alone. Prints the tokens of each prompt, seconds to the first token and
for each further one, and the peak memory of the process. Where the whole model does not fit into --memory GiB, layers
of the decoder are cut until it does, and that is said; --depth and --vision-depth cut more.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch

import percepta
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.tokenizer import BpeTokenizer, official_specials
from percepta.tasks.asking import Speaker
from percepta.tasks.asking_int8 import hold_in_int8

SPARE = 1.3  # memory for weights alone, times this, is what a run takes about
SYSTEM = "You answer questions about what you see. " * 4  # as long as the official one, about


def peak() -> float:
    """The most memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def parameters(name: str, **cut: Any) -> int:
    """Of a model, built without memory."""
    return sum(parameter.numel() for parameter in percepta.build(name, device="meta", **cut).parameters())


def cuts(given: argparse.Namespace) -> dict[str, Any]:
    """Config fields that make the model fit; says what is cut."""
    config = percepta.build(given.model, device="meta").config
    depth = given.depth or config.text.depth
    vision = {} if given.vision_depth is None else {"vision": {"depth": given.vision_depth}}
    size = 2 if given.dtype == "bfloat16" else 4
    while depth > 1:
        gibs = parameters(given.model, text={"depth": depth}, **vision) * size * SPARE / 2**30
        if gibs <= given.memory:
            break
        depth -= 1
    if depth < config.text.depth or vision:
        kept = given.vision_depth or config.vision.depth
        print(f"cut to {depth} of {config.text.depth} decoder layers and {kept} of {config.vision.depth} of the tower")
    return {"text": {"depth": depth}, **vision} if depth < config.text.depth or vision else {}


def seeded(given: argparse.Namespace) -> Speaker:
    """The model with weights of seed 0, and bytes for a tokenizer."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if given.dtype == "bfloat16" else torch.float32)
    try:
        model = percepta.build(given.model, **cuts(given)).eval()
    finally:
        torch.set_default_dtype(default)
    if given.int8:
        print(f"{hold_in_int8(model.decoder)} linear layers of the decoder in 8 bits")
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = BpeTokenizer.from_ranks(ranks, official_specials(model.config.image_token - 2))
    return Speaker(model, chat=ChatTemplate(tokenizer, SYSTEM, model.config.tokens_per_chunk))


def asked(speaker: Speaker, what: str, media: Any, given: argparse.Namespace) -> None:
    """One question, token by token; prints how long it took."""
    start = time.perf_counter()
    tiles, frames = (None, None) if media is None else (given.tiles, given.frames)
    looked = {} if media is None else {"tiles": tiles, "frames": frames}
    pieces: Any = percepta.ask(media, "What is it?", stream=True, max_tokens=given.tokens, model=speaker, **looked)
    times = []
    for token in pieces._tokens:  # every token, also one that is no letter yet
        times.append(time.perf_counter())
        assert token.logprob <= 0
    further = (times[-1] - times[0]) / max(1, len(times) - 1)
    seen = pieces._seen
    visual = seen.chunks * speaker.chat.tokens_per_chunk
    print(
        f"  {what:36} {seen.chunks:3} chunks, {visual:5} visual tokens: first token {times[0] - start:8.2f} s, then "
        f"{further:7.3f} s a token, peak {peak():6.2f} GiB",
        flush=True,
    )


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--model", default="plm-1b")
    parser.add_argument("--memory", type=float, default=20.0, help="GiB that the process may take")
    parser.add_argument("--tiles", type=int, default=36)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--depth", type=int, help="layers of the decoder that are kept")
    parser.add_argument("--vision-depth", type=int, help="blocks of the tower that are kept")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--int8", action="store_true", help="the decoder's linear layers in 8 bits")
    given = parser.parse_args()
    speaker = seeded(given)
    count = sum(value.numel() for value in speaker.model.state_dict().values())
    print(f"{given.model}: {count / 1e6:,.0f} M values, {given.dtype}, {torch.get_num_threads()} threads")
    print(f"  {'built':36} peak {peak():6.2f} GiB", flush=True)
    asked(speaker, "words alone", None, given)
    asked(speaker, given.photo.name, given.photo, given)
    asked(speaker, given.video.name, given.video, given)


if __name__ == "__main__":
    main()
