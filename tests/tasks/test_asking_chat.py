"""Where the chat of a model comes from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from percepta.errors import BadInput, MissingWeights
from percepta.models.perception_lm.chat import ChatTemplate
from percepta.models.perception_lm.chat_files import save_chat
from percepta.models.perception_lm.tokenizer import BpeTokenizer
from percepta.tasks.asking import Speaker, speaker_of
from percepta.tasks.asking_chat import chat_of, place_of, sight_of
from tests.tasks import nano, tiny_plm


def test_it_lies_beside_the_weights(tmp_path: Path) -> None:
    weights = tiny_plm.folder(tmp_path)
    model = tiny_plm.model()
    del model.chat
    assert place_of(model, weights) == tmp_path / "chat.json"
    assert chat_of(model, weights).system == "be brief"
    assert chat_of(model, weights, system="be long").system == "be long"
    save_chat(tiny_plm.chat("its own"), tmp_path / "tiny.chat.json")
    assert chat_of(model, weights).system == "its own"


@pytest.mark.filterwarnings("ignore:the system text")
def test_the_layouts_of_others(tmp_path: Path) -> None:
    model = tiny_plm.model()
    del model.chat
    folder = tiny_plm.transformers_folder(tmp_path / "hub", "you are kind")
    (folder / "model.safetensors").write_bytes(b"x")
    assert chat_of(model, folder / "model.safetensors").system == "you are kind"
    assert chat_of(model, folder).system == "you are kind"
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.pth").write_bytes(b"x")
    assert place_of(model, folder / "original" / "consolidated.pth") == folder


def test_a_system_text_that_is_not_the_published_one_is_said(tmp_path: Path) -> None:
    folder = tiny_plm.transformers_folder(tmp_path / "hub", "you are kind")
    with pytest.warns(UserWarning, match="is not the one that the published models were trained with"):
        chat_of(tiny_plm.model(), None, folder)


def test_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = tiny_plm.model()
    del model.chat
    with pytest.raises(BadInput, match="no tokenizer lies with plm-tiny-test; pass chat"):
        chat_of(model, None)
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="no tokenizer lies beside"):
        chat_of(model, tmp_path / "w.safetensors")
    model.name = "plm-1b"
    with pytest.raises(MissingWeights, match="tokenizer"):
        chat_of(model, None)


def test_the_toys_own_is_packaged() -> None:
    model = tiny_plm.model(name="plm-nano")
    assert place_of(model, None).name == "plm-nano.json"


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    moved = {name: number + 20 for name, number in tiny_plm.SPECIALS.items()}
    other = ChatTemplate(BpeTokenizer.from_ranks(ranks, moved), "", tiny_plm.TOKENS)
    with pytest.raises(BadInput, match="must have at most 270 ids"):
        chat_of(tiny_plm.model(), None, other)
    turned = dict(zip(tiny_plm.SPECIALS, reversed(tiny_plm.SPECIALS.values()), strict=True))
    other = ChatTemplate(BpeTokenizer.from_ranks(ranks, turned), "", tiny_plm.TOKENS)
    with pytest.raises(BadInput, match="belongs to another model"):
        chat_of(tiny_plm.model(), None, other)
    with pytest.raises(BadInput, match="must give a chunk 4 tokens; it gives 9"):
        chat_of(tiny_plm.model(), None, ChatTemplate(tiny_plm.chat().tokenizer, "", 9))


def test_tiles_and_frames_are_read_from_the_folder(tmp_path: Path) -> None:
    assert sight_of(tmp_path) == {}
    (tmp_path / "params.json").write_text(json.dumps({"data": {"max_num_tiles": 16, "max_video_frames": 8}}))
    assert sight_of(tmp_path) == {"tiles": 16, "frames": 8}
    (tmp_path / "params.json").write_text("{")
    (tmp_path / "processor_config.json").write_text(json.dumps({"vision_input_type": "vanilla"}))
    assert sight_of(tmp_path) == {"tiles": 0}
    weights = tiny_plm.folder(tmp_path)
    assert Speaker(str(weights)).sight == {"tiles": 0}
    assert Speaker(tiny_plm.model(name="plm-1b")).sight == {}  # its chat is in hand, so nobody asks the hub


def test_a_speaker_is_made_once(tmp_path: Path) -> None:
    speaker = Speaker(str(tiny_plm.folder(tmp_path)))
    nothing = {"system": None, "chat": None, "int8": False}
    assert speaker_of(speaker, None, None, None, nothing) is speaker
    with pytest.raises(BadInput, match="int8 must be given when the speaker is made"):
        speaker_of(speaker, None, None, None, nothing | {"int8": True})
    assert "system text" in speaker.maker
    assert speaker.maker != Speaker(str(tiny_plm.folder(tmp_path)), system="other").maker
    low = Speaker(str(tiny_plm.folder(tmp_path)), int8=True)
    assert "8 bits" in low.maker
    assert sum(type(part).__name__ == "Int8Linear" for part in low.model.modules()) == 2 * 7


@pytest.mark.filterwarnings("ignore:pe-core-nano is a toy")
def test_a_model_that_answers_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="need a model that answers, such as plm-nano; pe-core-nano does not"):
        Speaker(nano.model())
    with pytest.raises(BadInput, match="this one is in hand"):
        Speaker(tiny_plm.model(), int8=True)
