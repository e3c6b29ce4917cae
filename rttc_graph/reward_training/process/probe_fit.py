"""Fitting a probe to drawn steps: principal directions, a logistic head, maps, and figures.

A few hundred questions are too few to be set aside: the penalty is chosen, the maps are fitted and
the figures are measured by cross-fitting, each on folds of questions that the fit has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch

from rttc_graph.calibration.map_fitting import Labelled, fit_map, fold_number, log_loss
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import paired_difference
from rttc_graph.integrations.process_rewards.probe_file import Probe
from rttc_graph.integrations.process_rewards.step_confidence import CONFIDENCES, step_confidences
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.reward_training.process.step_rows import (
    DrawnAnswer,
    QuestionSteps,
    decoded_state,
)
from rttc_graph.reward_training.reward_metrics import auc
from rttc_graph.search.steps.step_widths import widest_useful
from rttc_graph.search.weighted import log_odds_of
from rttc_graph.support.logistic import LogisticFit, fit_logistic

RIDGES = (10.0, 1000.0, 10_000.0, 100_000.0)
"""Strengths of the penalty that are tried; the best by cross-fitted log-loss is kept."""

CONFIDENCE_SCALE = 30.0
"""Factor of the numbers of `step_confidences`, so that the penalty is meant for states: these are a
thousand, and often know less than those three."""

LEAST_QUESTIONS = 20
"""Questions with right and wrong answers below which a probe would be made of chance."""

LEAST_FOLDS = 3
"""Folds among which these must lie, so that what is fitted on some can be chosen on others."""

LEAST_OF_DOMAIN = 60
"""Steps of a domain before it gets a map of its own."""

FAR_SHARE = 0.995
"""Share of the training steps that are as near as the farthest that is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """Settings of a fit.

    Raises:
        ConfigurationError: `directions` is below 1.
    """

    name: str
    policy_model: str
    policy_fingerprint: str
    adapter: str | None = None
    directions: int = 64
    """Principal directions that are kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.directions < 1:
            raise ConfigurationError(f"directions={self.directions!r} must be at least 1")


class _Point(NamedTuple):
    """End of a step, with its label."""

    read: tuple[float, ...]
    """State, and `step_confidences`."""
    label: float
    right: bool
    group: str
    domain: str
    depth: float
    """Place of the step in its answer, from above 0 to 1."""


@dataclass(frozen=True, slots=True)
class _CrossFitted:
    """Probes by fold, each made of all other folds, so that none has seen what it judges."""

    by_fold: Mapping[int, Probe]
    otherwise: Probe
    """Judges the questions of a fold that no probe was made of."""

    def shares(self, question: str, domain: str, read: Sequence[tuple[float, ...]]) -> list[float]:
        """Return the probability of each step of a question, by the numbers that are read there."""
        if not read:
            return []
        probe = self.by_fold.get(fold_number(question), self.otherwise)
        scores, _ = probe.scores(torch.tensor(read))
        scale = probe.maps.get(domain, probe.maps[""])
        return [scale(float(score)) for score in scores]


def fit_probe(rows: Sequence[QuestionSteps], settings: ProbeSettings) -> Probe:
    """Return a probe fitted on all questions, with figures of probes made in the same way.

    For each fold of questions a probe is made of the others, and measured on the fold.

    Args:
        rows: Drawn steps of many questions; those whose answers are all right or all wrong count
            in the figures alone.
        settings: What it is called and whose states it reads.

    Raises:
        ConfigurationError: There are too few questions, or a package is missing.
    """
    telling = [row for row in rows if 0 < row["rate"] < 1]
    points = _points(telling)
    folds = sorted({fold_number(point.group) for point in points})
    without = {fold: [p for p in points if fold_number(p.group) != fold] for fold in folds}
    if (
        len(telling) < LEAST_QUESTIONS
        or len(folds) < LEAST_FOLDS
        or not all(map(_has_both, without.values()))
    ):
        raise ConfigurationError(
            f"{len(telling)} of {len(rows)} questions have right answers and wrong ones with "
            f"hidden states, and at least {LEAST_QUESTIONS} are needed: give more questions, or "
            "ones of which the model gets some right"
        )
    probe = _fitted(points, settings)
    judge = _CrossFitted(
        {fold: _fitted(others, settings) for fold, others in without.items()}, probe
    )
    figures = _figures(judge, rows)
    counts = {"questions": len(rows), "telling": len(telling), "steps": len(points)}
    return replace(
        probe,
        widest=None if figures["auc"] is None else widest_useful(figures["auc"]),
        closed=_closed(judge, rows, settings.name),
        figures=counts | {"base_rate": fmean(p.right for p in points)} | figures,
    )


def _figures(judge: _CrossFitted, rows: Sequence[QuestionSteps]) -> dict[str, Any]:
    """Return what a probe is worth on questions that it was not fitted on.

    `auc` and `log_loss` are over step ends, beside `base_log_loss` of always saying the share of
    right ones; `auc_by_depth` is that of the first, middle and last third of the answers;
    `first_error_f1` is the harmonic mean of how often the first wrong step is named in a wrong
    answer that was completed, and of how often none is in a right one; `gain_over_majority` is the
    accuracy of votes weighted by the last step less that of a vote, over the same answers and so
    the same tokens, with its 95 % interval by question.
    """
    points = _points(row for row in rows if 0 < row["rate"] < 1)
    shares = [
        share
        for (question, domain), own in groupby(points, key=lambda p: (p.group, p.domain))
        for share in judge.shares(question, domain, [point.read for point in own])
    ]
    right = [point.right for point in points]
    rate = fmean(right) if right else 0.5
    thirds = [
        [n for n, point in enumerate(points) if low < point.depth <= low + 1 / 3 + 1e-9]
        for low in (0, 1 / 3, 2 / 3)
    ]
    return {
        "auc": auc(shares, right),
        "auc_by_depth": [
            auc([shares[n] for n in third], [right[n] for n in third]) for third in thirds
        ],
        "log_loss": _mean_loss(shares, right),
        "base_log_loss": _mean_loss([rate] * len(right), right),
        "first_error_f1": _first_error_f1(judge, rows),
        "gain_over_majority": _gain(judge, rows),
    }


def _fitted(points: Sequence[_Point], settings: ProbeSettings) -> Probe:
    """Return a probe of these points; its penalty and its maps are chosen by cross-fitting."""
    read = torch.tensor([point.read for point in points], dtype=torch.float64)  # [N, F]
    mean, scale = read.mean(dim=0), read.std(dim=0).clamp(min=1e-6)
    wide = (read - mean) / scale
    directions = _directions(wide, settings)
    along = wide @ directions.T  # [N, K]
    spread = along.std(dim=0).clamp(min=1e-6)
    far = (along / spread).square().mean(dim=1)
    tried = {ridge: _unseen_scores(points, along, ridge) for ridge in RIDGES}
    right = [point.right for point in points]
    ridge = min(RIDGES, key=lambda one: _mean_loss(tried[one], right) or math.inf)
    fit = _logistic(points, along, range(len(points)), ridge)
    return Probe(
        name=settings.name,
        policy_model=settings.policy_model,
        policy_fingerprint=settings.policy_fingerprint,
        adapter=settings.adapter,
        mean=mean.float(),
        scale=scale.float(),
        directions=directions.float(),
        spread=spread.float(),
        slopes=torch.tensor(fit.slopes),
        offset=fit.offset,
        farthest=float(far.quantile(FAR_SHARE)) * 1.5,
        maps=_maps(tried[ridge], points),
    )


def _unseen_scores(points: Sequence[_Point], along: torch.Tensor, ridge: float) -> list[float]:
    """Return the score of each point by a fit on the folds of questions that it is not in."""
    folds = [fold_number(point.group) for point in points]
    scores = [0.0] * len(points)
    for fold in set(folds):
        others = [n for n, one in enumerate(folds) if one != fold]
        own = [n for n, one in enumerate(folds) if one == fold]
        fit = _logistic(points, along, others, ridge)
        found = (along[own] @ torch.tensor(fit.slopes, dtype=along.dtype) + fit.offset).sigmoid()
        for n, score in zip(own, found, strict=True):
            scores[n] = float(score)
    return scores


def _logistic(
    points: Sequence[_Point], along: torch.Tensor, places: Sequence[int], ridge: float
) -> LogisticFit:
    features = cast("list[list[float]]", along[list(places)].tolist())  # pyright: ignore[reportUnknownMemberType]
    return fit_logistic(features, [points[n].label for n in places], ridge=ridge, extra="local")


def _directions(wide: torch.Tensor, settings: ProbeSettings) -> torch.Tensor:
    """Return principal directions of the states, and one of each of the confidences [K, F]."""
    of_states = wide[:, :-CONFIDENCES]
    count = min(settings.directions, *of_states.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        found = torch.pca_lowrank(of_states, q=count, center=False)[2].T
    directions = wide.new_zeros(count + CONFIDENCES, wide.shape[1])
    directions[:count, :-CONFIDENCES] = found
    directions[count:, -CONFIDENCES:] = CONFIDENCE_SCALE * torch.eye(CONFIDENCES)
    return directions


def _maps(scores: Sequence[float], points: Sequence[_Point]) -> dict[str, CalibrationMap]:
    """Return the map of all domains, and those of domains with enough steps."""
    pairs = [
        Labelled(score, point.right, point.group)
        for score, point in zip(scores, points, strict=True)
    ]
    found = {"": fit_map("platt", pairs)}
    for domain in sorted({point.domain for point in points}):
        own = [pair for pair, point in zip(pairs, points, strict=True) if point.domain == domain]
        is_mixed = len({pair.right for pair in own}) == 2
        if domain and len(own) >= LEAST_OF_DOMAIN and is_mixed:
            found[domain] = fit_map("platt", own)
    return found


def _closed(judge: _CrossFitted, rows: Sequence[QuestionSteps], name: str) -> dict[str, str]:
    """Return the domains in which votes weighted by the probe are not above a plain vote."""
    found: dict[str, str] = {}
    for domain in ["", *sorted({row["domain"] for row in rows if row["domain"]})]:
        own = [row for row in rows if not domain or row["domain"] == domain]
        mean, low, high = _gain(judge, own)
        if low <= 0:
            found[domain] = (
                f"on {len(own)} questions that the probe {name!r} had not seen, its votes gain "
                f"{100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) over a plain "
                "vote of the same answers"
            )
    return found


def _points(rows: Iterable[QuestionSteps]) -> list[_Point]:
    points: list[_Point] = []
    for row in rows:
        for answer in row["answers"]:
            count = len(answer["steps"])
            points += [
                _Point(
                    read,
                    step["label"],
                    _is_right(answer, number),
                    row["question"],
                    row["domain"],
                    (number + 1) / count,
                )
                for number, step in enumerate(answer["steps"])
                if (read := _read_step(answer, number)) is not None
            ]
        points += [
            _Point(
                read,
                float(one["right"]),
                one["right"],
                row["question"],
                row["domain"],
                1.0,
            )
            for one in row["completions"]
            if (read := _numbers(one["state"], one.get("logprobs", ()))) is not None
        ]
    return points


def _read_step(answer: DrawnAnswer, number: int) -> tuple[float, ...] | None:
    """Return the numbers of a step that a probe reads; `None` where they are not known."""
    steps = answer["steps"][: number + 1]
    return _numbers(steps[-1]["state"], [step.get("logprob") for step in steps])


def _numbers(state: str | None, logprobs: Sequence[float | None]) -> tuple[float, ...] | None:
    confidences = step_confidences(logprobs)
    if state is None or confidences is None:
        return None
    return (*decoded_state(state), *confidences)


def _is_right(answer: DrawnAnswer, number: int) -> bool:
    """Tell whether a step counts as right: by the outcome, or where it was completed by that."""
    step = answer["steps"][number]
    if step["rollouts"]:
        return step["label"] >= 0.5
    return answer["right"]


def _of_steps(judge: _CrossFitted, answer: DrawnAnswer, row: QuestionSteps) -> list[float | None]:
    """Return the probability of each step of an answer; `None` where it has no state."""
    found = [_read_step(answer, number) for number in range(len(answer["steps"]))]
    known = [one for one in found if one is not None]
    shares = iter(judge.shares(row["question"], row["domain"], known))
    return [None if one is None else next(shares) for one in found]


def _first_error_f1(judge: _CrossFitted, rows: Sequence[QuestionSteps]) -> float | None:
    found: list[bool] = []
    clean: list[bool] = []
    for row in rows:
        for answer in row["answers"]:
            if not answer["was_probed"]:
                continue
            shares = _of_steps(judge, answer, row)
            below = [n for n, share in enumerate(shares) if share is not None and share < 0.5]
            if answer["first_wrong"] is None:
                clean.append(not below)
            else:
                found.append(below[:1] == [answer["first_wrong"]])
    if not found or not clean:
        return None
    both = (fmean(found), fmean(clean))
    return 2 * both[0] * both[1] / sum(both) if sum(both) else 0.0


def _gain(judge: _CrossFitted, rows: Sequence[QuestionSteps]) -> tuple[float, float, float]:
    """Return the gain in accuracy of votes weighted by the last step, with its interval."""
    ours: list[float] = []
    theirs: list[float] = []
    for row in rows:
        shares = [_of_steps(judge, one, row)[-1] for one in row["answers"]]
        ours.append(_voted_right(row, [log_odds_of(share) for share in shares]))
        theirs.append(_voted_right(row, [1.0] * len(shares)))
    return paired_difference(ours, theirs)


def _voted_right(row: QuestionSteps, weights: Sequence[float]) -> float:
    sums: dict[str, float] = {}
    right: dict[str, bool] = {}
    for answer, weight in zip(row["answers"], weights, strict=True):
        vote = answer["vote"]
        if vote is not None:
            sums[vote] = sums.get(vote, 0.0) + weight
            right.setdefault(vote, answer["right"])
    if not sums:
        return 0.0
    return float(right[max(sums, key=lambda vote: sums[vote])])


def _mean_loss(shares: Sequence[float], right: Sequence[bool]) -> float | None:
    if not right:
        return None
    return fmean(log_loss(p, right=ok) for p, ok in zip(shares, right, strict=True))


def _has_both(points: Sequence[_Point]) -> bool:
    return len({point.right for point in points}) == 2


def card_lines(probe: Probe) -> list[str]:
    """Return the probe's card in Markdown: what it reads, its figures, and where it is closed."""
    figures: Mapping[str, Any] = probe.figures
    rows = [f"| {name} | {_shown(value)} |" for name, value in sorted(figures.items())]
    closed = [f"- {domain or 'all other domains'}: {why}" for domain, why in probe.closed.items()]
    adapter = "no adapter" if probe.adapter is None else f"the adapter {probe.adapter}"
    return [
        f"# {probe.name}",
        "",
        f"Probe on the hidden states of `{probe.policy_model}` with {adapter} "
        f"(digest `{probe.policy_fingerprint}`). It says how likely an answer that goes on from "
        "the end of a step is right, and takes no forward pass.",
        "",
        "Figures are cross-fitted: each question was judged by a probe of the same making that had "
        "seen none of its fold.",
        "",
        "| figure | value |",
        "| --- | --- |",
        *rows,
        "",
        "Nothing is steered by it in:" if closed else "It is closed for no domain.",
        "",
        *closed,
    ]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(one) for one in cast("Sequence[object]", value))
    return "not known" if value is None else str(value)
