"""What a policy would have answered and paid, worked out from rows of all arms.

The policy is the graph's own (`rttc_graph.run.policies.decide`); only the arms' work is taken from
the rows instead of being done. That is exact where arms are deterministic and independent, which
greedy decoding without a query-state cache gives. Budgets of seconds and tokens are not replayed:
rows come from runs that no such budget ended. Arms that draw have a row for each seed; policies
of one draw take the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rttc_graph.arms import ARMS, FINISH, RETRIEVE
from rttc_graph.evaluation.evaluation_rows import EvaluationRow
from rttc_graph.protocols import summed
from rttc_graph.run.policies import NextStep, decide
from rttc_graph.run.tau_r import (
    best_candidate,
    has_near_sample,
    is_accepted,
    is_unanswered,
)
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm, Attempt, Candidate, Plan, RttcState, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedArm:
    """One arm's row with the reward that counts in this replay."""

    row: EvaluationRow
    """Row of the arm alone."""
    reward: float | None
    """Raw or calibrated; `None` when it was not judged."""
    judging_seconds: float
    min_similarity: float = 0.0
    """Setting of the same name that the row was made with: above 0, nothing is accepted where no
    sample is near enough."""

    @property
    def is_unanswerable(self) -> bool:
        """Whether the question has no answer, so that to decline is right."""
        return is_unanswerable(self.row["metadata"])

    @property
    def stands(self) -> bool:
        """Whether the answer is right to be acted on, which an "I do not know" never is."""
        return self.row["right"] and not self.is_unanswerable

    def is_right_at(self, tau_r: float) -> bool:
        """Tell whether the answer is right, or declines at this τr where there is no answer."""
        declined = self.candidate is not None and not is_accepted(self.reward, tau_r)
        return self.row["right"] or (self.is_unanswerable and declined)

    @property
    def candidate(self) -> Candidate | None:
        """The arm's answer, without a reward; `None` when it gave none."""
        return next(iter(self.row["candidates"]), None)

    @property
    def alone_seconds(self) -> float:
        """What a run of this arm alone takes, judging included."""
        return sum(self.work_seconds(retrieves=True))

    def work_seconds(self, *, retrieves: bool) -> tuple[float, ...]:
        """Return the seconds of its parts; a second arm of a run does not retrieve again."""
        parts = self.row["seconds"].items()
        spent = (took for part, took in parts if retrieves or part != "retrieval")
        return (*spent, self.judging_seconds)


Arms = Mapping[Arm, JudgedArm]
"""All arms of one question, one draw of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRun:
    """One question under one policy or yardstick."""

    right: float
    """1 or 0; a yardstick that draws arms at random has what is between. Where the question has no
    answer, it is right that nothing is accepted."""
    seconds: float
    prompt_tokens: float
    completion_tokens: float
    trained_tokens: float
    shares: Mapping[Arm, float]
    """The arm whose answer was returned; empty when there is no answer."""
    flops: float | None = None
    """Floating-point operations of the policy model, trainings among them; `None` where they are
    not known."""
    ran: tuple[Arm, ...] = ()
    reward: float | None = None
    """Reward of the answer; a baseline has how sure it is, 0 to 1, and yardsticks have none."""
    unanswerable: bool = False
    """Whether the question has no answer."""
    answers: bool = False
    """Whether there is an answer that could be accepted: none is missing, and it is no "I do not
    know" of the model."""
    false_accept: bool = False
    """The answer was judged at least τr, and is wrong."""
    false_reject: bool = False
    """A right answer was in hand and was judged below τr."""

    def is_accepted_at(self, tau_r: float) -> bool:
        """Tell whether there is an answer, and its reward is at least τr."""
        return self.answers and is_accepted(self.reward, tau_r)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """τr and arms: the rule by which a run accepts an answer or goes on."""

    tau_r: float
    """Least reward of an accepted answer, in the units of the rewards."""
    arms: tuple[Arm, ...] = ()
    """Arms of cascade and compare, from cheap to dear; empty for those that they try by default."""
    plan: Plan | None = None
    """Plan of the policy `plan`."""


@dataclass(slots=True)
class _Run:
    """The state of one replayed run."""

    state: RttcState
    ran: list[Arm] = field(default_factory=list[Arm])
    seconds: float = 0.0


def replay(arms: Arms, policy: PolicyName, gate: Gate) -> ReplayedRun:
    """Return what a policy would have made of a question.

    Args:
        arms: The question's rows.
        policy: Decides, as in the graph.
        gate: Settings that policies go by.
    """
    settings = RttcSettings(
        policy=policy,
        tau_r=gate.tau_r,
        arms=gate.arms,
        budget_arms=len(ARMS),
        min_similarity=max((judged.min_similarity for judged in arms.values()), default=0.0),
    )
    possible: frozenset[Attempt] = frozenset(arms)
    run = _Run(RttcState(candidates=[], tried=[], plan=gate.plan))
    choice = decide(run.state, settings, arms=possible)
    while choice.decision != FINISH:
        _step(run, choice, arms)
        choice = decide(run.state, settings, arms=possible)
    candidates = run.state["candidates"]
    rights = [arms[c["arm"]].row["right"] for c in candidates]
    return replayed_run(
        candidates,
        rights,
        seconds=run.seconds,
        tau_r=gate.tau_r,
        unanswerable=any(judged.is_unanswerable for judged in arms.values()),
        has_near_sample=has_near_sample(run.state, settings),
    )


