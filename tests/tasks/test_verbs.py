"""The verbs in Python on the nano architecture under seeded weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.errors import BadInput, BadMedia
from percepta.media import VideoReader, collect, sample_frames
from percepta.tasks import encoder as encoder_module
from percepta.tasks.encoder import Encoder, ToyModelWarning
from tests.tasks import nano

LABELS = ["a cat", "a dog", "a red star"]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = nano.pictures(tmp_path_factory.mktemp("media"))
    nano.clip(folder / "moving.mp4")
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> None:
    encoder_module._told.add("pe-core-nano")


def test_classify_gives_softmax_probabilities_at_the_models_scale(media: Path) -> None:
    model = nano.model()
    result = next(iter(percepta.classify(media / "red.png", LABELS, model, templates="plain")))
    with torch.inference_mode():
        picture = model.encode_image(model.preprocess(media / "red.png")[None], normalize=True)
        words = model.encode_text(model.tokenize(LABELS), normalize=True)
        expected = (model.logit_scale.exp() * picture @ words.T).softmax(-1)[0]
    for name, value in zip(LABELS, expected.tolist(), strict=True):
        assert result.score(name) == pytest.approx(value, abs=1e-5)
    assert result.score_kind == "probability (softmax over 3 labels, not calibrated)"


def test_a_label_is_the_unit_mean_of_its_unit_templates(media: Path) -> None:
    model = nano.model()
    two = ("a photo of {}.", "see {} here")
    result = next(iter(percepta.classify(media / "red.png", LABELS, model, templates=two)))
    with torch.inference_mode():
        texts = [template.format(label) for label in LABELS for template in two]
        words = model.encode_text(model.tokenize(texts), normalize=True).reshape(3, 2, -1).mean(1)
        words = words / words.norm(dim=-1, keepdim=True)
        picture = model.encode_image(model.preprocess(media / "red.png")[None], normalize=True)
        expected = (model.logit_scale.exp() * picture @ words.T).softmax(-1)[0]
    assert result.score("a dog") == pytest.approx(float(expected[1]), abs=1e-5)


def test_classify_covers_a_folder_in_order(media: Path) -> None:
    stream = percepta.classify(media, LABELS, nano.model())
    found = [Path(labels.source).name for labels in stream]
    assert found == ["blue.png", "green.png", "grey.png", "moving.mp4", "red.png", "turned photo.jpg"]
    assert stream.failures == []


def test_none_adds_a_label_and_leaves_the_others_order(media: Path) -> None:
    plain = next(iter(percepta.classify(media / "red.png", LABELS, nano.model())))
    with_none = next(iter(percepta.classify(media / "red.png", LABELS, nano.model(), none=True)))
    assert set(with_none.names) == {*LABELS, "none of these"}
    assert [name for name in with_none.names if name in LABELS] == list(plain.names)
    assert float(with_none.scores.sum()) == pytest.approx(1, abs=1e-5)


def test_multi_scores_a_label_for_itself(media: Path) -> None:
    alone = next(iter(percepta.classify(media / "red.png", ["a cat"], nano.model(), multi=True)))
    among = next(iter(percepta.classify(media / "red.png", LABELS, nano.model(), multi=True)))
    assert alone.score("a cat") == pytest.approx(among.score("a cat"), abs=1e-5)
    assert "not calibrated" in among.score_kind


def test_a_video_is_the_unit_mean_of_raw_frames(media: Path) -> None:
    model = nano.model()
    result = next(iter(percepta.embed(media / "moving.mp4", model)))
    with VideoReader(media / "moving.mp4") as reader:
        frames = reader.read(sample_frames(reader.frames, 8, "ends"))
    with torch.inference_mode():
        mean = model.encode_image(torch.stack([model.preprocess(frame) for frame in frames])).mean(0)
    np.testing.assert_allclose(result.vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_embed_raw_keeps_the_models_length(media: Path) -> None:
    model = nano.model()
    raw = next(iter(percepta.embed(media / "red.png", model, normalize=False)))
    unit = next(iter(percepta.embed(media / "red.png", model)))
    with torch.inference_mode():
        expected = model.encode_image(model.preprocess(media / "red.png")[None])[0].numpy()
    np.testing.assert_allclose(raw.vector, expected, atol=1e-5)
    np.testing.assert_allclose(unit.vector, raw.unit().vector, atol=1e-5)


def test_batch_size_changes_nothing(media: Path) -> None:
    one = [entry.vector for entry in percepta.embed(media, nano.model(), batch_size=1)]
    many = [entry.vector for entry in percepta.embed(media, nano.model(), batch_size=64)]
    np.testing.assert_allclose(np.stack(one), np.stack(many), atol=1e-5)


def test_arrays_and_pil_pictures_go_in(media: Path) -> None:
    picture = Image.open(media / "green.png")
    stack = np.stack([np.asarray(picture)] * 2)
    found = list(percepta.embed([picture, stack, media / "green.png"], nano.model()))
    assert len(found) == 4
    for entry in found[1:]:
        np.testing.assert_allclose(entry.vector, found[0].vector, atol=1e-5)


def test_features_are_those_of_the_model(media: Path) -> None:
    model = nano.model()
    stream = percepta.features(list(collect([media / "red.png", media / "moving.mp4"])), [0, -1], model, size=32)
    found = list(stream)
    assert [(Path(entry.source).name, entry.layer) for entry in found] == [
        ("red.png", 0), ("red.png", 5), ("moving.mp4", 0), ("moving.mp4", 5)
    ]  # fmt: skip
    assert stream.total == 4
    with torch.inference_mode():
        expected = model.intermediates(model.preprocess(media / "red.png", 32)[None], [5], layout="NHWC")[0][0]
    np.testing.assert_allclose(found[1].values, expected.numpy(), atol=1e-4)
    assert found[1].values.shape == (4, 4, 192)


def test_unusable_inputs_are_collected_or_raised(media: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((media / "red.png").read_bytes()[:60])
    (tmp_path / "empty.jpg").write_bytes(b"")
    inputs = [media / "red.png", tmp_path / "broken.png", tmp_path / "empty.jpg", tmp_path / "gone.png"]
    stream = percepta.embed(inputs, nano.model())
    assert len(list(stream)) == 1
    assert [Path(failure.source).name for failure in stream.failures] == ["broken.png", "empty.jpg", "gone.png"]
    with pytest.raises(BadMedia):
        list(percepta.embed(inputs, nano.model(), on_error="raise"))
    with pytest.raises(BadMedia, match="empty"):
        percepta.search(media, tmp_path / "empty.jpg", model=nano.model())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a cat,,a dog", r"labels must not be empty; label 2 of 3 is\."),
        ([], r"labels must hold at least one text; got none\."),
        ("", r"labels must not be empty; label 1 of 1 is\."),
        ("a cat, a  cat", r"labels must differ; 'a cat' comes twice\."),
        (["a cat", 3], r"labels must be texts; label 2 is a int\."),
    ],
)
def test_bad_labels_are_refused(labels: object, message: str, media: Path) -> None:
    with pytest.raises(BadInput, match=message):
        percepta.classify(media, labels, nano.model())


def test_bad_arguments_are_refused(media: Path, tmp_path: Path) -> None:
    model = nano.model()
    with pytest.raises(BadInput, match="none and multi exclude each other"):
        percepta.classify(media, LABELS, model, none=True, multi=True)
    with pytest.raises(BadInput, match="'none of these' is a label already"):
        percepta.classify(media, ["none of these", "a cat"], model, none=True)
    with pytest.raises(BadInput, match=r"layer of pe-core-nano must be 0 to 5 or -6 to -1; got 6\."):
        percepta.features(media, 6, model)
    with pytest.raises(BadInput, match="size of pe-core-nano must be a whole number from 8 to 4096; got 4"):
        percepta.features(media, 0, model, size=4)
    with pytest.raises(BadInput, match="limit of search must be"):
        percepta.search(media, "a cat", 0, model=model)
    with pytest.raises(BadInput, match="the query must be words or a picture"):
        percepta.search(media, " ", model=model)
    with pytest.raises(BadInput, match="holds no picture or video"):
        percepta.embed(tmp_path, model)
    with pytest.raises(BadInput, match="device must be one of cpu"):
        percepta.embed(media, model, device="quantum")


def test_a_tower_without_words_says_so(media: Path) -> None:
    tower = percepta.build("pe-core-nano", text=None)
    with pytest.raises(BadInput, match="classify needs a model that knows words, such as pe-core-l14-336"):
        percepta.classify(media, LABELS, tower)
    with pytest.raises(BadInput, match="search by words needs a model that knows words"):
        percepta.search(media, "a cat", model=tower)
    assert len(list(percepta.embed(media / "red.png", tower))) == 1
    unpooled = percepta.build("pe-core-nano", text=None, pooling="none", output_dim=None)
    with pytest.raises(BadInput, match="gives no single vector"):
        list(percepta.embed(media / "red.png", unpooled))
    assert len(list(percepta.features(media / "red.png", 0, unpooled))) == 1


def test_a_nano_model_says_once_that_it_is_a_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_told", set())
    with pytest.warns(ToyModelWarning, match="is a toy .* pass model='pe-core-l14-336'"):
        Encoder(nano.model())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoder(nano.model())
