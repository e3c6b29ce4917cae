"""Fitting calibration maps, and choosing one by its log-loss on answers it was not fitted on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import is_above_zero
from rttc_graph.evaluation.reliability import calibration_error
from rttc_graph.integrations.rewards.calibrated.answer_features import (
    AnswerFeatures,
    FeatureMap,
    all_features,
)
from rttc_graph.integrations.rewards.calibrated.probability_maps import (
    EDGE,
    METHODS,
    CalibrationMap,
    Method,
    logit,
)
from rttc_graph.support.extras import require
from rttc_graph.support.logistic import fit_logistic

FOLDS = 5

MIN_PAIRS = 60
"""Judged answers of a domain before it gets a map of its own, 20 questions with three arms: below,
the pooled map of many answers is nearer to the truth than a domain's own of few."""

MIN_OF_EACH = 10
"""Right answers, and wrong ones, that a map is fitted on at least."""

RIDGE = 3.0
"""Penalty of the slopes of a map by features, over features of unit variance; 1 to 10 do alike on
four data sets (docs/experiments.md)."""


class Labelled(NamedTuple):
    """One judged answer."""

    score: float
    """Raw, in [0, 1]."""
    right: bool
    group: str = ""
    """Answers of one group, such as one question, are never split by cross-fitting."""
    features: AnswerFeatures | None = None
    """Values known beside the score; `None` where the samples are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMap:
    """A map, and how well maps made alike did on answers that they had not seen."""

    map: CalibrationMap
    """The map of the score alone; it holds where `by_features` does not."""
    losses: Mapping[Method, float]
    """Mean log-loss in nats, cross-fitted; the chosen method has the lowest."""
    by_features: FeatureMap | None
    """The map of score and features; `None` where it is not better by more than chance."""
    features_loss: float | None
    """Its mean log-loss, cross-fitted, whether it is used or not; `None` where an answer's features
    are not known."""
    constant_loss: float
    """Mean log-loss of always predicting the base rate, in nats."""
    pairs: int
    held_out: tuple[float, ...]
    """P(right) of each answer, in order, by the map that was fitted without its fold."""
    ece: float
    """Expected calibration error of `held_out`: mean distance of said and found in ten bins."""
    tells_nothing: bool
    """Whether the scores are no better than the share of right answers, by more than chance.

    What they gain in log-loss, summed by question, is then within one standard error of zero.
    """

    def __call__(self, score: float, features: AnswerFeatures | None = None) -> float:
        """Return P(right) of a raw score, by the features where the map goes by them."""
        if self.by_features is None or features is None:
            return self.map(score)
        return self.by_features(score, features)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCalibration:
    """Maps of one reward model: one for all domains, and some for domains of their own."""

    pooled: FittedMap
    domains: Mapping[str, FittedMap]

    def map_for(self, domain: str | None) -> FittedMap:
        """Return the domain's map, or the pooled one where it has none of its own."""
        return self.domains.get(domain or "", self.pooled)

    def reward(
        self, score: float, domain: str | None, features: AnswerFeatures | None = None
    ) -> float:
        """Return P(right) of a raw score, by the features where the domain's map goes by them."""
        return self.map_for(domain)(score, features)


def calibrate(
    pairs: Mapping[str, Sequence[Labelled]], *, by_features: bool = False
) -> FittedCalibration:
    """Fit a pooled map, and one for each domain with enough answers.

    Args:
        pairs: Judged answers by domain; the empty name is that of answers without one.
        by_features: Whether a map goes by the features of the answers, too, where that lowers its
            cross-fitted log-loss by more than chance.

    Raises:
        ConfigurationError: There are too few answers for even one map.
    """
    every = [pair for domain in pairs.values() for pair in domain]
    if not _is_enough(every, pairs=2 * MIN_OF_EACH):
        right = sum(pair.right for pair in every)
        raise ConfigurationError(
            f"{_questions(every)}{right} right and {len(every) - right} wrong answers are too few "
            f"to calibrate on, at least {MIN_OF_EACH} of each are needed: give more questions"
        )
    own = {
        domain: _fitted(found, by_features=by_features)
        for domain, found in sorted(pairs.items())
        if domain and _is_enough(found, pairs=MIN_PAIRS)
    }
    return FittedCalibration(pooled=_fitted(every, by_features=by_features), domains=own)


def _questions(pairs: Sequence[Labelled]) -> str:
    """Return of how many questions the answers are, for the beginning of an error."""
    count = len({pair.group for pair in pairs if pair.group})
    return f"{count} question{'s' if count != 1 else ''} are too few: " if count else ""


def fold_number(group: str) -> int:
    """Return the fold of a group, the same in every process."""
    return hashlib.sha256(group.encode()).digest()[0] % FOLDS