def oracle(arms: Arms) -> ReplayedRun:
    """Return the best arm in hindsight: of the right ones the cheapest, else the cheapest.

    Hindsight declines where there is no answer, with the cheapest arm.
    """
    answered: list[Arm] = [a for a in ARMS if a in arms and arms[a].candidate is not None]
    right: list[Arm] = [arm for arm in answered if arms[arm].row["right"]]
    best = min(right or answered, key=lambda arm: arms[arm].alone_seconds, default=None)
    alone: dict[Arm, float] = {} if best is None else {best: 1.0}
    return _mixed(arms, alone, lambda judged: judged.row["right"] or judged.is_unanswerable)


def at_random(arms: Arms, shares: Mapping[Arm, float], tau_r: float = 0.0) -> ReplayedRun:
    """Return what an arm drawn with these shares gives in the mean, computed, not drawn.

    Args:
        arms: The question's rows.
        shares: Arms with their shares.
        tau_r: Least reward of an accepted answer, where there is no answer.
    """
    return _mixed(arms, shares, lambda judged: judged.is_right_at(tau_r))


def _step(run: _Run, choice: NextStep, arms: Arms) -> None:
    """Do what the graph's next node would have done."""
    if choice.decision == RETRIEVE:
        has_samples = any(ARMS[arm].retrieves and judged.candidate for arm, judged in arms.items())
        run.state["retrieved"] = True
        run.state["samples"] = [_ANY_SAMPLE] if has_samples else []
        return
    arm = ARMS.of_attempt(choice.attempt).name
    run.state["tried"] = [*run.state["tried"], choice.attempt]
    judged = arms.get(arm)
    if judged is None or judged.candidate is None:
        return
    first = not any(ARMS[ran].retrieves for ran in run.ran)
    run.seconds += sum(judged.work_seconds(retrieves=first))
    run.ran.append(arm)
    candidate: Candidate = {**judged.candidate, "reward": judged.reward}
    run.state["candidates"] = [*run.state["candidates"], candidate]


def replayed_run(
    candidates: Sequence[Candidate],
    rights: Sequence[bool],
    *,
    seconds: float,
    tau_r: float,
    unanswerable: bool = False,
    has_near_sample: bool = True,
) -> ReplayedRun:
    """Return what a run came to, replayed or real.

    Args:
        candidates: Judged candidates in the order of the run.
        rights: Whether each of them is right.
        seconds: Wall time of the whole run.
        tau_r: Threshold of the run, in the units of the rewards.
        unanswerable: Whether the question has no answer.
        has_near_sample: Whether a sample is near enough, where the settings ask for one; nothing
            is accepted otherwise.
    """
    best = best_candidate(list(candidates))
    judged = list(zip(candidates, rights, strict=True))
    reward = None if best is None else best["reward"]
    answers = best is not None and has_near_sample and not is_unanswered(best)
    accepted = answers and is_accepted(reward, tau_r)
    right = any(is_right for candidate, is_right in judged if candidate is best)
    right = right or (unanswerable and best is not None and not accepted)
    return ReplayedRun(
        right=float(right),
        seconds=seconds,
        prompt_tokens=sum(c["prompt_tokens"] for c in candidates),
        completion_tokens=sum(c["completion_tokens"] for c in candidates),
        trained_tokens=sum(c["trained_tokens"] for c in candidates),
        flops=summed(*(c.get("flops") for c in candidates)),
        shares={} if best is None else {best["arm"]: 1.0},
        ran=tuple(c["arm"] for c in candidates),
        reward=reward,
        unanswerable=unanswerable,
        answers=answers and reward is not None,
        false_accept=accepted and not right,
        false_reject=not unanswerable
        and any(
            is_right and c["reward"] is not None and not is_accepted(c["reward"], tau_r)
            for c, is_right in judged
        ),
    )


def _mean_flops(parts: Sequence[tuple[float, float | None]]) -> float | None:
    known = [share * flops for share, flops in parts if flops is not None]
    return sum(known) if len(known) == len(parts) else None


def _mixed(
    arms: Arms, shares: Mapping[Arm, float], is_right: Callable[[JudgedArm], bool]
) -> ReplayedRun:
    """Return the mean over arms that run alone, weighted by their shares."""
    weighted = [
        (share, arms[arm], arms[arm].candidate) for arm, share in shares.items() if arm in arms
    ]
    answered = [(share, judged, c) for share, judged, c in weighted if c is not None]
    return ReplayedRun(
        right=sum(share * is_right(judged) for share, judged, _ in answered),
        seconds=sum(share * judged.alone_seconds for share, judged, _ in answered),
        prompt_tokens=sum(share * c["prompt_tokens"] for share, _, c in answered),
        completion_tokens=sum(share * c["completion_tokens"] for share, _, c in answered),
        trained_tokens=sum(share * c["trained_tokens"] for share, _, c in answered),
        flops=_mean_flops([(share, c.get("flops")) for share, _, c in answered]),
        shares={c["arm"]: share for share, _, c in answered},
        unanswerable=any(judged.is_unanswerable for judged in arms.values()),
    )


def arm_shares(outcomes: Sequence[ReplayedRun]) -> dict[Arm, float]:
    """Return how often each arm's answer was returned, as shares of the answered questions."""
    sums: dict[Arm, float] = {arm: sum(o.shares.get(arm, 0.0) for o in outcomes) for arm in ARMS}
    total = sum(sums.values())
    if not total:
        return {}
    return {arm: value / total for arm, value in sums.items() if value}


_ANY_SAMPLE: Sample = {"id": "", "question": "", "answer": "", "domain": "", "similarity": 1.0}
"""Stands for what was retrieved; policies only ask whether there is any."""
