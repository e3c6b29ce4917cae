"""What search_o1 does next with an answer, and look-ups as text: tables worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from made_draws import drawn

from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Choice
from rttc_graph.search.thinking.lookup_text import inserted, open_query, without_lookups
from rttc_graph.search.thinking.search_o1 import SearchO1
from rttc_graph.settings import SearchSettings
from rttc_graph.state import Drawn, Halt, LookUp


def halt(*, is_whole: bool = False) -> Halt:
    return {"trigger": "tag", "at": 2, "query": "q", "is_whole": is_whole}


def stopped(reward: float | None = None, **more: Any) -> Drawn:
    return drawn(None, reward, text="It", halt=halt(**more))


def lookup(*, behind: int | None = 2, kept: bool | None = True) -> LookUp:
    return {
        "place": 0,
        "trigger": "tag",
        "query": "q",
        "samples": [],
        "without": 1,
        "behind": behind,
        "kept": kept,
        "reason": "nothing new",
    }


def panel(
    *draws: Drawn,
    lookups: tuple[LookUp, ...] = (),
    size: int = 8,
    most: int = 3,
    tau_r: float = 0.5,
) -> Panel:
    return Panel(
        size=size,
        proposers=("direct", "rag"),
        drawn=draws,
        lookups=lookups,
        tau_r=tau_r,
        settings=SearchSettings(lookups=most),
    )


def test_the_first_answer_has_samples_and_is_watched_where_a_look_up_has_room() -> None:
    assert SearchO1().propose(panel()).draws == {"rag": 1}
    assert SearchO1().propose(panel()).watches
    assert not SearchO1().propose(panel(size=2)).watches


OPEN = [
    pytest.param([stopped()], [], {}, 0, "the model looks something up", id="asks"),
    pytest.param([drawn("a", 0.1)], [], {}, None, "asks for nothing", id="sure"),
    pytest.param([stopped(0.2, is_whole=True)], [], {}, 0, "", id="unsure-and-whole"),
    pytest.param([stopped(0.5, is_whole=True)], [], {}, None, "at least τr", id="accepted"),
    pytest.param(
        [stopped(), drawn("a"), stopped()], [lookup(kept=None)], {}, 2, "", id="asks-again"
    ),
    pytest.param(
        [stopped(), drawn("a"), stopped(0.1, is_whole=True)],
        [lookup(kept=False)],
        {},
        None,
        "no better",
        id="dropped",
    ),
    pytest.param(
        [stopped(), drawn("a")], [lookup(behind=None)], {}, None, "nothing new", id="none-found"
    ),
    pytest.param(
        [stopped(), drawn("a"), stopped(0.1, is_whole=True)],
        [lookup()],
        {"most": 1},
        None,
        "search_lookups=1",
        id="most",
    ),
    pytest.param(
        [stopped(None, is_whole=True)], [], {"tau_r": 0.0}, 0, "looks something up", id="no-reward"
    ),
    pytest.param([stopped()] * 3, [lookup()], {"size": 3}, None, "all 3", id="all-drawn"),
]


@pytest.mark.parametrize(("draws", "lookups", "more", "place", "words"), OPEN)
def test_where_the_next_look_up_is(
    draws: list[Drawn], lookups: list[LookUp], more: dict[str, Any], place: int | None, words: str
) -> None:
    proposal = SearchO1().propose(panel(*draws, lookups=tuple(lookups), **more))
    assert proposal.looks_up_at == place
    assert words in proposal.reason
    assert not proposal.draws


CHOSEN = [
    pytest.param([stopped(0.9), drawn("a", 0.2), drawn("b", 0.3)], 2, id="better"),
    pytest.param([stopped(0.9), drawn("a", 0.3), drawn("b", 0.3)], 1, id="of-equals-the-plain"),
    pytest.param([stopped(), drawn("a"), drawn("b")], 1, id="no-rewards"),
    pytest.param([stopped(0.9)], 0, id="nothing-whole"),
]


@pytest.mark.parametrize(("draws", "place"), CHOSEN)
def test_the_best_whole_answer_is_kept(draws: list[Drawn], place: int) -> None:
    assert SearchO1().choose(panel(*draws)).place == place
    assert SearchO1().choose(panel(drawn("a", 0.1))) == Choice(0, 1)


@pytest.mark.parametrize(
    ("text", "behind", "found"),
    [
        ("It <search>a  b", 0, (3, "a b")),
        ("It <search>a</search> b", 0, None),
        ("It <search>a", 5, None),
        ("It <search> ", 0, None),
        ("It is", 0, None),
        ("<search>a</search><search>b", 0, (18, "b")),
    ],
)
def test_a_tag_that_is_open_is_a_query(
    text: str, behind: int, found: tuple[int, str] | None
) -> None:
    assert open_query(text, behind=behind) == found


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("It is 5", "It is 5"),
        (f"It is{inserted('q', 'a b')} 5.", "It is 5."),
        (f"Yes.{inserted('', 'a')}It is 5.", "Yes.\nIt is 5."),
        (f"{inserted('q', 'a')}5", "5"),
        ("It is <search>what", "It is"),
        ("It is <search>what</search> 5", "It is  5"),
        (f"{inserted('q', 'a')}<result>", ""),
        ("</result>\n", ""),
        ("Write <result>5</result>", "Write <result>5</result>"),
    ],
)
def test_an_answer_has_no_look_ups_in_it(text: str, bare: str) -> None:
    assert without_lookups(text) == bare