def fit_map(method: Method, pairs: Sequence[Labelled]) -> CalibrationMap:
    """Fit a map on judged answers, right ones and wrong ones among them.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    return _fit_platt(pairs) if method == "platt" else _fit_isotonic(pairs)


def log_loss(probability: float, *, right: bool) -> float:
    """Return the loss in nats of having said `probability` for an answer."""
    kept = min(max(probability, EDGE), 1 - EDGE)
    return -math.log(kept if right else 1 - kept)


def _fit_isotonic(pairs: Sequence[Labelled]) -> CalibrationMap:
    """Return the rising steps of least squared error; equal scores are one point.

    The ends are kept off 0 and 1 by what one more right or wrong answer among all would change:
    a handful of right answers at the top is no certainty.
    """
    isotonic: Any = require("sklearn.isotonic", extra="eval", purpose="calibrations")
    floor = 1 / (len(pairs) + 2)
    fit = isotonic.IsotonicRegression(y_min=floor, y_max=1 - floor)
    fit.fit([pair.score for pair in pairs], [float(pair.right) for pair in pairs])
    knots = zip(fit.X_thresholds_.tolist(), fit.y_thresholds_.tolist(), strict=True)
    return CalibrationMap("isotonic", tuple(knots))


def _fit_platt(pairs: Sequence[Labelled]) -> CalibrationMap:
    """Return `sigmoid(slope * logit(score) + offset)` of least log-loss, the slope not below 0.

    J. Platt, "Probabilistic outputs for support vector machines" (1999): targets are kept off 0
    and 1 by the counts of both labels.
    """
    rights = sum(pair.right for pair in pairs)
    high, low = (rights + 1) / (rights + 2), 1 / (len(pairs) - rights + 2)
    features = [[logit(pair.score)] for pair in pairs]
    targets = [high if pair.right else low for pair in pairs]
    if min(features) == max(features):  # one score: every slope fits alike, so take none
        return CalibrationMap("platt", ((0.0, logit(fmean(targets))),))
    fit = fit_logistic(features, targets)
    if fit.slopes[0] < 0:  # a judge that is upside down says nothing that may be used
        return CalibrationMap("platt", ((0.0, logit((rights + 1) / (len(pairs) + 2))),))
    return CalibrationMap("platt", ((fit.slopes[0], fit.offset),))


def fit_features(pairs: Sequence[Labelled]) -> FeatureMap:
    """Fit a logistic regression on scores and features, which all answers must have.

    Features are penalised as if all had the same variance.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    rows = [all_features(pair.score, pair.features or ()) for pair in pairs]
    columns = list(zip(*rows, strict=True))
    means = [fmean(column) for column in columns]
    widths = [pstdev(column) or 1.0 for column in columns]
    scaled = [
        [(x - mean) / width for x, mean, width in zip(row, means, widths, strict=True)]
        for row in rows
    ]
    fit = fit_logistic(scaled, [float(pair.right) for pair in pairs], ridge=RIDGE)
    slopes = tuple(slope / width for slope, width in zip(fit.slopes, widths, strict=True))
    shift = math.fsum(slope * mean for slope, mean in zip(slopes, means, strict=True))
    return FeatureMap(slopes, fit.offset - shift)


def _fitted(pairs: Sequence[Labelled], *, by_features: bool) -> FittedMap:
    found: dict[Method, list[float]] = {
        method: _cross_fitted(partial(fit_map, method), pairs) for method in METHODS
    }
    losses: dict[Method, float] = {
        method: _mean_loss(said, pairs) for method, said in found.items()
    }
    best = min(METHODS, key=lambda method: losses[method])
    held_out = found[best]
    by_all = _held_out_by_features(pairs) if by_features else None
    is_used = by_all is not None and _is_better(by_all, held_out, pairs)
    if by_all is not None and is_used:
        held_out = by_all
    share = (sum(pair.right for pair in pairs) + 1) / (len(pairs) + 2)
    constant = [share] * len(pairs)
    return FittedMap(
        map=fit_map(best, pairs),
        losses=losses,
        by_features=fit_features(pairs) if is_used else None,
        features_loss=None if by_all is None else _mean_loss(by_all, pairs),
        constant_loss=_mean_loss(constant, pairs),
        pairs=len(pairs),
        held_out=tuple(held_out),
        ece=calibration_error(held_out, [pair.right for pair in pairs]) or 0.0,
        tells_nothing=not _is_better(held_out, constant, pairs),
    )


def _held_out_by_features(pairs: Sequence[Labelled]) -> list[float] | None:
    """Return P(right) by maps of features; `None` where a fold has none to fit one on."""
    if any(pair.features is None for pair in pairs):
        return None
    folds = [fold_number(pair.group) for pair in pairs]
    for fold in set(folds):
        labels = {pair.right for pair, f in zip(pairs, folds, strict=True) if f != fold}
        if len(labels) < len((False, True)):
            return None
    return _cross_fitted(fit_features, pairs)


def _cross_fitted(
    fit: Callable[[Sequence[Labelled]], CalibrationMap | FeatureMap], pairs: Sequence[Labelled]
) -> list[float]:
    folds = [fold_number(pair.group) for pair in pairs]
    maps: dict[int, CalibrationMap | FeatureMap] = {}
    for fold in set(folds):
        others = [pair for pair, f in zip(pairs, folds, strict=True) if f != fold]
        maps[fold] = fit(others or pairs)
    return [_said(maps[fold], pair) for pair, fold in zip(pairs, folds, strict=True)]


def _said(found: CalibrationMap | FeatureMap, pair: Labelled) -> float:
    if isinstance(found, CalibrationMap):
        return found(pair.score)
    return found(pair.score, pair.features or ())


def _mean_loss(probabilities: Sequence[float], pairs: Sequence[Labelled]) -> float:
    judged = zip(probabilities, pairs, strict=True)
    return fmean(log_loss(p, right=pair.right) for p, pair in judged)


def _is_better(said: Sequence[float], other: Sequence[float], pairs: Sequence[Labelled]) -> bool:
    """Tell whether the log-loss is lower by more than a standard error over questions."""
    gains: dict[str, float] = {}
    for one, two, pair in zip(said, other, pairs, strict=True):
        gain = log_loss(two, right=pair.right) - log_loss(one, right=pair.right)
        gains[pair.group] = gains.get(pair.group, 0.0) + gain
    return is_above_zero(list(gains.values()))


def _is_enough(found: Sequence[Labelled], *, pairs: int) -> bool:
    right = sum(pair.right for pair in found)
    return len(found) >= pairs and min(right, len(found) - right) >= MIN_OF_EACH
