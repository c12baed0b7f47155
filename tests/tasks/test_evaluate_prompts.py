"""evaluate for models that take prompts: data on disk and scenes, through a tiny SAM 2 of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import percepta
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import follow, vos_interactive_protocol, vos_protocol
from percepta.evaluation.scenes_vos import ClipVideo
from percepta.tasks.evaluate import PROTOCOLS, evaluate, protocols_of
from percepta.tasks.evaluating.vos import sessions, without_memory
from percepta.tasks.segment import Segmenter
from tests.datasets.vos_on_disk import clip_of, write_mose, write_sav
from tests.evaluation.oracle_session import drawn
from tests.tasks.tiny_sam2 import model as tiny_model

PROMPTED = [name for name, evaluator in PROTOCOLS.items() if evaluator.prompts]
SMALL: Mapping[str, Any] = {"count": 2, "count hiding": 2, "size": 32, "frames of a clip": 6, "clicks": 2}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def test_which_protocols_take_prompts() -> None:
    assert PROMPTED == ["vos", "vos-interactive", "clicks", "scenes-vos", "scenes-words", "scenes-clicks"]
    assert all(not PROTOCOLS[name].words for name in PROMPTED)


@pytest.mark.parametrize("name", ["scenes-vos", "scenes-clicks"])
def test_scenes(model: Any, name: str) -> None:
    usual = PROTOCOLS[name].make().settings
    settings = {key: value for key, value in SMALL.items() if isinstance(usual.get(key), int)}
    (found,) = evaluate(name, model, settings=settings)
    assert found.model["name"] == model.name
    assert all(0 <= measure.low <= measure.value <= measure.high <= 1 for measure in found.measures)
    if name == "scenes-vos":
        assert {one.name for one in found.baselines} == {"first mask kept", "memory off"}
    else:
        assert [measure.name for measure in found.measures][:2] == ["mIoU, 1 click", "mIoU, 2 clicks"]


@pytest.mark.parametrize(("write", "layout"), [(write_mose, "mose"), (write_sav, "sa-v")])
def test_data_on_disk(model: Any, tmp_path: Path, write: Any, layout: str) -> None:
    write(tmp_path, (3,))
    settings = {"prompt": "box", "clicked frames": 1, "mode": "online", "clicks": 2}
    found = list(evaluate(["vos", "vos-interactive", "clicks"], model, data=tmp_path, settings=settings))
    assert [one.protocol.name for one in found] == ["vos", "vos-interactive", "clicks"]
    assert all(one.details["data"] == f"{tmp_path.name} ({layout})" for one in found)
    assert found[0].protocol.hash == vos_protocol(prompt="box").hash
    assert found[1].protocol.hash == vos_interactive_protocol(mode="online", frames=1).hash
    assert found[2].details["pictures"] == 1


def test_training_mode_comes_back_and_broken_videos_are_named(model: Any, tmp_path: Path) -> None:
    write_mose(tmp_path)
    (tmp_path / "Annotations" / "clip-3" / "00000.png").write_bytes(b"nothing")
    model.train()
    for found in evaluate(["vos", "clicks"], model, data=tmp_path):
        assert [failure.source for failure in found.failures] == ["clip-3"]
        assert found.details["left out"].startswith("1 ")
    assert model.training
    model.eval()
    with pytest.raises(BadMedia, match="clip-3"):
        list(evaluate("vos", model, data=tmp_path, on_error="raise"))


def test_without_memory_no_frame_knows_of_another(model: Any) -> None:
    segmenter = Segmenter(model)
    video = ClipVideo(clip_of(3, 4))
    alone = without_memory(model)
    with torch.inference_mode():
        found = list(follow(sessions(segmenter, alone)(video), video))
        other = list(follow(sessions(segmenter)(video), video))
    later = found[-1].logits
    first = next(iter(later.values()))
    assert all(torch.allclose(logits, first, atol=1e-5) for logits in later.values())  # all objects look alike
    assert not any(torch.allclose(other[-1].logits[number], first, atol=1e-3) for number in later)
    assert torch.equal(found[0].logits[1], other[0].logits[1])  # the prompted frame is what it was
    assert model.condition.__func__ is type(model).condition  # the model itself is left alone


def test_frames_are_prepared_when_asked_for(model: Any) -> None:
    video = drawn(4)
    asked: list[int] = []
    plain = video.picture
    video.picture = lambda frame: asked.append(frame) or plain(frame)  # type: ignore[method-assign, func-returns-value, assignment]
    session = sessions(Segmenter(model))(video)
    assert asked == []
    session.add_mask(2, 1, torch.ones(24, 40))
    assert asked == [2]


def test_one_kind_of_models_at_a_time(model: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="scenes-vos is for models that take prompts and scenes-depth for encoders"):
        list(evaluate(["scenes-depth", "scenes-vos"], model))
    with pytest.raises(BadInput, match="scenes-depth measures encoders"):
        list(evaluate("scenes-depth", model))
    encoder = percepta.build("pe-core-nano", depth=1, text={"depth": 1}, image_size=32)
    with pytest.raises(BadInput, match="need a model that takes prompts"):
        list(evaluate("scenes-clicks", encoder))
    with pytest.raises(BadInput, match="vos needs videos with masks"):
        list(evaluate("vos", model))
    write_mose(tmp_path, (3,))
    with pytest.raises(BadInput, match="prompt of follow must be one of mask"):
        list(evaluate("vos", model, data=tmp_path, settings={"prompt": "words"}))
    with pytest.raises(BadInput, match="mode of vos-interactive must be one of offline"):
        list(evaluate("vos-interactive", model, data=tmp_path, settings={"mode": "later"}))
    assert protocols_of("scenes-vos", {"prompt": "3 clicks"})[0].settings["prompt"] == "3 clicks"
