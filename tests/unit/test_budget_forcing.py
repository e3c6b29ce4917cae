"""What budget forcing does next with an answer: tables worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from made_draws import drawn as made_draw

from rttc_graph.errors import PolicyModelError
from rttc_graph.search.budget_forcing import BudgetForcing, without_repeats
from rttc_graph.search.panel import MAX_TEXT_CHARACTERS, Panel, with_wholes_of
from rttc_graph.search.strategy import Choice
from rttc_graph.settings import SearchSettings
from rttc_graph.state import Drawn, FinishReason
from rttc_graph.support.thinking import spoken


def drawn(
    whole: str,
    end: FinishReason = "stop",
    *,
    tokens: int = 20,
    reward: float | None = None,
    vote: str | None = "7",
) -> Drawn:
    return made_draw(
        vote,
        reward,
        text=spoken(whole).answer,
        completion_tokens=tokens,
        finish_reason=end,
        whole=whole,
    )


def panel(*draws: Drawn, size: int = 8, **settings: Any) -> Panel:
    given = SearchSettings(max_new_tokens=100, answer_tokens=10, **settings)
    return Panel(size=size, proposers=("rag", "direct"), drawn=draws, tau_r=0.5, settings=given)


def test_the_first_answer_leaves_tokens_for_a_forced_one() -> None:
    proposal = BudgetForcing().propose(panel())
    assert (proposal.draws, proposal.most_tokens) == ({"rag": 1}, 90)
    assert (proposal.reserved_tokens, proposal.ends_loops) == (10, True)


@pytest.mark.parametrize("wanted", [{"size": 1}, {"answer": 100}])
def test_where_nothing_can_be_forced_it_is_the_plain_answer(wanted: dict[str, int]) -> None:
    given = SearchSettings(max_new_tokens=100, answer_tokens=wanted.get("answer", 10))
    one = Panel(size=wanted.get("size", 8), proposers=("direct",), settings=given)
    proposal = BudgetForcing().propose(one)
    assert (proposal.draws, proposal.most_tokens) == ({"direct": 1}, None)
    assert (proposal.reserved_tokens, proposal.ends_loops) == (0, False)


CUT = drawn("One and two", "length", tokens=90, vote=None)
STEPS = [
    pytest.param([CUT], {}, "One and two\n####", 10, id="cut-off"),
    pytest.param([drawn("<think>Hm", "length", tokens=90)], {}, "<think>Hm\n</think>\n\n####", 10),
    pytest.param([drawn("a b c d d d", "loop", tokens=50)], {}, "a b c d\n####", 10, id="loop"),
    pytest.param([drawn("It is 7")], {}, "It is 7\nWait,", 70, id="too-early"),
    pytest.param([drawn("It is 7", reward=0.4)], {}, "It is 7\nWait,", 70, id="below-tau-r"),
    pytest.param(
        [drawn("<think>Hm.\n</think>\nIt is 7")], {}, "<think>Hm.\nWait,", 70, id="in-its-thoughts"
    ),
    pytest.param([drawn("It is 7", reward=0.5)], {}, None, "ended by itself", id="accepted"),
    pytest.param([drawn("It is 7")], {"max_waits": 0}, None, "ended by itself", id="no-waits"),
    pytest.param([drawn("It is 7", tokens=90)], {}, None, "ended by itself", id="no-tokens-left"),
    pytest.param([drawn("7", "budget")], {}, None, "deadline", id="deadline"),
    pytest.param([drawn("#### 7", "length", tokens=90)], {}, None, "answered", id="marked"),
    pytest.param(
        [drawn("7"), drawn("7\nWait, no: 8")], {}, "7\nWait, no: 8\n####", 10, id="after-waiting"
    ),
    pytest.param([drawn("7"), drawn("7\nWait,\n#### 8")], {}, None, "answered"),
    pytest.param(
        [drawn("7"), drawn("7\nWait, 8")],
        {"max_waits": 2},
        "7\nWait, 8\nWait,",
        50,
        id="waiting-again",
    ),
    pytest.param(
        [CUT, drawn("One and two\n#### 7 and", "length", tokens=10)], {}, None, "answered"
    ),
    pytest.param([drawn("7", tokens=95)], {"max_waits": 3}, None, "ended by itself"),
]


@pytest.mark.parametrize(("draws", "settings", "begun", "most"), STEPS)
def test_the_next_step(
    draws: list[Drawn], settings: dict[str, Any], begun: str | None, most: int | str
) -> None:
    proposal = BudgetForcing().propose(panel(*draws, **settings))
    assert not proposal.draws
    if begun is None:
        assert not proposal.continuations
        assert str(most) in proposal.reason
        return
    [one] = proposal.continuations
    assert (one.place, one.begun) == (len(draws) - 1, begun)
    assert proposal.most_tokens == most


def test_all_steps_together_keep_to_the_cap() -> None:
    """The worst case: each step takes all that it may have."""
    for waits in range(4):
        draws: list[Drawn] = []
        for _ in range(12):
            now = panel(*draws, size=12, max_waits=waits)
            proposal = BudgetForcing().propose(now)
            if not (proposal.draws or proposal.continuations):
                break
            most = proposal.most_tokens or 0
            begun = proposal.continuations[0].begun if proposal.continuations else ""
            end: FinishReason = "stop" if len(draws) < waits else "length"
            took = most // 2 if end == "stop" else most
            draws.append(drawn(f"{begun} x", end, tokens=took, vote=None))
        assert sum(one["completion_tokens"] for one in draws) <= 100
        assert "####" in draws[-1]["text"]


def test_a_size_ends_it_and_a_text_that_was_not_kept_too() -> None:
    assert "all 1 answers" in BudgetForcing().propose(panel(CUT, size=1)).reason
    (bare,) = with_wholes_of([CUT], first=1)
    assert "whole" not in bare
    assert "too long" in BudgetForcing().propose(panel(bare)).reason


def test_wholes_are_bounded() -> None:
    long = drawn("x" * (MAX_TEXT_CHARACTERS - 3))
    kept = with_wholes_of([drawn("ab"), long, drawn("abcd"), drawn("abc")], first=1)
    assert [one.get("whole", "")[:4] for one in kept] == ["", "xxxx", "", "abc"]


@pytest.mark.parametrize(
    ("draws", "kept"),
    [
        ([drawn("7"), drawn("8", vote="8")], 1),  # nobody judges: the last
        ([drawn("7", reward=0.4), drawn("8", reward=0.3, vote="8")], 0),
        ([drawn("7", reward=0.4), drawn("8", reward=0.4, vote="8")], 0),
        ([drawn("7"), drawn("8", reward=0.1, vote="8")], 1),
        ([drawn("7"), drawn("and", "length", vote=None)], 0),
        ([CUT], 0),
    ],
)
def test_what_is_kept(draws: list[Drawn], kept: int) -> None:
    assert BudgetForcing().choose(panel(*draws)).place == kept


def test_votes_of_what_is_kept() -> None:
    assert BudgetForcing().choose(panel(drawn("7"), drawn("= 7"))) == Choice(1, 2)
    with pytest.raises(PolicyModelError, match="none of 1 draws gave any text"):
        BudgetForcing().choose(panel(drawn("", vote=None)))


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("", ""),
        ("aaa", "a"),
        ("aa", "aa"),
        ("I see. I see. I see. I see. ", "I see. "),
        ("so it is it is it is", "so it is"),
        ("no repeats here", "no repeats here"),
    ],
)
def test_a_repeated_end_stands_once(text: str, short: str) -> None:
    assert without_repeats(text) == short
