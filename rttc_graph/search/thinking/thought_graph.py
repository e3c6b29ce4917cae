"""The graph of thoughts: which questions are closed, which are next, and how a split joins it.

A question waits for those that it needs and, once it is split, for its parts. New ones may need
each other and closed ones alone, and never in a circle, so that none waits for ever.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.thinking.thought_split import MAX_QUESTION_CHARACTERS, Part
from rttc_graph.state import Thought

ROOT: Final = 0
"""Place of the run's own question."""

_ROUNDS_OF_A_SPLIT: Final = 4
"""Rounds that a part's split takes to reach the answer: split, answer, join, and the last one."""


def root_of(question: str, panel: Panel) -> Thought:
    """Return the run's own question, whose answers are the panel's draws."""
    return {**thought(question), "round": panel.round}


def thought(question: str) -> Thought:
    """Return a question of a graph that nothing is known of yet."""
    return {
        "question": question,
        "parent": None,
        "depth": 0,
        "needs": [],
        "parts": [],
        "round": 0,
        "status": "open",
        "answer": "",
        "reward": None,
        "proposer": None,
        "found": [],
        "near": [],
        "inserted": [],
        "why": "",
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "reused_tokens": 0,
        "flops": 0.0,
    }


def reward_of(panel: Panel, place: int) -> float | None:
    """Return the reward of a question's best answer; `None` where the judge gave none.

    No answer at all is worth nothing.
    """
    if place != ROOT:
        one = panel.thoughts[place]
        return one["reward"] if one["answer"] else 0.0
    best = best_of(panel.drawn, range(len(panel.drawn)))
    return 0.0 if best is None else panel.drawn[best]["reward"]


