"""Fitting the grounded head, and what it hears in a text: refusals, and pleas to the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rttc_graph.integrations.rewards.grounded.evidence import FEATURES
from rttc_graph.integrations.rewards.grounded.evidence_head import EvidenceHead
from rttc_graph.support.extras import require

_STRENGTH = 1e-3
"""Strength of the ridge, on features of standard deviation 1 and a log-loss per answer."""

_SPEECH_INVERSE_RIDGE = 10.0


def fit_evidence_head(
    features: Sequence[Sequence[float]], right: Sequence[bool], weights: Sequence[float]
) -> EvidenceHead:
    """Fit a logistic regression whose slopes keep the signs that `FEATURES` asks for.

    Args:
        features: One row of all features for each answer.
        right: Whether it is right; both kinds must be there.
        weights: How much each answer counts.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    np: Any = require("numpy", extra="local", purpose="grounded heads")
    optimize: Any = require("scipy.optimize", extra="local", purpose="grounded heads")
    table = np.asarray(features, dtype=float)
    labels = np.asarray(right, dtype=float)
    share = np.asarray(weights, dtype=float) / np.sum(weights)
    means, spreads = table.mean(0), np.maximum(table.std(0), 1e-6)
    scaled = (table - means) / spreads

    def loss(parameters: Any) -> tuple[float, Any]:
        slopes = parameters[:-1]
        logits = scaled @ slopes + parameters[-1]
        each = np.logaddexp(0.0, logits) - labels * logits
        error = share * (1 / (1 + np.exp(-logits)) - labels)
        gradient = np.append(scaled.T @ error + 2 * _STRENGTH * slopes, error.sum())
        return float(share @ each + _STRENGTH * slopes @ slopes), gradient

    bounds = [((0, None) if sign > 0 else (None, 0) if sign else (None, None)) for sign in _SIGNS]
    found = optimize.minimize(
        loss, np.zeros(len(_SIGNS) + 1), jac=True, bounds=[*bounds, (None, None)], method="L-BFGS-B"
    ).x
    slopes = found[:-1] / spreads
    return EvidenceHead(
        weights=dict(zip(FEATURES, map(float, slopes), strict=True)),
        bias=float(found[-1] - slopes @ means),
    )


_SIGNS = tuple(FEATURES.values())


def fit_direction(
    vectors: Sequence[Sequence[float]], is_it: Sequence[bool]
) -> tuple[list[float], float]:
    """Return direction and offset of a logistic regression over an encoder's vectors.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    linear: Any = require("sklearn.linear_model", extra="local", purpose="grounded heads")
    fit = linear.LogisticRegression(C=_SPEECH_INVERSE_RIDGE, max_iter=2_000).fit(vectors, is_it)
    return [float(x) for x in fit.coef_[0]], float(fit.intercept_[0])
