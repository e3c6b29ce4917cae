"""What a model holds of its own answer so far: three numbers beside its hidden state."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

CONFIDENCES = 3
"""Numbers that `step_confidences` returns."""


def step_confidences(logprobs: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return the last, the mean and the lowest of the steps' mean log-probabilities, in nats.

    A slip of sampling is a token that the model itself held for unlikely, and the answer goes on
    from it as if nothing had happened. `None` where no step's is known.

    Args:
        logprobs: Mean log-probability of each step's tokens, in order; `None` where not known.
    """
    known = [one for one in logprobs if one is not None]
    return (known[-1], fmean(known), min(known)) if known else None
