"""Zero-shot, retrieval and probes over any pictures: worked out by hand, and against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, coverage_error, top_k_accuracy_score

from percepta.datasets.picture_sets import CaptionedSet, LabelledSet, Pictures
from percepta.errors import BadInput, BadMedia
from percepta.evaluation import (
    Encoded,
    divided,
    evaluate_probe,
    evaluate_retrieval,
    evaluate_zero_shot,
    knn_protocol,
    linear_probe_protocol,
    retrieval_protocol,
    ridge_probe_protocol,
    zero_shot_protocol,
)
from percepta.evaluation.probing import thinned
from percepta.media import Source
from percepta.results import Failure

CLASSES = 7


def pictures(count: int, key: str = "x") -> Pictures:
    return Pictures(count, lambda rows: (Source(str(row), "picture", data=row) for row in rows.tolist()), key)


def labelled(labels: Sequence[int], names: Sequence[str] | None = None, named: bool = True) -> LabelledSet:
    words = tuple(f"class {number}" for number in range(CLASSES)) if names is None else tuple(names)
    return LabelledSet("somewhere", pictures(len(labels)), np.asarray(labels, np.int64), words, named)


def encoder(vectors: dict[str, np.ndarray], broken: Sequence[int] = ()):
    """Pictures whose data are row numbers to the vectors of those rows."""

    def encode(asked: Pictures) -> Encoded:
        numbers = [source.data for source in asked if isinstance(source, Source)]
        good = [place for place, number in enumerate(numbers) if number not in broken]
        rows = np.array(good, np.int64)
        values = {
            name: torch.tensor(table[[numbers[row] for row in good]], dtype=torch.float32)
            for name, table in vectors.items()
        }
        return Encoded(values, rows, tuple(Failure(str(number), "It is broken.") for number in broken))

    return encode


def words(texts: Sequence[str]) -> torch.Tensor:
    return torch.eye(CLASSES)[[int(text.split()[-1]) for text in texts]]


LABELS = np.arange(70) % CLASSES
RANDOM = np.random.default_rng(0)
GOOD = np.eye(CLASSES)[LABELS] + 0.5 * RANDOM.normal(size=(70, CLASSES))
WORSE = np.eye(CLASSES)[LABELS] + 0.9 * RANDOM.normal(size=(70, CLASSES))
BOTH = {"squash": WORSE, "shorter_side_center_crop": GOOD}


def test_zero_shot_reports_both_resizes_and_the_larger() -> None:
    found = evaluate_zero_shot(labelled(LABELS), encoder(BOTH), words, zero_shot_protocol(["a {}"]))
    for name, table in (("squash", WORSE), ("centre crop", GOOD)):
        for rank, title in ((1, "accuracy"), (5, "top-5")):
            cosines = table / np.linalg.norm(table, axis=1, keepdims=True)
            expected = top_k_accuracy_score(LABELS, cosines, k=rank)
            assert found[f"{title}, {name}"].value == pytest.approx(expected)
    assert found["accuracy"].value == found["accuracy, centre crop"].value > found["accuracy, squash"].value
    assert found.details["best resize"] == "centre crop"
    assert [measure.name for measure in found.measures if measure.headline] == ["accuracy"]
    assert found.baselines[0].value == pytest.approx(1 / CLASSES)
    matrix = confusion_matrix(LABELS, GOOD.argmax(axis=1))
    assert found.tables["confusion"]["counts"] == matrix.tolist()
    by_class = [entry["value"] for entry in found.tables["classes"]]
    assert by_class == pytest.approx((np.diag(matrix) / matrix.sum(axis=1)).tolist())


def test_zero_shot_over_what_can_be_read() -> None:
    whole = evaluate_zero_shot(
        labelled(LABELS[3:]), lambda asked: _shifted(asked, 3), words, zero_shot_protocol(["{}"])
    )
    found = evaluate_zero_shot(labelled(LABELS), encoder(BOTH, (0, 1, 2)), words, zero_shot_protocol(["{}"]))
    assert found.measures == whole.measures
    assert [failure.reason for failure in found.failures] == ["It is broken."] * 3
    assert found.details["pictures"] == 67
    with pytest.raises(BadMedia, match="no picture could be read; the first: It is broken"):
        evaluate_zero_shot(labelled([0, 1]), encoder(BOTH, (0, 1)), words, zero_shot_protocol(["{}"]))


def _shifted(asked: Pictures, by: int) -> Encoded:
    return Encoded({name: torch.tensor(table[by:]).float() for name, table in BOTH.items()}, np.arange(len(asked)))


def test_class_names_are_the_protocols_or_the_datas() -> None:
    unnamed = labelled(LABELS, [str(number) for number in range(CLASSES)], named=False)
    with pytest.raises(BadInput, match=r"needs the names of the 7 classes .*--classes"):
        evaluate_zero_shot(unnamed, encoder(BOTH), words, zero_shot_protocol(["{}"]))
    names = [f"kind {number}" for number in range(CLASSES)]
    found = evaluate_zero_shot(unnamed, encoder(BOTH), words, zero_shot_protocol(["{}"], names))
    assert found.tables["confusion"]["names"] == names
    assert found.protocol.hash != zero_shot_protocol(["{}"]).hash
    with pytest.raises(BadInput, match="needs at least two classes; somewhere has one, 'cat'"):
        evaluate_zero_shot(labelled([0, 0], ["cat"]), encoder(BOTH), words, zero_shot_protocol(["{}"]))
    few = evaluate_zero_shot(labelled(LABELS[:3]), encoder(BOTH), words, zero_shot_protocol(["{}"], None, ["squash"]))
    assert few.details["classes without pictures"] == 4
    assert [measure.name for measure in few.measures] == ["accuracy", "top-5"]


def captioned() -> tuple[CaptionedSet, np.ndarray, dict[str, np.ndarray]]:
    """40 pictures with one to three captions each, some of them shared, and vectors of both."""
    random = np.random.default_rng(1)
    texts = [f"text {number}" for number in range(60)]
    captions = tuple(tuple(random.choice(texts, size=random.integers(1, 4), replace=False).tolist()) for _ in range(40))
    by_text = {text: random.normal(size=8) for text in texts}
    vectors = np.stack([np.mean([by_text[text] for text in own], axis=0) for own in captions])
    return CaptionedSet("pairs", pictures(40), captions), vectors + 0.6 * random.normal(size=(40, 8)), by_text


def test_retrieval_equals_sorting() -> None:
    data, vectors, by_text = captioned()

    def encode_text(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor(np.stack([by_text[text] for text in texts])).float()

    found = evaluate_retrieval(data, encoder({"x": vectors}), encode_text)
    flat = [text for own in data.captions for text in own]
    one, other = (torch.nn.functional.normalize(rows, dim=-1) for rows in (encode_text(flat), torch.tensor(vectors)))
    plain = one @ other.float().T
    for suffix, to_pictures, to_texts in (
        ("", plain, plain.T),
        (" with dual softmax", plain * plain.softmax(0), plain.T * plain.T.softmax(0)),
    ):
        for rank in (1, 5, 10):
            best = to_pictures.topk(rank, dim=1).indices.tolist()
            right = [any(text in data.captions[item] for item in row) for text, row in zip(flat, best, strict=True)]
            assert found[f"text to picture R@{rank}{suffix}"].value == pytest.approx(np.mean(right), abs=1e-9)
            # A text that comes twice is tied with itself: the best of each text stands for both.
            best = to_texts.topk(rank, dim=1).indices.tolist()
            right = [any(flat[item] in own for item in row) for own, row in zip(data.captions, best, strict=True)]
            assert found[f"picture to text R@{rank}{suffix}"].value == pytest.approx(np.mean(right), abs=0.02)
    assert found["text to picture R@1"].headline
    assert not found["text to picture R@1 with dual softmax"].headline
    assert found["text to picture R@1"].count == len(flat)


def test_retrieval_of_pairs_equals_sklearn() -> None:
    random = np.random.default_rng(2)
    vectors = random.normal(size=(50, 6))
    asked = torch.tensor(vectors + random.normal(size=(50, 6))).float()
    data = CaptionedSet("pairs", pictures(50), tuple((f"text {number}",) for number in range(50)))
    found = evaluate_retrieval(data, encoder({"x": vectors}), lambda texts: asked, retrieval_protocol((1, 3)))
    scores = (
        torch.nn.functional.normalize(asked) @ torch.nn.functional.normalize(torch.tensor(vectors).float()).T
    ).numpy()
    for rank in (1, 3):
        for way, table in (("text to picture", scores), ("picture to text", scores.T)):
            assert found[f"{way} R@{rank}"].value == pytest.approx(
                top_k_accuracy_score(np.arange(50), table, k=rank, labels=np.arange(50))
            )
    ranks = [coverage_error(np.eye(50)[[row]], scores[[row]]) for row in range(50)]
    assert found["text to picture R@3"].value == pytest.approx(np.mean(np.array(ranks) <= 3))
    assert found["text to picture R@1"].chance == pytest.approx(1 / 50)


def test_several_captions_of_a_picture_are_drawn_together() -> None:
    vectors = np.eye(30)[np.where(np.arange(30) < 15, np.arange(30), (np.arange(30) + 1) % 30)]
    once = CaptionedSet("pairs", pictures(30), tuple((f"{row}",) for row in range(30)))
    many = CaptionedSet(
        "pairs", pictures(30), tuple(tuple(f"{row}{' ' * copy}" for copy in range(4)) for row in range(30))
    )

    def encode_text(texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(30)[[int(text) for text in texts]]

    one, other = (evaluate_retrieval(data, encoder({"x": vectors}), encode_text) for data in (once, many))
    first, second = one["text to picture R@1"], other["text to picture R@1"]
    assert (second.count, second.value) == (120, pytest.approx(first.value))
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_retrieval_needs_two_pictures() -> None:
    data = CaptionedSet("pairs", pictures(1), (("a",),))
    with pytest.raises(BadInput, match="at least two pictures with captions; pairs has 1"):
        evaluate_retrieval(data, encoder({"x": GOOD}), words)


MANY = np.arange(210) % CLASSES
CLEAR, DIM = (np.eye(CLASSES)[MANY] + noise * RANDOM.normal(size=(210, CLASSES)) for noise in (0.3, 0.7))
LAYERS = {"layer 0": DIM, "layer 1": CLEAR}


@pytest.mark.parametrize("make", [knn_protocol, linear_probe_protocol, ridge_probe_protocol])
def test_probes_go_through_every_layer(make) -> None:
    train, test = divided(labelled(MANY))
    assert (len(train), len(test)) == (168, 42)
    found = evaluate_probe(train, test, encoder(LAYERS), make(("all",)))
    assert found["accuracy, layer 1"].value > found["accuracy, layer 0"].value > 2 / CLASSES
    curve = found.tables["layers"]
    assert curve["layers"] == list(LAYERS)
    assert curve["measures"]["accuracy"][1] == [
        found["accuracy, layer 1"].value,
        found["accuracy, layer 1"].low,
        found["accuracy, layer 1"].high,
    ]
    assert "confusion" not in found.tables
    alone = evaluate_probe(train, test, encoder({"output": CLEAR}), make())
    assert alone["accuracy"].value == found["accuracy, layer 1"].value
    assert np.sum(alone.tables["confusion"]["counts"]) == 42
    assert found.details["training pictures"] == 168


def test_what_is_chosen_is_said() -> None:
    train, test = divided(labelled(MANY))
    found = evaluate_probe(train, test, encoder(LAYERS), ridge_probe_protocol(grid=(1e-9, 1e-8)))
    assert "at the end of the grid" in found.details["strength, layer 0"]
    assert "strength" not in evaluate_probe(train, test, encoder({"output": CLEAR}), knn_protocol()).details


def test_classes_of_both_parts_must_agree() -> None:
    train = labelled([0, 1, 2, 0, 1, 2], ["cat", "dog", "cow"])
    test = labelled([0, 1], ["cow", "cat"])
    vectors = np.eye(3)[[0, 1, 2, 0, 1, 2]] + 0.01

    def encode(asked: Pictures) -> Encoded:
        rows = vectors if len(asked) == 6 else np.eye(3)[[2, 0]]
        return Encoded({"output": torch.tensor(rows).float()}, np.arange(len(asked)))

    assert evaluate_probe(train, test, encode, knn_protocol(k=2))["accuracy"].value == 1.0
    with pytest.raises(BadInput, match="'bird' of somewhere is not in somewhere"):
        evaluate_probe(train, labelled([0], ["bird"]), encode, knn_protocol(k=2))
    with pytest.raises(BadInput, match="'cow' has none"):
        evaluate_probe(labelled([0, 1], ["cat", "dog", "cow"]), test, encode, knn_protocol(k=2))
    with pytest.raises(BadInput, match="k of knn must be 1 to 6"):
        evaluate_probe(train, test, encode, knn_protocol(k=20))
    with pytest.raises(BadInput, match="at least two classes"):
        evaluate_probe(labelled([0], ["cat"]), labelled([0], ["cat"]), encode, knn_protocol())


def test_dividing_and_thinning_keep_the_shares() -> None:
    data = labelled(np.repeat([0, 1], [80, 40]), ["cat", "dog"])
    train, test = divided(data)
    assert [np.bincount(part.labels).tolist() for part in (train, test)] == [[64, 32], [16, 8]]
    assert np.bincount(thinned(data, 30).labels).tolist() == [20, 10]
    assert thinned(data, 500) is data
    numbers = [source.data for source in thinned(data, 30).pictures if isinstance(source, Source)]
    assert [data.labels[number] for number in numbers] == thinned(data, 30).labels.tolist()
    with pytest.raises(BadInput, match="train count must be a whole number of 1 or more"):
        thinned(data, 0)
    with pytest.raises(BadInput, match="too few pictures of each class to be divided"):
        divided(labelled([0, 1], ["cat", "dog"]))
