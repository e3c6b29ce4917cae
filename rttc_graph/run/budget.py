"""One budget for a run: seconds, tokens, operations and arms, as plain numbers in the state.

Seconds are added up node by node instead of being measured from a start time, so that a run that
is resumed or forked from a checkpoint has what it had left then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from rttc_graph.protocols import Generation, PolicyModel, forward_flops, parameters_of
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Spent

NOTHING_SPENT: Spent = {"seconds": 0.0, "tokens": 0, "arms": 0}


@dataclass(frozen=True, slots=True)
class Allowance:
    """Rest of a run's budget; values may be below zero."""

    seconds: float
    tokens: int
    arms: int
    flops: float | None = None
    """`None` where the settings bound none."""

    @classmethod
    def from_spent(cls, spent: Spent, settings: RttcSettings) -> Allowance:
        """Subtract what is spent from what the settings allow."""
        return cls(
            seconds=settings.budget_seconds - spent["seconds"],
            tokens=settings.budget_tokens - spent["tokens"],
            arms=settings.budget_arms - spent["arms"],
            flops=settings.budget_flops - spent.get("flops", 0.0)
            if settings.budget_flops
            else None,
        )

    def exhausted(self) -> str | None:
        """Name what is used up: `seconds`, `tokens`, `flops`, `arms`, or `None`."""
        if self.seconds <= 0:
            return "seconds"
        if self.tokens <= 0:
            return "tokens"
        if self.flops is not None and self.flops <= 0:
            return "flops"
        return "arms" if self.arms <= 0 else None


def added(
    spent: Spent, *, since: float, tokens: int = 0, arms: int = 0, flops: float | None = 0.0
) -> Spent:
    """Return `spent` with a piece of work added.

    Args:
        spent: What was spent before.
        since: Reading of `time.monotonic()` when the work began.
        tokens: Tokens that the work took.
        arms: Answers that it generated.
        flops: Floating-point operations; `None`, where they are not known, adds none.
    """
    total = spent.get("flops", 0.0) + (flops or 0.0)
    sums: Spent = {
        "seconds": spent["seconds"] + time.monotonic() - since,
        "tokens": spent["tokens"] + tokens,
        "arms": spent["arms"] + arms,
    }
    return {**sums, "flops": total} if total else sums


class TokensLeft(NamedTuple):
    """Rest of the budget, in tokens of the policy model."""

    tokens: int
    of: str
    """The setting that bounds it, with its value."""


async def tokens_left(
    policy_model: PolicyModel, allowance: Allowance, settings: RttcSettings
) -> TokensLeft:
    """Return how many tokens may still go through the policy model, prompts and answers.

    Where `budget_flops` is the tighter one, it is counted as if each of them were computed: what
    of a prompt is known is settled when the answer is there.
    """
    by_tokens = TokensLeft(allowance.tokens, f"budget_tokens={settings.budget_tokens}")
    if allowance.flops is None:
        return by_tokens
    each = forward_flops(await parameters_of(policy_model), 1)
    if not each:
        return by_tokens  # `prepare` has refused it, unless the model was down
    by_flops = TokensLeft(
        int(max(0.0, allowance.flops) // each),
        f"budget_flops={settings.budget_flops:g} at {each:g} for a token",
    )
    return min(by_tokens, by_flops)


async def flops_of(policy_model: PolicyModel, made: Generation) -> float | None:
    """Return the operations of an answer: its own tokens, and what of the prompt was not known."""
    tokens = made.prompt_tokens - made.reused_tokens + made.completion_tokens
    return forward_flops(await parameters_of(policy_model), tokens)
