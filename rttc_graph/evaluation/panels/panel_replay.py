"""What a strategy would have drawn and kept, worked out from a panel that was drawn once.

The strategy is the graph's own; only its draws are taken from the record instead of being made.
Each draw has a seed and samples of its own, whatever is drawn beside it, so a smaller panel is a
part of a larger one. Rewards were given with all draws in sight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rttc_graph.arms import ARMS, Attempt
from rttc_graph.errors import PolicyModelError
from rttc_graph.evaluation.evaluation_rows import PartSeconds
from rttc_graph.evaluation.panels.panel_specs import MIXED
from rttc_graph.search.majority import Majority
from rttc_graph.search.panel import MAX_ROUNDS, Panel, draws_in_order
from rttc_graph.search.strategies import strategy_of
from rttc_graph.search.strategy import Strategy
from rttc_graph.search.weighted import Weighted
from rttc_graph.state import Drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPanel:
    """Draws for one question, with the rewards that count in this replay."""

    data_set: str
    model: str
    row: str
    domain: str | None
    drawn: tuple[Drawn, ...]
    right: tuple[bool, ...]
    """Whether each draw is right."""
    seconds: PartSeconds
    """Wall time of all draws together."""
    judging_seconds: float = 0.0
    tau_r: float = 0.5
    calibrated: bool = False
    """Whether rewards are probabilities."""

    @property
    def sources(self) -> tuple[Attempt, ...]:
        """What was drawn from, in the order of the turns."""
        return tuple(dict.fromkeys(one["proposer"] for one in self.drawn))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedPanel:
    """What a strategy made of a panel; seconds are a share of those of the recorded panel."""

    right: float
    """1 if the answer that it keeps is right, else 0."""
    any: float
    """1 if one of its draws is right, else 0."""
    draws: int
    prompt_tokens: int
    completion_tokens: int
    flops: float | None
    """Floating-point operations of its draws, without judging; `None` where one's are not known."""
    seconds: float
    answered: bool
    """Whether there was any text to keep."""

    @property
    def tokens(self) -> int:
        """Tokens of all its draws."""
        return self.prompt_tokens + self.completion_tokens


def replay_panel(
    panel: RecordedPanel, strategy: str, sources: Sequence[Attempt], size: int
) -> ReplayedPanel:
    """Return what a strategy would have made of a question.

    Args:
        panel: The record.
        strategy: Name of a strategy that only selects, or `mixed`.
        sources: What it may draw from; those without a draw in the record are left out.
        size: Most answers.
    """
    decides = strategy_of(strategy) if strategy != MIXED else _vote_of(panel)
    waiting = {
        name: [n for n, one in enumerate(panel.drawn) if one["proposer"] == name]
        for name in sources
    }
    waiting = {name: places for name, places in waiting.items() if places}
    places = _places(panel, decides, waiting, size) if waiting else []
    kept = _kept(panel, decides, tuple(waiting), places, size) if places else None
    return ReplayedPanel(
        right=float(kept is not None and panel.right[kept]),
        any=float(any(panel.right[place] for place in places)),
        draws=len(places),
        prompt_tokens=sum(panel.drawn[place]["prompt_tokens"] for place in places),
        completion_tokens=sum(panel.drawn[place]["completion_tokens"] for place in places),
        flops=_flops([panel.drawn[place] for place in places]),
        seconds=_seconds(panel, places),
        answered=kept is not None,
    )


def _vote_of(panel: RecordedPanel) -> Strategy:
    return Weighted() if panel.calibrated else Majority()


def _places(
    panel: RecordedPanel, strategy: Strategy, waiting: Mapping[Attempt, Sequence[int]], size: int
) -> list[int]:
    """Return the places of the draws that the strategy makes, in its order."""
    places: list[int] = []
    used: Counter[Attempt] = Counter()
    for _ in range(MAX_ROUNDS):
        seen = _seen(panel, tuple(waiting), places, size)
        order = draws_in_order(strategy.propose(seen).draws, seen.proposers)[: seen.left]
        before = len(places)
        for wanted in order:
            # As in a run, another proposer stands in for one that has nothing more to give.
            for name in (wanted, *waiting):
                if used[name] < len(waiting[name]):
                    places.append(waiting[name][used[name]])
                    used[name] += 1
                    break
        if len(places) == before:
            break
    return places


def _seen(
    panel: RecordedPanel, proposers: tuple[Attempt, ...], places: Sequence[int], size: int
) -> Panel:
    return Panel(
        size=size,
        proposers=proposers,
        drawn=tuple(panel.drawn[place] for place in places),
        tau_r=panel.tau_r,
        calibrated=panel.calibrated,
    )


def _kept(
    panel: RecordedPanel,
    strategy: Strategy,
    proposers: tuple[Attempt, ...],
    places: Sequence[int],
    size: int,
) -> int | None:
    try:
        return places[strategy.choose(_seen(panel, proposers, places, size)).place]
    except PolicyModelError:  # no draw has any text
        return None


def _seconds(panel: RecordedPanel, places: Sequence[int]) -> float:
    """Return the share of the recorded panel's seconds that falls to some of its draws.

    Generation is shared by tokens and judging by draws; a search is paid in whole, if any of them
    needed one.
    """
    chosen = [panel.drawn[place] for place in places]
    every = sum(map(_tokens, panel.drawn))
    drawing = panel.seconds.get("generation", 0.0) * sum(map(_tokens, chosen)) / max(1, every)
    judging = panel.judging_seconds * len(chosen) / max(1, len(panel.drawn))
    searches = any(ARMS.attempts[one["proposer"]].finds is not None for one in chosen)
    return drawing + judging + panel.seconds.get("retrieval", 0.0) * searches


def _flops(drawn: Sequence[Drawn]) -> float | None:
    known = [flops for one in drawn if (flops := one.get("flops")) is not None]
    return sum(known) if len(known) == len(drawn) else None


def _tokens(one: Drawn) -> int:
    return one["prompt_tokens"] + one["completion_tokens"]
