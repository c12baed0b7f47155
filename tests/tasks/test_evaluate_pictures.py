"""evaluate over pictures on disk: what the model sees of them, layers, broken pictures, and scikit-learn as a judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import percepta
from percepta.datasets.picture_sets import open_labelled
from percepta.datasets.scenes import SceneConfig, distinct_scenes, make_batch
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import divided
from percepta.tasks.encoder import Encoder
from percepta.tasks.evaluate import evaluate, protocols_of
from percepta.tasks.evaluating.batches import Batches
from percepta.tasks.evaluating.pictures import by_layer, by_resize, layers_named
from percepta.tasks.prompts import class_names, templates_of
from tests.datasets.pictures_on_disk import class_folder, parquet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return percepta.build("pe-core-nano", depth=2, text={"depth": 1}, image_size=32).eval()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 generated scenes in three folders by their mean colour, with captions beside them."""
    folder = tmp_path_factory.mktemp("scenes")
    config = SceneConfig(32)
    batch = make_batch(distinct_scenes(1_000_000, 48, config), config)
    order = np.argsort(batch.pictures[..., 0].astype(float).mean(axis=(1, 2)))
    for place, row in enumerate(order.tolist()):
        home = folder / ("dark", "middle", "red")[place // 16]
        home.mkdir(exist_ok=True)
        Image.fromarray(batch.pictures[row]).save(home / f"{row:02d}.png")
        (home / f"{row:02d}.txt").write_text(batch.captions[row])
    return folder


def first(*arguments, **options):
    return next(evaluate(*arguments, **options))


def test_every_layer_and_pooling_is_the_models_own(model, scenes: Path) -> None:
    pictures = open_labelled(scenes).pictures
    batch = torch.stack([model.preprocess(source.path) for source in pictures])
    batches = Batches(Encoder(model), 5)
    found = {pooling: by_layer(batches, ["all"], pooling)(pictures) for pooling in ("mean", "class", "attention")}
    with torch.inference_mode():
        tokens = model.intermediates(batch, [0, 1], norm=True, prefix=True)
        for layer, values in enumerate(tokens):
            expected = {"mean": values[:, 1:].mean(1), "class": values[:, 0], "attention": model.vision.pool(values)}
            for pooling, vectors in expected.items():
                ours = found[pooling].vectors[f"layer {layer}"]
                torch.testing.assert_close(ours, vectors, atol=1e-5, rtol=1e-4)
        ours = found["mean"].vectors["output"]
        torch.testing.assert_close(ours, model.encode_image(batch), atol=1e-5, rtol=1e-4)
        plain = by_layer(batches, [0], "mean", norm=False)(pictures).vectors["layer 0"]
        torch.testing.assert_close(plain, model.intermediates(batch, 0)[0].mean(1), atol=1e-5, rtol=1e-4)


def test_the_attention_pooling_of_the_last_layer_leads_to_the_output(model, scenes: Path) -> None:
    pictures = open_labelled(scenes).pictures
    found = by_layer(Batches(Encoder(model), 16), ["last", "output"], "attention")(pictures).vectors
    projected = found["layer 1"] @ model.vision.projection.detach()
    torch.testing.assert_close(projected, found["output"], atol=1e-5, rtol=1e-4)


def test_layers_have_names(model) -> None:
    encoder = Encoder(model)
    assert layers_named(encoder, [0, "last", -2, "output"]) == {"layer 0": 0, "layer 1": 1, "output": None}
    assert list(layers_named(encoder, "all")) == ["layer 0", "layer 1", "output"]
    assert list(layers_named(Encoder(percepta.build("pe-spatial-t16-512", depth=2)), "all")) == ["layer 0", "layer 1"]
    for layers, sentence in (
        ([2], "layer of pe-core-nano must be 0 to 1 or -2 to -1; got 2"),
        (["lst"], "did you mean 'last'"),
        ([], "got none"),
    ):
        with pytest.raises(BadInput, match=sentence):
            layers_named(encoder, layers)
    with pytest.raises(BadInput, match="pooling of pe-core-nano must be one of mean, class, attention"):
        by_layer(Batches(encoder, 4), [0], "max")
    spatial = Encoder(percepta.build("pe-spatial-g14-448", depth=1, width=32, heads=2, image_size=28))
    with pytest.raises(BadInput, match="must be one of mean; got 'class'"):
        by_layer(Batches(spatial, 4), [0], "class")
    with pytest.raises(BadInput, match="no single vector for a picture; pass layers"):
        layers_named(spatial, ["output"])


def test_square_pictures_are_computed_once(model, tmp_path: Path) -> None:
    for name, size in (("square", (40, 40)), ("wide", (80, 40))):
        pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    encoder, seen = Encoder(model), []
    watched = encoder.embed
    encoder.embed = lambda views, *rest: (seen.append(len(views)), watched(views, *rest))[1]  # type: ignore[method-assign]
    rules = ("squash", "shorter_side_center_crop")
    found = by_resize(Batches(encoder, 8), rules)(open_labelled(tmp_path).pictures).vectors
    assert sorted(seen) == [1, 2]
    for name, vectors in found.items():
        rule = replace(model.preprocess, resize=name)
        views = torch.stack([rule(tmp_path / kind / "a.png") for kind in ("square", "wide")])
        torch.testing.assert_close(vectors, watched(views), atol=1e-5, rtol=1e-4)
    first_rows, second_rows = found.values()
    assert torch.equal(first_rows[0], second_rows[0])
    assert (first_rows[1] - second_rows[1]).abs().max() > 1e-3


def test_probes_agree_with_sklearn_on_features_of_scenes(model, scenes: Path) -> None:
    train, test = divided(open_labelled(scenes))
    encode = by_layer(Batches(Encoder(model), 16), ["last"])
    known, asked = (encode(part.pictures).vectors["layer 1"].numpy() for part in (train, test))
    settings = {"layers": ["last"], "k": 5, "grid": [0.001, 0.1, 10.0]}
    knn, ridge = evaluate(["knn", "ridge-probe"], model, data=scenes, settings=settings)
    peer = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(known, train.labels)
    points = _shared(peer.predict_proba(asked), test.labels)
    assert knn["accuracy by majority"].value == pytest.approx(points.mean())
    scaler = StandardScaler().fit(known)
    closed = RidgeClassifierCV(alphas=[0.001 * len(known), 0.1 * len(known), 10.0 * len(known)])
    closed.fit(scaler.transform(known), train.labels)
    assert ridge["accuracy"].value == pytest.approx(closed.score(scaler.transform(asked), test.labels))
    assert ridge.details["strength"].split()[0] == f"{closed.alpha_ / len(known):g}"
    assert ridge["accuracy"].value > 2 / 3  # the classes are what a linear look at pixels tells


def _shared(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Right or not, ties shared."""
    best = votes == votes.max(axis=1, keepdims=True)
    return best[np.arange(len(labels)), labels] / best.sum(axis=1)


def test_features_are_computed_once_for_several_probes(model, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    own = type(model).intermediates

    def counted(self, x, *arguments, **options):
        seen.append(len(x))
        return own(self, x, *arguments, **options)

    monkeypatch.setattr(type(model), "intermediates", counted)
    names = ["knn", "linear-probe", "ridge-probe"]
    settings = {"layers": [0, 1], "k": 5, "grid": [0.1, 1.0]}
    found = list(evaluate(names, model, data=scenes, settings=settings))
    assert [one.protocol.name for one in found] == names
    assert sum(seen) == 48
    monkeypatch.setattr(type(model), "encode_image", None)  # the model's own vector comes from the same pass
    list(evaluate("knn", model, data=scenes, settings={"layers": "all", "k": 5, "pooling": "class"}))
    assert sum(seen) == 96


def test_broken_pictures_are_named_and_left_out(model, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "data", 5)
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "3.png").read_bytes()[:60])
    found = first("zero-shot", model, data=folder, settings={"templates": "none"})
    assert [Path(failure.source).relative_to(folder).as_posix() for failure in found.failures] == [
        "cat/3.png",
        "dog/1.png",
    ]
    assert found["accuracy"].count == 13
    assert found.details["left out"] == "2 that cannot be read"
    assert len(json.loads(json.dumps(found.to_dict()))["failures"]) == 2
    with pytest.raises(BadMedia, match=r"3.png"):
        first("zero-shot", model, data=folder, on_error="raise")
    rows = {"image": [b"no picture", *(entry.read_bytes() for entry in (folder / "dog").glob("[0234].png"))]}
    table = parquet(tmp_path / "a.parquet", rows | {"label": ["cat", "dog", "dog", "cat", "dog"]})
    (failure,) = first("zero-shot", model, data=table, settings={"templates": "none"}).failures
    assert failure.reason == "a.parquet row 0: the picture of 10 bytes is no picture that can be read here."
    with pytest.raises(BadInput, match="on_error must be one of"):
        evaluate("zero-shot", model, data=folder, on_error="ignore")


def test_captions_beside_pictures(model, scenes: Path) -> None:
    found = first("retrieval", model, data=scenes)
    assert found["text to picture R@1"].count == found.details["captions"] == 48
    assert found["text to picture R@10"].value >= found["text to picture R@1"].value
    other = first("retrieval", model, data=scenes, settings={"resize": "shorter_side_center_crop"})
    assert other.protocol.hash != found.protocol.hash
    assert [one.value for one in other.measures] == [one.value for one in found.measures]  # scenes are square


def test_class_names_and_templates_come_by_name(model, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "data", 2)
    (tmp_path / "names.txt").write_text("a cat\na dog\n\na hot dog\n")
    (named,) = protocols_of("zero-shot", {"classes": tmp_path / "names.txt", "templates": "none"})
    assert (named.settings["classes"], named.settings["templates"]) == (("a cat", "a dog", "a hot dog"), ("{}",))
    assert len(protocols_of("zero-shot")[0].settings["templates"]) == 80
    found = first(named, model, data=folder)
    assert found.tables["confusion"]["names"] == ["a cat", "a dog", "a hot dog"]
    assert templates_of("none") == templates_of("plain")
    names = class_names("imagenet")
    assert (len(names), names[0], names[207]) == (1000, "tench", "Golden Retriever")
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        class_names(tmp_path / "none.txt")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(BadInput, match="holds none; write one a line"):
        class_names(tmp_path / "none.txt")


def test_imagenet_folders_get_the_published_names(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from percepta import evaluation

    picture = (class_folder(tmp_path / "x", 1) / "cat" / "0.png").read_bytes()
    rows = {"image": [picture] * 1000, "label": [f"n{number:08d}" for number in range(1000)]}
    seen = []

    def watched(labelled, *_):
        seen.append(labelled.names)
        return evaluation.Evaluation(protocols_of("zero-shot")[0], ())

    monkeypatch.setattr(evaluation, "evaluate_zero_shot", watched)
    first("zero-shot", model, data=parquet(tmp_path / "a.parquet", rows))
    assert seen == [class_names("imagenet")]


def test_probes_need_no_words(model, scenes: Path) -> None:
    spatial = percepta.build("pe-spatial-t16-512", depth=1, image_size=32).eval()
    found = first("ridge-probe", spatial, data=scenes, settings={"layers": [0]})
    assert found["accuracy"].count == 9
    with pytest.raises(BadInput, match="no single vector"):
        first("ridge-probe", spatial, data=scenes)
    with pytest.raises(BadInput, match="data of evaluate must be one of data, train"):
        evaluate("knn", model, data={"test": scenes})
    with pytest.raises(BadInput, match=r"knn needs labelled pictures: .*--data"):
        evaluate("knn", model)
