"""Rollout value: a step is worth the share of its completions that are right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.rewards.reward_checks import checked_rewards, reward_fingerprint
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    PolicyModel,
    ProcessRewardModel,
    StepScores,
    can_continue,
    forward_flops,
    note_work,
    parameters_of,
    seeded_by_prompt,
)
from rttc_graph.state import ChatTurn

OutcomeJudge = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
"""Function of the query and finished answers that returns how likely each of them is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """Settings of completions.

    Raises:
        ConfigurationError: A number is below its least.
    """

    rollouts: int = 4
    """Completions of each step, all of one batch. The share of four is off by 0.25 at most in the
    standard error; Math-Shepherd (arXiv 2312.08935) takes eight."""
    max_new_tokens: int = 256
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rollouts < 1 or self.max_new_tokens < 1:
            raise ConfigurationError(
                f"rollouts={self.rollouts!r} and max_new_tokens={self.max_new_tokens!r} must be at "
                "least 1"
            )


class RolloutValue(ProcessRewardModel):
    """Completes each step a few times and lets an outcome judge say how good the completions are.

    It is exact in the limit and the dearest judge there is: each step costs as much as
    `rollouts` answers. It abstains from answers whose prompt is not told, and from steps behind
    which the model's context has no room.

    Args:
        policy_model: Completes; it must be able to go on from the beginning of an answer.
        judge: Judges what is complete.
        settings: How it completes.
        judged_by: Digest of what the judge rests on, for the fingerprint.
        policy_fingerprint: Returns the digest of the policy model; its name by default.

    Raises:
        ConfigurationError: The model begins answers anew.
    """

    def __init__(
        self,
        policy_model: PolicyModel,
        judge: OutcomeJudge,
        *,
        settings: RolloutSettings | None = None,
        judged_by: str = "",
        policy_fingerprint: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        if not can_continue(policy_model):
            raise ConfigurationError(
                f"{policy_model.name} begins an answer anew, so it cannot complete one: take a "
                "local model"
            )
        self._policy = policy_model
        self._judge = judge
        self._settings = settings or RolloutSettings()
        self._judged_by = judged_by
        self._policy_fingerprint = policy_fingerprint

    @property
    def name(self) -> str:
        """Name for people."""
        return "rollout-value"

    async def fingerprint(self) -> str:
        """Return a digest of policy model, judge and settings."""
        whose = self._policy_fingerprint
        policy = await whose() if whose is not None else self._policy.name
        return reward_fingerprint(self.name, policy, self._judged_by, repr(self._settings))

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        """Return the mean worth of each step's completions; an end is judged as it is.

        Raises:
            RewardModelError: The judge failed.
            PolicyModelError: The policy model failed.
        """
        every = [
            _End(at, "".join(one.steps[: number + 1]), one)
            for at, one in enumerate(answers)
            for number in range(one.known, len(one.steps))
        ]
        ends = [end for end in every if await self._has_room(end)]
        completed = await self._completed(ends)
        texts = [text for group in completed for text in group]
        worth = checked_rewards(
            await self._judge(query, texts) if texts else [],
            expected=len(texts),
            source=self.name,
        )
        each = iter(worth)
        means = {
            end: sum(next(each) for _ in group) / len(group)
            for end, group in zip(ends, completed, strict=True)
        }
        return [
            tuple(means.get(end) for end in every if end.at == at) for at in range(len(answers))
        ]

    async def _has_room(self, end: _End) -> bool:
        if not end.messages:
            return False
        context = await self._policy.context_tokens()
        if end.is_whole or context is None:
            return True
        turns: list[ChatTurn] = [*end.messages, {"role": "assistant", "content": end.begun}]
        return await self._policy.count_tokens(turns) < context

    async def _completed(self, ends: Sequence[_End]) -> list[list[str]]:
        """Return the completions of each end; the end of a finished answer is itself the one."""
        asked = [end for end in ends if not end.is_whole]
        requests = [
            self._request(end, number) for end in asked for number in range(self._settings.rollouts)
        ]
        made: list[Generation] = await self._policy.generate(requests) if requests else []
        if len(made) != len(requests):
            raise RewardModelError(
                f"{self._policy.name} returned {len(made)} of {len(requests)} completions"
            )
        if made:
            await self._note(made)
        texts = iter([one.text for one in made])
        return [
            [end.begun] if end.is_whole else [next(texts) for _ in range(self._settings.rollouts)]
            for end in ends
        ]

    async def _note(self, made: Sequence[Generation]) -> None:
        tokens = sum(one.prompt_tokens + one.completion_tokens for one in made)
        computed = tokens - sum(one.reused_tokens for one in made)
        flops = forward_flops(await parameters_of(self._policy), computed)
        note_work(tokens=tokens, flops=flops)

    def _request(self, end: _End, number: int) -> GenerationRequest:
        settings = self._settings
        request = GenerationRequest(
            messages=end.messages,
            answer_prefix=end.begun,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed + number,
            adapter=end.answer.adapter,
        )
        return seeded_by_prompt(request)


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """The end of a step."""

    at: int
    """Place of its answer in the call."""
    begun: str
    answer: BegunAnswer

    @property
    def messages(self) -> tuple[ChatTurn, ...]:
        return self.answer.messages

    @property
    def is_whole(self) -> bool:
        """Whether nothing follows it."""
        return self.answer.is_finished and self.begun == "".join(self.answer.steps)
