"""Rising maps from a raw score to P(right), as they are stored and applied.

A run applies maps and never fits them, so this file needs nothing but arithmetic;
`rttc_graph.calibration.map_fitting` fits them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.logistic import sigmoid

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = ("platt", "isotonic")
"""The one with fewer parameters first: it wins where both do alike."""

EDGE = 1e-6
"""Scores and probabilities are kept this far from 0 and 1, which have no finite logit."""


@dataclass(frozen=True, slots=True)
class CalibrationMap:
    """A rising map of scores in [0, 1] to probabilities."""

    method: Method
    knots: tuple[tuple[float, float], ...]
    """`isotonic`: scores, rising, with their probabilities, straight lines between them.
    `platt`: one pair, slope and offset of the logit."""

    def __call__(self, score: float) -> float:
        """Return P(right) for a raw score."""
        if self.method == "platt":
            [(slope, offset)] = self.knots
            return sigmoid(slope * logit(score) + offset)
        scores = [knot[0] for knot in self.knots]
        at = bisect_left(scores, score)
        if at == 0:
            return self.knots[0][1]
        if at == len(scores):
            return self.knots[-1][1]
        (x0, y0), (x1, y1) = self.knots[at - 1 : at + 1]
        return y0 + (y1 - y0) * (score - x0) / (x1 - x0)

    def to_json(self) -> dict[str, Any]:
        """Return the map as plain data."""
        return {"method": self.method, "knots": [list(knot) for knot in self.knots]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationMap:
        """Return the map that `to_json` wrote.

        Raises:
            ConfigurationError: They are not a stored map.
        """
        try:
            method: Method = data["method"]
            knots = tuple((float(x), float(y)) for x, y in data["knots"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"a stored calibration cannot be read ({exc!r}): run rttc calibrate again"
            ) from exc
        if method not in METHODS or not knots or not all(map(_is_finite, knots)):
            raise ConfigurationError(
                f"a stored calibration of method {method!r} is unknown or empty: "
                "run rttc calibrate again"
            )
        return cls(method, knots)


def logit(score: float) -> float:
    """Return the log-odds of a score in [0, 1], finite at both ends too."""
    kept = min(max(score, EDGE), 1 - EDGE)
    return math.log(kept / (1 - kept))


def _is_finite(knot: tuple[float, float]) -> bool:
    return math.isfinite(knot[0]) and math.isfinite(knot[1])
