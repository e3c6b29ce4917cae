"""The grounded head: features of the evidence to P(right), by plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.grounded.evidence import FEATURES
from rttc_graph.support.logistic import sigmoid

FEATURES_VERSION = 1
"""Raised when the same evidence gives other features: heads of another version are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceHead:
    """`sigmoid(bias + sum(weight * feature))`, as far as the samples can hold for the question.

    Where the question has several numbers that the supporting sample's question lacks, as in a
    computation, the samples show how to answer and not what. That share of the score is the one
    without them.
    """

    weights: Mapping[str, float]
    """One for each of `FEATURES`."""
    bias: float

    def __post_init__(self) -> None:
        """Refuse other features than those that are computed.

        Raises:
            ConfigurationError: Names one that is missing or unknown.
        """
        if odd := sorted(self.weights.keys() ^ FEATURES.keys()):
            raise ConfigurationError(f"the evidence head does not fit: feature {odd[0]!r}")
        if not all(map(math.isfinite, (self.bias, *self.weights.values()))):
            raise ConfigurationError("the evidence head has a weight that is not finite")

    def __call__(self, features: Sequence[float], alone: float) -> float:
        """Return the score of an answer, in [0, 1].

        Args:
            features: In the order of `FEATURES`.
            alone: Its score without evidence.
        """
        values = dict(zip(FEATURES, features, strict=True))
        total = self.bias + sum(self.weights[name] * value for name, value in values.items())
        foreign = values["foreign"]
        return (1 - foreign) * sigmoid(total) + foreign * alone

    def to_json(self) -> dict[str, Any]:
        """Return the head as plain data."""
        return {
            "features_version": FEATURES_VERSION,
            "bias": self.bias,
            "weights": dict(self.weights),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvidenceHead:
        """Return the head that `to_json` wrote.

        Raises:
            ConfigurationError: It is of another version, or no head.
        """
        found = data.get("features_version")
        if found != FEATURES_VERSION:
            raise ConfigurationError(
                f"an evidence head of version {found!r} cannot be read, this version reads "
                f"{FEATURES_VERSION}: train the reward model again"
            )
        weights = {str(name): float(weight) for name, weight in data["weights"].items()}
        return cls(weights=weights, bias=float(data["bias"]))
