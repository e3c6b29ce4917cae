"""What a candidate tells about itself for free, besides its text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rttc_graph.integrations.rewards.trained.reward_spec import LogitMap
from rttc_graph.state import Candidate
from rttc_graph.support.logistic import sigmoid

SIGNALS = 2
"""Number of signals that `answer_signals` returns."""

_LOWEST = -4.0
"""Mean log-probability below which all answers count as equally unlikely."""


def answer_signals(mean_logprob: float, finish_reason: str) -> tuple[float, ...]:
    """Return mean log-probability, clipped to [-4, 0], and whether the answer was cut off."""
    clipped = min(max(mean_logprob, _LOWEST), 0.0)
    return clipped, 0.0 if finish_reason == "stop" else 1.0


def probability(
    logit: float, candidate: Candidate, with_signals: LogitMap, without: LogitMap
) -> float:
    """Return P(right) of an answer from the network's logit and the candidate's own signals."""
    mean_logprob = candidate["mean_logprob"]
    if mean_logprob is None or not math.isfinite(mean_logprob) or not with_signals.signals:
        return calibrated(logit, (), without)
    return calibrated(logit, answer_signals(mean_logprob, candidate["finish_reason"]), with_signals)


def calibrated(logit: float, signals: Sequence[float], calibration: LogitMap) -> float:
    """Return the calibration's probability, without overflow."""
    total = calibration.bias + calibration.logit * logit
    total += sum(w * s for w, s in zip(calibration.signals, signals, strict=True)) if signals else 0
    return sigmoid(total)