def why_whole(panel: Panel, place: int) -> str:
    """Return why an answered question is not split; empty if it may be.

    Args:
        panel: The panel.
        place: Place of the question in the graph.
    """
    one, reward, settings = panel.thoughts[place], reward_of(panel, place), panel.settings
    if one["why"]:
        return one["why"]
    if reward is None:
        return "its answer has no reward"
    rounds = _ROUNDS_OF_A_SPLIT if place != ROOT else _ROUNDS_OF_A_SPLIT - 1
    reasons = (
        (reward >= panel.tau_r, f"its reward {reward:.3f} is at least τr {panel.tau_r:g}"),
        (place == ROOT and panel.left < 1, f"search_n={panel.size} has no room for more answers"),
        (
            one["depth"] >= settings.thought_depth,
            f"search_thought_depth={settings.thought_depth} is reached",
        ),
        (thoughts_left(panel) < 1, f"search_thoughts={settings.thoughts} questions are there"),
        (panel.rounds_left < rounds, f"{panel.rounds_left} rounds of the panel are left"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def is_closed(panel: Panel, place: int) -> bool:
    """Tell whether nothing more is done for a question: its answer is as good as it gets."""
    status = panel.thoughts[place]["status"]
    return status == "joined" or (status == "answered" and bool(why_whole(panel, place)))


def thoughts_left(panel: Panel) -> int:
    """Return how many questions may still be added, the run's own not counted."""
    return panel.settings.thoughts - (len(panel.thoughts) - 1)


def to_ask(panel: Panel) -> list[int]:
    """Return the open questions whose needs are all closed."""
    return [
        place
        for place, one in enumerate(panel.thoughts)
        if place != ROOT
        and one["status"] == "open"
        and all(is_closed(panel, need) for need in one["needs"])
    ]


def to_split(panel: Panel) -> list[int]:
    """Return the answered parts that may be split, as many as there may be more questions."""
    found = [
        place
        for place, one in enumerate(panel.thoughts)
        if place != ROOT and one["status"] == "answered" and not why_whole(panel, place)
    ]
    return found[: max(0, thoughts_left(panel))]


def to_join(panel: Panel) -> list[int]:
    """Return the split questions, the run's own among them, whose parts are all closed."""
    return [
        place
        for place, one in enumerate(panel.thoughts)
        if one["status"] == "split" and all(is_closed(panel, part) for part in one["parts"])
    ]


def known_for(panel: Panel, place: int, *, parts: bool) -> list[int]:
    """Return the places of the answered questions that stand in a question's prompt.

    Args:
        panel: The panel.
        place: Place of the question in the graph.
        parts: Whether it is answered from its parts, not for the first time.
    """
    one = panel.thoughts[place]
    wanted = dict.fromkeys([*one["needs"], *(one["parts"] if parts else ())])
    return [known for known in wanted if panel.thoughts[known]["answer"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """What becomes of a split."""

    new: tuple[Part, ...]
    """Questions to add; their needs are places in the graph, with these behind it in order."""
    parts: tuple[int, ...]
    """Places of all parts: the new ones, and closed ones that were named again."""
    dropped: tuple[str, ...]
    """Things that were left out, and why."""


def planned(
    said: Sequence[Part],
    twins: Sequence[int | None],
    *,
    size: int,
    closed: Collection[int],
    most: int,
) -> SplitPlan:
    """Return how the questions of a split join the graph.

    Left out are questions that are too long, or there already and not closed, or too many; and
    needs of what is not there, of itself, or in a circle.

    Args:
        said: Questions as they were named.
        twins: Place of an earlier question that asks the same as each of them: in the graph or,
            counted on behind it, in `said`; `None` for a new one.
        size: Number of questions in the graph.
        closed: Places of those whose answers may be used.
        most: Most questions that may be added.
    """
    places, new, dropped = dict[int, int](), list[int](), list[str]()
    for number, (part, twin) in enumerate(zip(said, twins, strict=True)):
        found = twin if twin is None or twin < size else places.get(twin - size, -1)
        problem = _problem(part, found, closed, size, is_full=len(new) == most)
        if found is not None and not problem:
            places[number] = found
            problem = "repeats another one"
        elif not problem:
            places[number] = size + len(new)
            new.append(number)
        if problem:
            dropped.append(f"question {number + 1} {problem}")
    needs, circles = _needs(said, new, places)
    return SplitPlan(
        new=tuple(Part(said[number].question, needs[places[number]]) for number in new),
        parts=tuple(dict.fromkeys(places.values())),
        dropped=(*dropped, *circles),
    )


def _problem(
    part: Part, twin: int | None, closed: Collection[int], size: int, *, is_full: bool
) -> str:
    """Return why a question of a split is left out; empty if it is not."""
    if len(part.question) > MAX_QUESTION_CHARACTERS:
        return f"has more than {MAX_QUESTION_CHARACTERS} characters"
    if twin is None:
        return "is one more than there may be" if is_full else ""
    if twin < 0:
        return "repeats one that was left out"
    return "is asked already" if twin < size and twin not in closed else ""


def _needs(
    said: Sequence[Part], new: Sequence[int], places: Mapping[int, int]
) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """Return what each new question needs, by its place, and what was left out of that."""
    needs = dict[int, tuple[int, ...]]()
    dropped = list[str]()
    for number in new:
        own = places[number]
        needs[own] = ()
        for wanted in said[number].needs:
            need = places.get(wanted)
            if need is None or _reaches(need, own, needs):
                problem = "which is not there" if need is None else "in a circle"
                dropped.append(f"question {number + 1} needs question {wanted + 1}, {problem}")
            elif need not in needs[own]:
                needs[own] = (*needs[own], need)
    return needs, dropped


def _reaches(start: int, end: int, needs: Mapping[int, Sequence[int]]) -> bool:
    waiting, seen = [start], set[int]()
    while waiting:
        at = waiting.pop()
        if at == end:
            return True
        if at not in seen:
            seen.add(at)
            waiting += needs.get(at, ())
    return False


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def twins_of(
    said: Sequence[str],
    known: Sequence[str],
    vectors: Sequence[Sequence[float]],
    *,
    bound: float,
) -> list[int | None]:
    """Return the place of the first earlier question that asks the same as each new one, if any.

    Two ask the same if they have the same words or, with vectors, the same numbers and a cosine
    similarity of `bound` or more: "3 times 4" and "3 times 5" are near and not the same.

    Args:
        said: New questions.
        known: Questions before them; places count on from these to the new ones.
        vectors: Unit vectors of `known` and `said`, in this order; empty where there are none.
        bound: Cosine similarity in (0, 1].
    """
    every = [*known, *said]
    words = [" ".join(re.findall(r"\w+", one.casefold())) or one for one in every]
    numbers = [sorted(_NUMBER.findall(one)) for one in every]

    def same(one: int, other: int) -> bool:
        if words[one] == words[other]:
            return True
        if not vectors or numbers[one] != numbers[other]:
            return False
        return sum(a * b for a, b in zip(vectors[one], vectors[other], strict=True)) >= bound

    return [
        next((earlier for earlier in range(place) if same(earlier, place)), None)
        for place in range(len(known), len(every))
    ]
