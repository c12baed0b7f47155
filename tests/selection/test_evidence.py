"""LogME against its closed form, against the Gaussian that it stands for, and in use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from percepta.errors import BadInput
from percepta.selection import logme
from tests.selection.worlds import blobs


def log_evidence(features: np.ndarray, target: np.ndarray, prior: float, noise: float) -> float:
    """Of y = F w + e with w ~ N(0, 1 / prior) and e ~ N(0, 1 / noise), per sample."""
    covariance = np.eye(len(target)) / noise + features @ features.T / prior
    return multivariate_normal(np.zeros(len(target)), covariance).logpdf(target) / len(target)


def test_orthonormal_features_have_a_closed_form() -> None:
    """The fixed point solves a linear equation: a / b = d r / (s (n - d) - d r), s inside and r outside of the span."""
    random = np.random.default_rng(0)
    count, dims = 50, 6
    features, _ = np.linalg.qr(random.normal(size=(count, dims)))
    target = features @ random.normal(size=dims) * 5 + random.normal(size=count)
    inside = float(((features.T @ target) ** 2).sum())
    outside = float((target**2).sum()) - inside
    ratio = dims * outside / (inside * (count - dims) - dims * outside)
    effective = dims / (1 + ratio)
    prior = effective / (inside / (1 + ratio) ** 2)
    noise = (count - effective) / (inside * (ratio / (1 + ratio)) ** 2 + outside)
    found = logme(features, target, tolerance=1e-12, rounds=500)
    assert found == pytest.approx(log_evidence(features, target, prior, noise), abs=1e-5)


@pytest.mark.parametrize("shape", [(40, 5), (20, 50)])
def test_it_is_the_evidence_and_nearly_the_largest(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=shape)
    target = features[:, 0] + 0.5 * random.normal(size=shape[0])
    found = logme(features, target, tolerance=1e-10, rounds=2000)
    grid = [log_evidence(features, target, a, b) for a in np.logspace(-2, 5, 60) for b in np.logspace(-2, 4, 60)]
    assert max(grid) - 1e-3 <= found <= max(grid) + 0.01


def test_classes_are_the_mean_over_their_columns() -> None:
    features, labels = blobs()
    columns = [logme(features, np.eye(4)[labels][:, column].astype(float)) for column in range(4)]
    assert logme(features, labels) == pytest.approx(np.mean(columns))


def test_better_features_have_more_evidence_at_any_width() -> None:
    for dims in (5, 40, 200):
        scores = [logme(*blobs(100, dims, 5, apart)) for apart in (0.0, 0.5, 1.5)]
        assert scores == sorted(scores)


def test_degenerate_features_stay_finite() -> None:
    features, labels = blobs()
    assert np.isfinite(logme(np.tile(features, (1, 40)), labels))
    assert np.isfinite(logme(np.eye(4)[labels], labels))
    assert np.isfinite(logme(1e-9 * features, labels))
    with pytest.raises(BadInput, match="tolerance and rounds of logme"):
        logme(features, labels, rounds=0)
