"""evaluate: names to protocols, a model to the callables that protocols take, and what comes with a figure."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import percepta
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import (
    Protocol,
    cifar10_protocol,
    scenes_retrieval_protocol,
    scenes_video_retrieval_protocol,
)
from percepta.running.progress import Progress
from percepta.tasks.encoder import Encoder
from percepta.tasks.evaluate import GROUPS, PROTOCOLS, evaluate, protocols_of
from percepta.tasks.evaluating.batches import Batches

SMALL = {"depth": 1, "text": {"depth": 1}, "image_size": 32}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return percepta.build("pe-core-nano", **SMALL).eval()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file in the layout of CIFAR-10 with 40 pictures of noise."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    random, encoded = np.random.default_rng(0), []
    for _ in range(40):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        encoded.append({"bytes": file.getvalue()})
    path = tmp_path_factory.mktemp("data") / "some photographs.parquet"
    parquet.write_table(pyarrow.table({"img": encoded, "label": [n % 10 for n in range(40)]}), path)
    return path


def test_names_groups_and_own_settings() -> None:
    assert [protocol.name for protocol in protocols_of("nano")] == list(GROUPS["nano"])
    assert protocols_of(["scenes-retrieval", "nano"])[0].name == "scenes-retrieval"
    assert len(protocols_of(["scenes-retrieval", "nano", "nano"])) == 4
    both = protocols_of(["scenes-retrieval", scenes_retrieval_protocol(50)])
    assert [protocol.settings["count"] for protocol in both] == [1000, 50]
    for name, evaluator in PROTOCOLS.items():
        assert evaluator.make().name == name
        assert evaluator.line


def test_settings_are_replaced_where_they_are_known() -> None:
    names = ["cifar10-zero-shot", "scenes-retrieval"]
    photographs, scenes = protocols_of(names, {"count": 50, "templates": ("{}",)})
    assert (photographs.settings["templates"], scenes.settings["count"]) == (("{}",), 50)
    assert "count" not in photographs.settings
    assert scenes.hash == scenes_retrieval_protocol(50).hash
    with pytest.raises(BadInput, match=r"setting of scenes-retrieval must be one of .*did you mean 'count'"):
        protocols_of("scenes-retrieval", {"counts": 50})
    with pytest.raises(BadInput, match="setting of knn must be one of"):
        protocols_of("knn", {"votes": "one each"})  # says what is done, and is no choice


def test_settings_are_of_their_kind() -> None:
    (knn,) = protocols_of("knn", {"layers": "last", "k": 5, "temperature": 1, "pooling": "class"})
    assert [knn.settings[name] for name in ("layers", "k", "temperature", "pooling")] == [("last",), 5, 1, "class"]
    for name, value, kind in (
        ("k", "five", "a whole number, such as 20"),
        ("k", True, "a whole number"),
        ("temperature", "warm", "a number, such as 0.07"),
        ("norm", 1, "true or false"),
        ("pooling", 3, "a word"),
        ("layers", {"last": 1}, "a list"),
    ):
        with pytest.raises(BadInput, match=f"{name} of knn must be {kind}"):
            protocols_of("knn", {name: value})


def test_callables_are_the_models_own(model) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    videos = random.integers(0, 256, (3, 4, 32, 32, 3), dtype=np.uint8)
    batches = Batches(Encoder(model), 2)
    with torch.inference_mode():
        prepared = torch.stack([model.preprocess(Image.fromarray(picture)) for picture in pictures])
        frames = torch.stack([model.preprocess.video(list(video), 4) for video in videos])
        texts = ["a red circle", "a blue star", "a dog"]
        torch.testing.assert_close(
            batches.pictures(pictures), model.encode_image(prepared, normalize=True), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            batches.videos(videos), model.encode_video(frames, normalize=True), atol=1e-5, rtol=1e-4
        )
        expected = model.encode_text(model.tokenize(texts), normalize=True)
        torch.testing.assert_close(batches.texts(texts), expected, atol=1e-5, rtol=1e-4)


def test_figures_carry_model_and_protocol(model, photographs: Path) -> None:
    protocols = [cifar10_protocol(), scenes_retrieval_protocol(20, 32), scenes_video_retrieval_protocol(8, 32)]
    seen: list[Progress] = []

    def progress(what: str) -> Progress:
        seen.append(Progress(what, shown=False))
        return seen[-1]

    results = list(evaluate(protocols, model, data=photographs, batch_size=7, progress=progress))
    assert [result.protocol for result in results] == protocols
    assert [result.measures[0].count for result in results] == [40, 20, 8]
    record = json.loads(json.dumps(results[0].to_dict()))
    assert record["model"] == {
        "name": "pe-core-nano",
        "weights": "",
        "image size": 32,
        "resize": "squash",
        "dtype": "float32",
    }
    assert record["details"]["photographs"] == 40
    assert record["details"]["seconds"] > 0
    assert sorted(bar.done for bar in seen) == sorted([40, 10 * 12, 20, 20, 8 * 8, 8])


def test_weights_by_file(model, tmp_path: Path) -> None:
    file = percepta.save(model, tmp_path / "small.safetensors")
    protocol = scenes_retrieval_protocol(10, 32)
    by_file, by_hand = (next(evaluate(protocol, which)) for which in (str(file), model))
    values = [[measure.value for measure in result.measures] for result in (by_file, by_hand)]
    assert values[0] == values[1]
    with pytest.raises(BadInput, match="weights must be None for a model in hand"):
        evaluate(protocol, model, weights=file)


def test_a_wish_that_cannot_be_met_is_told_before_any_work(model, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'scenes-retrieval'"):
        evaluate("scene-retrieval", model)
    with pytest.raises(BadInput, match="needs a protocol"):
        evaluate([], model)
    with pytest.raises(BadInput, match="protocol must be one of"):
        evaluate(Protocol("nano", {}), model)
    with pytest.raises(BadInput, match="pass data"):
        evaluate("nano", model)
    with pytest.raises(BadInput, match="batch_size of evaluate must be 1 or more"):
        evaluate("scenes-retrieval", model, batch_size=0)
    with pytest.raises(BadInput, match="has no text tower"):
        evaluate("scenes-retrieval", percepta.build("pe-spatial-t16-512", depth=1))
    with pytest.raises(BadMedia, match="there is no file"):
        next(evaluate("cifar10-zero-shot", model, data=tmp_path / "none.parquet"))
