"""Answers of a panel graded and compared by the policy model itself, without sampling a word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rttc_graph.errors import BudgetExceeded, ConfigurationError, PolicyModelError
from rttc_graph.protocols import (
    OptionProbabilities,
    OptionsRequest,
    PolicyModel,
    WeighingPolicyModel,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.search.chains import text_in_hand
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Proposal
from rttc_graph.state import ChatTurn, Drawn, RttcState

GRADES = tuple("0123456789")
"""Options of a grade, from wrong to right: each is one token."""

SIDES = ("A", "B")

GRADING = "You check answers. Say only a grade from 0 (wrong) to 9 (right)."
COMPARING = "You check answers. Say only A or B, the one that is right."


async def checked_panel(
    policy_model: PolicyModel,
    panel: Panel,
    proposal: Proposal,
    state: RttcState,
    scope: RunScope,
    notes: Notes,
) -> Panel:
    """Return the panel with the grades and comparisons that a strategy proposes.

    A pair is asked for in both orders, since models prefer a place; the mean of both counts.

    Raises:
        BudgetExceeded: The budget has no room for them.
        ConfigurationError: The policy model cannot weigh answers.
        PolicyModelError: It failed.
    """
    if not isinstance(policy_model, WeighingPolicyModel):
        raise ConfigurationError(
            f"{policy_model.name} does not tell how likely it finds given answers: take a local "
            "model, or another strategy"
        )
    since = time.monotonic()
    query = standalone_query(state)
    requests = [
        *(_grading(query, text_in_hand(panel, place)) for place in proposal.grades),
        *(
            _comparing(query, text_in_hand(panel, one), text_in_hand(panel, other))
            for pair in proposal.pairs
            for one, other in (pair, pair[::-1])
        ),
    ]
    await _reserve(policy_model, requests, scope)
    found = await policy_model.weigh(requests, deadline=scope.deadline)
    if len(found) != len(requests):
        raise PolicyModelError(
            f"{policy_model.name} weighed {len(found)} of {len(requests)} prompts"
        )
    tokens = sum(one.prompt_tokens for one in found)
    flops = forward_flops(await parameters_of(policy_model), tokens)
    grades = {
        place: expected_grade(one)
        for place, one in zip(proposal.grades, found[: len(proposal.grades)], strict=True)
    }
    compared = _preferences(proposal.pairs, found[len(proposal.grades) :])
    notes.add(
        "checked",
        since=since,
        arm=state["attempt"],
        grades={str(place): grade for place, grade in grades.items()},
        preferred=[[*places, share] for places, share in compared.items()],
        prompt_tokens=tokens,
        flops=flops,
        reason=proposal.reason,
    )
    return replace(
        panel,
        drawn=tuple(
            cast("Drawn", {**one, "grade": grades[place]}) if place in grades else one
            for place, one in enumerate(panel.drawn)
        ),
        compared={**panel.compared, **compared},
        checking_tokens=panel.checking_tokens + tokens,
        checking_flops=summed(panel.checking_flops, flops),
    )


def expected_grade(found: OptionProbabilities) -> float:
    """Return the expected value of a grade's probabilities, in [0, 1].

    Raises:
        PolicyModelError: None of the grades has any probability, or one is no number.
    """
    total = sum(found.shares)
    if not total > 0:  # NaN is caught as well
        raise PolicyModelError(
            f"the policy model gives the grades {GRADES[0]} to {GRADES[-1]} the probability {total}"
        )
    top = len(found.shares) - 1
    return sum(grade * share for grade, share in enumerate(found.shares)) / total / top


def _preferences(
    pairs: Sequence[tuple[int, int]], found: Sequence[OptionProbabilities]
) -> dict[tuple[int, int], float]:
    """Return how likely the earlier of each pair is preferred, asked in both orders."""
    each = [1 - expected_grade(one) for one in found]  # A is 0 and B is 1
    return {
        pair: (each[2 * number] + 1 - each[2 * number + 1]) / 2 for number, pair in enumerate(pairs)
    }


async def _reserve(
    policy_model: PolicyModel, requests: Sequence[OptionsRequest], scope: RunScope
) -> None:
    counted = [await policy_model.count_tokens(request.messages) for request in requests]
    left = await tokens_left(policy_model, scope.allowance, scope.settings)
    if sum(counted) > left.tokens:
        raise BudgetExceeded(
            f"checking answers takes {len(requests)} prompts of {sum(counted)} tokens in all, and "
            f"{left.tokens} are left of {left.of}: raise it"
        )


def _grading(query: str, answer: str) -> OptionsRequest:
    told = f"Question: {query}\n\nAnswer: {answer}\n\nIs this answer right? Grade it from 0 to 9."
    return OptionsRequest(messages=_turns(GRADING, told), options=GRADES)


def _comparing(query: str, one: str, other: str) -> OptionsRequest:
    told = (
        f"Question: {query}\n\nAnswer A: {one}\n\nAnswer B: {other}\n\n"
        "Which answer is right, A or B?"
    )
    return OptionsRequest(messages=_turns(COMPARING, told), options=SIDES)


def _turns(system: str, user: str) -> tuple[ChatTurn, ...]:
    return {"role": "system", "content": system}, {"role": "user", "content": user}
