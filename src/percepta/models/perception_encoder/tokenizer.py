"""The lower-casing byte-level BPE of CLIP, as open_clip ships it (49,408 entries).

Only the tokenizer module of open_clip is loaded: importing the whole package would bring every model it knows.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from percepta.errors import BadInput, MissingExtra


class Tokenizer:
    """Texts to ids and back.

    Attributes: vocab_size, start_id, end_id, pad_id, special_tokens.
    """

    def __init__(self) -> None:
        self._bpe = _clip_bpe()
        self.vocab_size: int = self._bpe.vocab_size
        self.start_id: int = self._bpe.sot_token_id
        self.end_id: int = self._bpe.eot_token_id
        self.pad_id = 0
        self.special_tokens = tuple(self.decode([number]) for number in (self.start_id, self.end_id))

    def encode(self, text: str) -> list[int]:
        """The ids of a text without start, end and padding, never cut."""
        return list(self._bpe.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; every word end becomes a space."""
        return str(self._bpe.decode(ids))

    def tokenize(self, texts: Sequence[str], context_length: int) -> tuple[list[list[int]], list[str]]:
        """Rows of exactly `context_length` ids (start, ids, end, zeros), and the texts that were cut to fit.

        Raises: BadInput if something other than a text is among them.
        """
        rows, cut = [], []
        for text in texts:
            if not isinstance(text, str):
                raise BadInput(f"texts must be strings; got {type(text).__name__}.")
            ids = [self.start_id, *self.encode(text), self.end_id]
            if len(ids) > context_length:
                cut.append(text)
                ids = [*ids[: context_length - 1], self.end_id]
            rows.append(ids + [self.pad_id] * (context_length - len(ids)))
        return rows, cut


@functools.lru_cache(maxsize=1)
def _clip_bpe() -> Any:
    """open_clip's SimpleTokenizer, with its default cleaning (ftfy, HTML, white space, lower case)."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise MissingExtra("open_clip_torch", "", "the CLIP vocabulary")
    if "open_clip" in sys.modules:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer()
    spec = importlib.util.spec_from_file_location(
        "percepta._open_clip_tokenizer", Path(package.origin).with_name("tokenizer.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
