"""The vocabulary of plm-nano: the words of the scene world whole, everything else byte by byte.

    python -m percepta.training.nano_vocabulary [FILE]

writes the chat of plm-nano (system text and tokenizer) into one JSON, by default where the model looks for it; the same
file every time. Unusual: numbers are cut into two digits, so that a frame is one token, and a place in thousandths a
hundredth and its tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from percepta.datasets.scenes import COLOURS, SHAPES, TEXTURES, SceneConfig, make_scene
from percepta.datasets.scenes.happenings import make_question_clip
from percepta.datasets.scenes.questions import as_choice, boxed_questions, clip_questions, scene_questions
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.chat_files import save_chat
from percepta.models.perception_lm.tokenizer import NEEDED_SPECIALS, BpeTokenizer, official_specials

SPLIT = r"[ ]?\p{L}+|\p{N}{1,2}|, |[ ]?[^\s\p{L}\p{N}]|\n+|\s"
SYSTEM = ""
TOKENS_PER_CHUNK = 16
SEEDS = 400
ROLES = ("user", "assistant", "system")
EXTRA = (  # what else people, and PLM-VideoBench, put into such questions
    "a about above after all also an and answer any anything are around as at be before behind below best between "
    "big black blue both box brief by can caption change clip colour comes contains could count dense describe "
    "description detail detailed different do does each end enter event events every exactly false find first "
    "following for format frame frames from front given go goes grey had happen happening happens has have he her "
    "his how i if image images in inside interval into is it its just key large last least leave left letter line "
    "list localise long look many may me more most move moving much name near nearer next no not now nothing number "
    "object objects of off on one only option options or order other out over pair part passes pattern people "
    "person picture pictures place please position question rectangle region right same say scene second see seen "
    "sentence shape short show shown shows side sight size small some something start subject take tell texture "
    "than that the their them then there these they thing things this through time to top total true two under up "
    "us using video visible was watch way we well were what when where which while who whole why will with within "
    "word words would yes you your Answer Caption Choose Describe Does Give How Is List Option Options Question "
    "Select The Time What When Where Which A B "
)


def texts() -> Iterator[str]:
    """Everything that is asked and answered about some worlds of the training."""
    config = SceneConfig(64)
    for seed in range(SEEDS):
        clip = make_question_clip(seed, config)
        pictures = scene_questions(make_scene(seed, config), seed)
        boxed = (question for index in range(len(clip.tracks)) for question in boxed_questions(clip, index, seed))
        for question in (*pictures, *clip_questions(clip, seed), *boxed):
            yield question.question
            yield question.answer
            if question.options:
                yield as_choice(question, seed).question


def pieces(given: Iterable[str]) -> set[bytes]:
    """The pieces that texts are cut into before merging."""
    import tokenizers

    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated", invert=False)
    return {piece.encode() for text in given for piece, _ in cut.pre_tokenize_str(text)}


def nano_tokenizer() -> BpeTokenizer:
    """The special strings as in PLM, then all bytes, then all words, each with and without a space before it."""
    words = {*COLOURS, *SHAPES, *TEXTURES, *ROLES, *EXTRA.split()}
    numbers = {str(number).encode() for number in range(100)} | {f"{number:02}".encode() for number in range(10)}
    spaced = {f"{space}{word}".encode() for word in words for space in ("", " ")}
    found = pieces(texts()) | pieces(("[1, 2]: a\n\nb", " [3, 4].", "(A) x, y; z? \"w\" 'v' -")) | numbers | spaced
    specials = {name: number for name, number in official_specials(0).items() if name in NEEDED_SPECIALS}
    first = max(specials.values()) + 1
    every = [*(bytes([byte]) for byte in range(256)), *sorted(piece for piece in found if len(piece) > 1)]
    ranks = {piece: first + number for number, piece in enumerate(every)}
    return BpeTokenizer.from_ranks(ranks, specials, SPLIT)


def nano_chat() -> ChatTemplate:
    """The chat of plm-nano."""
    return ChatTemplate(nano_tokenizer(), SYSTEM, TOKENS_PER_CHUNK)


def main(arguments: list[str]) -> None:
    """Write the file that is named, or the packaged one."""
    import percepta.models.perception_lm as family

    place: Any = Path(family.__path__[0]) / "tokenizers" / "plm-nano.json"
    print(save_chat(nano_chat(), arguments[0] if arguments else place))


if __name__ == "__main__":
    main(sys.argv[1:])
