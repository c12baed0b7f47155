"""The Perception Language Model against transformers: the first pass, further tokens, questions about one picture.

One process, the same random weights (shared, not copied), inputs and threads; the sides take turns, and the median of
the per-round ratios is printed with its spread, beside that of the best rounds. Answers are compared first. `nano` is
the nano model's size; `cut` is plm-1b with four blocks of tower and decoder (the head and the table are whole).

- prefill: one chunk and a question to the first token, tower included; `long` with `--chunks` chunks.
- decode: seconds a token behind that prompt, from the difference of a long and a short answer.
- questions: `--questions` questions about one picture with eight tokens of answer each; transformers answers them one
  by one, we together.
- memory: bytes of keys and values for that prompt and answer, against a cache of 11,264 slots made beforehand.

    python benchmarks/perception_lm.py --model nano --rounds 7
    python benchmarks/perception_lm.py --model cut --rounds 5 --tokens 8
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import percepta
from percepta.models.perception_lm import GenerationSettings, generation, layouts, transformers_config
from percepta.models.perception_lm.attending import Store
from percepta.models.perception_lm.chat import Prompt
from percepta.running import machine
from percepta.running.preparing import prepare, summary

SLOTS = 11_264
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = "wall"
Side = Callable[[int], Any]


def ours(size: str) -> Any:
    """A model of a size with random weights that never stops by itself."""
    torch.manual_seed(0)
    if size == "nano":
        config = asdict(percepta.build("plm-nano", device="meta").config)
        return percepta.build("plm-nano", **config | {"stop_tokens": ()}).eval()
    cut = {"vision": {"depth": 4}, "text": {"depth": 4}, "stop_tokens": ()}
    return percepta.build("plm-1b", **cut).eval()


def peer_of(model: Any) -> Any:
    """transformers' model over the very same tensors."""
    config = transformers.PerceptionLMConfig(**transformers_config(model.config))
    peer = transformers.PerceptionLMForConditionalGeneration(config)
    state = layouts(model.config)["transformers"].to_foreign(model.state_dict())
    peer.load_state_dict(state, strict=False, assign=True)
    peer.tie_weights()
    return peer.eval()


def prompt_of(model: Any, chunks: int, end: int = 0) -> Prompt:
    """Twenty words, the chunks, eleven words and one that depends on the question."""
    image, count = model.config.image_token, model.config.tokens_per_chunk * chunks
    words = np.arange(20, 52)
    tokens = np.concatenate([words[:20], np.full(count, image), words[20:31], [60 + end]]).astype(np.int64)
    return Prompt(tokens, tokens == image)


def answer_ours(model: Any, prompts: list[Prompt], media: list[Tensor], count: int) -> list[list[int]]:
    return [list(got.tokens) for got in model.generate(prompts, media, GenerationSettings(max_tokens=count))]


def answer_theirs(peer: Any, prompts: list[Prompt], media: list[Tensor], count: int) -> list[list[int]]:
    answers = []
    for prompt, chunks in zip(prompts, media, strict=True):
        tokens = torch.from_numpy(prompt.tokens)[None]
        got = peer.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=chunks[None], max_new_tokens=count,
            min_new_tokens=count, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        answers.append(got[0, tokens.shape[1] :].tolist())
    return answers


def turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every side measured in each round; the order of the sides alternates."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            found[name].append(sides[name]())
    return found


def report(title: str, found: dict[str, list[float]]) -> None:
    base, *others = found
    for name in others:
        ratios = sorted(theirs / mine for mine, theirs in zip(found[name], found[base], strict=True))
        best = min(found[base]) / min(found[name])
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(
            f"{title:<22} {name:<9} {statistics.median(ratios):5.2f} times {base} ({spread}; "
            f"best rounds {best:.2f}: {min(found[name]) * 1e3:.1f} ms for {min(found[base]) * 1e3:.1f} ms)",
            flush=True,
        )


def seconds(run: Callable[[], Any]) -> float:
    start = CLOCKS[clock]()
    run()
    return CLOCKS[clock]() - start


