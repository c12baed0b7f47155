"""Handlers of the kinds plm/chat, plm/preprocess and plm/train-utils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.exactness.golden import Golden


def chat_of(golden: Golden, form: str) -> Any:
    """The chat of a case: bytes as tokens, the specials of the case, the official rule."""
    from percepta.models.perception_lm.chat import ChatTemplate, chunk_tokens
    from percepta.models.perception_lm.tokenizer import BpeTokenizer

    content = golden.content
    spec, media = content["tokenizer"], content["media"]
    assert spec["type"] == "bytes"
    rule = spec["specials_rule"]
    specials = dict(spec["specials"])
    for step, number in enumerate(range(rule["first_i"], rule["last_i"] + 1)):
        specials[rule["pattern"].replace("{i}", str(number))] = rule["first_id"] + step
    first, last = spec["byte_ids"]
    tokenizer = BpeTokenizer.from_ranks({bytes([byte]): first + byte for byte in range(last - first + 1)}, specials)
    assert tokenizer.vocabulary == spec["vocab_size"]
    per_chunk = chunk_tokens(*media["chunk_shape"][1:], media["patch_size"], media["pooling_ratio"])
    assert per_chunk == media["tokens_per_chunk"]
    how = "official" if spec["specials_in_text"] else "safe"
    return ChatTemplate(tokenizer, content["system_text"], per_chunk, form, how)


def example_of(template: Any, args: dict[str, Any], length: int) -> Any:
    from percepta.models.perception_lm.chat import Message, training_example

    messages = [Message(**message) for message in args["messages"]]
    return training_example(template, messages, args["num_chunks"], args["media_type"], length)


def plm_chat(golden: Golden) -> None:
    from percepta.models.perception_lm.chat import collate, generation_prompt

    assert golden.content["tolerance"] == "exact"
    for call in golden.content["calls"]:
        args, expected = call["args"], call["expected"]
        template = chat_of(golden, args["format"])
        if call["call"] == "training_example":
            example = example_of(template, args, args["seq_len"])
            assert expected["valid"] == bool(len(example.tokens))
            assert expected["supervised_positions"] == np.flatnonzero(example.supervised).tolist()
            check_tokens(template, example, expected)
        elif call["call"] == "generation_prompt":
            check_tokens(template, generation_prompt(template, args["question"], args["num_chunks"]), expected)
        else:
            assert call["call"] == "collate"
            examples = [example_of(template, one, args["seq_len"]) for one in args["examples"]]
            rows = collate(template, examples, args["seq_len"])
            assert expected["input_ids"] == rows.tokens.tolist()
            assert expected["label_ids"] == rows.targets.tolist()
            assert expected["label_mask"] == rows.supervised.astype(int).tolist()
            assert expected["image_pos_index"] == rows.pictures.tolist()
            assert expected["num_chunks"] == list(rows.chunks)
            assert expected["media_type"] == list(rows.kinds)
            assert expected["images_shape"] == [sum(rows.chunks), *golden.content["media"]["chunk_shape"]]


def check_tokens(template: Any, made: Any, expected: dict[str, Any]) -> None:
    assert expected["token_ids"] == made.tokens.tolist()
    assert expected["image_positions"] == np.flatnonzero(made.pictures).tolist()
    assert expected["decoded"] == template.decode(made.tokens)


HANDLERS: dict[str, Callable[[Golden], None]] = {"plm/chat": plm_chat}
