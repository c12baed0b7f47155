"""What a recipe says about answering in words: the parts that train, the chat, low-rank changes, and the sources.

Unusual: no torch here, as everywhere in recipes; the process that makes batches reads the classes of the sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from percepta.errors import BadInput, out_of_range

FORBID = {"extra": "forbid"}
TrainedPart = Literal["vision", "projector", "decoder"]


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """Low-rank changes of linear layers in place of all their weights (arXiv 2106.09685).

    Attributes:
        rank: inner size of each change.
        alpha: the change counts alpha / rank times.
        layers: patterns of names of linear layers, such as "decoder.layers.*.self_attn.*_proj".
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    rank: int = 16
    alpha: float = 32.0
    layers: tuple[str, ...] = ("decoder.layers.*_proj",)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise out_of_range("rank and alpha", (self.rank, self.alpha), "1 or more and above 0", "lora")


@dataclass(frozen=True, slots=True)
class AnswerRecipe:
    """Training of a vision-language model to answer (arXiv 2504.13180, table 2 and appendix).

    Attributes:
        train: the parts that train; the others stay as they are.
        begin: what the run starts from, one after the other: names or files of vision towers, whose first blocks
            become the tower, weights of a language decoder in the official layout of Llama 3, and files of whole
            models. What none of them has keeps its first values.
        chat: file or folder of tokenizer and chat template (`perception_lm.chat_files.open_chat`); empty for the
            model's own.
        system: the system text; None for the chat's own.
        form: "plm_sft", or "warmup" for captions without questions.
        length: tokens of a conversation; turns beyond it are left out.
        lora: train low-rank changes of the decoder in place of its weights, or None.
        recompute: recompute blocks in the backward pass, which saves memory.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    train: tuple[TrainedPart, ...] = ("vision", "projector", "decoder")
    begin: tuple[str, ...] = ()
    chat: str = ""
    system: str | None = None
    form: Literal["plm_sft", "warmup"] = "plm_sft"
    length: int = 11_520
    lora: LoraRecipe | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        if not self.train and self.lora is None:
            raise BadInput("answer.train must name a part that trains: vision, projector or decoder; got none.")
        if self.length < 2:
            raise out_of_range("length", self.length, "2 or more", "answer")


@dataclass(frozen=True, slots=True)
class SceneQuestionsRecipe:
    """Pictures of the procedural world with questions; those of one picture share its visual tokens.

    Attributes:
        weight, batch_size: as for scene masks.
        size: side of the rendered pictures in pixels.
        questions: of each picture, drawn among about fifteen; 0 for all.
        choices: share of the questions with options that are asked as a choice between two.
        dialogues: share of the pictures whose questions are turns of one dialogue; of the others each question is a
            conversation of its own.
        kinds: kinds of questions that are asked, or all.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    batch_size: int = 0
    size: int = 64
    questions: int = 0
    choices: float = 0.1
    dialogues: float = 0.1
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_questions(self, "scene_questions")


@dataclass(frozen=True, slots=True)
class ClipQuestionsRecipe:
    """Clips of the procedural world with questions; those of one clip share its visual tokens.

    Attributes:
        weight, batch_size, size, questions, choices, dialogues, kinds: as for scene questions.
        frames: frames of a clip.
        boxed: share of the clips that show one object in a red box and are asked about that.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    weight: float = 1.0
    batch_size: int = 0
    size: int = 64
    questions: int = 0
    choices: float = 0.1
    dialogues: float = 0.0
    kinds: tuple[str, ...] = ()
    frames: int = 12
    boxed: float = 0.4

    def __post_init__(self) -> None:
        _check_questions(self, "clip_questions")
        if self.frames < 4:
            raise out_of_range("frames", self.frames, "4 or more", "clip_questions")
        if not 0 <= self.boxed <= 1:
            raise out_of_range("boxed", self.boxed, "between 0 and 1", "clip_questions")


@dataclass(frozen=True, slots=True)
class ConversationsRecipe:
    """Conversations about pictures, videos and nothing but words, in files (`datasets.conversations`).

    Attributes:
        path: a registry of data sets (YAML), one jsonl file, or a folder of `*chunk.N*.jsonl`.
        mix: data sets of the registry and their weights, "name:weight, name:weight"; empty for all, by their rows.
        weight, batch_size: as for scene masks.
        size: side of a chunk in pixels.
        tiles, frames: most tiles of a picture beside its thumbnail, most frames of a video.
        mode: "thumb+tile", or "vanilla": every picture is one chunk.
        lost: share of the rows that may be wrong or unreadable; they are left out and counted.
    """

    __pydantic_config__: ClassVar[Any] = FORBID

    path: str
    mix: str = ""
    weight: float = 1.0
    batch_size: int = 0
    size: int = 448
    tiles: int = 36
    frames: int = 32
    mode: Literal["thumb+tile", "vanilla"] = "thumb+tile"
    lost: float = 0.05

    def __post_init__(self) -> None:
        for name in ("size", "tiles", "frames"):
            if getattr(self, name) < 1:
                raise out_of_range(name, getattr(self, name), "1 or more", "conversations")
        if not 0 <= self.lost <= 1:
            raise out_of_range("lost", self.lost, "between 0 and 1", "conversations")


def _check_questions(recipe: Any, owner: str) -> None:
    from percepta.datasets.scenes.questions import KINDS

    for name in ("choices", "dialogues"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise out_of_range(name, getattr(recipe, name), "between 0 and 1", owner)
    if recipe.questions < 0:
        raise out_of_range("questions", recipe.questions, "0 or more", owner)
    if unknown := [kind for kind in recipe.kinds if kind not in KINDS]:
        raise BadInput(f"kinds of {owner} must be of {', '.join(KINDS)}; got {unknown[0]!r}.")
