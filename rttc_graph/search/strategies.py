"""Strategies by name: those of the table of arms, and those of one's own."""

from __future__ import annotations

import pkgutil
from typing import cast

from rttc_graph.arms import ARMS, panel_arm, register_arm
from rttc_graph.errors import ConfigurationError
from rttc_graph.search.strategy import Strategy


def strategy_of(attempt: str) -> Strategy:
    """Return the strategy of a policy that draws panels.

    Raises:
        ConfigurationError: There is none of that name.
    """
    record = ARMS.attempts.get(attempt)
    if record is None or record.strategy is None:
        known = [name for name, one in ARMS.attempts.items() if one.strategy is not None]
        raise ConfigurationError(
            f"strategy {attempt!r} is unknown: known are {', '.join(known)}; register it first"
        )
    if isinstance(record.strategy, str):
        return cast("Strategy", pkgutil.resolve_name(record.strategy)())
    return cast("Strategy", record.strategy)


def register_strategy(
    name: str,
    strategy: Strategy,
    *,
    cost: int,
    continues: bool = False,
    weighs: bool = False,
    steers: bool = False,
    looks_up: bool = False,
) -> None:
    """Add a policy that draws panels; graphs that are built afterwards have it.

    `rttc_graph.arms.unregister_arm` takes it out again.

    Args:
        name: Name of the policy and its arm.
        strategy: Decides.
        cost: Place of the arm in the order of cost, at which no other one stands.
        continues: Whether it goes on from the beginnings of answers, which not every policy model
            can; a graph of one that cannot is without the arm.
        weighs: Whether it has the policy model grade or compare answers; likewise.
        steers: Whether what it draws rests on the texts of earlier draws, so that it cannot be
            replayed on recorded panels.
        looks_up: Whether it asks the knowledge base in mid-answer; a graph without one is without
            the arm.

    Raises:
        ConfigurationError: The name or the place is taken.
    """
    register_arm(
        panel_arm(
            name,
            strategy,
            cost=cost,
            continues=continues,
            weighs=weighs,
            steers=steers,
            looks_up=looks_up,
        )
    )
