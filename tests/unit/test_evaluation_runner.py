"""The same rows under every policy, each asked once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rttc_graph.errors import BackendError, ConfigurationError, NoAnswerError
from rttc_graph.evaluation.accuracy_plot import plot_accuracy
from rttc_graph.evaluation.records import Record
from rttc_graph.evaluation.runner import (
    EvaluationProgress,
    EvaluationSettings,
    choose_rows,
    evaluate,
    row_keys,
)
from rttc_graph.evaluation.summary import summarise
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName
from rttc_graph.state import Arm

ROWS = [
    NewSample(question=f"q{n}", answer=f"a{n}", domain="shop", external_id=f"id{n}")
    for n in range(4)
]
BOTH: tuple[PolicyName, ...] = ("direct", "ttt")
ARMS: dict[str, Arm] = {"direct": "direct", "rag": "rag", "ttt": "ttt"}


def result(answer: str, arm: Arm, *, seconds: float = 2.0, trained: int = 0) -> dict[str, Any]:
    candidate = {
        "arm": arm,
        "answer": answer,
        "reward": 0.5,
        "seconds": seconds,
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "trained_tokens": trained,
    }
    return {
        "answer": answer,
        "arm": arm,
        "reward": 0.5,
        "candidates": [candidate],
        "ledger": [],
        "cache": {"samples": "miss", "adapter": "miss"},
        "seconds": seconds,
    }


@dataclass
class ScriptedAsk:
    """Answers `q1` with `a1` under `ttt` and wrongly under `direct`; counts what it was asked."""

    fails: Callable[[str, str], Exception | None] = lambda question, policy: None
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    domains: set[str | None] = field(default_factory=set[str | None])
    caches: list[bool] = field(default_factory=list[bool])
    seeds: set[int] = field(default_factory=set[int])

    async def __call__(
        self, question: str, *, domain: str | None, policy: PolicyName, seed: int, use_cache: bool
    ) -> Mapping[str, Any]:
        self.asked.append((question, policy))
        self.domains.add(domain)
        self.caches.append(use_cache)
        self.seeds.add(seed)
        if error := self.fails(question, policy):
            raise error
        if policy == "ttt":
            return result(question.replace("q", "a"), "ttt", seconds=4.0, trained=100)
        return result("wrong", ARMS[policy])


def settings(**changes: Any) -> EvaluationSettings:
    return replace(EvaluationSettings(policies=BOTH), **changes)


def read_log(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("no_blocking_calls")
async def test_the_figures_of_two_policies(tmp_path: Path) -> None:
    found = await evaluate(ScriptedAsk(), ROWS, settings(), log=tmp_path / "new" / "log.jsonl")
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


async def test_every_row_meets_every_policy_and_policies_take_turns(tmp_path: Path) -> None:
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, settings(), log=tmp_path / "log.jsonl")
    warm_up, asked = ask.asked[:2], ask.asked[2:]
    assert warm_up == [("q0", "direct"), ("q0", "ttt")]
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


async def test_the_cache_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    cold, warm = ScriptedAsk(), ScriptedAsk()
    await evaluate(cold, ROWS, settings(), log=tmp_path / "log.jsonl")
    await evaluate(warm, ROWS, settings(use_cache=True), log=tmp_path / "log.jsonl")
    assert not any(cold.caches)
    # The warm-up must not leave anything in the cache either.
    assert warm.caches == [False] * 2 + [True] * 8


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
    tmp_path: Path, domain: str, given: str | None, expected: str | None
) -> None:
    ask = ScriptedAsk()
    rows = [NewSample(question="q", answer="a", domain=domain)]
    await evaluate(ask, rows, settings(seed=7, domain=given), log=tmp_path / "log.jsonl")
    assert ask.domains == {expected}
    assert ask.seeds == {7}


async def test_a_finished_evaluation_asks_nothing(tmp_path: Path) -> None:
    first = await evaluate(ScriptedAsk(), ROWS, settings(), log=tmp_path / "log.jsonl")
    again = ScriptedAsk()
    assert await evaluate(again, ROWS, settings(), log=tmp_path / "log.jsonl") == first
    assert again.asked == []


async def test_a_killed_evaluation_goes_on_behind_its_last_whole_record(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    whole = await evaluate(ScriptedAsk(), ROWS, settings(), log=log)
    content = log.read_bytes()
    fourth = [n for n, byte in enumerate(content) if byte == ord("\n")][3]
    log.write_bytes(content[: fourth + 20])  # as if killed while writing the fifth record

    ask = ScriptedAsk()
    assert await evaluate(ask, ROWS, settings(), log=log) == whole
    asked = [step for step in ask.asked if step[0] in {"q2", "q3"}]
    assert sorted(set(asked)) == [("q2", "direct"), ("q2", "ttt"), ("q3", "direct"), ("q3", "ttt")]
    assert {question for question, _ in ask.asked} == {"q2", "q3"}
    assert len(read_log(log)) == 8


async def test_a_cancelled_evaluation_keeps_what_was_finished(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    reached = asyncio.Event()

    def fail(question: str, policy: str) -> Exception | None:
        if (question, policy) == ("q1", "direct"):
            reached.set()
            raise asyncio.CancelledError
        return None

    with pytest.raises(asyncio.CancelledError):
        await evaluate(ScriptedAsk(fails=fail), ROWS, settings(), log=log)
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
        pytest.param({"use_cache": True}, id="cache"),
        pytest.param({"domain": "bank"}, id="domain"),
        pytest.param({"details": {"tau_r": 0.5}}, id="settings-of-the-run"),
    ],
)
async def test_other_settings_ask_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    log = tmp_path / "log.jsonl"
    await evaluate(ScriptedAsk(), ROWS, settings(), log=log)
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, settings(**changes), log=log)
    assert len(ask.asked) == 2 + 8
    # and the records of the first are still good
    ask = ScriptedAsk()
    await evaluate(ask, ROWS, settings(), log=log)
    assert ask.asked == []


async def test_another_scorer_scores_kept_answers_anew(tmp_path: Path) -> None:
    rows = [NewSample(question="q5", answer="the number a5 5", domain="d")]
    log = tmp_path / "log.jsonl"
    exact = await evaluate(ScriptedAsk(), rows, settings(), log=log)
    ask = ScriptedAsk()
    number = await evaluate(ask, rows, settings(scorer="number"), log=log)
    assert (exact["policies"]["ttt"]["accuracy"], ask.asked) == (0, [])
    assert number["policies"]["ttt"]["accuracy"] == 1


async def test_more_policies_and_rows_ask_only_what_is_new(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    await evaluate(ScriptedAsk(), ROWS[:2], settings(), log=log)
    ask = ScriptedAsk()
    found = await evaluate(ask, ROWS, settings(policies=(*BOTH, "rag")), log=log)
    # one warm-up for each policy, then two new rows twice and four rows under the new policy
    assert len(ask.asked) == 3 + 2 * 2 + 4
    assert found["rows"] == 4


async def test_a_failed_row_is_wrong_is_reported_and_is_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    def fail(question: str, policy: str) -> Exception | None:
        return NoAnswerError("all arms failed") if (question, policy) == ("q1", "ttt") else None

    found = await evaluate(ScriptedAsk(fails=fail), ROWS, settings(), log=log)
    ttt = found["policies"]["ttt"]
    assert (ttt["accuracy"], ttt["failed"], ttt["arms"]) == (0.75, 1, {"ttt": 3})
    errors = [r.get("error") for r in read_log(log) if "error" in r]
    assert errors == ["NoAnswerError: all arms failed"]

    ask = ScriptedAsk()
    healed = await evaluate(ask, ROWS, settings(), log=log)
    assert (healed["policies"]["ttt"]["accuracy"], healed["policies"]["ttt"]["failed"]) == (1, 0)
    assert set(ask.asked) == {("q1", "ttt")}


async def test_an_evaluation_in_which_everything_fails_still_ends(tmp_path: Path) -> None:
    def fail(question: str, policy: str) -> Exception | None:
        return BackendError(f"{question} {policy}")

    found = await evaluate(ScriptedAsk(fails=fail), ROWS, settings(), log=tmp_path / "log.jsonl")
    assert [p["failed"] for p in found["policies"].values()] == [4, 4]
    assert [p["accuracy"] for p in found["policies"].values()] == [0, 0]


async def test_a_mistake_of_the_caller_ends_the_evaluation(tmp_path: Path) -> None:
    def fail(question: str, policy: str) -> Exception | None:
        return ConfigurationError("no trainer") if (question, policy) == ("q1", "ttt") else None

    with pytest.raises(ConfigurationError, match="no trainer"):
        await evaluate(ScriptedAsk(fails=fail), ROWS, settings(), log=tmp_path / "log.jsonl")


async def test_progress_counts_what_was_there_and_what_is_new(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    await evaluate(ScriptedAsk(), ROWS[:3], settings(), log=log)
    seen: list[EvaluationProgress] = []
    await evaluate(ScriptedAsk(), ROWS, settings(), log=log, on_progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(6, 8), (7, 8), (8, 8)]
    assert seen[0].latest is None
    assert [p.latest["policy"] for p in seen if p.latest] == ["ttt", "direct"]


async def test_equal_rows_are_asked_each_for_itself(tmp_path: Path) -> None:
    twice = [ROWS[0], ROWS[0]]
    assert len(set(row_keys(twice))) == 2
    found = await evaluate(ScriptedAsk(), twice, settings(), log=tmp_path / "log.jsonl")
    assert found["rows"] == 2


async def test_candidates_are_judged_one_by_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    await evaluate(ScriptedAsk(), ROWS[:1], settings(), log=log)
    assert [(r["right"], r["candidates"][0]["right"]) for r in read_log(log)] == [
        (False, False),
        (True, True),
    ]


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
    with pytest.raises(ConfigurationError, match="not a file of evaluation records"):
        await evaluate(ScriptedAsk(), ROWS, settings(), log=log)
    assert log.read_text() == content


async def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no rows"):
        await evaluate(ScriptedAsk(), [], settings(), log=tmp_path / "log.jsonl")


async def test_a_reference_that_does_not_fit_is_found_before_any_question(tmp_path: Path) -> None:
    ask = ScriptedAsk()
    with pytest.raises(ConfigurationError, match="needs a number"):
        await evaluate(
            ask,
            [NewSample(question="q", answer="none", domain="d")],
            settings(scorer="number"),
            log=tmp_path / "log.jsonl",
        )
    assert ask.asked == []


@pytest.mark.parametrize(
    "policies", [pytest.param((), id="none"), pytest.param(("rag", "rag"), id="one-twice")]
)
def test_policies_must_be_distinct(policies: tuple[PolicyName, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one, each once"):
        EvaluationSettings(policies=policies)


def test_rows_are_drawn_by_seed_in_the_order_of_the_file() -> None:
    rows = [NewSample(question=str(n), answer="a", domain="d") for n in range(50)]
    drawn = choose_rows(rows, limit=10, seed=3)
    assert drawn == choose_rows(rows, limit=10, seed=3) != choose_rows(rows, limit=10, seed=4)
    numbers = [int(row.question) for row in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert choose_rows(rows, limit=None, seed=3) == choose_rows(rows, limit=90, seed=3) == rows
    with pytest.raises(ConfigurationError, match="limit=0"):
        choose_rows(rows, limit=0, seed=3)


def record(row: str, *, right: bool, arms: tuple[Arm, ...], seconds: float) -> Record:
    return {
        "digest": "d",
        "row": row,
        "id": None,
        "policy": "cascade",
        "right": right,
        "answer": "a",
        "arm": arms[-1],
        "reward": 0.5,
        "seconds": seconds,
        "candidates": [
            {
                "arm": arm,
                "answer": "a",
                "reward": 0.5,
                "right": right,
                "seconds": seconds,
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "trained_tokens": 90 if arm == "ttt" else 0,
            }
            for arm in arms
        ],
    }


def test_a_policy_pays_for_all_arms_that_ran() -> None:
    records = [
        record("1", right=True, arms=("direct",), seconds=1.0),
        record("2", right=False, arms=("direct", "rag", "ttt"), seconds=8.0),
        record("3", right=True, arms=("direct", "rag"), seconds=3.0),
    ]
    figures = summarise(records, ["cascade", "direct"])["policies"]
    assert list(figures) == ["cascade"]
    cascade = figures["cascade"]
    assert cascade["accuracy"] == pytest.approx(2 / 3)
    assert cascade["seconds_mean"] == pytest.approx(4.0)
    # six candidates with 10 and 2 tokens each over three questions, and one training
    assert (cascade["prompt_tokens"], cascade["completion_tokens"]) == (20, 4)
    assert cascade["trained_tokens"] == 30
    assert cascade["arms"] == {"direct": 1, "ttt": 1, "rag": 1}
    assert cascade["arms_run"] == {"direct": 3, "rag": 2, "ttt": 1}


def test_a_plot_is_a_png_of_readable_size(tmp_path: Path) -> None:
    figures = summarise(
        [
            record("1", right=True, arms=("direct",), seconds=1.0),
            record("2", right=False, arms=("direct", "ttt"), seconds=8.0),
        ],
        ["cascade"],
    )
    path = tmp_path / "plots" / "p.png"
    plot_accuracy(figures["policies"], path, rows=figures["rows"], title="data and model")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert width >= 800
    assert height >= 500
