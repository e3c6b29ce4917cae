"""What every reward model of ours promises about its scores, checked in one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rttc_graph.errors import RewardModelError

_ROUNDING = 1e-6
"""Distance from [0, 1] that float32 rounding explains; such scores are clipped."""


def checked_rewards(scores: Sequence[object], *, expected: int, source: str) -> list[float]:
    """Return the scores as floats in [0, 1].

    Args:
        scores: What a model or a function returned.
        expected: Number of candidates.
        source: Name of the reward model, for the message.

    Raises:
        RewardModelError: A score is missing, no number, not finite or out of range.
    """
    if len(scores) != expected:
        raise RewardModelError(
            f"{source!r} returned {len(scores)} scores for {expected} candidates: "
            "return one for each"
        )
    return [_checked(score, source) for score in scores]


def reward_fingerprint(*made_from: object) -> str:
    """Return a digest of what decides a reward model's scores, 32 hexadecimal characters.

    Args:
        made_from: Plain data; what JSON cannot hold counts by its `repr`.
    """
    text = json.dumps(made_from, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _checked(score: object, source: str) -> float:
    try:
        value = float(score)  # type: ignore[arg-type]  # numpy's and torch's numbers are welcome too
    except (TypeError, ValueError) as exc:
        raise RewardModelError(
            f"{source!r} returned {score!r}, which is no number: return a reward from 0 to 1"
        ) from exc
    if not -_ROUNDING <= value <= 1 + _ROUNDING:  # neither is what is not a number
        raise RewardModelError(
            f"{source!r} returned {value!r}: a reward is a finite number from 0 to 1"
        )
    return min(max(value, 0.0), 1.0)
