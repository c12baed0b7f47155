"""Where a chat comes from: the files beside a checkpoint, and one file of our own that holds all of it.

Unusual: the system text is found in the checkpoint's own template by the marks around it, or by its hash; a text that
the published models were not trained with is used and said.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from percepta.errors import BadInput
from percepta.models.perception_lm.chat import OFFICIAL_SYSTEM_SHA256, ChatTemplate, is_official_system
from percepta.models.perception_lm.tokenizer import HEADER_END, TURN_END, BpeTokenizer, open_tokenizer

SCHEMA = 1
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json")


def open_chat(
    path: str | Path, tokens_per_chunk: int, system: str | None = None, form: str = "plm_sft", rule: str = "safe"
) -> ChatTemplate:
    """The chat that belongs to a checkpoint.

    Args:
        path: a file that `save_chat` wrote, a tokenizer (see `open_tokenizer`), or a folder with one and with the
            chat template of the transformers layout.
        tokens_per_chunk: see `chunk_tokens`.
        system: the system text; by default the one in the files.
        form, rule: see `ChatTemplate`.

    Raises:
        BadInput: no tokenizer, or no system text in the files and none given (the form "warmup" needs none).
    """
    path = Path(path).expanduser()
    own = _own(path)
    if own is not None:
        tokenizer, found = BpeTokenizer.from_json(own["tokenizer"], str(path)), own["system"]
    else:
        tokenizer, found = open_tokenizer(path), find_system(path if path.is_dir() else path.parent)
    if system is None:
        system = found
    if form == "warmup":
        system = ""
    if system is None:
        raise BadInput(
            f"{path} holds no chat template with a system text; pass the one that the model was trained with as system."
        )
    if own is None and form != "warmup" and not is_official_system(system):
        warnings.warn(
            f"the system text of {path} ({len(system)} characters) is not the one that the published models were "
            "trained with; answers may be worse.",
            stacklevel=2,
        )
    return ChatTemplate(tokenizer, system, tokens_per_chunk, form, rule)


def save_chat(template: ChatTemplate, path: str | Path) -> Path:
    """Write a chat's system text and tokenizer into one JSON. Raises: BadInput for a tokenizer of another kind."""
    if not isinstance(template.tokenizer, BpeTokenizer):
        raise BadInput(f"only a BpeTokenizer can be saved; got {type(template.tokenizer).__name__}.")
    content = {"schema": SCHEMA, "system": template.system, "tokenizer": template.tokenizer.to_json()}
    path = Path(path)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def find_system(folder: str | Path) -> str | None:
    """The system text in the chat template of a folder in the transformers layout, or None."""
    for name in _TEMPLATES:
        file = Path(folder) / name
        if not file.is_file():
            continue
        try:
            content = file.read_text(encoding="utf-8")
            template = content if file.suffix == ".jinja" else json.loads(content).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(template, str):
            texts = list(_texts(template))
            if texts:
                return next((text for text in texts if is_official_system(text)), texts[0])
    return None


def _texts(template: str) -> Iterator[str]:
    """What may be the system text: what stands between its header and the end of its turn, and quoted sentences."""
    plain = template.replace("\\n", "\n")
    between = rf"system{re.escape(HEADER_END)}\n*(.*?){re.escape(TURN_END)}"
    for text in re.findall(between, plain, re.DOTALL):
        # Where the template puts a variable there, its default stands elsewhere, in quotes.
        if text and not re.search(r"[{}]|['\"]\s*[+~]", text):
            yield text
    for text in re.findall(r"'([^'{}]{20,})'|\"([^\"{}]{20,})\"", plain):
        for quoted in text:
            if hashlib.sha256(quoted.encode()).hexdigest() == OFFICIAL_SYSTEM_SHA256:
                yield quoted


def _own(path: Path) -> dict[str, Any] | None:
    """The content of a file of `save_chat`; None for any other."""
    if not path.is_file() or path.suffix != ".json":
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not {"schema", "system", "tokenizer"} <= set(content):
        return None
    if content["schema"] > SCHEMA:
        raise BadInput(f"{path} has schema {content['schema']}, written by a newer version; update percepta.")
    return content
