"""Panel: the answers that were drawn for one question, and how they vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.settings import SearchSettings
from rttc_graph.state import Drawn, LookUp, Sample, StepNode, Thought

MAX_ROUNDS = 16
"""Most rounds of a panel: each is a step of the graph, and hosts limit the steps of a run."""

Weight = Callable[[Sequence[Drawn]], float]
"""Function that returns how much the votes for one answer count together, at least 0; one more vote
never makes it less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What a strategy decides on.

    Raises:
        ConfigurationError: `size` is below 1, no proposer is named or one twice, or a reward is
            not in [0, 1].
    """

    size: int
    """Most answers that may be drawn, at least 1."""
    proposers: tuple[str, ...]
    """Proposers that can be drawn from, in the order in which they take turns."""
    drawn: tuple[Drawn, ...] = ()
    """Answers so far, in the order of their draws."""
    tau_r: float = 0.5
    """Reward from which on an answer is accepted."""
    calibrated: bool = False
    """Whether a reward is the probability that the answer is right."""
    settings: SearchSettings = field(default_factory=SearchSettings)
    """Settings for strategies: numbers of tokens and of tries."""
    compared: Mapping[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    """Probability that the policy model prefers the earlier of two draws, by their places."""
    checking_tokens: int = 0
    """Tokens that grading and comparing took so far."""
    checking_flops: float | None = 0.0
    """Floating-point operations of that; `None` where they are not known."""
    tree: tuple[StepNode, ...] = ()
    """Steps so far, of a strategy that writes answers step by step."""
    lookups: tuple[LookUp, ...] = ()
    """Look-ups in mid-answer so far."""
    thoughts: tuple[Thought, ...] = ()
    """Questions of a graph of thoughts, the run's own first."""
    found: tuple[Sample, ...] = ()
    """Samples that look-ups and thoughts found, in order."""
    widest: int | None = None
    """Most steps behind one that the judge of steps is exact enough for; 1 where nobody judges, and
    `None` if unknown."""
    seed: int = 0
    """Seed of the run, for strategies that draw lots."""
    rounds_left: int = MAX_ROUNDS
    """Number of rounds that may still be drawn."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(f"size={self.size!r} of a panel must be at least 1")
        if not self.proposers or len(set(self.proposers)) < len(self.proposers):
            raise ConfigurationError(
                f"proposers={self.proposers!r} must name at least one, each once"
            )
        for place, one in enumerate(self.drawn):
            reward = one["reward"]
            if reward is not None and not 0 <= reward <= 1:  # NaN is caught as well
                raise ConfigurationError(
                    f"reward={reward!r} of draw {place} must be in [0, 1], or None where the judge "
                    "gives none"
                )

    @property
    def left(self) -> int:
        """Number of answers that may still be drawn."""
        return max(0, self.size - len(self.drawn))

    @property
    def round(self) -> int:
        """Number of rounds that are drawn."""
        return MAX_ROUNDS - self.rounds_left

    def turns(self, count: int) -> dict[str, int]:
        """Return whom the next draws go to, at most `left` of them, as numbers by proposer.

        The proposer with the fewest draws is next; of equals the one that is named first.
        """
        had = dict.fromkeys(self.proposers, 0)
        for one in self.drawn:
            if one["proposer"] in had:
                had[one["proposer"]] += 1
        given: dict[str, int] = {}
        for _ in range(min(count, self.left)):
            proposer = min(had, key=had.__getitem__)
            had[proposer] += 1
            given[proposer] = given.get(proposer, 0) + 1
        return given


@dataclass(frozen=True, slots=True)
class Standing:
    """An answer with the votes for it."""

    answer: str
    places: tuple[int, ...]
    """Places in `Panel.drawn` of the draws that say so, in order."""
    weight: float
    """Weight of these votes together."""

    @property
    def votes(self) -> int:
        """Number of draws that say so."""
        return len(self.places)


def number_of(votes: Sequence[Drawn]) -> float:
    """Return how many votes there are: each counts alike."""
    return float(len(votes))


def standings(panel: Panel, weight: Weight = number_of) -> list[Standing]:
    """Return the answers of a panel, the one with the most weight first; of equals the earlier."""
    places: dict[str, list[int]] = {}
    for place, one in enumerate(panel.drawn):
        if one["vote"] is not None:
            places.setdefault(one["vote"], []).append(place)
    found = [
        Standing(answer, tuple(voted), weight([panel.drawn[place] for place in voted]))
        for answer, voted in places.items()
    ]
    return sorted(found, key=lambda one: (-one.weight, one.places[0]))


def best_of(drawn: Sequence[Drawn], places: Sequence[int]) -> int | None:
    """Return the place with the highest reward whose text is in hand; `None` if none has a text.

    An answer without a reward counts below every one with a reward, and of equals the earlier wins.
    """
    in_hand = [place for place in places if drawn[place]["text"].strip()]
    return max(in_hand, key=lambda place: (worth(drawn[place]), -place), default=None)


def worth(one: Drawn) -> float:
    """Return the reward of a draw; one without a reward counts below every one that has one."""
    return -1.0 if one["reward"] is None else one["reward"]


MAX_TEXT_CHARACTERS = 100_000
"""Longest texts of a panel together that are kept between rounds, in every checkpoint."""


def without_needless_texts(panel: Panel, *, chosen: int | None) -> tuple[Drawn, ...]:
    """Return the draws of a panel with the texts that may still be kept, all others empty.

    These are the one that is chosen now, the best-judged one of each answer, and of those that
    cannot be read the best; the answers with the most votes first, up to `MAX_TEXT_CHARACTERS`.
    """
    found = standings(panel)
    unread = [n for n, one in enumerate(panel.drawn) if one["vote"] is None]
    groups = [*(one.places for one in found), unread]
    wanted = [chosen, *(best_of(panel.drawn, places) for places in groups)]
    kept: set[int] = set()
    room = MAX_TEXT_CHARACTERS
    for place in wanted:
        length = 0 if place is None else len(panel.drawn[place]["text"])
        if place is None or place in kept or (length > room and kept):
            continue
        kept.add(place)
        room -= length
    return tuple(
        one if place in kept else {**one, "text": ""} for place, one in enumerate(panel.drawn)
    )


def with_wholes_of(drawn: Sequence[Drawn], *, first: int) -> tuple[Drawn, ...]:
    """Return draws with whole texts from a place on alone, up to `MAX_TEXT_CHARACTERS` of them."""
    room = MAX_TEXT_CHARACTERS
    kept: list[Drawn] = []
    for place, one in enumerate(drawn):
        whole = one.get("whole", "")
        stays = first <= place and len(whole) <= room
        room -= len(whole) if stays else 0
        without = {name: value for name, value in one.items() if name != "whole"}
        kept.append(one if stays else cast("Drawn", without))
    return tuple(kept)


def draws_in_order(draws: Mapping[str, int], proposers: Sequence[str]) -> list[str]:
    """Return whom each draw of a round goes to: the proposers in turn, as long as they have any."""
    rest = dict(draws)
    order: list[str] = []
    while any(rest.get(name, 0) > 0 for name in proposers):
        for name in proposers:
            if rest.get(name, 0) > 0:
                rest[name] -= 1
                order.append(name)
    return order
