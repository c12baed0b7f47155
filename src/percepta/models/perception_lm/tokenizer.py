"""Text to numbers and back for the Perception Language Model (arXiv 2504.13180): byte-level BPE and special strings.

Order of this file: what a tokenizer is, the special strings, the tokenizer over `tokenizers`, reading files, ranks.
Unusual: special strings are kept apart from ordinary text. `encode` never makes one, whatever a user types;
`encode_with_specials` does, as the official code always does. The official `tokenizer.model` (a list of ranks) is read
without the library that it was made for: each rank becomes the merges that lead to it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from percepta.errors import BadInput, MissingExtra

BEGIN, END, IMAGE = "<|begin_of_text|>", "<|end_of_text|>", "<|image|>"
HEADER_START, HEADER_END, TURN_END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
NEEDED_SPECIALS = (BEGIN, END, IMAGE, HEADER_START, HEADER_END, TURN_END)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts text into words before merging."""


class ChatTokenizer(Protocol):
    """What a chat needs of a tokenizer; anything with these members serves.

    Attributes:
        specials: special string → id; the six of `NEEDED_SPECIALS` must be among them.
        vocabulary: number of ids V; every id is below it.
    """

    @property
    def specials(self) -> Mapping[str, int]: ...

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; special strings in it are taken as the characters that they are."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special strings included."""
        ...


def official_specials(first: int) -> dict[str, int]:
    """The 256 special strings of PLM in their order, numbered from `first` (128,000 for the official vocabulary)."""
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(251)]
    names = [BEGIN, END, IMAGE, *reserved[1:4], HEADER_START, HEADER_END, reserved[4], TURN_END, *reserved[5:]]
    return {name: first + number for number, name in enumerate(names)}


def encode_with_specials(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Ids of a text in which every special string, wherever it stands, becomes its one id."""
    ids: list[int] = []
    for piece in split_specials(tokenizer.specials, text):
        ids += [piece] if isinstance(piece, int) else tokenizer.encode(piece)
    return ids


def split_specials(specials: Mapping[str, int], text: str) -> Iterator[int | str]:
    """The pieces of a text: the ids of special strings, and the ordinary text between them."""
    if not specials:
        if text:
            yield text
        return
    # The longest first, as one special string may begin with another.
    pattern = "|".join(re.escape(name) for name in sorted(specials, key=len, reverse=True))
    for piece in re.split(f"({pattern})", text):
        if piece:
            yield specials.get(piece, piece)


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library, with the special strings kept outside of it.

    Args:
        inner: the library's tokenizer without special strings and without post-processing.
        specials: special string → id.

    Raises: BadInput where two special strings share an id.
    """

    def __init__(self, inner: Any, specials: Mapping[str, int]) -> None:
        if len(set(specials.values())) != len(specials):
            raise BadInput("special strings of a tokenizer must have an id each; two of them share one.")
        self.inner = inner
        self.specials: Mapping[str, int] = dict(specials)
        self._names = {number: name for name, number in specials.items()}
        words = inner.get_vocab(with_added_tokens=False).values()
        self.vocabulary = 1 + max((*words, *specials.values()), default=-1)

    @classmethod
    def from_ranks(cls, ranks: Mapping[bytes, int], specials: Mapping[str, int], split: str = SPLIT) -> BpeTokenizer:
        """From byte strings and their ranks, which are their ids; lower ranks are merged first.

        Args:
            split: regular expression that cuts text into words before merging.
        """
        library = _library()
        letters = byte_letters()
        vocabulary = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
        merges = [tuple("".join(letters[byte] for byte in half) for half in pair) for pair in _merges(ranks)]
        inner = library.Tokenizer(library.models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
        inner.pre_tokenizer = library.pre_tokenizers.Sequence(
            [
                library.pre_tokenizers.Split(library.Regex(split), behavior="isolated", invert=False),
                library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = library.decoders.ByteLevel()
        return cls(inner, specials)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], owner: str = "the tokenizer") -> BpeTokenizer:
        """From the content of a JSON file of the `tokenizers` library. Raises: BadInput."""
        library = _library()
        try:
            specials = {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or ()}
            model = dict(content["model"])
            if isinstance(model.get("vocab"), Mapping):  # a special string must not be a word of the text as well
                model["vocab"] = {word: number for word, number in model["vocab"].items() if word not in specials}
            without: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            inner = library.Tokenizer.from_str(json.dumps({**content, **without, "model": model}))
        except Exception as error:  # noqa: BLE001 - the library raises bare exceptions
            raise BadInput(f"{owner} must be a JSON of the tokenizers library; {error}.") from None
        return cls(inner, specials)

    def to_json(self) -> dict[str, Any]:
        """The content of a JSON file of the `tokenizers` library, as `from_json` takes it."""
        content: dict[str, Any] = json.loads(self.inner.to_str())
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        ordered = sorted(self.specials.items(), key=lambda item: item[1])
        return {**content, "added_tokens": [{"id": number, "content": name, **flags} for name, number in ordered]}

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; special strings in it are taken as the characters that they are.

        Raises: BadInput for halves of letters (lone surrogates), as bytes of a terminal that are no UTF-8 become.
        """
        try:
            return list(self.inner.encode(text, add_special_tokens=False).ids) if text else []
        except TypeError:
            raise BadInput(f"a text must be whole letters to become tokens; got {text[:40]!a}.") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special strings included; bytes that are no UTF-8 become U+FFFD."""
        parts = []
        for special, run in groupby(map(int, ids), key=lambda number: number in self._names):
            found = list(run)
            if special:
                parts += [self._names[number] for number in found]
            else:
                parts.append(self.inner.decode(found, skip_special_tokens=False))
        return "".join(parts)

    def __repr__(self) -> str:
        return f"BpeTokenizer({self.vocabulary} ids, {len(self.specials)} special strings)"


def open_tokenizer(path: str | Path) -> BpeTokenizer:
    """The tokenizer in a file: a JSON of the `tokenizers` library, or an official `tokenizer.model` (a list of ranks).

    Args:
        path: the file, or a folder that holds `tokenizer.json`, `tokenizer.model` or `original/tokenizer.model`.

    Raises: BadInput for a file that is missing or is neither.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        names = ("tokenizer.json", "tokenizer.model", "original/tokenizer.model")
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise BadInput(f"the folder {path} holds no tokenizer; it must have one of {', '.join(names)}.")
        path = found
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the tokenizer {path} cannot be read: {error.strerror or error}.") from None
    if content.lstrip()[:1] == b"{":
        try:
            return BpeTokenizer.from_json(json.loads(content), str(path))
        except ValueError as error:
            raise BadInput(f"the tokenizer {path} must be a JSON; {error}.") from None
    ranks = _read_ranks(content, path)
    return BpeTokenizer.from_ranks(ranks, official_specials(len(ranks)))


def _read_ranks(content: bytes, path: Path) -> dict[bytes, int]:
    """Lines of a token in base 64, a space and its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise BadInput(
                f"line {number} of the tokenizer {path} must be a token in base 64 and its rank; got {line[:40]!r}."
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or not all(bytes([byte]) in ranks for byte in range(256)):
        raise BadInput(f"the tokenizer {path} must rank its tokens 0, 1, 2 ... and have all 256 bytes among them.")
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of known tokens whose union is known, in the order of the union's rank, then of the halves' ranks."""
    merges = []
    for token in sorted(ranks, key=lambda known: ranks[known]):
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in the vocabulary of a byte-level BPE (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + hidden.index(byte)) for byte in range(256)]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtra("tokenizers", "", "A chat tokenizer") from None
    return tokenizers
