"""A further arm is one record and one node: everything else takes it up from the table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from graph_runs import QUERY, ask, run
from installations import Installation
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.arms import ARMS, ArmNode, ArmRecord, AttemptRecord, register_arm, unregister_arm
from rttc_graph.cli.app import main
from rttc_graph.run.answering import AnswerUpdate, answered
from rttc_graph.run.scope import RunScope
from rttc_graph.state import Candidate, RttcState

TOLD = "what is 7 plus 7"


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSample:
    """Answers with the text of the nearest sample."""

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        nearest = state["samples"][0]
        candidate: Candidate = {
            "arm": "told",
            "answer": nearest["answer"],
            "reward": None,
            "seconds": 0.0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "trained_tokens": 0,
            "mean_logprob": math.log(max(nearest["similarity"], 0.01)),
            "finish_reason": "stop",
            "adapter": None,
        }
        return answered(candidate, state, scope, node="tell_sample", attempt="told")


def told(*, in_cascade: bool = False) -> ArmRecord:
    return ArmRecord(
        name="told",
        attempts=(
            AttemptRecord(
                name="told",
                cost=7,
                node=ArmNode(name="tell_sample", made_by=TellSample),
                reason="the nearest sample's answer is told",
                parts=frozenset({"embedder", "knowledge_base"}),
                finds="samples",
            ),
        ),
        in_cascade=in_cascade,
        may_begin=in_cascade,
    )


@pytest.fixture
def toy_arm() -> Iterator[None]:
    register_arm(told())
    yield
    unregister_arm("told")


@pytest.fixture
def toy_arm_in_cascade() -> Iterator[None]:
    register_arm(told(in_cascade=True))
    yield
    unregister_arm("told")


@pytest.mark.usefixtures("toy_arm")
async def test_the_graph_and_the_ledger_take_it_up() -> None:
    parts = Parts().rewarding(**{"answer 1": 0.95})
    output = await ask(parts, policy="told")
    assert (output["answer"], output["arm"], output["reward"]) == ("answer 1", "told", 0.95)
    assert parts.policy_model.requests == []
    (stored,) = parts.ledger_store.runs
    assert (stored.arm, stored.policy, stored.accepted) == ("told", "told", True)
    (told,) = [one for one in stored.entries if one["event"] == "answered"]
    assert (told["node"], told["detail"]["arm"]) == ("tell_sample", "told")
    schema = create_rttc_graph(**parts.parts()).get_output_jsonschema()
    assert schema["properties"]["arm"]["enum"] == list(ARMS)
    assert list(ARMS)[:3] == ["nearest", "told", "direct"]


@pytest.mark.usefixtures("toy_arm")
async def test_cascade_leaves_it_out_unless_its_record_says_so() -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.1, ttt=0.1)
    output = await ask(parts, policy="cascade")
    assert [c["arm"] for c in output["candidates"]] == ["direct", "rag", "ttt"]


@pytest.mark.usefixtures("toy_arm")
async def test_without_a_sample_the_plain_model_answers() -> None:
    parts = Parts().rewarding(direct=0.3)
    parts.knowledge_base.samples = []
    assert (await ask(parts, policy="told"))["arm"] == "direct"


@pytest.mark.usefixtures("toy_arm_in_cascade")
@pytest.mark.parametrize(
    ("first_arm", "ran"),
    [
        ("told", ["told", "direct", "rag", "ttt"]),
        ("direct", ["direct", "rag", "ttt"]),
        ("rag", ["rag", "ttt"]),
    ],
)
async def test_a_record_says_its_place_in_the_cascade(first_arm: str, ran: list[str]) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.1, ttt=0.1)
    output = await ask(parts, policy="cascade", first_arm=first_arm)
    assert [c["arm"] for c in output["candidates"]] == ran


@pytest.mark.usefixtures("toy_arm")
async def test_accepting_instead_of_a_training_ends_a_run_that_could_try_it() -> None:
    parts = Parts().rewarding(direct=0.2, rag=0.4)
    graph = create_rttc_graph(**parts.parts(), checkpointer=InMemorySaver())
    context = RttcSettings(tau_r=0.9, ask_before_training=True)
    await run(graph, {"query": QUERY}, context=context, thread="1")
    resumed: Any = Command(resume={"choice": "accept"})
    output = await run(graph, resumed, context=context, thread="1")
    assert [c["arm"] for c in output["candidates"]] == ["direct", "rag"]
    ended = await graph.aget_state({"configurable": {"thread_id": "1"}})
    assert ended.next == ()
    assert set(ended.values["tried"]) == set(ARMS.attempts)
    assert parts.trainer.trainings == []


@pytest.mark.usefixtures("toy_arm")
def test_commands_take_it_up_on_a_real_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: Installation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sums"
    folder.mkdir()
    # The vote of the nearest arm goes to the wrong answer: of two right arms, the oracle takes the
    # faster one.
    monkeypatch.setenv("RTTC_NEAREST_VOTES", "8")
    samples = [
        {"question": f"what is {n} plus {n}", "answer": "14" if n == 7 else "0", "domain": "sums"}
        for n in range(8)
    ]
    questions = [{"question": TOLD, "answer": "14", "domain": "sums"}]
    for name, rows in (("samples", samples), ("questions", questions)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def call(*arguments: str) -> Any:
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    old = ("eval", str(folder), "--records", "rows.jsonl", "--tau", "1", "--json", "-")
    assert "told" not in call(*old)["policies"]
    kept = Path("rows.jsonl").read_text(encoding="utf-8")
    named = ("--policies", "direct,rag,ttt,told,cascade")
    rejudged = ("eval", "--rejudge", "--records", "rows.jsonl", "--json", "-")
    assert main([*rejudged, *named]) == 2
    assert "'told' has no rows of its arm for 1 of 1" in capsys.readouterr().err

    replayed = call(*old, *named)["policies"]
    assert Path("rows.jsonl").read_text(encoding="utf-8").startswith(kept)  # only its rows are new
    assert replayed["told"]["arms"] == replayed["told"]["arms_run"] == {"told": 1}
    assert replayed["told"]["accuracy"] == 1
    assert replayed["told"]["completion_tokens"] == 0
    assert replayed["oracle"]["arms"] == {"told": 1}
    assert call(*rejudged, *named)["policies"]["told"] == replayed["told"]

    asked = call("ask", TOLD, "--domain", "sums", "--policy", "told", "--json")
    assert (asked["arm"], asked["answer"]) == ("told", "14")
    call("ask", TOLD, "--domain", "sums", "--policy", "direct", "--json")
    found = call("stats", "--json")
    assert [(one["arm"], one["runs"]) for one in found["arms"]] == [("told", 1), ("direct", 1)]
    assert [(one["domain"], one["arm"]) for one in found["rows"]].count(("sums", "told")) == 1
    assert main(["stats"]) == 0
    assert "told" in capsys.readouterr().out


async def test_nothing_is_left_of_it() -> None:
    assert (await ask(Parts().rewarding(direct=1.0)))["arm"] == "direct"
    with pytest.raises(ValueError, match="policy='told'"):
        RttcSettings(policy="told")
