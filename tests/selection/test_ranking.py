"""Rankings: the best features win, chance is told, and size that says as much is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kendalltau

from percepta.errors import BadInput
from percepta.selection import ESTIMATORS, Candidate, Estimator, kendall, rank
from percepta.selection.wording import listed
from tests.selection.worlds import blobs

QUICK = ("knn", "ridge")


def candidates(samples: int = 80, **apart: float) -> tuple[dict[str, Candidate], np.ndarray]:
    """Candidates of one probe, each with its own separation of the same classes."""
    made = {}
    for place, (name, value) in enumerate(apart.items()):
        random = np.random.default_rng(place + 1)
        labels = np.arange(samples) % 4
        features = value * random.normal(size=(4, 10 + place))[labels] + random.normal(size=(samples, 10 + place))
        made[name] = Candidate(features)
    return made, labels


def test_the_best_features_win_by_every_vote() -> None:
    found, labels = candidates(weak=0.1, strong=2.0, middle=0.6)
    ranking = rank(found, labels)
    assert [row.name for row in ranking.rows] == ["strong", "middle", "weak"]
    assert ranking.recommendation == "strong"
    assert ranking.tied == ("strong",)
    assert ranking.reason.startswith("strong has the best mean of knn, ridge, parc-32 and logme (+")
    assert ranking.warnings == ()
    for name in ranking.estimators:
        assert [row.scores[name].rank for row in ranking.rows] == [1, 2, 3]
        assert ranking["strong"].scores[name].regret == 0
        assert ranking["weak"].scores[name].regret > 0
    assert ranking["strong"].best == 1
    assert ranking.reliability > 0.8


def test_the_ensemble_is_the_mean_z_score_and_the_prior() -> None:
    found, labels = candidates(a=0.3, b=1.0, c=0.6)
    sized = {
        name: Candidate(one.features, parameters=10.0 ** (5 + place)) for place, (name, one) in enumerate(found.items())
    }
    plain = rank(sized, labels, QUICK, resamples=3, prior_weight=0)
    added = rank(sized, labels, QUICK, resamples=3, prior_weight=0.5)
    scores = np.array([[plain[name].scores[one].score for one in QUICK] for name in "abc"])
    mean = ((scores - scores.mean(axis=0)) / scores.std(axis=0, ddof=1)).mean(axis=1)
    assert [plain[name].ensemble.score for name in "abc"] == pytest.approx(mean)
    assert [added[name].ensemble.score for name in "abc"] == pytest.approx(mean + 0.5 * np.array([-1, 0, 1]))
    assert (plain.prior, added.prior) == ("", "parameters")
    assert plain["c"].static["parameters"] == (7.0, 1)


def test_depth_is_the_prior_where_no_parameters_are_known() -> None:
    found, labels = candidates(a=0.3, b=1.0)
    deep = {name: Candidate(one.features, depth=4 + place, macs=1e6) for place, (name, one) in enumerate(found.items())}
    ranking = rank(deep, labels, QUICK, resamples=3)
    assert ranking.prior == "depth"
    assert set(ranking.rows[0].static) == {"depth", "macs"}
    half = {**deep, "a": Candidate(found["a"].features)}  # known of one only
    assert rank(half, labels, QUICK, resamples=3).prior == ""


def test_equal_candidates_are_not_told_apart() -> None:
    found, labels = candidates(a=0.6, b=0.6, c=0.0)
    ranking = rank(found, labels, QUICK)
    assert set(ranking.tied) == {"a", "b"}
    (told,) = (one for one in ranking.warnings if "the first 2 cannot be told apart" in one)
    assert "train with each of these 2" in told
    best = ranking.rows[0]
    assert best.ensemble.low < best.ensemble.score < best.ensemble.high
    assert best.ensemble.regret < ranking["c"].ensemble.regret


def test_chance_alone_is_called_so() -> None:
    found, labels = candidates(40, **{f"m{number}": 0.0 for number in range(8)})
    ranking = rank(found, labels, QUICK)
    assert ranking.reliability < 0.5
    assert len(ranking.tied) > 2
    assert ranking.warnings


def test_size_that_says_as_much_as_the_scores_is_named() -> None:
    found, labels = candidates(a=0.1, b=0.5, c=1.0, d=2.0)
    sized = {
        name: Candidate(one.features, parameters=10.0**place) for place, (name, one) in enumerate(found.items(), 5)
    }
    ranking = rank(sized, labels, QUICK)
    assert ranking.agreement["parameters"] > 0.9
    assert any(one.startswith("parameters alone rank the candidates as well as the scores") for one in ranking.warnings)
    other = {
        name: Candidate(one.features, parameters=10.0 ** (9 - place)) for place, (name, one) in enumerate(found.items())
    }
    opposite = rank(other, labels, QUICK)
    assert opposite.agreement["parameters"] < -0.9
    assert not any("parameters alone" in one for one in opposite.warnings)


def test_kinds_of_targets() -> None:
    found, _ = candidates(a=0.3, b=1.0)
    target = np.asarray(found["b"].features)[:, 0]
    assert rank(found, target, resamples=4).recommendation == "b"
    assert rank(found, (target > 0).astype(int)[:, None], resamples=4, kind="multi-label").recommendation == "b"
    assert rank(found, np.round(target), resamples=4, kind="regression").kind == "regression"


def test_probabilities_reach_the_scores_that_need_them() -> None:
    found, labels = candidates(a=0.3, b=0.3)
    sure = np.eye(4)[labels] * 0.9 + 0.025
    given = {"a": Candidate(found["a"].features, probabilities=np.full((80, 4), 0.25))}
    given["b"] = Candidate(found["b"].features, probabilities=sure)
    ranking = rank(given, labels, ["leep", "nce"], resamples=4)
    assert ranking.recommendation == "b"
    with pytest.raises(BadInput, match="a: leep needs the probabilities"):
        rank(found, labels, ["leep"])


def test_the_same_seed_gives_the_same_ranking_in_any_order() -> None:
    found, labels = candidates(a=0.3, b=0.5, c=0.4)
    one, other = rank(found, labels, QUICK), rank(dict(reversed(found.items())), labels, QUICK)
    assert [row.name for row in one.rows] == [row.name for row in other.rows]
    for name in found:
        assert one[name].ensemble.low == pytest.approx(other[name].ensemble.low)
    assert rank(found, labels, QUICK).to_dict() == one.to_dict()


def test_it_becomes_json_with_a_schema_number() -> None:
    found, labels = candidates(a=0.3, b=0.5)
    record = json.loads(json.dumps(rank(found, labels, QUICK).to_dict(), allow_nan=False))
    assert record["schema"] == 1
    assert record["rows"][0]["scores"]["knn"]["interval"][0] <= record["rows"][0]["scores"]["knn"]["score"]
    bare = json.loads(json.dumps(rank(found, labels, QUICK, resamples=0).to_dict(), allow_nan=False))
    assert bare["rows"][0]["ensemble"]["interval"] is None
    assert bare["reliability"] is None
    assert "no intervals" in bare["warnings"][0]


def test_shares_end_at_100() -> None:
    found, labels = candidates(a=3.0, b=0.2)
    assert rank(found, labels, QUICK)["a"].scores["ridge"].high <= 100


def test_a_score_of_one_s_own() -> None:
    def width(features, targets, probabilities) -> float:
        return float(features.shape[1])

    found, labels = candidates(a=1.0, b=0.1)
    mine = {**ESTIMATORS, "mine": Estimator("mine", width, "the number of columns")}
    assert rank(found, labels, ["mine"], table=mine, resamples=3).recommendation == "b"


def test_progress_is_told() -> None:
    found, labels = candidates(a=1.0, b=0.1)
    seen: list[tuple[int, int]] = []
    rank(found, labels, ["knn"], resamples=1, on_progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda c: {"a": c["a"]}, {}, "at least two candidates; got 1"),
        (lambda c: c, {"estimators": ["knnn"]}, r"estimators must be one of .*did you mean 'knn'"),
        (lambda c: c, {"estimators": []}, "estimators must be a list of at least one name"),
        (lambda c: c, {"estimators": "knn"}, "estimators must be a list of at least one name"),
        (lambda c: c, {"resamples": -1}, "resamples of rank must be 0 or more"),
        (lambda c: {**c, "b": Candidate(np.ones((80, 3)))}, {}, "b: features must differ between samples"),
        (lambda c: {**c, "b": Candidate(np.ones((70, 3)))}, {}, "b: features and targets must be of the same samples"),
        (lambda c: {**c, "b": Candidate(np.full((80, 3), np.nan))}, {}, "b: features must be finite numbers; 80 of 80"),
        (
            lambda c: {n: Candidate(o.features, parameters=0) for n, o in c.items()},
            {},
            "parameters must be numbers above",
        ),
    ],
)
def test_what_cannot_be_ranked(change, options, sentence: str) -> None:
    found, labels = candidates(a=1.0, b=0.1)
    with pytest.raises(BadInput, match=sentence):
        rank(change(found), labels, **{"estimators": ["knn"], "resamples": 2, **options})


def test_scores_of_classes_alone_name_those_that_fit_a_regression() -> None:
    found, _ = candidates(a=1.0, b=0.1)
    with pytest.raises(BadInput, match="gbc does not take regression targets; these do: knn, knn-5, ridge, parc"):
        rank(found, np.random.default_rng(0).normal(size=80), ["gbc"])


def test_kendall_is_scipy_s() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        one, other = random.integers(6, size=12), random.normal(size=12)
        assert kendall(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert kendall(np.ones(4), np.arange(4)) == 0


def test_names_in_a_sentence() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_blobs_have_every_class_twice() -> None:
    assert (np.bincount(blobs(12, 3, 6)[1]) == 2).all()
