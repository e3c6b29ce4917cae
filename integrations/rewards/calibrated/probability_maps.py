"""Rising maps from a raw score to P(right): fitted by isotonic regression or by Platt's method.

Both are written out here, in a few lines of plain arithmetic, because the graph that applies them
must not need a statistics library.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.logistic import sigmoid

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = ("platt", "isotonic")
"""The one with fewer parameters first: it wins where both do alike."""

_STEPS = 100
"""Newton's method ends after 5 to 10; the rest is patience."""

_EDGE = 1e-6
"""Scores of 0 and 1 have no finite logit."""


class Labelled(NamedTuple):
    """One judged answer."""

    score: float
    """Raw, in [0, 1]."""
    right: bool
    group: str = ""
    """Answers of one group, such as one question, are never split by cross-fitting."""


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
            return sigmoid(slope * _logit(score) + offset)
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
            ConfigurationError: The data are none.
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


def fit_map(method: Method, pairs: Sequence[Labelled]) -> CalibrationMap:
    """Fit a map on judged answers, right ones and wrong ones among them."""
    return _fit_platt(pairs) if method == "platt" else _fit_isotonic(pairs)


def log_loss(probability: float, *, right: bool) -> float:
    """Return the loss in nats of having said `probability` for an answer."""
    kept = min(max(probability, _EDGE), 1 - _EDGE)
    return -math.log(kept if right else 1 - kept)


def _fit_isotonic(pairs: Sequence[Labelled]) -> CalibrationMap:
    """Return the rising steps of least squared error, by pooling adjacent violators.

    The ends are kept off 0 and 1 by what one more right or wrong answer among all would change:
    a handful of right answers at the top is no certainty.
    """
    blocks: list[list[float]] = []  # sum of rights, answers, lowest score, highest score
    for score, right in _merged(pairs):
        blocks.append([right[0], right[1], score, score])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1][0] += last[0]
            blocks[-1][1] += last[1]
            blocks[-1][3] = last[3]
    floor = 1 / (len(pairs) + 2)
    knots: list[tuple[float, float]] = []
    for block in blocks:
        level = min(max(_mean(block), floor), 1 - floor)
        knots += [(end, level) for end in dict.fromkeys((block[2], block[3]))]
    return CalibrationMap("isotonic", tuple(knots))


def _merged(pairs: Sequence[Labelled]) -> list[tuple[float, tuple[int, int]]]:
    """Return rights and answers by score, in rising order: equal scores are one point."""
    counts: dict[float, tuple[int, int]] = {}
    for pair in pairs:
        right, total = counts.get(pair.score, (0, 0))
        counts[pair.score] = (right + pair.right, total + 1)
    return sorted(counts.items())


def _fit_platt(pairs: Sequence[Labelled]) -> CalibrationMap:
    """Return `sigmoid(slope * logit(score) + offset)` of least log-loss, the slope not below 0.

    J. Platt, "Probabilistic outputs for support vector machines" (1999): targets are kept off 0
    and 1 by the counts of both labels; solved by Newton's method with halved steps.
    """
    rights = sum(pair.right for pair in pairs)
    high, low = (rights + 1) / (rights + 2), 1 / (len(pairs) - rights + 2)
    points = [(_logit(pair.score), high if pair.right else low) for pair in pairs]
    slope, offset = 0.0, _logit((rights + 1) / (len(pairs) + 2))
    loss = _platt_loss(points, slope, offset)
    for _ in range(_STEPS):
        d_slope, d_offset = _newton_step(points, slope, offset)
        size = 1.0
        while size > 1e-6:
            tried = _platt_loss(points, slope + size * d_slope, offset + size * d_offset)
            if tried <= loss:
                break
            size /= 2
        else:
            break
        slope, offset = slope + size * d_slope, offset + size * d_offset
        if loss - tried < 1e-9:
            break
        loss = tried
    if slope < 0:  # a judge that is upside down says nothing that may be used
        slope, offset = 0.0, _logit((rights + 1) / (len(pairs) + 2))
    return CalibrationMap("platt", ((slope, offset),))


def _newton_step(
    points: Sequence[tuple[float, float]], slope: float, offset: float
) -> tuple[float, float]:
    g_slope = g_offset = 0.0
    h_slope = h_offset = 1e-9  # keeps the matrix invertible where all scores are one
    h_cross = 0.0
    for x, target in points:
        p = sigmoid(slope * x + offset)
        weight = p * (1 - p)
        g_slope += (p - target) * x
        g_offset += p - target
        h_slope += weight * x * x
        h_offset += weight
        h_cross += weight * x
    determinant = h_slope * h_offset - h_cross * h_cross
    return (
        -(h_offset * g_slope - h_cross * g_offset) / determinant,
        -(h_slope * g_offset - h_cross * g_slope) / determinant,
    )


def _platt_loss(points: Sequence[tuple[float, float]], slope: float, offset: float) -> float:
    total = 0.0
    for x, target in points:
        z = slope * x + offset
        # log(1 + e^z) - target * z, without overflow
        total += max(z, 0.0) + math.log1p(math.exp(-abs(z))) - target * z
    return total


def _mean(block: Sequence[float]) -> float:
    return block[0] / block[1]


def _logit(score: float) -> float:
    kept = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(kept / (1 - kept))


def _is_finite(knot: tuple[float, float]) -> bool:
    return math.isfinite(knot[0]) and math.isfinite(knot[1])