def check(title: str, answers: dict[str, list[list[int]]]) -> None:
    """The same first tokens; later ones may part where two tokens are equally likely to rounding."""
    base, *others = answers
    for name in others:
        firsts = [[row[:2] for row in answers[side]] for side in (base, name)]
        assert firsts[0] == firsts[1], f"{title}: {name} answers {firsts[1]}, {base} {firsts[0]}"
        whole = answers[base] == answers[name]
        print(f"{title:<22} {name:<9} {'the same answer' if whole else 'the same beginning of the answer'}", flush=True)


def speed(sides: dict[str, Side], title: str, tokens: int, rounds: int) -> None:
    """First pass, and tokens behind it."""
    check(title, {name: run(tokens) for name, run in sides.items()})
    first = turns({name: lambda run=run: seconds(lambda: run(1)) for name, run in sides.items()}, rounds)
    report(f"prefill, {title}", first)
    whole = turns({name: lambda run=run: seconds(lambda: run(tokens)) for name, run in sides.items()}, rounds)
    rest = {
        name: [max(all_of - one, 1e-6) / (tokens - 1) for all_of, one in zip(whole[name], first[name], strict=True)]
        for name in sides
    }
    report(f"decode, {title}", rest)


class Counted(Store):
    """A store that says what it took."""

    last: Counted | None = None

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        Counted.last = self

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (*self.keys, *self.values) if part is not None)


def memory(model: Any, prompt: Prompt, media: Tensor, tokens: int) -> None:
    kept, generation.Store = generation.Store, Counted  # type: ignore[misc]
    try:
        answer_ours(model, [prompt], [media], tokens)
    finally:
        generation.Store = kept  # type: ignore[misc]
    assert Counted.last is not None
    text = model.config.text
    fixed = 2 * text.depth * text.kv_heads * text.head_size * SLOTS * 4
    used = Counted.last.bytes
    print(
        f"memory: keys and values of {len(prompt.tokens)} + {tokens} tokens take {used / 2**20:.2f} MiB; a cache of "
        f"{SLOTS:,} slots takes {fixed / 2**20:.1f} MiB, {fixed / used:.0f} times as much"
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("nano", "cut"), default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="tokens of an answer")
    parser.add_argument("--chunks", type=int, default=5, help="chunks of the long prompt; 0 leaves it out")
    parser.add_argument("--questions", type=int, default=4, help="questions about one picture; 0 leaves them out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one thread on a busy machine")
    options = parser.parse_args()
    global clock
    clock = options.clock
    torch.set_num_threads(options.threads)
    plain = ours(options.model)
    peer = peer_of(plain)
    models = {"plain": plain, "prepared": prepare(copy.deepcopy(plain))}
    print(f"{machine.signature()}; {options.threads} threads; {clock} time; {summary(models['prepared'])}")
    side = plain.config.image_size
    draw = torch.Generator().manual_seed(1)

    def sides_of(prompts: list[Prompt], media: list[Tensor]) -> dict[str, Side]:
        found: dict[str, Side] = {"transformers": lambda count: answer_theirs(peer, prompts, media, count)}
        for name, model in models.items():
            found[name] = lambda count, model=model: answer_ours(model, prompts, media, count)
        return found

    for chunks in (1, options.chunks):
        if chunks:
            media = torch.randn(chunks, 3, side, side, generator=draw)
            asked = prompt_of(plain, chunks)
            speed(sides_of([asked], [media]), f"{len(asked.tokens)} tokens", options.tokens, options.rounds)
    if options.questions:
        media = torch.randn(1, 3, side, side, generator=draw)
        asked_all = [prompt_of(plain, 1, end) for end in range(options.questions)]
        sides = sides_of(asked_all, [media] * options.questions)
        check("questions", {name: run(8) for name, run in sides.items()})
        timed = {name: lambda run=run: seconds(lambda: run(8)) for name, run in sides.items()}
        report(f"{options.questions} questions", turns(timed, options.rounds))
    memory(plain, prompt_of(plain, 1), torch.randn(1, 3, side, side, generator=draw), options.tokens)


if __name__ == "__main__":
    main()
