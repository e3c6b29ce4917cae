"""Strategies over steps: tables worked by hand, and a toy policy whose best answer is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError
from rttc_graph.search.panel import MAX_ROUNDS, Panel
from rttc_graph.search.steps.dvts import Dvts
from rttc_graph.search.steps.lookahead import Lookahead
from rttc_graph.search.steps.mcts import Mcts
from rttc_graph.search.steps.step_search import vote_of_paths
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.steps.step_widths import (
    even_widths,
    hard_widths,
    resampled_widths,
    soft_widths,
    widest_useful,
)
from rttc_graph.search.strategies import strategy_of
from rttc_graph.search.strategy import Expansion, Proposal
from rttc_graph.settings import SearchSettings
from rttc_graph.state import Drawn, FinishReason, StepNode

NAMES = ("beam", "dvts", "particles", "lookahead", "mcts")


def node(
    parent: int | None,
    p: float | None = None,
    *,
    round: int = 0,
    text: str = "a",
    ends: int | None = None,
    **more: Any,
) -> StepNode:
    """Return a step of ten tokens; `ends` is the place of the answer that it ends."""
    made: StepNode = {
        "parent": parent,
        "round": round,
        "branch": 0,
        "look": False,
        "proposer": "direct",
        "shown": [],
        "text": text,
        "p": p,
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "reused_tokens": 0,
        "flops": None,
        "mean_logprob": -0.5,
        "finish_reason": "step" if ends is None else "stop",
        "answer": ends,
    }
    return {**made, **more}  # type: ignore[typeddict-item]  # fields of its own


def drawn(vote: str | None, reward: float | None = None) -> Drawn:
    return {
        "proposer": "direct",
        "text": vote or "?",
        "vote": vote,
        "reward": reward,
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "mean_logprob": None,
        "finish_reason": "stop",
        "shown": [],
    }


def panel(*nodes: StepNode, answers: tuple[Drawn, ...] = (), size: int = 8, **more: Any) -> Panel:
    search = {name: more.pop(name) for name in list(more) if name in SearchSettings.__slots__}
    return Panel(
        size=size,
        proposers=("direct",),
        drawn=answers,
        tree=nodes,
        settings=SearchSettings(**search),
        **more,
    )


# e^(p/0.2) of .9, .5 and .1 is 90.0, 12.2 and 1.65: shares of .867, .117 and .016.
SOFT = [
    pytest.param([0.9, 0.5, 0.1], 8, None, [7, 1, 0], id="7-of-8-then-ceil-of-.88"),
    pytest.param([0.1, 0.5, 0.9], 8, None, [0, 1, 7], id="the-order-does-not-matter"),
    pytest.param([0.5, 0.5, 0.5], 4, None, [2, 1, 1], id="equals-share"),
    pytest.param([0.9, 0.5, 0.1], 8, 4, [4, 4, 0], id="the-widest-is-4"),
    pytest.param([0.9, 0.5, 0.1], 8, 2, [3, 3, 2], id="2-is-too-narrow-for-8"),
    pytest.param([0.9, 0.5, 0.1], 8, 1, [3, 3, 2], id="a-judge-that-tells-nothing"),
    pytest.param([0.9, None, 0.1], 3, None, [1, 1, 1], id="a-judge-that-abstains"),
    pytest.param([0.9, 0.1], 0, None, [0, 0], id="nothing-left"),
]


@pytest.mark.parametrize(("shares", "total", "widest", "wanted"), SOFT)
def test_soft_widths(
    shares: list[float | None], total: int, widest: int | None, wanted: list[int]
) -> None:
    assert soft_widths(shares, total, widest=widest) == wanted


HARD = [
    pytest.param([0.2, 0.9, 0.5, 0.1], 8, 4, [0, 4, 4, 0], id="the-best-two-get-four"),
    pytest.param([0.2, 0.9, 0.5, 0.1], 6, 4, [0, 4, 2, 0], id="two-are-left-for-the-second"),
    pytest.param([0.2, 0.9], 16, 4, [8, 8], id="more-than-two-times-four"),
    pytest.param([0.2, None], 4, 4, [2, 2], id="a-judge-that-abstains"),
]


@pytest.mark.parametrize(("shares", "total", "children", "wanted"), HARD)
def test_hard_widths(
    shares: list[float | None], total: int, children: int, wanted: list[int]
) -> None:
    assert hard_widths(shares, total, children=children) == wanted


def test_resampled_widths_are_within_one_of_their_share() -> None:
    """Odds of .8, .5 and .2 are 4, 1 and .25: of 21 places 16, 4 and 1 are theirs."""
    counts = Counter[tuple[int, ...]]()
    for number in range(50):
        widths = resampled_widths([0.8, 0.5, 0.2], 21, seed=str(number))
        assert sum(widths) == 21
        assert all(abs(width - share) <= 1 for width, share in zip(widths, (16, 4, 1), strict=True))
        counts[tuple(widths)] += 1
    assert resampled_widths([0.8, 0.5], 4, seed="1") == resampled_widths([0.8, 0.5], 4, seed="1")
    assert (
        resampled_widths([0.9, 0.1, 0.1, 0.1], 8, seed="1", widest=3) == [3, 2, 2, 1]
        or sum(resampled_widths([0.9, 0.1, 0.1, 0.1], 8, seed="1", widest=3)) == 8
    )


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=16),
    st.integers(0, 64),
    st.sampled_from([None, 1, 2, 8]),
)
@settings(max_examples=60, deadline=None)
def test_widths_share_out_all_there_is(shares: list[float], total: int, widest: int | None) -> None:
    found = [
        soft_widths(shares, total, widest=widest),
        hard_widths(shares, total, children=4, widest=widest),
        resampled_widths(shares, total, seed="s", widest=widest),
        even_widths(len(shares), total),
    ]
    for widths in found:
        assert len(widths) == len(shares)
        assert sum(widths) == total
        assert min(widths) >= 0


def test_a_noisy_judge_is_given_little_choice() -> None:
    """The quantiles of .63, .685 and .76 are .33, .48 and .71; e to six times their squares."""
    widths = [widest_useful(auc) for auc in (0.3, 0.5, 0.63, 0.685, 0.76)]
    assert widths == [1, 1, 1, 4, 19]


def test_a_beam_counts_finished_answers() -> None:
    """Of eight answers two are there, so six steps follow, by the probability of each."""
    tree = [
        node(None, 0.9, ends=0),
        node(None, 0.9),
        node(None, 0.5),
        node(None, 0.8, ends=1),
    ]
    proposal = strategy_of("beam").propose(panel(*tree, answers=(drawn("a"), drawn("b"))))
    assert [(one.parent, one.count) for one in proposal.expansions] == [(1, 6)]
    hard = strategy_of("beam").propose(
        panel(*tree, answers=(drawn("a"), drawn("b")), beam="hard", children=4)
    )
    assert [(one.parent, one.count) for one in hard.expansions] == [(1, 4), (2, 2)]


def test_a_tree_that_is_full_is_written_to_its_end() -> None:
    proposal = strategy_of("beam").propose(panel(node(None, 0.9), nodes=8))
    assert [one.to_end for one in proposal.expansions] == [True]
    late = strategy_of("beam").propose(panel(node(None, 0.9), rounds_left=1))
    assert [one.to_end for one in late.expansions] == [True]


def test_dvts_follows_the_best_step_of_each_tree() -> None:
    """Two trees of two; the best of the second one has ended, and with it the tree."""
    tree = [
        node(None, 0.2, branch=0),
        node(None, 0.7, branch=0),
        node(None, 0.4, branch=1),
        node(None, 0.6, branch=1, ends=0),
    ]
    proposal = Dvts().propose(panel(*tree, answers=(drawn("a"),), size=4, children=2))
    assert proposal.expansions == (Expansion(1, count=2, branch=0),)


def test_dvts_without_a_judge_is_single_answers() -> None:
    first = Dvts().propose(panel(size=4, widest=1))
    assert [one.count for one in first.expansions] == [1, 1, 1, 1]
    assert [one.branch for one in first.expansions] == [0, 1, 2, 3]


def test_a_look_ahead_is_kept_as_a_candidate() -> None:
    """A step is judged by where it leads, and what was looked at is not drawn again."""
    steps = [node(None, 0.9), node(None, 0.5)]
    look = Lookahead().propose(panel(*steps, size=2))
    assert look.expansions == (Expansion(0, is_look=True), Expansion(1, is_look=True))
    steps += [node(0, 0.1, round=1, look=True), node(1, 0.95, round=1, look=True)]
    then = Lookahead().propose(panel(*steps, size=2))
    assert [(one.parent, one.count) for one in then.expansions] == [(1, 2)]
    steps += [node(1, 0.6, round=2), node(1, 0.7, round=2)]
    again = Lookahead().propose(panel(*steps, size=3))
    assert [(one.parent, one.is_look) for one in again.expansions] == [
        (3, True),
        (4, True),
        (5, True),
    ]
    last = Lookahead().propose(panel(*steps[:4], size=2, rounds_left=1))
    assert [(one.parent, one.count, one.to_end) for one in last.expansions] == [
        (3, 1, True),
        (1, 1, True),
    ]


def test_mcts_tries_what_was_tried_little_and_descends() -> None:
    """Steps 0 (.6) and 1 (.5) have equal priors; 0 was expanded, its children are worth .1.

    Step 0: 3 visits, mean (.6 + .1 + .1) / 3 = .267, + 1.25 * .5 * sqrt(4) / 4 = .313: .579.
    Step 1: 1 visit, mean .5, + 1.25 * .5 * 2 / 2 = .625: 1.125. So 1 goes first, then 0's best.
    """
    tree = [
        node(None, 0.6),
        node(None, 0.5),
        node(0, 0.1, round=1),
        node(0, 0.1, round=1, mean_logprob=-0.1),
    ]
    proposal = Mcts().propose(panel(*tree, children=8, size=16))  # two leaves a round
    assert [one.parent for one in proposal.expansions] == [1, 3]
    assert all(one.count == 8 for one in proposal.expansions)
    with pytest.raises(ConfigurationError, match="exploration"):
        Mcts(exploration=-1)


def test_answers_that_share_their_beginning_count_less() -> None:
    """Three answers a of one path against two of paths of their own, by equal probabilities.

    Two thirds of the a's tokens are shared: 3 / (1 + 2 * 2/3) = 1.29 votes against 2.
    """
    tree = [
        node(None, 0.5),
        node(0, 0.5, round=1),
        *(node(1, 0.5, round=2, ends=n) for n in range(3)),
        *(node(None, 0.5, ends=n) for n in (3, 4)),
    ]
    answers = tuple(drawn(vote) for vote in "aaabb")
    assert vote_of_paths(panel(*tree, answers=answers)).place == 3
    apart = [node(None, 0.5, ends=n) for n in range(5)]
    assert vote_of_paths(panel(*apart, answers=answers)).place == 0


def test_a_vote_counts_by_the_last_step_unless_rewards_are_probabilities() -> None:
    tree = [node(None, 0.9, ends=0), node(None, 0.3, ends=1)]
    answers = (drawn("a", 0.1), drawn("b", 0.8))
    assert vote_of_paths(panel(*tree, answers=answers)).place == 0
    assert vote_of_paths(panel(*tree, answers=answers, calibrated=True)).place == 1


# --- a toy policy: four digits, of which the sum decides ---------------------------------------

DEPTH = 4
BASE = 6


def grow(
    state: Panel, proposal: Proposal, dice: random.Random, value: Callable[[str], float]
) -> Panel:
    """Draw what a strategy proposes: a step is a digit, drawn evenly; a look is a five."""
    tree, answers = list(state.tree), list(state.drawn)
    number = max((one["round"] + 1 for one in tree), default=0)
    answers += [
        drawn("".join(str(dice.randrange(BASE)) for _ in range(DEPTH)))
        for _ in range(sum(proposal.draws.values()))
    ]
    for one in proposal.expansions:
        for _ in range(min(one.count, state.size - len(answers))):
            begun = StepTree(tree).text(one.parent)
            length = DEPTH - len(begun) if one.to_end else 1
            text = "".join(
                str(BASE - 1 if one.is_look else dice.randrange(BASE)) for _ in range(length)
            )
            whole = begun + text
            ends = len(answers) if len(whole) == DEPTH else None
            if ends is not None:
                answers.append(drawn(whole, value(whole)))
            reason: FinishReason = "step" if ends is None else "stop"
            tree.append(
                node(
                    one.parent,
                    value(whole),
                    round=number,
                    text=text,
                    branch=one.branch,
                    look=one.is_look,
                    finish_reason=reason,
                    answer=ends,
                )
            )
    return replace(state, tree=tuple(tree), drawn=tuple(answers), rounds_left=state.rounds_left - 1)


def exact(text: str) -> float:
    """Return the probability that a beginning leads to fives alone, as good as can be known."""
    lost = sum(BASE - 1 - int(digit) for digit in text)
    return 0.97 * 0.3**lost


def run(name: str, seed: int, value: Callable[[str], float] = exact, **more: Any) -> Panel:
    strategy, dice = strategy_of(name), random.Random(seed)
    state = panel(seed=seed, size=16, nodes=200, calibrated=True, **more)
    for _ in range(MAX_ROUNDS):
        proposal = strategy.propose(state)
        if not (proposal.expansions or proposal.draws):
            break
        state = grow(state, proposal, dice, value)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_with_an_exact_judge_each_strategy_finds_the_optimum(name: str) -> None:
    """Chance finds 5555 once in 1296 answers, so once in ten times eight panels of sixteen."""
    kept: list[str | None] = []
    for seed in range(8):
        state = run(name, seed, children=12)
        kept.append(state.drawn[strategy_of(name).choose(state).place]["vote"])
    assert kept.count("5555") >= 3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_tree_and_no_more_answers_than_wanted(name: str) -> None:
    first, again = run(name, 3), run(name, 3)
    assert first.tree == again.tree
    assert len(first.drawn) <= 16
    assert all(one["answer"] is not None for one in first.tree if one["finish_reason"] == "stop")


@pytest.mark.parametrize("name", ["beam", "particles"])
def test_exactly_as_many_answers_are_written_as_wanted(name: str) -> None:
    assert len(run(name, 1).drawn) == 16


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_that_abstains_leaves_plain_answers(name: str) -> None:
    """Nothing fails, and nothing is chosen by what is not known."""
    strategy, dice = strategy_of(name), random.Random(0)
    state = panel(size=4, nodes=100)
    for _ in range(MAX_ROUNDS):
        proposal = strategy.propose(state)
        if not (proposal.expansions or proposal.draws):
            break
        state = grow(state, proposal, dice, lambda _: 0.5)
        tree = tuple({**one, "p": None} for one in state.tree)
        state = replace(state, tree=tree)  # type: ignore[arg-type]  # a spread dict has no type
    assert state.drawn
    assert strategy.choose(state).place < len(state.drawn)


@pytest.mark.parametrize("name", NAMES)
def test_one_answer_is_a_plain_draw(name: str) -> None:
    """With a size of one every strategy is the plain model."""
    proposal = strategy_of(name).propose(panel(size=1))
    assert (proposal.draws, proposal.expansions) == ({"direct": 1}, ())
    assert ARMS.attempts[name].continues
    assert ARMS.attempts[name].steers
