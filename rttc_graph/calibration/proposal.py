"""From judged rows of all arms to a calibration and the gate that an aim calls for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rttc_graph.calibration.aims import GRID, Aim, GatePoint, choose, sweep
from rttc_graph.calibration.map_fitting import (
    FittedCalibration,
    Labelled,
    calibrate,
    fold_number,
)
from rttc_graph.calibration.merging import merged_maps
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion
from rttc_graph.evaluation.replay import Gate, JudgedArm
from rttc_graph.integrations.rewards.calibrated.answer_features import (
    AnswerFeatures,
    answer_features,
)
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    ARMS_KEY,
    CURVE_KEY,
    TAU_KEY,
    ProbabilityMap,
)
from rttc_graph.protocols import StoredCalibration
from rttc_graph.state import Arm


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
    ) -> StoredCalibration:
        """Return what is kept of it for a reward model: see `merged_maps`.

        Args:
            reward_model: Name of the reward model.
            fingerprint: Its fingerprint.
            before: The calibration in force.
            all_domains: Whether domains without a map of their own get the pooled one.
        """
        chosen = {
            domain: {
                ARMS_KEY: list(self.arms.get(domain, self.arms[""])),
                TAU_KEY: self.chosen.gate.tau_r,
                CURVE_KEY: self.curve_of(domain),
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
    points = _gates(seen, calibration)
    chosen = choose(points, aim)
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
    )


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
        return choose(_gates(own, calibration, grid=[chosen.gate.tau_r]), aim).gate.arms
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
    questions: Sequence[EvaluatedQuestion], aim: Aim, *, by_features: bool = False
) -> list[tuple[EvaluatedQuestion, Gate]]:
    """Return the questions with calibrated rewards and a gate, both found without them.

    The questions of each fold are judged by the maps that all other folds give, and pass the gate
    that the other folds of their data set give. So one file serves for choosing and for measuring,
    and the figures are not flattered.

    Args:
        questions: Questions of one policy model, with raw rewards.
        aim: What the gate is to reach.
        by_features: Whether maps may go by features of the answers beside their rewards.

    Raises:
        ConfigurationError: There are too few answers, or in some fold no gate reaches the aim.
    """
    folds = [fold_number(_group_of(question)) for question in questions]
    placed = list(zip(questions, folds, strict=True))
    others = {
        fold: held_out_rewards([q for q, f in placed if f != fold], by_features=by_features)
        for fold in sorted(set(folds))
    }
    places = dict.fromkeys((fold, question.data_set) for question, fold in placed)
    gates = {(fold, name): _gate_for(name, *others[fold], aim) for fold, name in places}
    return [(judged_by(q, others[fold][0]), gates[fold, q.data_set]) for q, fold in placed]


def _gate_for(
    data_set: str, calibration: FittedCalibration, seen: Sequence[EvaluatedQuestion], aim: Aim
) -> Gate:
    """Return the gate from a data set's own questions, or from all questions if it has none."""
    same = [question for question in seen if question.data_set == data_set]
    return choose(_gates(same or seen, calibration), aim).gate


def _gates(
    questions: Sequence[EvaluatedQuestion],
    calibration: FittedCalibration,
    grid: Sequence[float] = GRID,
) -> list[GatePoint]:
    """Return what each gate does; where rewards tell nothing, those that accept any answer.

    A gate that pays for further arms by a reward that knows nothing looks good by luck alone.
    """
    arms = [question.arms for question in questions]
    if all(calibration.map_for(question.domain).tells_nothing for question in questions):
        return [point for point in sweep(arms, [0.0]) if len(point.gate.arms) == 1]
    return sweep(arms, grid)


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
