"""Policies run for real: the same questions under each, once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rttc_graph.errors import BackendError, ConfigurationError, NoAnswerError
from rttc_graph.evaluation.accuracy_plot import plot_accuracy
from rttc_graph.evaluation.collect import Collection, DataSet, collect, row_keys
from rttc_graph.evaluation.evaluation_rows import EvaluationRow, RowLog
from rttc_graph.evaluation.policy_figures import GroupFigures, real_figures
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.protocols import NewSample
from rttc_graph.samples import draw_rows
from rttc_graph.settings import PolicyName
from rttc_graph.state import Arm, Candidate
from rttc_graph.support.progress import Advance, show_nothing

ROWS = [
    NewSample(question=f"q{n}", answer=f"a{n}", domain="shop", external_id=f"id{n}")
    for n in range(4)
]
BOTH: tuple[PolicyName, ...] = ("direct", "ttt")


def candidate(answer: str, arm: Arm, *, reward: float = 0.5, trained: int = 0) -> Candidate:
    return {
        "arm": arm,
        "answer": answer,
        "reward": reward,
        "seconds": 1.0,
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "trained_tokens": trained,
        "mean_logprob": -0.1,
        "finish_reason": "stop",
        "adapter": None,
    }


def result(*candidates: Candidate, seconds: float = 2.0) -> dict[str, Any]:
    judged: dict[str, Any] = {
        "node": "reward_judge",
        "event": "judged",
        "seconds": 0.25,
        "detail": {},
    }
    return {"candidates": list(candidates), "ledger": [judged], "seconds": seconds}


@dataclass
class ScriptedAsk:
    """Answers `q1` with `a1` under `ttt` and wrongly under `direct`; counts what it was asked."""

    fails: Callable[[str, str], Exception | None] = lambda question, policy: None
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    domains: set[str | None] = field(default_factory=set[str | None])
    warm_ups: list[bool] = field(default_factory=list[bool])
    seeds: set[int] = field(default_factory=set[int])

    async def __call__(
        self, question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        self.asked.append((question, policy))
        self.domains.add(domain)
        self.warm_ups.append(warm_up)
        self.seeds.add(seed)
        if error := self.fails(question, policy):
            raise error
        if policy == "ttt":
            right = candidate(question.replace("q", "a"), "ttt", trained=100)
            return result(right, seconds=4.0)
        if policy == "cascade":
            first = candidate("wrong", "direct", reward=0.9)
            return result(first, candidate(question.replace("q", "a"), "rag", reward=0.4))
        if policy == "beam":
            grown = result(candidate("wrong", "beam"))
            grown["ledger"] += [{"node": "panel_round", "event": "judged_steps", "seconds": 0.5}]
            return grown
        if policy == "majority":
            drawn = result(candidate("wrong", "majority"))
            drawn["ledger"] += [{"node": "retrieve", "event": "retrieved", "seconds": 0.5}]
            return drawn
        return result(candidate("wrong", policy))


async def evaluate(
    ask: ScriptedAsk,
    rows: list[NewSample],
    log: Path,
    *,
    policies: tuple[PolicyName, ...] = BOTH,
    scorer: ScorerName = "auto",
    domain: str | None = None,
    seed: int = 0,
    on_progress: Advance = show_nothing,
    **settings: object,
) -> GroupFigures:
    collection = Collection(
        data_sets=[DataSet(name="shop", rows=rows)],
        model="m",
        settings={**settings, "domain": domain},
        domain=domain,
        policies=policies,
        seeds=(seed,),
        scorer=scorer,
    )
    found = await collect(collection, ask, None, RowLog(log), on_progress=on_progress)
    return real_figures(found, collection.keys(), tau_r=0.5, scorer=scorer)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "new" / "log.jsonl"


def cut_in_the_fifth_row(path: Path) -> None:
    """Leave what a kill while writing it leaves; the settings are the first line."""
    content = path.read_bytes()
    fourth = [n for n, byte in enumerate(content) if byte == ord("\n")][4]
    path.write_bytes(content[: fourth + 20])


def read_log(path: Path) -> list[EvaluationRow]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "run"]


@pytest.mark.usefixtures("no_blocking_calls")
async def test_the_figures_of_two_policies(log: Path) -> None:
    found = await evaluate(ScriptedAsk(), ROWS, log)
    assert found["rows"] == 4
    assert list(found["policies"]) == ["direct", "ttt"]
    direct, ttt = found["policies"]["direct"], found["policies"]["ttt"]
    # 0 of 4 and 4 of 4 right: z^2 / (4 + z^2) = 3.84146 / 7.84146 = 0.48989
    assert direct["accuracy"] == 0
    assert direct["interval"] == pytest.approx([0, 0.48989], abs=1e-4)
    assert ttt["accuracy"] == 1
    assert ttt["interval"] == pytest.approx([0.51011, 1], abs=1e-4)
    assert (direct["seconds_mean"], ttt["seconds_mean"]) == (2.0, 4.0)
    assert (ttt["prompt_tokens"], ttt["completion_tokens"], ttt["trained_tokens"]) == (10, 3, 100)
    assert (direct["arms"], ttt["arms"]) == ({"direct": 4}, {"ttt": 4})
    assert direct["against_cascade"] is None  # cascade was not run


async def test_a_policy_pays_for_all_arms_that_ran_and_its_own_rewards_count(log: Path) -> None:
    found = await evaluate(ScriptedAsk(), ROWS, log, policies=("ttt", "cascade"))
    cascade = found["policies"]["cascade"]
    assert cascade["accuracy"] == 0  # the first answer has the higher reward, and is wrong
    assert (cascade["prompt_tokens"], cascade["completion_tokens"]) == (20, 6)
    assert cascade["arms"] == {"direct": 4}
    assert cascade["arms_run"] == {"direct": 4, "rag": 4}
    assert (cascade["false_accepts"], cascade["false_rejects"]) == (1, 1)
    assert found["policies"]["ttt"]["against_cascade"] == [1, 1, 1]
    parts = read_log(log)[1]["seconds"]
    assert parts == {"generation": 0, "retrieval": 1.75, "training": 0, "judging": 0.25}


async def test_what_a_panel_searched_is_no_generation(log: Path) -> None:
    await evaluate(ScriptedAsk(), ROWS, log, policies=("majority",))
    parts = read_log(log)[0]["seconds"]
    assert parts == {"generation": 1.25, "retrieval": 0.5, "training": 0, "judging": 0.25}


async def test_judging_steps_is_judging(log: Path) -> None:
    await evaluate(ScriptedAsk(), ROWS, log, policies=("beam",))
    assert read_log(log)[0]["seconds"]["judging"] == 0.75


@pytest.mark.parametrize(("limit", "accepts"), [(0.0, 1), (0.5, 0)])
async def test_nothing_is_accepted_far_from_all_samples(
    log: Path, limit: float, accepts: float
) -> None:
    """No run found a sample, and the wrong answer has a reward of 0.9."""
    found = await evaluate(ScriptedAsk(), ROWS, log, policies=("cascade",), min_similarity=limit)
    assert found["policies"]["cascade"]["false_accepts"] == accepts


async def test_every_row_meets_every_policy_and_policies_take_turns(log: Path) -> None:
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, log)
    warm_up, asked = ask.asked[:2], ask.asked[2:]
    assert [policy for _, policy in warm_up] == ["direct", "ttt"]
    assert not {question for question, _ in warm_up} & {row.question for row in ROWS}
    assert ask.warm_ups == [True] * 2 + [False] * 8
    assert asked == [
        ("q0", "direct"),
        ("q0", "ttt"),
        ("q1", "ttt"),
        ("q1", "direct"),
        ("q2", "direct"),
        ("q2", "ttt"),
        ("q3", "ttt"),
        ("q3", "direct"),
    ]


@pytest.mark.parametrize(
    ("domain", "given", "expected"),
    [
        pytest.param("shop", None, "shop", id="the-row-names-one"),
        pytest.param("general", None, None, id="nobody-names-one"),
        pytest.param("shop", "bank", "bank", id="the-settings-overrule-the-row"),
        pytest.param("general", "bank", "bank", id="the-settings-fill"),
    ],
)
async def test_the_domain_that_is_asked(
    log: Path, domain: str, given: str | None, expected: str | None
) -> None:
    ask = ScriptedAsk()
    rows = [NewSample(question="q", answer="a", domain=domain)]
    await evaluate(ask, rows, log, seed=7, domain=given)
    assert ask.domains == {expected}
    assert ask.seeds == {7}


async def test_a_finished_evaluation_asks_nothing(log: Path) -> None:
    first = await evaluate(ScriptedAsk(), ROWS, log)
    again = ScriptedAsk()
    assert await evaluate(again, ROWS, log) == first
    assert again.asked == []


async def test_a_killed_evaluation_goes_on_behind_its_last_whole_row(log: Path) -> None:
    whole = await evaluate(ScriptedAsk(), ROWS, log)
    cut_in_the_fifth_row(log)

    ask = ScriptedAsk()
    assert await evaluate(ask, ROWS, log) == whole
    asked = ask.asked[2:]  # behind the warm-up
    assert sorted(asked) == [("q2", "direct"), ("q2", "ttt"), ("q3", "direct"), ("q3", "ttt")]
    assert len(read_log(log)) == 8


async def test_a_cancelled_evaluation_keeps_what_was_finished(log: Path) -> None:
    reached = asyncio.Event()

    def fail(question: str, policy: str) -> Exception | None:
        if (question, policy) == ("q1", "direct"):
            reached.set()
            raise asyncio.CancelledError
        return None

    with pytest.raises(asyncio.CancelledError):
        await evaluate(ScriptedAsk(fails=fail), ROWS, log)
    assert reached.is_set()
    assert [(r["id"], r["policy"]) for r in read_log(log)] == [
        ("id0", "direct"),
        ("id0", "ttt"),
        ("id1", "ttt"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"domain": "bank"}, id="domain"),
        pytest.param({"tau_r": 0.5}, id="settings-of-the-run"),
    ],
)
async def test_other_settings_ask_anew(log: Path, changes: dict[str, Any]) -> None:
    await evaluate(ScriptedAsk(), ROWS, log)
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, log, **changes)
    assert len(ask.asked) == 2 + 8
    # and the rows of the first are still good
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, log)
    assert ask.asked == []


async def test_another_scorer_scores_kept_answers_anew(log: Path) -> None:
    rows = [NewSample(question="q5", answer="the number a5 5", domain="d")]
    exact = await evaluate(ScriptedAsk(), rows, log)
    ask = ScriptedAsk()
    number = await evaluate(ask, rows, log, scorer="number")
    assert (exact["policies"]["ttt"]["accuracy"], ask.asked) == (0, [])
    assert number["policies"]["ttt"]["accuracy"] == 1


async def test_more_policies_and_rows_ask_only_what_is_new(log: Path) -> None:
    await evaluate(ScriptedAsk(), ROWS[:2], log)
    ask = ScriptedAsk()
    found = await evaluate(ask, ROWS, log, policies=(*BOTH, "rag"))
    # one warm-up for each policy, then two new rows twice and four rows under the new policy
    assert len(ask.asked) == 3 + 2 * 2 + 4
    assert found["rows"] == 4


async def test_a_failed_row_is_wrong_is_reported_and_is_tried_again(log: Path) -> None:
    def fail(question: str, policy: str) -> Exception | None:
        return NoAnswerError("all arms failed") if (question, policy) == ("q1", "ttt") else None

    found = await evaluate(ScriptedAsk(fails=fail), ROWS, log)
    ttt = found["policies"]["ttt"]
    assert (ttt["accuracy"], ttt["failed"], ttt["arms"]) == (0.75, 1, {"ttt": 3})
    errors = [r["error"] for r in read_log(log) if r["error"]]
    assert errors == ["NoAnswerError: all arms failed"]

    ask = ScriptedAsk()
    healed = await evaluate(ask, ROWS, log)
    assert (healed["policies"]["ttt"]["accuracy"], healed["policies"]["ttt"]["failed"]) == (1, 0)
    assert ask.asked[1:] == [("q1", "ttt")]  # behind the warm-up


async def test_an_evaluation_in_which_everything_fails_still_ends(log: Path) -> None:
    def fail(question: str, policy: str) -> Exception | None:
        return BackendError(f"{question} {policy}")

    found = await evaluate(ScriptedAsk(fails=fail), ROWS, log)
    assert [p["failed"] for p in found["policies"].values()] == [4, 4]
    assert [p["accuracy"] for p in found["policies"].values()] == [0, 0]


async def test_a_mistake_of_the_caller_ends_the_evaluation(log: Path) -> None:
    def fail(question: str, policy: str) -> Exception | None:
        return ConfigurationError("no trainer") if (question, policy) == ("q1", "ttt") else None

    with pytest.raises(ConfigurationError, match="no trainer"):
        await evaluate(ScriptedAsk(fails=fail), ROWS, log)


async def test_progress_counts_what_was_there_and_what_is_new(log: Path) -> None:
    await evaluate(ScriptedAsk(), ROWS[:3], log)
    seen: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        seen.append((done, total))

    await evaluate(ScriptedAsk(), ROWS, log, on_progress=show)
    assert seen == [(6, 8), (7, 8), (8, 8)]


async def test_equal_rows_are_asked_each_for_itself(log: Path) -> None:
    twice = [ROWS[0], ROWS[0]]
    assert len(set(row_keys(twice))) == 2
    found = await evaluate(ScriptedAsk(), twice, log)
    assert found["rows"] == 2


async def test_the_file_says_what_was_right(log: Path) -> None:
    await evaluate(ScriptedAsk(), ROWS[:1], log)
    assert [(r["policy"], r["right"]) for r in read_log(log)] == [("direct", False), ("ttt", True)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"question": "q", "answer": "a"}\n', id="samples"),
        pytest.param("hello\n", id="text"),
        pytest.param("[1]\n", id="a-list"),
    ],
)
async def test_a_log_that_is_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(content)
    with pytest.raises(ConfigurationError, match="not a file of evaluation rows"):
        await evaluate(ScriptedAsk(), ROWS, log)
    assert log.read_text() == content


async def test_records_of_an_earlier_release_are_named_and_left_alone(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "digest": "d",
        "row": "r",
        "id": None,
        "policy": "cascade",
        "right": True,
        "answer": "a",
        "arm": "direct",
        "reward": 0.5,
        "seconds": 1.0,
        "candidates": [],
    }
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(record) + "\n")
    with pytest.raises(ConfigurationError, match=r"rttc eval --real of an earlier release.* name"):
        await evaluate(ScriptedAsk(), ROWS, log)
    assert json.loads(log.read_text()) == record


async def test_no_rows_are_refused(log: Path) -> None:
    with pytest.raises(ConfigurationError, match="no rows"):
        await evaluate(ScriptedAsk(), [], log)


async def test_a_reference_that_does_not_fit_is_found_before_any_question(log: Path) -> None:
    ask = ScriptedAsk()
    rows = [NewSample(question="q", answer="none", domain="d")]
    with pytest.raises(ConfigurationError, match="needs a number"):
        await evaluate(ask, rows, log, scorer="number")
    assert ask.asked == []


@pytest.mark.parametrize(
    "policies", [pytest.param((), id="none"), pytest.param(("rag", "rag"), id="one-twice")]
)
async def test_policies_must_be_distinct(log: Path, policies: tuple[PolicyName, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one, each once"):
        await evaluate(ScriptedAsk(), ROWS, log, policies=policies)


def test_rows_are_drawn_by_seed_in_the_order_of_the_file() -> None:
    rows = [NewSample(question=str(n), answer="a", domain="d") for n in range(50)]
    drawn = draw_rows(rows, limit=10, seed=3)
    assert drawn == draw_rows(rows, limit=10, seed=3) != draw_rows(rows, limit=10, seed=4)
    numbers = [int(row.question) for row in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert draw_rows(rows, limit=None, seed=3) == draw_rows(rows, limit=90, seed=3) == rows
    with pytest.raises(ConfigurationError, match="limit=0"):
        draw_rows(rows, limit=0, seed=3)


async def test_a_plot_is_a_png_of_readable_size(log: Path, tmp_path: Path) -> None:
    found = await evaluate(ScriptedAsk(), ROWS, log, policies=("direct", "cascade"))
    path = tmp_path / "plots" / "p.png"
    title = "data and model"
    await asyncio.to_thread(plot_accuracy, found["policies"], path, rows=found["rows"], title=title)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert width >= 800
    assert height >= 500
