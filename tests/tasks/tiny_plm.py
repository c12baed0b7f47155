"""A Perception Language Model of a few thousand parameters under seeded weights, with bytes for words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from percepta.media import write_video
from percepta.media.chunks import ChunkPreprocess
from percepta.models.perception_encoder import PerceptionEncoderConfig
from percepta.models.perception_lm import DecoderConfig, PerceptionLMConfig, build
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.chat_files import save_chat
from percepta.models.perception_lm.tokenizer import NEEDED_SPECIALS, BpeTokenizer

SIDE = 32
SPECIALS = {name: 256 + number for number, name in enumerate(NEEDED_SPECIALS)}
TOKENS = 4  # of a chunk


def config() -> PerceptionLMConfig:
    vision = PerceptionEncoderConfig(
        image_size=SIDE, patch_size=8, width=16, depth=1, heads=2, post_norm=False, pooling="none"
    )
    text = DecoderConfig(
        vocabulary=270, width=16, depth=2, heads=2, kv_heads=1, hidden=32, rope_scale=1.0, max_length=512
    )
    ends = (SPECIALS["<|end_of_text|>"], SPECIALS["<|eot_id|>"])
    return PerceptionLMConfig(vision, text, 2, SPECIALS["<|image|>"], ends, ends[0])


def chat(system: str = "be brief") -> ChatTemplate:
    ranks = {bytes([byte]): byte for byte in range(256)}
    return ChatTemplate(BpeTokenizer.from_ranks(ranks, SPECIALS), system, TOKENS)


def model(seed: int = 5, name: str = "plm-tiny-test") -> Any:
    """In evaluation mode, with what running hangs on a model, and with its chat."""
    torch.manual_seed(seed)
    built = build(config()).eval()
    built.name = name
    built.preprocess = ChunkPreprocess(SIDE, tiles=6, frames=8)
    built.chat = chat()
    return built


def folder(path: Path, seed: int = 5) -> Path:
    """A folder with weights that say what they are, and the chat beside them; gives the weights."""
    import percepta

    path.mkdir(parents=True, exist_ok=True)
    save_chat(chat(), path / "chat.json")
    return percepta.save(model(seed), path / "tiny.safetensors")


def picture(path: Path, colour: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0], 3), colour, np.uint8)
    array[5:15, 10:30] = 255 - array[5:15, 10:30]
    Image.fromarray(array).save(path)
    return path


def pictures(path: Path, count: int = 3) -> Path:
    for number in range(count):
        picture(path / f"{number}.png", (60 * number, 90, 200 - 50 * number))
    return path


def video(path: Path, frames: int = 20, rate: float = 10) -> Path:
    """A square that moves to the right."""
    arrays = np.zeros((frames, 48, 64, 3), np.uint8)
    for number in range(frames):
        arrays[number, 8:24, 2 * number : 2 * number + 16] = (250, 200, 30)
    return write_video(path, arrays, rate)


def transformers_folder(path: Path, system: str) -> Path:
    """The tokenizer and the template as the transformers layout keeps them."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(chat().tokenizer.to_json()))  # type: ignore[attr-defined]
    template = (
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        f"{system}<|eot_id|>{{% for message in messages %}}{{% endfor %}}"
    )
    (path / "chat_template.jinja").write_text(template)
    return path
