"""Official sizes of the Perception Language Model on real media under seeded weights: does it fit, and how long?

    python benchmarks/plm_plumbing.py [--photo truck.jpg] [--video dog.mp4] [--model plm-1b] [--tiles 36] [--frames 32]
        [--depth N] [--vision-depth N] [--dtype bfloat16] [--int8] [--tokens 16] [--fixed]

The weights are random, so the answers mean nothing; what is shown is that `ask` runs at the sizes of the official
models, on words alone, on a photograph and on a video. Prints the tokens of each prompt, seconds to the first token and
for each further one, and the peak memory of the whole process since the model was there (drawing random weights takes
more), beside what a cache of 11,264 slots made beforehand would add, as the published code has it; --fixed makes one
and holds it, for the peak with it. Where the whole model does not fit into --memory GiB, layers of the decoder are cut
until it does, and that is said; --depth and --vision-depth cut more.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import time
from pathlib import Path
from typing import Any

import torch

import percepta
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.tokenizer import BpeTokenizer, official_specials
from percepta.tasks.asking import Drawing, Speaker
from percepta.tasks.asking_int8 import hold_in_int8

SLOTS = 11_264
SPARE = 1.3  # memory for weights alone, times this, is what a run takes about
SYSTEM = "You answer questions about what you see. " * 4  # as long as the official one, about


def peak() -> float:
    """The most memory of this process so far, or since `forget_peak`, GiB."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20


def forget_peak() -> None:
    """Let `peak` begin anew with what is held now, where the machine can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def fixed_cache(config: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """Keys and values for all slots of all layers, written to, so that they take memory."""
    text = config.text
    shape = (2, text.kv_heads, SLOTS, text.width // text.heads)
    return [torch.ones(shape, dtype=dtype) for _ in range(text.depth)]


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
    prompt = len(speaker.prompt(seen, "What is it?", Drawing()).tokens)
    print(
        f"  {what:36} {prompt:5} tokens, {seen.chunks:3} chunks, {visual:5} visual tokens: first token "
        f"{times[0] - start:8.2f} s, then {further:7.3f} s a token, peak {peak():6.2f} GiB",
        flush=True,
    )


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--fixed", action="store_true", help=f"hold a cache of {SLOTS:,} slots all the time")
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
    gc.collect()
    forget_peak()
    print(f"  {'held before anything is asked':36} {peak():6.2f} GiB", flush=True)
    dtype = next(speaker.model.parameters()).dtype
    config, whole = speaker.model.config, percepta.build(given.model, device="meta").config
    sizes = [
        2 * one.depth * one.kv_heads * (one.width // one.heads) * SLOTS * dtype.itemsize
        for one in (config.text, whole.text)
    ]
    held = fixed_cache(config, dtype) if given.fixed else []
    assert not held or sum(one.nbytes for one in held) == sizes[0]
    print(
        f"  a cache of {SLOTS:,} slots {'is held' if held else 'would take'}: {sizes[0] / 2**30:.2f} GiB, for the "
        f"whole model {sizes[1] / 2**30:.2f} GiB",
        flush=True,
    )
    asked(speaker, "words alone", None, given)
    for media in filter(None, (given.photo, given.video)):
        asked(speaker, media.name, media, given)


if __name__ == "__main__":
    main()
