"""The reward model of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls
from rttc_graph.integrations.ray_serve.reward_replica import RewardFacts, Scope
from rttc_graph.protocols import RewardModel, RewardRequest, Work, note_work
from rttc_graph.state import Plan

__all__ = ("RayRewardModel",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRewardModel(RewardModel):
    """Implements `RewardModel` by the handle of its replicas."""

    calls: HandleCalls
    facts: RewardFacts
    scope: Scope | None = None
    """Tenant and domain that it judges for; `None` where nobody has said."""

    @property
    def name(self) -> str:
        """The reward model's name."""
        return self.facts.name

    @property
    def sees_evidence(self) -> bool:
        """Whether samples change its scores."""
        return self.facts.sees_evidence

    async def fingerprint(self) -> str:
        """Return the reward model's digest."""
        found: str = await self.calls.call("fingerprint", self.scope)
        return found

    async def is_calibrated(self) -> bool:
        """Tell whether a score is the probability that the answer is right."""
        found: bool = await self.calls.call("is_calibrated", self.scope)
        return found

    async def chosen_arms(self) -> tuple[str, ...]:
        """Return the arms that calibration has chosen to try."""
        found: tuple[str, ...] = await self.calls.call("chosen_arms", self.scope)
        return found

    async def chosen_plan(self) -> Plan | None:
        """Return the plan that calibration has chosen; `None` where it has chosen none."""
        found: Plan | None = await self.calls.call("chosen_plan", self.scope)
        return found

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        """Return one reward for each candidate, in order.

        Raises:
            RewardModelError: The reward model failed, or no replica answers.
        """
        rewards: list[float]
        work: Work
        rewards, work = await self.calls.call("score", self.scope, query, list(candidates))
        if work.tokens is not None:
            note_work(work.tokens, work.flops)
        return rewards

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        """Return the judge for the questions of a tenant in a domain."""
        return replace(self, scope=(tenant, domain))
