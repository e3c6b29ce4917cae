"""From the network's logit and a candidate's own signals to P(right), on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from rttc_graph.arms import ARMS
from rttc_graph.integrations.rewards.trained.reward_spec import LogitMap
from rttc_graph.integrations.rewards.trained.signals import SIGNALS, answer_signals
from rttc_graph.reward_training.candidate_rows import CandidateRow
from rttc_graph.support.logistic import fit_logistic

FEWEST = 40
"""Answers of the policy model, of each kind a tenth, below which its signals are not used."""

_RIDGE = 0.02
"""Keeps weights finite where held-out answers can be told apart perfectly."""

_LEAST_SPREAD = 1e-6
"""Standard deviation below which a feature counts as constant."""


def fit_logit_maps(
    rows: Sequence[CandidateRow], logits: Sequence[float]
) -> tuple[LogitMap, LogitMap]:
    """Return the calibrations with and without signals.

    Fitted on answers of the policy model, as that is what will be judged; where there are too few,
    on all answers and without signals.
    """
    judged = list(zip(rows, logits, strict=True))
    real = [
        (row, logit)
        for row, logit in judged
        if row["source"] in ARMS and row["mean_logprob"] is not None
    ]
    if not _enough([row for row, _ in real]):
        plain = _fit([[logit] for _, logit in judged], [row["right"] for row, _ in judged])
        return plain, plain
    right = [row["right"] for row, _ in real]
    full = _fit([[logit, *_signals(row)] for row, logit in real], right)
    return full, _fit([[logit] for _, logit in real], right)


def _enough(rows: Sequence[CandidateRow]) -> bool:
    right = sum(row["right"] for row in rows)
    return len(rows) >= FEWEST and min(right, len(rows) - right) >= FEWEST // 10


def _signals(row: CandidateRow) -> tuple[float, ...]:
    assert row["mean_logprob"] is not None
    return answer_signals(row["mean_logprob"], row["finish_reason"])


def _fit(features: Sequence[Sequence[float]], right: Sequence[bool]) -> LogitMap:
    """Fit a logistic regression; every feature is scaled, so that the ridge treats all alike.

    Answers that are all right or all wrong say nothing about the scale: the logit stays as it is.
    """
    if all(right) or not any(right):
        return LogitMap()
    columns = list(zip(*features, strict=True))
    means = [fmean(column) for column in columns]
    spreads = [max(pstdev(column), _LEAST_SPREAD) for column in columns]
    scaled = [
        [(x - mean) / spread for x, mean, spread in zip(row, means, spreads, strict=True)]
        for row in features
    ]
    ridge = _RIDGE * len(features) / 100
    fit = fit_logistic(scaled, [float(is_right) for is_right in right], ridge=ridge, extra="local")
    slopes = [slope / spread for slope, spread in zip(fit.slopes, spreads, strict=True)]
    bias = fit.offset - sum(slope * mean for slope, mean in zip(slopes, means, strict=True))
    signals = tuple(slopes[1:]) if len(slopes) == 1 + SIGNALS else ()
    return LogitMap(bias=bias, logit=slopes[0], signals=signals)
