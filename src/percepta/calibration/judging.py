"""A prior as the judge of the protocols for "nothing here"."""

from __future__ import annotations

from percepta.calibration.formula import background_of, probabilities
from percepta.calibration.neutral import neutral_texts, summarise
from percepta.calibration.prior import Prior
from percepta.evaluation.nothing_here import Judge


def judge(prior: Prior, question: str = "words") -> Judge:
    """What `evaluate_scenes_nothing_here` and `evaluate_cifar10_nothing_here` take, for "words" or "picture".

    Raises: BadInput for a picture where the prior knows words alone.
    """
    background_of(prior, question)
    return Judge(
        neutral_texts(),
        summarise,
        lambda scores, neutral: probabilities(scores, neutral, prior, question),
        prior.thresholds.get(question, {}),
        {"prior": f"of {prior.model} {prior.weights}", "fitted on": prior.fitted_on},
    )
