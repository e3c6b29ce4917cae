"""The seams to the models that judge answers, whole and begun, and what they are shown of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from typing_extensions import TypedDict

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.state import Arm, Candidate, ChatTurn, Plan, Sample


class OtherAnswer(TypedDict):
    """Another candidate of the run, as a judge sees it."""

    arm: Arm
    answer: str
    reward: float | None
    """Judge's score in [0, 1]; `None` while it is not judged."""
    mean_logprob: float | None
    """Mean log-probability of the answer's tokens in nats; `None` when the model reports none."""


class RewardRequest(Candidate, total=False):
    """One candidate that is to be judged, with the evidence at hand.

    It has all fields of a candidate: its own arm, `mean_logprob`, `finish_reason` and so on. The
    evidence may be left out by whoever asks, so read it with `.get("samples", ())`.
    """

    samples: tuple[Sample, ...]
    """Samples in hand when the judge is asked, nearest first, each with its similarity to the
    query; empty where none were retrieved (yet)."""
    others: tuple[OtherAnswer, ...]
    """All other candidates of the run, in the order in which they were made."""


class PlainRewardModel(Protocol):
    """The least that `as_reward_model` makes a reward model of; a `name` is shown where it has one.

    `score` may declare its candidates as `Sequence[Candidate]` if it reads no evidence.
    """

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same answer would get another score."""
        ...

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        """Return one finite reward in [0, 1] for each candidate, in order.

        Raises:
            RewardModelError: The reward model failed.
        """
        ...


@runtime_checkable
class RewardModel(PlainRewardModel, Protocol):
    """A judge of (query, answer) pairs, which may look at the evidence too.

    A class that inherits from this one says by default that its scores are no probabilities and
    the same for everybody, and has no say in which arms are tried.
    """

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        ...

    @property
    def sees_evidence(self) -> bool:
        """Whether samples change its scores.

        A run then judges what it judged without samples once more when it has some, so that all
        its candidates are compared by the same evidence.
        """
        return False

    async def is_calibrated(self) -> bool:
        """Tell whether a score is the probability that the answer is right.

        Raises:
            RewardModelError: It depends on something that could not be read.
        """
        return False

    async def chosen_arms(self) -> tuple[str, ...]:
        """Return the arms that calibration has chosen to try; empty where it has chosen none.

        Raises:
            RewardModelError: The calibration could not be loaded.
        """
        return ()

    async def chosen_plan(self) -> Plan | None:
        """Return the plan that calibration has chosen; `None` where it has chosen none.

        Raises:
            RewardModelError: The calibration could not be loaded.
        """
        return None

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        """Return the judge for the questions of a tenant in a domain; `None` is all domains."""
        del tenant, domain
        return self


def reward_requests(
    judged: Sequence[Candidate],
    *,
    of_run: Sequence[Candidate] = (),
    samples: Sequence[Sample] = (),
) -> list[RewardRequest]:
    """Return what a judge is shown of the candidates `judged`.

    Args:
        judged: Candidates to judge.
        of_run: All candidates of the run, these among them; each request leaves out its own.
        samples: Samples in hand, nearest first.
    """
    return [
        {
            **candidate,
            "samples": tuple(samples),
            "others": tuple(_other(one) for one in of_run if one is not candidate),
        }
        for candidate in judged
    ]


async def checked_scores(
    judge: RewardModel, query: str, requests: Sequence[RewardRequest]
) -> list[float]:
    """Return the rewards that a judge gives, as plain numbers, one for each request.

    Raises:
        RewardModelError: It failed, or gave another number of rewards or one that is not in [0, 1].
    """
    rewards = await judge.score(query, requests)
    if len(rewards) != len(requests):
        raise RewardModelError(
            f"{judge.name} gave {len(rewards)} rewards for {len(requests)} answers"
        )
    for reward in rewards:
        if not (math.isfinite(reward) and 0 <= reward <= 1):
            raise RewardModelError(f"{judge.name} gave reward {reward!r}, it must be in [0, 1]")
    return [float(reward) for reward in rewards]  # numpy's numbers are no plain data


def _other(candidate: Candidate) -> OtherAnswer:
    return {
        "arm": candidate["arm"],
        "answer": candidate["answer"],
        "reward": candidate["reward"],
        "mean_logprob": candidate["mean_logprob"],
    }


def as_reward_model(model: PlainRewardModel) -> RewardModel:
    """Return a judge with all of `RewardModel`; one that has it already is returned as it is.

    This is the only place that asks which methods a judge has. What a class leaves out is added:
    its own name as `name`, scores that are no probabilities, one scale for everybody, and no chosen
    arms.
    """
    # Callable: `is_calibrated` may be a plain attribute too.
    if isinstance(model, RewardModel) and callable(model.is_calibrated):
        return model
    return _Completed(model)


@dataclass(frozen=True, slots=True)
class _Completed(RewardModel):
    """A judge that has less than all of `RewardModel`."""

    _plain: Any

    @property
    def name(self) -> str:
        return str(getattr(self._plain, "name", type(self._plain).__name__))

    async def fingerprint(self) -> str:
        found: str = await self._plain.fingerprint()
        return found

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        rewards: list[float] = await self._plain.score(query, candidates)
        return rewards

    @property
    def sees_evidence(self) -> bool:
        return bool(getattr(self._plain, "sees_evidence", False))

    async def is_calibrated(self) -> bool:
        stated: Any = getattr(self._plain, "is_calibrated", False)
        ask: Any = stated if callable(stated) else None
        return bool(stated if ask is None else await ask())

    async def chosen_arms(self) -> tuple[str, ...]:
        stated = getattr(self._plain, "chosen_arms", None)
        arms: tuple[str, ...] = () if stated is None else await stated()
        return arms

    async def chosen_plan(self) -> Plan | None:
        stated = getattr(self._plain, "chosen_plan", None)
        plan: Plan | None = None if stated is None else await stated()
        return plan

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        scoped = getattr(self._plain, "within", None)
        return self if scoped is None else as_reward_model(scoped(tenant=tenant, domain=domain))


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunAnswer:
    """An answer as far as it is written, cut into steps.

    Raises:
        ConfigurationError: It has no step, or `known` is not below their number.
    """

    steps: tuple[str, ...]
    """Texts of the steps in order; joined, they are what is written."""
    known: int = 0
    """Number of steps at the beginning that are not to be scored again."""
    is_finished: bool = False
    """Whether the last step ends the answer."""
    messages: tuple[ChatTurn, ...] = ()
    """Prompt that it answers; empty where only the query is known."""
    adapter: str | None = None
    """Key of the resident adapter that wrote it; `None` for the base model."""
    state: tuple[float, ...] | None = field(default=None, repr=False)
    """Hidden state of the policy model at the end of the last step (`Generation.state`); `None`
    where the model does not tell."""
    logprobs: tuple[float | None, ...] = ()
    """Mean log-probability in nats of each step's tokens, in order (`Generation.mean_logprob`);
    empty, or `None` for a step, where the model does not tell."""

    def __post_init__(self) -> None:
        if not 0 <= self.known < len(self.steps):
            raise ConfigurationError(
                f"known={self.known!r} must be at least 0 and below the number of steps, "
                f"{len(self.steps)}"
            )

    @property
    def scored(self) -> int:
        """Number of steps that are to be scored."""
        return len(self.steps) - self.known


StepScores = tuple[float | None, ...]
"""A probability for each step that was to be scored: that an answer which goes on from its end
will be right. `None` where the judge abstains."""


@runtime_checkable
class ProcessRewardModel(Protocol):
    """A judge of unfinished answers, step by step.

    A class that inherits from this one judges for everybody, knows nothing of its own noise, and
    is closed for no domain.
    """

    @property
    def name(self) -> str:
        """Name for people."""
        ...

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same step would get another probability.

        Raises:
            RewardModelError: It depends on something that could not be read.
        """
        ...

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        """Return the probabilities of each answer's last `scored` steps, in order.

        It abstains from a step that it knows nothing about; that is no error.

        Raises:
            RewardModelError: The judge failed.
        """
        ...

    async def widest(self) -> int | None:
        """Return how many steps may follow one and the same step by its probability.

        The noisier the judge, the fewer: 1 is no choice at all. `None` where nobody has measured.
        """
        return None

    async def closed(self) -> str:
        """Return why nothing should be steered by its probabilities; empty where it may."""
        return ""

    def within(self, *, tenant: str, domain: str | None) -> ProcessRewardModel:
        """Return the judge for the questions of a tenant in a domain; `None` is all domains."""
        del tenant, domain
        return self


async def checked_step_scores(
    judge: ProcessRewardModel, query: str, answers: Sequence[BegunAnswer]
) -> list[StepScores]:
    """Return what a judge says of the steps of answers, as plain numbers.

    Raises:
        RewardModelError: It failed, gave another number of probabilities, or one that is not in
            [0, 1].
    """
    if not answers:
        return []
    found = await judge.score_steps(query, answers)
    wanted = [one.scored for one in answers]
    if [len(one) for one in found] != wanted:
        raise RewardModelError(
            f"{judge.name} gave {[len(one) for one in found]} probabilities for the steps of "
            f"{len(answers)} answers, which have {wanted}"
        )
    for share in (share for one in found for share in one):
        if share is not None and not (math.isfinite(share) and 0 <= share <= 1):
            raise RewardModelError(f"{judge.name} gave a step {share!r}, it must be in [0, 1]")
    return [tuple(None if p is None else float(p) for p in one) for one in found]
