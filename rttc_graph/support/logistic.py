"""The logistic function, and logistic regression by scikit-learn.

Applying a fit takes `sigmoid` alone, so a run never imports scikit-learn; fitting imports it where
it is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rttc_graph.support.extras import require

_TOLERANCE = 1e-12
"""Largest mean gradient at which Newton's method ends; coefficients then hold to about 1e-9."""


class LogisticFit(NamedTuple):
    """`P = sigmoid(offset + sum(slope * feature))`."""

    slopes: tuple[float, ...]
    offset: float


def sigmoid(value: float) -> float:
    """Return `1 / (1 + exp(-value))` without overflow, however large the value."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)


def fit_logistic(
    features: Sequence[Sequence[float]],
    targets: Sequence[float],
    *,
    ridge: float = 0.0,
    extra: str = "eval",
) -> LogisticFit:
    """Fit a logistic regression to targets that may lie between 0 and 1.

    Args:
        features: One row of F features for each target. With `ridge=0` each feature must vary.
        targets: From 0 to 1, not all of them 0 and not all 1. One in between counts as a right
            and a wrong answer by its parts, which is the cross-entropy with a soft label.
        ridge: Minimised is the summed log-loss plus `ridge / 2` times the sum of the squared
            slopes; the offset is free.
        extra: Which of our extras the error names where scikit-learn is not installed.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    linear: Any = require("sklearn.linear_model", extra=extra, purpose="logistic regressions")
    rows: list[Sequence[float]] = []
    labels: list[int] = []
    weights: list[float] = []
    for row, target in zip(features, targets, strict=True):
        for label, weight in ((1, target), (0, 1 - target)):
            if weight > 0:
                rows.append(row)
                labels.append(label)
                weights.append(weight)
    model = linear.LogisticRegression(
        C=1 / ridge if ridge else math.inf, solver="newton-cholesky", tol=_TOLERANCE, max_iter=200
    )
    model.fit(rows, labels, sample_weight=weights)
    return LogisticFit(tuple(map(float, model.coef_[0])), float(model.intercept_[0]))
