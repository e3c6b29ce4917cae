"""What runs in a replica of the reward model, of which Ray Serve makes a deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from rttc_graph.integrations.ray_serve.handle_calls import run_apart
from rttc_graph.protocols import RewardModel, RewardRequest, Work, measured_work
from rttc_graph.state import Plan

__all__ = ("RewardFacts", "RewardReplica", "Scope")

Scope = tuple[str, str | None]
"""Tenant and domain that a judge judges for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFacts:
    """What callers know of a reward model without asking each time."""

    made_from: str
    name: str
    sees_evidence: bool


class RewardReplica:
    """A reward model in a replica.

    Args:
        open_reward: Opens it; called once.
        made_from: Digest of the settings that the deployment is made from.
    """

    def __init__(
        self, open_reward: Callable[[], AbstractContextManager[RewardModel]], made_from: str
    ) -> None:
        self._stack = ExitStack()
        self._judge = self._stack.enter_context(open_reward())
        self._facts = RewardFacts(
            made_from=made_from, name=self._judge.name, sees_evidence=self._judge.sees_evidence
        )
        run_apart(self._judge.fingerprint())

    def __del__(self) -> None:
        self._stack.close()

    async def describe(self) -> RewardFacts:
        """Return what callers want to know of the reward model."""
        return self._facts

    async def fingerprint(self, scope: Scope | None) -> str:
        """Return the reward model's digest."""
        return await self._for(scope).fingerprint()

    async def is_calibrated(self, scope: Scope | None) -> bool:
        """Tell whether a score is the probability that the answer is right."""
        return await self._for(scope).is_calibrated()

    async def chosen_arms(self, scope: Scope | None) -> tuple[str, ...]:
        """Return the arms that calibration has chosen to try."""
        return await self._for(scope).chosen_arms()

    async def chosen_plan(self, scope: Scope | None) -> Plan | None:
        """Return the plan that calibration has chosen; `None` where it has chosen none."""
        return await self._for(scope).chosen_plan()

    async def score(
        self, scope: Scope | None, query: str, candidates: Sequence[RewardRequest]
    ) -> tuple[list[float], Work]:
        """Return the rewards, and the work that they took."""
        with measured_work() as work:
            rewards = await self._for(scope).score(query, candidates)
        return rewards, work

    def _for(self, scope: Scope | None) -> RewardModel:
        if scope is None:
            return self._judge
        return self._judge.within(tenant=scope[0], domain=scope[1])
