"""From the network's logit and a candidate's own signals to P(right), on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from rttc_graph.integrations.rewards.trained.reward_spec import Calibration
from rttc_graph.integrations.rewards.trained.signals import SIGNALS, signals_of
from rttc_graph.reward_training.candidate_rows import ARMS, CandidateRow

FEWEST = 40
"""Answers of the policy model, of each kind a tenth, below which its signals are not used."""

_RIDGE = 0.02
"""Keeps weights finite where held-out answers can be told apart perfectly."""

_ROUNDS = 100


def fit_calibrations(
    rows: Sequence[CandidateRow], logits: Sequence[float]
) -> tuple[Calibration, Calibration]:
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
    return signals_of(row["mean_logprob"], row["finish_reason"])


def _fit(features: Sequence[Sequence[float]], right: Sequence[bool]) -> Calibration:
    """Fit a logistic regression; every feature is scaled, so that the ridge treats all alike."""
    x = torch.tensor(features, dtype=torch.float64)  # [N, F]
    y = torch.tensor(right, dtype=torch.float64)
    mean, spread = x.mean(0), x.std(0, unbiased=False).clamp(min=1e-6)
    z = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    ridge = torch.full((z.shape[1],), _RIDGE * len(x) / 100, dtype=torch.float64)
    ridge[-1] = 0.0
    weights = torch.zeros(z.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):  # Newton's method; damped by the ridge and a bounded step
        p = torch.sigmoid(z @ weights)
        gradient = z.T @ (p - y) + ridge * weights
        hessian = (z.T * (p * (1 - p))) @ z + torch.diag(ridge + 1e-6)
        step = cast(torch.Tensor, torch.linalg.solve(hessian, gradient))
        weights = weights - step * min(1.0, 2.0 / float(step.abs().max().clamp(min=1e-9)))
        if float(step.abs().max()) < 1e-8:
            break
    slopes = cast("list[float]", (weights[:-1] / spread).tolist())
    bias = float(weights[-1] - (weights[:-1] * mean / spread).sum())
    signals = tuple(slopes[1:]) if len(slopes) == 1 + SIGNALS else ()
    return Calibration(bias=bias, logit=slopes[0], signals=signals)
