"""From judged rows of all arms to a calibration and the gate that an aim calls for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rttc_graph.calibration.aims import GRID, Aim, GatePoint, choose, only, sweep
from rttc_graph.calibration.map_fitting import (
    FittedCalibration,
    Labelled,
    calibrate,
    fold_number,
)
from rttc_graph.calibration.merging import kept_standing, merged_maps
from rttc_graph.calibration.plans import (
    LEAST_IN_BIN,
    ExpectedPlans,
    PlanFitting,
    PlanPoint,
    expected_plans,
    plan_chooser,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion
from rttc_graph.evaluation.replay import Arms, Gate, JudgedArm
from rttc_graph.integrations.rewards.calibrated.answer_features import (
    AnswerFeatures,
    answer_features,
)
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    ARMS_KEY,
    CURVE_KEY,
    PLAN_KEY,
    TAU_KEY,
    ProbabilityMap,
)
from rttc_graph.protocols import StoredCalibration
from rttc_graph.state import Arm, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A calibration, and what each gate would do with it."""

    calibration: FittedCalibration
    questions: Sequence[EvaluatedQuestion]
    """Questions with calibrated rewards, each by a map fitted without the question's fold."""
    points: Sequence[GatePoint]
    """Gates of the cascade over these rewards; where rewards tell nothing, only gates that ignore
    them."""
    chosen: GatePoint
    arms: Mapping[str, tuple[Arm, ...]]
    """Arms of the cascade by domain, at the chosen τr; the empty name is for all others."""
    aim: Aim
    plans: Mapping[str, PlanPoint]
    """Plan by domain, for those with a map of their own; the empty name is for all others, fitted
    on their questions where there are enough, else on all."""
    plan_curve: Sequence[PlanPoint]
    """Plans of all questions together, for all prices, the cheapest first."""
    expected: ExpectedPlans | None
    """Figures on questions that plans were not fitted on; `None` where there are too few."""

    def plan_for(self, domain: str) -> Plan:
        """Return the plan of a domain."""
        return self.plans.get(domain, self.plans[""]).plan

    def curve_of(self, domain: str) -> list[list[float]]:
        """Return what each τr would do with a domain's arms, as it is stored under `CURVE_KEY`.

        Args:
            domain: Its own questions count; with the empty name, or for want of any, all do.
        """
        own = [question for question in self.questions if (question.domain or "") == domain]
        questions = [question.arms for question in (own if domain and own else self.questions)]
        points = sweep(questions, choices=[self.arms.get(domain, self.arms[""])])
        rows = [
            [
                point.gate.tau_r,
                round(point.accuracy, 4),
                round(point.seconds, 4),
                round(point.accepted, 4),
                round(point.false_accepts, 4),
            ]
            for point in points
        ]
        return [row for n, row in enumerate(rows) if _is_corner(rows, n)]

    def stored(
        self,
        reward_model: str,
        fingerprint: str,
        *,
        before: StoredCalibration | None = None,
        all_domains: bool = False,
        standing: Mapping[str, str] | None = None,
    ) -> StoredCalibration:
        """Return what is kept of it for a reward model: see `merged_maps`.

        Args:
            reward_model: Name of the reward model.
            fingerprint: Its fingerprint.
            before: The calibration in force.
            all_domains: Whether domains without a map of their own get the pooled one.
            standing: Adapters that stood for domains when the rows were made.
        """
        chosen = {
            domain: {
                **kept_standing(domain, standing or {}),
                ARMS_KEY: list(self.arms.get(domain, self.arms[""])),
                TAU_KEY: self.chosen.gate.tau_r,
                CURVE_KEY: self.curve_of(domain),
                PLAN_KEY: self.plan_for(domain),
            }
            for domain in {"", *(question.domain or "" for question in self.questions)}
        }
        return StoredCalibration(
            reward_model=reward_model,
            fingerprint=fingerprint,
            domains=merged_maps(
                self.calibration,
                {question.domain or "" for question in self.questions},
                chosen,
                before=before,
                all_domains=all_domains,
            ),
            tau_r=self.chosen.gate.tau_r,
            aim=str(self.aim),
        )


def _is_corner(rows: Sequence[list[float]], place: int) -> bool:
    """Tell whether a row differs from one of its neighbours in more than τr, or has but one."""
    if place in (0, len(rows) - 1):
        return True
    before, row, after = (found[1:] for found in rows[place - 1 : place + 2])
    return not before == row == after


