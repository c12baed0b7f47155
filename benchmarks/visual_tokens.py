"""Fewer visual tokens: how many answers change, and what they are worth, on generated scenes and clips.

    python benchmarks/visual_tokens.py
    python benchmarks/visual_tokens.py --model runs/plm-nano/model.safetensors --count 200 --clips 100

One line for each number of tokens a picture or frame (`chunk_tokens` of `percepta.ask`): the three headlines of
`scenes-answers`, the share of all questions that are answered in other words than with every token, and the processor's
seconds, as a share of those with every token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from percepta.evaluation.scenes_answers import HEADLINES, evaluate_scenes_answers, scenes_answers_protocol
from percepta.evaluation.videobench_asking import Asked
from percepta.tasks.asking import Speaker
from percepta.tasks.evaluating.speaking import SpeakerAnswers

QUESTIONS = 64


class Heard:
    """Answers that are kept.

    Args:
        answers: what gives them.
    """

    def __init__(self, answers: SpeakerAnswers) -> None:
        self.answers, self.said = answers, list[str]()

    def many(self, asked: Sequence[Asked]) -> list[str]:
        """As of `SpeakerAnswers`."""
        found = self.answers.many(asked)
        self.said += found
        return found


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="plm-nano")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 12, 8, 6, 4, 2, 1])
    parser.add_argument("--count", type=int, default=60, help="pictures")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    speaker = Speaker(given.model)
    protocol = scenes_answers_protocol(given.count, given.clips)
    protocol.settings["blind"] = False
    print(f"{given.count} pictures, {given.clips} clips; tokens a chunk, then " + ", ".join(HEADLINES))
    whole: list[str] = []
    longest = 0.0
    for tokens in given.tokens:
        heard = Heard(SpeakerAnswers(speaker, tokens))
        start = time.process_time()
        found = evaluate_scenes_answers(heard, protocol, QUESTIONS)
        spent = time.process_time() - start
        whole, longest = whole or heard.said, longest or spent
        values = {one.name: one.value for one in found.measures}
        changed = sum(a != b for a, b in zip(whole, heard.said, strict=True)) / len(whole)
        told = "  ".join(f"{values[name]:6.1%}" for name in HEADLINES)
        print(f"{tokens:4}  {told}  other words {changed:6.1%}  time {spent / longest:.2f}", flush=True)


if __name__ == "__main__":
    main()
