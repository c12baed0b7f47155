"""Text to ids and back: ranks against a plain reading of them, special strings apart from ordinary text."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest

from percepta.errors import BadInput
from percepta.models.perception_lm.tokenizer import (
    NEEDED_SPECIALS,
    SPLIT,
    BpeTokenizer,
    encode_with_specials,
    official_specials,
    open_tokenizer,
)

CORPUS = (
    "The cat sat on the mat; the cats' hats aren't theirs. I'LL go, you've 12345 reasons!\n\n\n  What is it?\r\n"
    "\tÜber straße, naïve café — 東京の猫。 🙂🙂 done  \n x\ny  z "
) * 3
TEXTS = (CORPUS, "the theirs that hats cats", " \n\n \n", "don't DON'T", "東京 🙂 é\u0301", "a" * 50, "0123456789", "")


def words(text: str) -> list[str]:
    """How Llama 3 cuts text."""
    import regex

    return regex.findall(SPLIT, text)


def trained_ranks(merges: int) -> dict[bytes, int]:
    """Ranks as a byte-level BPE learns them from `CORPUS`."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    pieces = [[bytes([byte]) for byte in word.encode()] for word in words(CORPUS)]
    for _ in range(merges):
        counts: dict[bytes, int] = {}
        for piece in pieces:
            for one, other in pairwise(piece):
                if one + other not in ranks:
                    counts[one + other] = counts.get(one + other, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda token: (counts[token], token))
        ranks[best] = len(ranks)
        pieces = [merged(piece, {best: 0}) for piece in pieces]
    return ranks


def merged(piece: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """The lowest rank of two neighbours is joined first, the leftmost of equals, until nothing can be joined."""
    piece = list(piece)
    while True:
        pairs = [(ranks[a + b], place) for place, (a, b) in enumerate(pairwise(piece)) if a + b in ranks]
        if not pairs:
            return piece
        _, place = min(pairs)
        piece[place : place + 2] = [piece[place] + piece[place + 1]]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return trained_ranks(150)


def test_ranks_are_merged_as_they_say(ranks: dict[bytes, int]) -> None:
    tokenizer = BpeTokenizer.from_ranks(ranks, official_specials(len(ranks)))
    assert len(ranks) > 300
    for text in TEXTS:
        want = [ranks[token] for word in words(text) for token in merged([bytes([b]) for b in word.encode()], ranks)]
        assert tokenizer.encode(text) == want
        assert tokenizer.decode(want) == text


def test_the_official_file_is_read_and_gives_the_same_as_the_json(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "tokenizer.model").write_text("\n".join(lines) + "\n")
    tokenizer = open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    again = open_tokenizer(tmp_path)
    assert again.specials == tokenizer.specials
    assert again.vocabulary == tokenizer.vocabulary == len(ranks) + 256
    for text in (*TEXTS, "<|image|> <|eot_id|>"):
        assert again.encode(text) == tokenizer.encode(text)
        assert encode_with_specials(again, text) == encode_with_specials(tokenizer, text)


def test_the_json_gives_what_the_library_alone_gives(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    import tokenizers

    tokenizer = BpeTokenizer.from_ranks(ranks, official_specials(len(ranks)))
    plain = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_json()))
    text = "<|begin_of_text|>the cat\n\n<|image|>sat<|eot_id|>"
    assert plain.encode(text).ids == encode_with_specials(tokenizer, text)


def test_the_order_of_the_specials() -> None:
    specials = official_specials(128_000)
    assert len(specials) == 256
    assert sorted(specials.values()) == list(range(128_000, 128_256))
    expected = {
        "<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|image|>": 2, "<|reserved_special_token_1|>": 3,
        "<|reserved_special_token_3|>": 5, "<|start_header_id|>": 6, "<|end_header_id|>": 7,
        "<|reserved_special_token_4|>": 8, "<|eot_id|>": 9, "<|reserved_special_token_5|>": 10,
        "<|reserved_special_token_250|>": 255,
    }  # fmt: skip
    assert {name: specials[name] - 128_000 for name in expected} == expected


def test_special_strings_of_a_text_become_ids_only_where_asked_for(ranks: dict[bytes, int]) -> None:
    tokenizer = BpeTokenizer.from_ranks(ranks, official_specials(len(ranks)))
    text = "a <|image|><|eot_id|> b"
    assert not set(tokenizer.encode(text)) & set(tokenizer.specials.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = encode_with_specials(tokenizer, text)
    assert [number for number in ids if number >= len(ranks)] == [len(ranks) + 2, len(ranks) + 9]
    assert tokenizer.decode(ids) == text


def test_a_word_list_in_which_special_strings_are_words_is_cleaned() -> None:
    import tokenizers

    vocabulary = {"?": 0, "<|image|>": 1, "red": 2, "<|eot_id|>": 3}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    plain.add_special_tokens(["<|image|>", "<|eot_id|>"])
    tokenizer = BpeTokenizer.from_json(json.loads(plain.to_str()))
    assert tokenizer.encode("red <|image|> <|eot_id|>") == [2, 0, 0]
    assert encode_with_specials(tokenizer, "red <|image|>") == [2, 1]
    assert tokenizer.vocabulary == 4


def test_bytes_that_are_no_text_are_marked() -> None:
    tokenizer = BpeTokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}, official_specials(256))
    assert tokenizer.decode([0xE6, 0x9D]) == "\ufffd"
    assert tokenizer.decode([72, 256, 105]) == "H<|begin_of_text|>i"
    with pytest.raises(BadInput, match=r"a text must be whole letters to become tokens; got 'what is \\udcff"):
        tokenizer.encode("what is \udcff?")  # a byte of a terminal that is no UTF-8


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BadInput, match=r"holds no tokenizer; it must have one of tokenizer\.json"):
        open_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.model"
    file.write_text("IQ== 0\nnot base64 1\n")
    with pytest.raises(BadInput, match="line 2 of the tokenizer"):
        open_tokenizer(file)
    file.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(BadInput, match="all 256 bytes"):
        open_tokenizer(file)
    file.write_text('{"model": {"type": "Nothing"}}')
    with pytest.raises(BadInput, match="must be a JSON of the tokenizers library"):
        open_tokenizer(file)
    file.write_text("{")
    with pytest.raises(BadInput, match="must be a JSON"):
        open_tokenizer(file)
    with pytest.raises(BadInput, match="two of them share"):
        BpeTokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}, dict.fromkeys(NEEDED_SPECIALS, 256))