def propose(
    questions: Sequence[EvaluatedQuestion], aim: Aim, *, by_features: bool = False
) -> Proposal:
    """Calibrate on all judged answers, and choose τr and the arms of the cascade.

    The figures of the gates use cross-fitted rewards: with the maps' own answers they would be too
    good.

    Args:
        questions: With raw rewards.
        aim: What the gate is to reach.
        by_features: Whether maps may go by features of the answers beside their rewards.

    Raises:
        ConfigurationError: There are too few answers, or no gate reaches the aim.
    """
    calibration, seen = held_out_rewards(questions, by_features=by_features)
    points = _gates(seen, calibration, aim)
    chosen = choose(points, aim)
    parts = _parts(seen, calibration, points)
    whole = PlanFitting(questions=[q.arms for q in seen], points=points)
    return Proposal(
        calibration=calibration,
        questions=seen,
        points=points,
        chosen=chosen,
        arms={
            "": chosen.gate.arms,
            **{
                name: _arms_for(name, calibration, seen, chosen, aim)
                for name in calibration.domains
            },
        },
        aim=aim,
        plans=_plans(whole, parts, aim),
        plan_curve=whole.curve(),
        expected=expected_plans(list(parts.values()), aim),
    )


def _parts(
    seen: Sequence[EvaluatedQuestion], calibration: FittedCalibration, points: Sequence[GatePoint]
) -> dict[str, PlanFitting]:
    """Return what plans are fitted on: each domain with a map of its own, and all others together.

    A domain whose map tells nothing gets single arms, as a gate there does.
    """
    places: dict[str, list[int]] = {}
    for place, question in enumerate(seen):
        domain = question.domain or ""
        places.setdefault(domain if domain in calibration.domains else "", []).append(place)
    return {
        domain: PlanFitting(
            questions=[seen[place].arms for place in found],
            points=only(_sighted(points, calibration.map_for(domain).tells_nothing), found),
            folds=[fold_number(_group_of(seen[place])) for place in found],
        )
        for domain, found in places.items()
    }


def _sighted(points: Sequence[GatePoint], tells_nothing: bool) -> list[GatePoint]:
    """Return the gates, those of single arms alone where rewards tell nothing."""
    single = [point for point in points if len(point.gate.arms) == 1 and point.gate.tau_r == 0]
    return single if tells_nothing else list(points)


def _plans(whole: PlanFitting, parts: Mapping[str, PlanFitting], aim: Aim) -> dict[str, PlanPoint]:
    choose_plan = plan_chooser(list(parts.values()), aim)
    others = parts.get("")
    enough = others is not None and len(others.questions) >= LEAST_IN_BIN
    plans = {"": choose_plan(others if others is not None and enough else whole)}
    for domain, fitting in parts.items():
        if domain:
            with suppress(ConfigurationError):  # alone its questions do not reach the aim
                plans[domain] = choose_plan(fitting)
    return plans


def _arms_for(
    domain: str,
    calibration: FittedCalibration,
    seen: Sequence[EvaluatedQuestion],
    chosen: GatePoint,
    aim: Aim,
) -> tuple[Arm, ...]:
    """Return the arms that a domain's own questions call for, at the τr that is chosen for all."""
    own = [question for question in seen if question.domain == domain]
    try:
        return choose(_gates(own, calibration, aim, grid=[chosen.gate.tau_r]), aim).gate.arms
    except ConfigurationError:  # alone they do not reach the aim
        return chosen.gate.arms


def held_out_rewards(
    questions: Sequence[EvaluatedQuestion], *, by_features: bool = False
) -> tuple[FittedCalibration, list[EvaluatedQuestion]]:
    """Return a calibration, and the questions with its cross-fitted rewards.

    Args:
        questions: With raw rewards.
        by_features: Whether maps may go by features of the answers beside their rewards.

    Raises:
        ConfigurationError: There are no questions, or too few answers.
    """
    if not questions:
        raise ConfigurationError("no question has the rows of all arms: collect them first")
    pairs: dict[str, list[Labelled]] = {}
    for question in questions:
        pairs.setdefault(question.domain or "", []).extend(_labelled(question))
    calibration = calibrate(pairs, by_features=by_features)
    held_out = _held_out(pairs, calibration)
    return calibration, [_with_rewards(question, held_out) for question in questions]


def _group_of(question: EvaluatedQuestion) -> str:
    return f"{question.data_set}/{question.row}"


def features_of(judged: JudgedArm) -> AnswerFeatures | None:
    """Return what is known of an answer beside its reward.

    It is `None` where there is no answer, or where the row does not keep the samples.
    """
    if judged.candidate is None or "samples" not in judged.row:
        return None
    candidate = judged.candidate
    return answer_features(candidate["answer"], candidate["mean_logprob"], judged.row["samples"])


def calibrated_by(found: ProbabilityMap) -> Callable[[JudgedArm], float | None]:
    """Return what makes P(right) of an answer with its raw reward, by a calibration in force."""

    def reward(judged: JudgedArm) -> float | None:
        if judged.reward is None:
            return None
        return found(judged.reward, judged.row["domain"], features_of(judged))

    return reward


def _labelled(question: EvaluatedQuestion) -> list[Labelled]:
    judged = (answer for answer in question.answers if answer.reward is not None)
    return [_label(answer, answer.reward or 0.0, _group_of(question)) for answer in judged]


def _label(judged: JudgedArm, reward: float, group: str) -> Labelled:
    return Labelled(reward, judged.stands, group, features_of(judged))


