"""What is known of an answer beside its reward, as numbers, and the map from both to P(right).

All of it is in hand when an answer is judged, so it costs nothing: arithmetic over the answer's own
log-probability and what the retrieved samples say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.calibrated.probability_maps import logit
from rttc_graph.state import Sample
from rttc_graph.support.canonical import canonical, vote_shares
from rttc_graph.support.logistic import sigmoid
from rttc_graph.support.passages import is_passage
from rttc_graph.support.thinking import answer_behind

FEATURES = ("logit", "logprob", "has_logprob", "share", "nearest", "length")
"""Names in the order of a map's slopes: log-odds of the reward; mean log-probability of the
answer's tokens in nats, and whether there is one; share of the retrieved samples' votes that the
answer has; similarity of the nearest sample; logarithm of the words plus 1."""

VERSION = 1
"""Raised when the same answer gives other features: maps of another version are not used."""

_LARGEST_LOGIT = 8.0
_LOWEST_LOGPROB = -4.0

AnswerFeatures = tuple[float, ...]
"""Values of `FEATURES` but for the first, which is the reward's own."""


def answer_features(
    answer: str, mean_logprob: float | None, samples: Sequence[Sample]
) -> AnswerFeatures:
    """Return what is known of an answer beside its reward.

    Args:
        answer: As it was judged.
        mean_logprob: Mean log-probability of its tokens in nats; `None` where no model wrote it.
        samples: Samples in hand; passages of documents have no vote.
    """
    said = answer_behind(answer)
    solved = [sample for sample in samples if not is_passage(sample.get("metadata"))]
    shares = vote_shares([(answer_behind(s["answer"]), s["similarity"]) for s in solved])
    has_logprob = mean_logprob is not None and math.isfinite(mean_logprob)
    logprob = mean_logprob if has_logprob and mean_logprob is not None else 0.0
    return (
        min(max(logprob, _LOWEST_LOGPROB), 0.0),
        float(has_logprob),
        shares.get(canonical(said), 0.0),
        max((sample["similarity"] for sample in samples), default=0.0),
        math.log1p(len(said.split())),
    )


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """`P = sigmoid(offset + sum(slope * feature))`, a logistic regression."""

    slopes: tuple[float, ...]
    """One for each of `FEATURES`."""
    offset: float

    def __call__(self, score: float, features: AnswerFeatures) -> float:
        """Return P(right) of an answer, in [0, 1], by its raw score and its features."""
        values = all_features(score, features)
        products = (slope * value for slope, value in zip(self.slopes, values, strict=True))
        return sigmoid(self.offset + math.fsum(products))

    def to_json(self) -> dict[str, Any]:
        """Return the map as plain data."""
        slopes = dict(zip(FEATURES, self.slopes, strict=True))
        return {"version": VERSION, "offset": self.offset, "slopes": slopes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureMap | None:
        """Return the map that `to_json` wrote; `None` for one of another version.

        Raises:
            ConfigurationError: It is no stored map.
        """
        try:
            if data["version"] != VERSION:
                return None
            slopes = tuple(float(data["slopes"][name]) for name in FEATURES)
            found = cls(slopes, float(data["offset"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"a stored calibration by features cannot be read ({exc!r}): run rttc calibrate "
                "again"
            ) from exc
        if not all(map(math.isfinite, (*found.slopes, found.offset))):
            raise ConfigurationError(
                "a stored calibration by features has a number that is not finite: run rttc "
                "calibrate again"
            )
        return found


def all_features(score: float, features: AnswerFeatures) -> tuple[float, ...]:
    """Return the values of `FEATURES` for a raw score in [0, 1] and what is known beside it."""
    return max(-_LARGEST_LOGIT, min(logit(score), _LARGEST_LOGIT)), *features
