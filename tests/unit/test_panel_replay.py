"""Panels drawn once, and what strategies would have made of them: worked by hand, and resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_draws import drawn as made_draw
from scripted_parts import ScriptedRewardModel

from rttc_graph.calibration.panel_maps import cross_fitted_panels
from rttc_graph.errors import ConfigurationError, PolicyModelError, RewardModelError
from rttc_graph.evaluation.collect import Collection, DataSet
from rttc_graph.evaluation.evaluation_rows import EvaluationRows, RowLog
from rttc_graph.evaluation.panels.panel_collect import (
    collect_panels,
    judge_panels,
    panel_keys,
    recorded_panels,
)
from rttc_graph.evaluation.panels.panel_figures import grouped_panels, panel_figures
from rttc_graph.evaluation.panels.panel_replay import RecordedPanel, replay_panel
from rttc_graph.evaluation.panels.panel_report import panel_lines
from rttc_graph.evaluation.panels.panel_specs import PanelSpec, needed_size, read_spec
from rttc_graph.protocols import NewSample
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.state import Drawn

STRATEGIES = ("best_of_n", "majority", "weighted", "adaptive", "mixed")


def drawn(text: str, reward: float | None = None, *, by: str = "direct") -> Drawn:
    return made_draw(text or None, reward, text=text, by=by, prompt_tokens=9)


def recorded(*draws: Drawn, right: str = "a", row: str = "1", **more: Any) -> RecordedPanel:
    return RecordedPanel(
        data_set=more.pop("data_set", "shop"),
        model="m",
        row=row,
        domain=None,
        drawn=draws,
        right=tuple(one["text"] == right for one in draws),
        seconds={"generation": 8.0, "retrieval": 0.5},
        judging_seconds=0.8,
        **more,
    )


def said(texts: str, by: str = "direct") -> list[Drawn]:
    return [drawn(text, by=by) for text in texts]


# --- replay ------------------------------------------------------------------------------------

MIXED_PANEL = recorded(
    *(one for pair in zip(said("bbab"), said("aacc", by="rag"), strict=True) for one in pair)
)


@pytest.mark.parametrize(
    ("sources", "size", "right", "any_right", "draws"),
    [
        pytest.param(("direct",), 1, 0, 0, 1, id="one-is-the-first-draw"),
        pytest.param(("rag",), 1, 1, 1, 1, id="the-first-of-another-source"),
        pytest.param(("direct",), 4, 0, 1, 4, id="b-b-a-b"),
        pytest.param(("rag",), 2, 1, 1, 2, id="a-a"),
        pytest.param(("rag",), 4, 1, 1, 4, id="a-tie-goes-to-the-earlier"),
        pytest.param(("direct", "rag"), 2, 0, 1, 2, id="b-a"),
        pytest.param(("direct", "rag"), 8, 0, 1, 8, id="b-three-a-three"),
        pytest.param(("rag", "direct"), 8, 1, 1, 8, id="a-three-b-three"),
        pytest.param(("direct",), 6, 0, 1, 4, id="no-more-than-there-are"),
        pytest.param(("recalled",), 4, 0, 0, 0, id="nothing-was-drawn-from-it"),
    ],
)
def test_a_smaller_panel_is_a_part_of_the_recorded_one(
    sources: tuple[str, ...], size: int, right: int, any_right: int, draws: int
) -> None:
    found = replay_panel(MIXED_PANEL, "majority", sources, size)
    assert (found.right, found.any, found.draws) == (right, any_right, draws)
    assert (found.prompt_tokens, found.completion_tokens) == (9 * draws, draws)
    assert found.answered is (draws > 0)


def test_seconds_are_a_share_by_tokens_and_a_search_is_paid_in_whole() -> None:
    alone = replay_panel(MIXED_PANEL, "majority", ("direct",), 2)
    assert alone.seconds == pytest.approx(8.0 * 2 / 8 + 0.8 * 2 / 8)
    with_search = replay_panel(MIXED_PANEL, "majority", ("rag",), 2)
    assert with_search.seconds == pytest.approx(alone.seconds + 0.5)
    whole = replay_panel(MIXED_PANEL, "majority", ("direct", "rag"), 8)
    assert whole.seconds == pytest.approx(8.0 + 0.8 + 0.5)


def test_operations_are_those_of_the_draws_and_known_only_if_all_are(tmp_path: Path) -> None:
    known: list[Drawn] = [{**one, "flops": 2e12} for one in said("ab")]
    assert replay_panel(recorded(*known), "majority", ("direct",), 2).flops == 4e12
    half = replay_panel(recorded(known[0], *said("b")), "majority", ("direct",), 2)
    assert half.flops is None

    panels = [recorded(*known), recorded(*known, row="2")]
    text = "\n".join(panel_lines(grouped_panels(panels, [PanelSpec("majority", 2)]), tmp_path))
    assert "| 2.00 | 20 | 4.00 |" in text
    assert (tmp_path / "panels-0-flops.png").exists()


def test_adaptive_stops_where_it_would_have_stopped() -> None:
    found = replay_panel(recorded(*said("aaaaaaab")), "adaptive", ("direct",), 64)
    assert (found.right, found.draws) == (1, 4)
    assert replay_panel(recorded(*said("abcdefgh")), "adaptive", ("direct",), 64).draws == 8


def test_mixed_votes_by_reward_only_where_rewards_are_probabilities() -> None:
    panel = recorded(drawn("b", 0.2), drawn("b", 0.2), drawn("a", 0.95))
    assert replay_panel(panel, "mixed", ("direct",), 3).right == 0
    assert replay_panel(replace(panel, calibrated=True), "mixed", ("direct",), 3).right == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_panel_without_any_text_has_no_answer(strategy: str) -> None:
    found = replay_panel(recorded(*said([""] * 4)), strategy, ("direct",), 4)  # type: ignore[arg-type]
    assert (found.answered, found.right) == (False, 0)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=12),
    rewards=st.lists(st.sampled_from([None, 0.0, 0.4, 1.0]), min_size=12, max_size=12),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    strategy=st.sampled_from(STRATEGIES),
    calibrated=st.booleans(),
)
def test_whatever_was_drawn_no_strategy_beats_any_or_takes_more(
    texts: list[str],
    rewards: list[float | None],
    sizes: tuple[int, int],
    strategy: str,
    calibrated: bool,
) -> None:
    both = ("direct", "rag")
    draws = [
        drawn(text, reward, by=both[number % 2])
        for number, (text, reward) in enumerate(zip(texts, rewards, strict=False))
    ]
    panel = recorded(*draws, calibrated=calibrated)
    small, large = (replay_panel(panel, strategy, both, size) for size in sorted(sizes))
    assert small.right <= small.any <= large.any
    assert small.draws <= large.draws <= len(draws)
    assert small.draws <= min(sizes)
    assert replay_panel(panel, strategy, both, 1).right == float(texts[0] == "a")


# --- figures -----------------------------------------------------------------------------------


def test_figures_stand_beside_a_majority_of_as_many_tokens() -> None:
    panels = [recorded(*said("aaaaaaaa"), row="1"), recorded(*said("bbaabcaa"), row="2")]
    group = panel_figures(panels, [PanelSpec("majority", 8), PanelSpec("adaptive", 8)])
    by = {(one["strategy"], one["n"]): one for one in group["points"]}
    assert [n for name, n in by if name == "majority"] == [1, 2, 4, 8]
    assert [by["majority", n]["accuracy"] for n in (1, 2, 4, 8)] == [0.5, 0.5, 0.5, 1.0]
    assert [by["majority", n]["any"] for n in (1, 4, 8)] == [0.5, 1.0, 1.0]
    for n in (1, 2, 4, 8):  # a majority beside itself
        assert by["majority", n]["against_majority"] == [0.0, 0.0, 0.0]
    adaptive = by["adaptive", 8]
    assert adaptive["draws"] == (4 + 8) / 2
    # Six draws in the mean: a majority of six has a, a against b, b, b.
    six = [replay_panel(panel, "majority", ("direct",), 6).right for panel in panels]
    assert adaptive["majority"] == sum(six) / 2
    assert adaptive["against_one"][0] == adaptive["accuracy"] - 0.5


def test_between_two_sizes_the_majority_is_their_mixture() -> None:
    """Three panels that need 4, 8 and 7 draws: 6.33 in the mean, between six and seven."""
    panels = [
        recorded(*said("aaaaaaaa"), row="1"),
        recorded(*said("bbabaaca"), row="2"),
        recorded(*said("bbabcaca"), row="3"),
    ]
    [point] = panel_figures(panels, [PanelSpec("adaptive", 8)])["points"][-1:]
    assert point["draws"] == pytest.approx(19 / 3)
    six, seven = (
        sum(replay_panel(panel, "majority", ("direct",), n).right for panel in panels) / 3
        for n in (6, 7)
    )
    assert point["majority"] == pytest.approx(six + (seven - six) / 3)


def test_a_mixed_panel_stands_beside_the_best_source_of_its_size() -> None:
    group = panel_figures([MIXED_PANEL], [PanelSpec("mixed", 4), PanelSpec("majority", 4)])
    mixed = {(one["strategy"], one["n"]): one for one in group["mixed"]}
    four = mixed["mixed", 4]
    assert (four["best"], four["best_accuracy"], four["any"]) == ("rag", 1.0, 1.0)
    assert four["share_of_the_way"] is None  # there is none to go
    assert {one["strategy"] for one in group["mixed"]} == {"mixed", "majority"}
    named = {tuple(one["sources"]) for one in group["points"] if one["strategy"] == "majority"}
    assert named == {("direct",), ("rag",), ("direct", "rag")}


def test_groups_are_all_questions_then_each_data_set(tmp_path: Path) -> None:
    panels = [recorded(*said("ab")), recorded(*said("ba"), data_set="bank")]
    groups = grouped_panels(panels, [PanelSpec("majority", 2)])
    assert [(one["data_set"], one["rows"]) for one in groups] == [
        (None, 2),
        ("shop", 1),
        ("bank", 1),
    ]
    text = "\n".join(panel_lines(groups, tmp_path))
    assert "### bank, m: 1 questions" in text
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_panels_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="no question has a recorded panel"):
        grouped_panels([], [PanelSpec("majority", 2)])
    with pytest.raises(ConfigurationError, match="draws from recalled, but the panels have only"):
        panel_figures([MIXED_PANEL], [PanelSpec("majority", 2, ("recalled",))])


# --- what is asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec", "sizes"),
    [
        ("majority@1", PanelSpec("majority", 1), [1]),
        ("adaptive@6", PanelSpec("adaptive", 6), [1, 2, 4, 6]),
        ("mixed@64", PanelSpec("mixed", 64), [1, 2, 4, 8, 16, 32, 64]),
        ("weighted@2:rag+direct", PanelSpec("weighted", 2, ("rag", "direct")), [1, 2]),
    ],
)
def test_a_spec_says_strategy_size_and_sources(
    text: str, spec: PanelSpec, sizes: list[int]
) -> None:
    assert read_spec(text) == spec
    assert str(spec) == text
    assert spec.sizes() == sizes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("majority@0", "size '0' of 'majority@0' must be a whole number from 1 to 64"),
        ("majority@65", "from 1 to 64"),
        ("majority@", "size ''"),
        ("majority@-1", "size '-1'"),
        ("majority@²", "size '²'"),
        ("rag@4", "'rag' is not one of 'adaptive', 'majority'.* cannot be replayed"),
        ("@4", "strategy of '@4': '' is not one of"),
        ("majorty@4", "did you mean 'majority'"),
        ("majority@4:oracle", "draws from: 'oracle' is not one of 'direct'"),
    ],
)
def test_a_spec_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_spec(text)


@pytest.mark.parametrize(
    ("specs", "sources", "size"),
    [
        (["majority@16"], ("direct",), 16),
        (["majority@16"], ("direct", "rag"), 32),
        (["mixed@16"], ("direct", "rag"), 16),
        (["mixed@15"], ("direct", "rag"), 16),
        (["majority@16:direct+rag", "adaptive@4"], ("direct", "rag"), 16),
        (["majority@64"], ("direct", "rag"), 64),
    ],
)
def test_as_many_are_drawn_as_panels_of_one_source_need(
    specs: list[str], sources: tuple[str, ...], size: int
) -> None:
    assert needed_size([read_spec(one) for one in specs], sources) == size


# --- collecting --------------------------------------------------------------------------------

SHOP = DataSet(
    name="shop",
    rows=[NewSample(question=f"q{n}", answer="a", domain="shop") for n in range(3)],
)
COLLECTION = Collection(data_sets=[SHOP], model="m", settings={"k": 8, "search_from": ["direct"]})


@dataclass
class Panels:
    """Draws panels that say a, b, a, b, …; may break off after some."""

    most: int = 10_000
    fails: frozenset[str] = frozenset()
    asked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    async def __call__(
        self, question: str, *, domain: str | None, size: int, seed: int
    ) -> Mapping[str, Any]:
        if len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked.append((question, size))
        if question in self.fails:
            raise PolicyModelError("out of memory")
        return {
            "drawn": [drawn("ab"[n % 2], 0.25) for n in range(size)],
            "samples": [],
            "ledger": [
                {"node": "panel_round", "event": "drawn", "seconds": 2.0, "detail": {}},
                {"node": "panel_round", "event": "judged", "seconds": 0.5, "detail": {}},
                {"node": "reward_judge", "event": "judged", "seconds": 9.0, "detail": {}},
                {"node": "retrieve", "event": "retrieved", "seconds": 0.25, "detail": {}},
            ],
        }


async def collected(
    path: Path, ask: Panels, *, size: int = 4, judge: ScriptedRewardModel | None = None
) -> EvaluationRows:
    log = RowLog(path / "rows.jsonl")
    rows = await asyncio.to_thread(log.load)
    await collect_panels(COLLECTION, ask, judge or ScriptedRewardModel(), log, rows, size=size)
    assert await asyncio.to_thread(log.load) == rows
    return rows


async def test_a_panel_is_drawn_once_and_kept_with_all_that_it_says(tmp_path: Path) -> None:
    ask = Panels()
    rows = await collected(tmp_path, ask)
    assert ask.asked == [("q0", 4), ("q1", 4), ("q2", 4)]
    keys = panel_keys(COLLECTION)
    row = rows.panels[keys[0]]
    assert [one["text"] for one in row["drawn"]] == ["a", "b", "a", "b"]
    assert {one["reward"] for one in row["drawn"]} == {None}  # judgements have them
    assert row["seeds"] == [draw_seed(0, number) for number in range(4)]
    assert row["seconds"] == {"generation": 2.0, "retrieval": 0.25}
    [panel, *_] = recorded_panels(rows, keys, await ScriptedRewardModel().fingerprint())
    assert [one["reward"] for one in panel.drawn] == [0.25] * 4
    assert (panel.right, panel.judging_seconds) == ((True, False, True, False), 0.5)

    again = Panels(most=0)
    assert await collected(tmp_path, again) == rows
    assert await collected(tmp_path, again, size=2) == rows  # a smaller one is a part of it
    larger = Panels()
    rows = await collected(tmp_path, larger, size=8)
    assert {len(row["drawn"]) for row in rows.panels.values()} == {8}


async def test_a_killed_collection_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        await collected(tmp_path, Panels(most=2))
    later = Panels()
    rows = await collected(tmp_path, later)
    assert [question for question, _ in later.asked] == ["q2"]
    assert len(rows.panels) == 3


async def test_a_panel_that_failed_counts_as_wrong_and_is_drawn_again(tmp_path: Path) -> None:
    rows = await collected(tmp_path, Panels(fails=frozenset({"q1"})))
    keys = panel_keys(COLLECTION)
    assert rows.panels[keys[1]]["error"] == "PolicyModelError: out of memory"
    panels = recorded_panels(rows, keys, await ScriptedRewardModel().fingerprint())
    [point] = panel_figures(panels, [PanelSpec("majority", 1)])["points"]
    assert (point["accuracy"], point["failed"]) == (2 / 3, 1)
    again = Panels()
    await collected(tmp_path, again)
    assert again.asked == [("q1", 4)]


@dataclass
class Another(ScriptedRewardModel):
    """Judge that cannot score one answer."""

    gives: float | None = None
    calls: int = 0

    async def fingerprint(self) -> str:
        return "another"

    async def score(self, query: str, candidates: Any) -> list[float]:
        self.calls += 1
        answers = [str(one["answer"]) for one in candidates]
        if "b" in answers and self.gives is None:
            raise RewardModelError("cannot read it")
        return [float("nan") if answer == "b" else 0.75 for answer in answers]


@pytest.mark.parametrize("gives", [None, float("nan")])
async def test_another_judge_judges_the_panels_that_are_there(
    tmp_path: Path, gives: float | None
) -> None:
    rows = await collected(tmp_path, Panels())
    keys, judge = panel_keys(COLLECTION), Another(gives=gives)
    log = RowLog(tmp_path / "rows.jsonl")
    await judge_panels(rows, keys, judge, log)
    [panel, *_] = recorded_panels(rows, keys, "another", calibrate=lambda raw, _: raw - 0.25)
    assert [one["reward"] for one in panel.drawn] == [0.5, None, 0.5, None]
    assert panel.calibrated
    calls = judge.calls
    await judge_panels(await asyncio.to_thread(log.load), keys, judge, log)
    assert judge.calls == calls


async def test_a_judge_that_is_down_ends_the_judging(tmp_path: Path) -> None:
    class Down(Another):
        async def score(self, query: str, candidates: Any) -> list[float]:
            raise RewardModelError("no connection", retryable=True)

    rows = await collected(tmp_path, Panels())
    log = RowLog(tmp_path / "rows.jsonl")
    with pytest.raises(RewardModelError, match="no connection"):
        await judge_panels(rows, panel_keys(COLLECTION), Down(), log)


def rewrite_votes(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for one in line.get("drawn", ()):
            one["vote"] = "of an earlier release"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


async def test_votes_are_read_anew_from_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    await collected(tmp_path, Panels())
    await asyncio.to_thread(rewrite_votes, path)
    rows = await asyncio.to_thread(RowLog(path).load)
    [panel, *_] = recorded_panels(rows, panel_keys(COLLECTION), "")
    assert [one["vote"] for one in panel.drawn] == ["a", "b", "a", "b"]


# --- calibration -------------------------------------------------------------------------------


def test_rewards_are_calibrated_on_the_other_questions() -> None:
    panels = [
        recorded(drawn("a", 0.3), drawn("b", 0.2), drawn("b", 0.2), row=str(n)) for n in range(40)
    ]
    fitted = cross_fitted_panels(panels)
    assert all(panel.calibrated for panel in fitted)
    rewards = [one["reward"] or 0.0 for one in fitted[0].drawn]
    assert rewards[0] > 0.9
    assert max(rewards[1:]) < 0.1
    # One whose own answers say the opposite is judged as the others say.
    odd = recorded(drawn("b", 0.3), drawn("a", 0.2), drawn("a", 0.2), row="odd")
    assert (cross_fitted_panels([*panels, odd])[-1].drawn[0]["reward"] or 0.0) > 0.9


def test_too_few_answers_are_not_calibrated_on() -> None:
    with pytest.raises(ConfigurationError, match="too few to calibrate on"):
        cross_fitted_panels([recorded(drawn("a", 0.3)), recorded(drawn("b", 0.2), row="2")])