def _held_out(
    pairs: dict[str, list[Labelled]], calibration: FittedCalibration
) -> dict[tuple[str, Labelled], float]:
    """Return the cross-fitted reward by domain and answer.

    Within a group equal answers have equal rewards, since a group is never split.
    """
    every = [(domain, pair) for domain, found in pairs.items() for pair in found]
    rewards = dict(zip(every, calibration.pooled.held_out, strict=True))
    for domain, fitted in calibration.domains.items():
        for pair, reward in zip(pairs[domain], fitted.held_out, strict=True):
            rewards[domain, pair] = reward
    return rewards


def _with_rewards(
    question: EvaluatedQuestion, rewards: dict[tuple[str, Labelled], float]
) -> EvaluatedQuestion:
    domain, group = question.domain or "", _group_of(question)
    return _rewarded(question, lambda judged, raw: rewards[domain, _label(judged, raw, group)])


def cross_fitted(
    questions: Sequence[EvaluatedQuestion],
    aim: Aim,
    *,
    by_features: bool = False,
    with_plans: bool = False,
) -> list[tuple[EvaluatedQuestion, Gate]]:
    """Return the questions with calibrated rewards and a gate, both found without them.

    The questions of each fold are judged by the maps that all other folds give, and pass the gate
    that the other folds of their data set give. So one file serves for choosing and for measuring,
    and the figures are not flattered.

    Args:
        questions: Questions of one policy model, with raw rewards.
        aim: What the gate is to reach.
        by_features: Whether maps may go by features of the answers beside their rewards.
        with_plans: Whether the gates have plans, too.

    Raises:
        ConfigurationError: There are too few answers, or in some fold no gate reaches the aim.
    """
    folds = [fold_number(_group_of(question)) for question in questions]
    placed = list(zip(questions, folds, strict=True))
    others = {
        fold: held_out_rewards([q for q, f in placed if f != fold], by_features=by_features)
        for fold in sorted(set(folds))
    }
    names = list(dict.fromkeys(question.data_set for question in questions))
    gates = {
        (fold, name): gate
        for fold, (calibration, seen) in others.items()
        for name, gate in _gates_by_set(names, calibration, seen, aim, with_plans).items()
    }
    return [(judged_by(q, others[fold][0]), gates[fold, q.data_set]) for q, fold in placed]


def _gates_by_set(
    names: Sequence[str],
    calibration: FittedCalibration,
    seen: Sequence[EvaluatedQuestion],
    aim: Aim,
    with_plans: bool,
) -> dict[str, Gate]:
    """Return the gate of each data set, from its own questions, or from all if it has none."""
    questions = {name: [q for q in seen if q.data_set == name] or list(seen) for name in names}
    points = {name: _gates(some, calibration, aim) for name, some in questions.items()}
    gates = {name: choose(found, aim).gate for name, found in points.items()}
    if not with_plans:
        return gates
    fittings = {
        name: PlanFitting(questions=[q.arms for q in questions[name]], points=found)
        for name, found in points.items()
    }
    plan_of = plan_chooser(list(fittings.values()), aim)
    return {name: replace(gates[name], plan=plan_of(fittings[name]).plan) for name in names}


def _gates(
    questions: Sequence[EvaluatedQuestion],
    calibration: FittedCalibration,
    aim: Aim,
    grid: Sequence[float] = GRID,
) -> list[GatePoint]:
    """Return what each gate does; where rewards tell nothing, those that accept any answer.

    A gate that pays for further arms by a reward that knows nothing looks good by luck alone.
    """
    arms = [question.arms for question in questions]
    if all(calibration.map_for(question.domain).tells_nothing for question in questions):
        return [point for point in _sweep(arms, aim, [0.0]) if len(point.gate.arms) == 1]
    return _sweep(arms, aim, grid)


def _sweep(arms: Sequence[Arms], aim: Aim, grid: Sequence[float]) -> list[GatePoint]:
    """Return the gates, compared in the unit of the aim."""
    return sweep(arms, grid, in_flops=aim.flops is not None)


def judged_by(question: EvaluatedQuestion, calibration: FittedCalibration) -> EvaluatedQuestion:
    """Return a question with raw rewards as a calibration judges it."""
    return _rewarded(
        question,
        lambda judged, raw: calibration.reward(raw, question.domain, features_of(judged)),
    )


def _rewarded(
    question: EvaluatedQuestion, reward_of: Callable[[JudgedArm, float], float]
) -> EvaluatedQuestion:
    """Return the question with another reward for each judged answer, made from it and its own."""

    def rewarded(answer: JudgedArm) -> JudgedArm:
        if answer.reward is None:
            return answer
        return replace(answer, reward=reward_of(answer, answer.reward))

    return replace(
        question,
        arms={arm: rewarded(answer) for arm, answer in question.arms.items()},
        draws={arm: [rewarded(draw) for draw in drawn] for arm, drawn in question.draws.items()},
    )
