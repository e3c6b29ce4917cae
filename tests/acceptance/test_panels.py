"""Panels in the graph: rounds with a checkpoint each, judged, bounded, and never lost."""

from __future__ import annotations

import asyncio
import json
import runpy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from graph_runs import QUERY, Face, ask, ask_in_pieces, events, failures, run, until
from installations import REPOSITORY, Installation
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from scripted_parts import Parts, ScriptedPolicyModel, ScriptedRewardModel, recalling, sample

from rttc_graph import (
    ConfigurationError,
    NoAnswerError,
    PolicyModelError,
    RewardModelError,
    RttcSettings,
)
from rttc_graph.arms import unregister_arm
from rttc_graph.cli.app import main
from rttc_graph.graph import RttcParts, create_rttc_graph
from rttc_graph.installation.ask_question import describe_event
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    OptionProbabilities,
    OptionsRequest,
    RewardRequest,
)
from rttc_graph.search.majority import Majority
from rttc_graph.search.panel import MAX_TEXT_CHARACTERS, Panel
from rttc_graph.search.strategies import register_strategy
from rttc_graph.search.strategy import Choice, Proposal

PANELS = ("adaptive", "majority", "weighted", "best_of_n", "refine", "revise")


@dataclass
class DrawingModel(ScriptedPolicyModel):
    """Answers draw after draw with a word of `says`, over and over; one call is one batch."""

    says: Sequence[str] = ("a",)
    calls: list[Sequence[GenerationRequest]] = field(
        default_factory=list[Sequence[GenerationRequest]]
    )
    fails_from_call: int | None = None
    asked: int = 0

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.calls.append(requests)
        if self.fails_from_call is not None and len(self.calls) >= self.fails_from_call:
            raise PolicyModelError("out of memory")
        made = await super().generate(requests, deadline=deadline)
        said = [self.says[(self.asked + n) % len(self.says)] for n in range(len(made))]
        self.asked += len(made)
        return [replace(one, text=text) for one, text in zip(made, said, strict=True)]


@dataclass
class PanelParts(Parts):
    policy_model: DrawingModel = field(default_factory=DrawingModel)  # pyright: ignore[reportIncompatibleVariableOverride]


def drawing(*says: str, **rewards: float) -> PanelParts:
    parts = PanelParts(policy_model=DrawingModel(says=says))
    parts.reward_model.rewards = rewards
    return parts


def entry(output: dict[str, Any], event: str) -> dict[str, Any]:
    """Return the detail of the only ledger entry of its kind."""
    [found] = [one["detail"] for one in output["ledger"] if one["event"] == event]
    return dict(found)


@pytest.mark.parametrize(
    ("policy", "answer", "votes"),
    [("majority", "b", 4), ("best_of_n", "c", 2), ("weighted", "c", 2), ("adaptive", "b", 4)],
)
async def test_a_policy_draws_votes_and_keeps(
    policy: str, answer: str, votes: int, face: Face
) -> None:
    parts = drawing("a", "b", "c", "b", a=0.1, b=0.02, c=0.8)
    output = await ask(parts, face, policy=policy, search_n=8)
    assert (output["answer"], output["arm"]) == (answer, policy)
    [candidate] = output["candidates"]
    assert candidate["completion_tokens"] == 8
    assert candidate["prompt_tokens"] == sum(
        [await parts.policy_model.count_tokens(r.messages) for r in parts.policy_model.requests]
    )
    assert entry(output, "answered")["votes"] == votes
    stopped = entry(output, "stopped")
    assert (stopped["draws"], stopped["answers"]) == ({"direct": 4, "rag": 4}, 3)
    assert stopped["reason"] == "all 8 answers are drawn"
    shown = {one["answer"]: (one["votes"], one["kept"]) for one in stopped["standings"]}
    assert shown == {
        said: (times, said == answer) for said, times in {"b": 4, "a": 2, "c": 2}.items()
    }
    assert [one["votes"] for one in stopped["standings"]] == [4, 2, 2]
    decided = entry(output, "decided")
    assert (decided["arm"], decided["decision"]) == (policy, "finish")
    assert "attempt" not in decided  # nothing is tried any more
    [stored] = parts.ledger_store.runs
    assert (stored.arm, stored.policy) == (policy, policy)
    assert stored.tokens == candidate["prompt_tokens"] + candidate["completion_tokens"]


async def test_all_answers_of_a_round_come_from_one_call_and_one_judgement() -> None:
    parts = drawing("a", "b")
    output = await ask(parts, policy="majority", search_n=6, search_temperature=0.5, seed=3)
    [requests] = parts.policy_model.calls
    assert [r.temperature for r in requests] == [0.0] + [0.5] * 5
    assert requests[0].seed == 3
    assert len({r.seed for r in requests}) == 6
    assert events(output, of="panel_round") == ["drawn", "judged", "stopped", "answered"]
    assert len(entry(output, "judged")["rewards"]) == 6
    again = drawing("a", "b")
    await ask(again, policy="majority", search_n=6, search_temperature=0.5, seed=3)
    assert again.policy_model.calls == parts.policy_model.calls
    other = drawing("a", "b")
    await ask(other, policy="majority", search_n=6, search_temperature=0.5, seed=4)
    assert not {r.seed for r in other.policy_model.requests} & {r.seed for r in requests}


async def test_questions_with_one_seed_are_drawn_independently() -> None:
    """Else draw 2 of each question takes the same place in its distribution, and they err alike."""
    settings, drawn = RttcSettings(policy="majority", search_n=6, seed=3), list[set[int | None]]()
    for question in ("what is one and one", "what is one and two"):
        parts = drawing("a", "b")
        graph = create_rttc_graph(**parts.parts())
        await run(graph, {"query": question, "domain": None}, "ainvoke", context=settings)
        [requests] = parts.policy_model.calls
        drawn.append({r.seed for r in requests if r.temperature})
    assert not drawn[0] & drawn[1]


@pytest.mark.parametrize("policy", PANELS)
async def test_a_panel_of_one_asks_what_the_plain_model_is_asked(policy: str) -> None:
    panel, plain = drawing("a"), drawing("a")
    output = await ask(panel, policy=policy, search_n=1)
    expected = await ask(plain, policy="direct")
    assert panel.policy_model.requests == plain.policy_model.requests
    assert output["answer"] == expected["answer"]
    assert panel.embedder.texts == []  # nothing is looked up for it


@pytest.mark.parametrize("policy", PANELS)
async def test_a_panel_of_one_is_the_plain_answer_bit_for_bit(
    policy: str, tiny_engine: LocalEngine
) -> None:
    made: list[dict[str, Any]] = []
    for name in (policy, "direct"):
        parts: RttcParts = {
            "policy_model": TransformersPolicyModel(tiny_engine),
            "reward_model": ScriptedRewardModel(),
        }
        output = await ask(parts, policy=name, search_n=1, max_new_tokens=24)
        [candidate] = output["candidates"]
        made.append({k: v for k, v in candidate.items() if k not in ("arm", "seconds", "draws")})
    assert made[0] == made[1]
    assert len(made[0]["answer"]) > 5


async def test_a_real_model_draws_the_same_panel_again(tiny_engine: LocalEngine) -> None:
    parts: RttcParts = {
        **Parts().parts(),
        "policy_model": TransformersPolicyModel(tiny_engine),
    }
    made = [
        await ask(parts, policy="best_of_n", search_n=4, max_new_tokens=12, search_temperature=1.5)
        for _ in range(2)
    ]
    assert made[0]["answer"] == made[1]["answer"]
    assert entry(made[0], "stopped")["draws"] == {"direct": 2, "rag": 2}


async def test_draws_with_samples_see_other_samples_each() -> None:
    parts = drawing("a")
    parts.knowledge_base.samples = [sample(n) for n in range(8)]
    output = await ask(parts, policy="majority", search_n=6, search_from="rag")
    prompts = [
        [turn["content"] for turn in r.messages if turn["content"].startswith("question")]
        for r in parts.policy_model.requests
    ]
    assert prompts[0] == [f"question {n}" for n in reversed(range(8))]  # as the arm rag
    assert len({tuple(prompt) for prompt in prompts}) == 6
    assert all(4 <= len(prompt) <= 8 for prompt in prompts)
    assert [s["id"] for s in output["sources"]] == [sample(n)["id"] for n in range(8)]


async def test_samples_that_several_draws_begin_with_are_read_once(tiny_model_path: Path) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, prefix_cache_bytes=2**24)
    try:
        parts = Parts()
        parts.knowledge_base.samples = [sample(n) for n in range(8)]
        real: RttcParts = {**parts.parts(), "policy_model": TransformersPolicyModel(engine)}
        output = await ask(real, policy="majority", search_n=6, search_from="rag", max_new_tokens=2)
    finally:
        engine.close()
    drawn = entry(output, "drawn")
    assert drawn["reused_tokens"] > drawn["prompt_tokens"] / 2


async def test_an_adapter_is_drawn_with_only_if_one_is_in_hand() -> None:
    parts = drawing("a")
    await ask(parts, policy="majority", search_n=6)
    assert {r.adapter for r in parts.policy_model.requests} == {None}
    parts = drawing("a", a=0.5)
    parts.cache.recalled = recalling(adapter="key")
    parts.trainer.resident.add("key")
    output = await ask(parts, policy="majority", search_n=6, search_from="recalled,rag,direct")
    assert [r.adapter for r in parts.policy_model.requests] == ["key", None, None] * 2
    assert output["candidates"][0]["adapter"] == "key"
    assert entry(output, "stopped")["draws"] == {"recalled": 2, "rag": 2, "direct": 2}


async def test_without_samples_there_is_a_panel_of_the_plain_model() -> None:
    parts = drawing("a")
    parts.knowledge_base.samples = []
    output = await ask(parts, policy="majority", search_n=4)
    assert entry(output, "stopped")["draws"] == {"direct": 4}


async def test_a_graph_that_retrieves_nothing_has_panels_too() -> None:
    model = DrawingModel(says=("a",))
    parts: RttcParts = {"policy_model": model, "reward_model": ScriptedRewardModel()}
    output = await ask(parts, policy="adaptive", search_n=16)
    assert (output["answer"], entry(output, "stopped")["draws"]) == ("a", {"direct": 4})


async def test_with_nothing_to_draw_from_the_plain_model_answers() -> None:
    parts = drawing("a")
    parts.knowledge_base.samples = []
    output = await ask(parts, policy="majority", search_from="rag")
    assert output["arm"] == "direct"
    assert "nothing to draw from: search_from=rag" in failures(output["ledger"])[0]


async def test_a_cascade_goes_on_from_a_panel_below_the_threshold() -> None:
    parts = drawing("a", "b", "a", a=0.3)
    parts.arms = ("direct", "majority", "ttt")
    output = await ask(parts, search_n=3)
    assert [c["arm"] for c in output["candidates"]] == ["direct", "majority", "ttt"]


async def test_two_panels_of_a_run_are_drawn_one_after_the_other() -> None:
    parts = drawing("a", a=0.3)
    parts.arms = ("majority", "best_of_n")
    output = await ask(parts, search_n=3)
    assert [c["completion_tokens"] for c in output["candidates"]] == [3, 3]
    assert parts.ledger_store.runs[0].tokens == sum(
        c["prompt_tokens"] + c["completion_tokens"] for c in output["candidates"]
    )


# --- rounds ------------------------------------------------------------------------------------

SPLIT = ("a", "b", "a", "b", "c", "a", "a", "a", "b", "a")


async def test_each_round_of_adaptive_is_a_checkpoint_and_an_event() -> None:
    parts = drawing(*SPLIT)
    graph = create_rttc_graph(**parts.parts(), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    context = RttcSettings(policy="adaptive", search_n=16)
    stream = graph.astream({"query": QUERY}, config, context=context, stream_mode="custom")
    told: list[dict[str, Any]] = [one async for one in stream]
    rounds = [one for one in told if one["event"] == "panel"]
    assert [one["drawn"] for one in rounds] == [4, 10, 12, 13]
    assert [sum(one["draws"].values()) for one in rounds] == [4, 6, 2, 1]
    assert [one["votes"]["a"] for one in rounds] == [2, 6, 7, 8]
    assert {one["leader"] for one in rounds} == {"a"}
    assert describe_event(rounds[1]) == "adaptive: 10 of at most 16 answers drawn, 'a' leads with 6"
    history = [state async for state in graph.aget_state_history(config)]
    panels: list[Any] = [state.values.get("panel") for state in history]
    assert {len(one["drawn"]) for one in panels if one} == {4, 10, 12, 13}
    assert [len(call) for call in parts.policy_model.calls] == [4, 6, 2, 1]


async def test_a_panel_goes_on_from_the_checkpoint_of_a_round(face: Face) -> None:
    whole = await ask(drawing(*SPLIT), policy="adaptive", search_n=16, tau_r=0.5)
    parts = drawing(*SPLIT)
    saver = InMemorySaver()
    graph = create_rttc_graph(**parts.parts(), checkpointer=saver)
    graph.interrupt_after_nodes = ["panel_round"]
    context = RttcSettings(policy="adaptive", search_n=16)
    await run(graph, {"query": QUERY}, face, context=context, thread="1")  # looks up samples
    for _ in range(2):
        await run(graph, None, face, context=context, thread="1")  # type: ignore[arg-type]
    assert [len(call) for call in parts.policy_model.calls] == [4, 6]
    # Another process: nothing but the checkpoint is left.
    later = drawing(*SPLIT)
    graph = create_rttc_graph(**later.parts(), checkpointer=saver)
    output = await run(graph, None, face, context=context, thread="1")  # type: ignore[arg-type]
    assert [len(call) for call in later.policy_model.calls] == [2, 1]
    for key in ("answer", "arm", "reward", "tau_r"):
        assert output[key] == whole[key]
    assert entry(output, "stopped") == entry(whole, "stopped")


async def test_a_second_run_of_a_thread_begins_with_an_empty_panel() -> None:
    parts = drawing("a")
    graph = create_rttc_graph(**parts.parts(), checkpointer=InMemorySaver())
    context = RttcSettings(policy="majority", search_n=3)
    for runs in (1, 2):
        output = await run(graph, {"query": QUERY}, context=context, thread="1")
        assert entry(output, "stopped")["draws"] == {"direct": 2, "rag": 1}
        assert len(parts.policy_model.calls) == runs


async def test_a_round_that_fails_leaves_the_answers_before_it() -> None:
    parts = drawing(*SPLIT, a=0.4)
    parts.policy_model.fails_from_call = 2
    output = await ask(parts, policy="adaptive", search_n=16)
    assert output["answer"] == "a"
    assert failures(output["ledger"]) == ["panel_round: PolicyModelError: out of memory"]
    assert entry(output, "stopped")["reason"] == "a round failed"


async def test_a_first_round_that_fails_leaves_the_plain_model_its_turn() -> None:
    parts = drawing("a")
    parts.policy_model.fails_from_call = 1
    with pytest.raises(NoAnswerError, match=r"majority: PolicyModelError.*direct: PolicyModel"):
        await ask(parts, policy="majority")


async def test_texts_in_checkpoints_are_bounded() -> None:
    long = [f"{letter} " * 30_000 for letter in "abcdefgh"]
    parts = drawing(*long, "z")
    graph = create_rttc_graph(**parts.parts(), checkpointer=InMemorySaver())
    context = RttcSettings(policy="majority", search_n=9)
    output = await run(graph, {"query": QUERY}, context=context, thread="1")
    assert output["answer"] == long[0].strip()
    kept = (await graph.aget_state({"configurable": {"thread_id": "1"}})).values["panel"]["drawn"]
    assert sum(len(one["text"]) for one in kept) <= MAX_TEXT_CHARACTERS
    assert len(kept) == 9
    assert max(len(one["vote"]) for one in kept) <= 200


# --- budget, cancelling ------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [20, 30, 60, 100, 150, 400])
async def test_a_panel_never_takes_more_tokens_than_there_are(tokens: int) -> None:
    parts = drawing("a", "b")
    output = await ask(
        parts, policy="majority", search_n=16, budget_tokens=tokens, max_new_tokens=9
    )
    [stored] = parts.ledger_store.runs
    assert stored.tokens <= tokens
    for requests in parts.policy_model.calls:
        reserved = [
            await parts.policy_model.count_tokens(r.messages) + r.max_new_tokens for r in requests
        ]
        assert sum(reserved) <= tokens
    stopped = entry(output, "stopped")
    assert (sum(stopped["draws"].values()) == 16) == (tokens == 400)
    assert tokens == 400 or stopped["reason"] == (
        f"budget_tokens={tokens} has no room for another draw"
    )


async def test_samples_that_do_not_fit_leave_their_draws_to_the_plain_model() -> None:
    parts = drawing("a")
    parts.knowledge_base.samples = [{**sample(1), "answer": "word " * 300}]
    parts.policy_model.context = 100
    output = await ask(parts, policy="majority", search_n=4, max_new_tokens=20)
    assert entry(output, "stopped")["draws"] == {"direct": 4}
    assert len({r.seed for r in parts.policy_model.requests}) == 4
    skipped = entry(output, "skipped")
    assert skipped["draws"] == "rag"
    assert "not one of 1 samples fits" in skipped["reason"]
    output = await ask(parts, policy="majority", search_from="rag", max_new_tokens=20)
    assert output["arm"] == "direct"
    assert "not one of 1 samples fits" in failures(output["ledger"])[0]


async def test_tokens_too_few_for_one_draw_are_said_so() -> None:
    parts = drawing("a")
    with pytest.raises(NoAnswerError, match="and 7 are left of budget_tokens=7: raise it"):
        await ask(parts, policy="majority", budget_tokens=7)


async def test_draws_end_and_are_sampled_as_single_answers_are() -> None:
    parts = drawing(*SPLIT)
    await ask(parts, policy="majority", search_n=4, top_p=0.9, stop_strings=("END",))
    assert {(r.top_p, r.stop) for r in parts.policy_model.requests} == {(0.9, ("END",))}


async def test_the_deadline_ends_a_panel_with_the_best_so_far() -> None:
    parts = drawing(*SPLIT, a=0.4)
    parts.policy_model.seconds = 0.2
    parts.reward_model = Calibrated(rewards={"a": 0.4})  # one that takes a moment to say so
    output = await ask(parts, policy="adaptive", search_n=64, budget_seconds=0.3)
    assert output["answer"] == "a"
    assert entry(output, "stopped")["reason"] == "budget of seconds is spent"
    assert len(parts.policy_model.calls) == 2


async def test_a_cancelled_run_stops_its_draws() -> None:
    parts = drawing("a")
    parts.policy_model.seconds = 3_600.0
    task = asyncio.create_task(ask(parts, policy="majority"))
    await until(lambda: parts.policy_model.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts.policy_model.cancelled == 1


async def test_a_host_with_few_steps_is_not_run_over() -> None:
    """A strategy that draws one by one ends before LangGraph's classic limit of 25 steps."""
    register_strategy("one_by_one", OneByOne(), cost=37)
    try:
        parts = drawing(*"abcdefgh")
        graph = create_rttc_graph(**parts.parts())
        context = RttcSettings(policy="one_by_one", search_n=64)
        output: Any = await graph.ainvoke(
            {"query": QUERY}, {"recursion_limit": 25}, context=context
        )
    finally:
        unregister_arm("one_by_one")
    assert entry(output, "stopped")["reason"] == "16 rounds are drawn"


# --- the judge ---------------------------------------------------------------------------------


@dataclass
class FailingJudge(ScriptedRewardModel):
    """Fails when it sees one answer, or gives it a reward that is none."""

    bad: str = "b"
    gives: float | str | None = None
    retryable: bool = False
    calls: int = 0

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        self.calls += 1
        rewards = await super().score(query, candidates)
        said = [c["answer"] for c in candidates]
        if self.bad in said and self.gives is None:
            raise RewardModelError("cannot read it", retryable=self.retryable)
        given: Any = None if self.gives == "abstains" else self.gives
        return [
            given if answer == self.bad else reward
            for answer, reward in zip(said, rewards, strict=True)
        ]


@pytest.mark.parametrize("gives", [None, "abstains", float("nan"), 1.5])
async def test_one_answer_that_cannot_be_judged_leaves_the_others(
    gives: float | str | None,
) -> None:
    parts = drawing("b", "a", "c")
    parts.reward_model = FailingJudge(rewards={"a": 0.3, "c": 0.6}, gives=gives)
    output = await ask(parts, policy="best_of_n", search_n=3)
    assert (output["answer"], output["reward"]) == ("c", 0.6)
    assert entry(output, "judged")["rewards"] == [None, 0.3, 0.6]
    assert len(failures(output["ledger"])) == 1


async def test_a_judge_that_is_down_is_asked_once_a_round() -> None:
    parts = drawing("b", "a", "b")
    judge = FailingJudge(retryable=True)
    parts.reward_model = judge
    output = await ask(parts, policy="majority", search_n=3)
    assert (output["answer"], output["reward"], output["accepted"]) == ("b", None, False)
    assert judge.calls == 2  # and once more for the answer that was kept


async def test_a_judge_is_shown_the_other_draws_and_the_samples() -> None:
    parts = drawing("a", "b", "c")
    await ask(parts, policy="majority", search_n=3)
    shown = parts.reward_model.requests
    assert [[o["answer"] for o in r["others"]] for r in shown] == [
        ["b", "c"],
        ["a", "c"],
        ["a", "b"],
    ]
    assert all(len(r["samples"]) == 2 for r in shown)
    assert [r["arm"] for r in shown] == ["direct", "rag", "direct"]


async def test_where_rewards_are_probabilities_a_sure_vote_must_reach_the_threshold() -> None:
    sure, unsure = drawing("a", a=0.95), drawing("a", a=0.5)
    for parts in (sure, unsure):
        parts.reward_model = Calibrated(rewards=parts.reward_model.rewards)
    good = await ask(sure, policy="adaptive", search_n=64)
    assert entry(good, "stopped")["reason"].startswith("sure")
    bad = await ask(unsure, policy="adaptive", search_n=64)
    assert entry(bad, "stopped")["reason"].startswith("futile")


@dataclass
class Calibrated(ScriptedRewardModel):
    async def is_calibrated(self) -> bool:
        await asyncio.sleep(0)
        return True


# --- revisions and grades ----------------------------------------------------------------------


async def test_refine_revises_what_is_below_the_threshold_and_keeps_the_better(face: Face) -> None:
    parts = drawing("a", "b", "c", a=0.2, b=0.1, c=0.7)
    output = await ask(
        parts, face, policy="refine", search_n=8, tau_r=0.5, system_prompt="Say one letter."
    )
    assert (output["answer"], output["reward"], output["accepted"]) == ("c", 0.7, True)
    first, second, third = (call[0] for call in parts.policy_model.calls)
    for request in (second, third):  # both revise `a`, since `b` was no better
        assert [turn["role"] for turn in request.messages[-2:]] == ["assistant", "user"]
        assert request.messages[:-2] == first.messages
        assert request.messages[-2]["content"] == "a"
    assert second.seed != third.seed
    assert entry(output, "stopped")["reason"] == "its reward 0.700 is at least τr 0.5"
    drawn = [one["detail"] for one in output["ledger"] if one["event"] == "drawn"]
    assert [one.get("revisions") for one in drawn] == [None, 1, 1]
    [stored] = parts.ledger_store.runs
    [candidate] = output["candidates"]
    assert stored.tokens == candidate["prompt_tokens"] + candidate["completion_tokens"]


async def test_revise_revises_each_chain_in_one_call_with_its_own_samples() -> None:
    parts = drawing("a", "b", "c", a=0.2, b=0.1, c=0.4)
    output = await ask(parts, policy="revise", search_n=9)
    assert [len(call) for call in parts.policy_model.calls] == [3, 3, 3]
    begun, again, _ = parts.policy_model.calls
    assert [r.messages[: len(b.messages)] for r, b in zip(again, begun, strict=True)] == [
        b.messages for b in begun
    ]
    assert output["answer"] == "a"  # three votes each: the earliest
    assert entry(output, "answered")["votes"] == 3


async def test_a_revision_that_does_not_fit_leaves_the_answer() -> None:
    parts = drawing("a " * 40, a=0.2)
    parts.policy_model.context = 60
    parts.knowledge_base.samples = []
    output = await ask(parts, policy="refine", search_n=8, max_new_tokens=40)
    assert output["answer"] == ("a " * 40).strip()
    assert entry(output, "stopped")["reason"] == (
        "the model's context of 60 tokens has no room for another draw"
    )


@dataclass
class WeighingModel(DrawingModel):
    """Grades answers by `grades`, and of two prefers A with the probability `prefers_a`."""

    grades: dict[str, int] = field(default_factory=dict[str, int])
    prefers_a: Sequence[float] = (0.5, 0.5)
    weighed: list[OptionsRequest] = field(default_factory=list[OptionsRequest])
    shares: tuple[float, ...] | None = None

    async def weigh(
        self, requests: Sequence[OptionsRequest], *, deadline: float | None = None
    ) -> list[OptionProbabilities]:
        del deadline
        self.weighed.extend(requests)
        return [OptionProbabilities(self._shares(one), prompt_tokens=10) for one in requests]

    def _shares(self, request: OptionsRequest) -> tuple[float, ...]:
        if self.shares is not None:
            return self.shares
        if len(request.options) == 2:
            # By the order in which the two stand.
            share = self.prefers_a["Answer A: a" not in request.messages[-1]["content"]]
            return (share, 1 - share)
        text = request.messages[-1]["content"].partition("Answer: ")[2].partition("\n")[0]
        return tuple(0.5 * (grade == self.grades[text]) for grade in range(10))


def weighing(*says: str, **more: Any) -> PanelParts:
    return PanelParts(policy_model=WeighingModel(says=says, **more))


async def test_self_verify_keeps_what_the_model_grades_best(face: Face) -> None:
    parts = weighing("a", "b", "a", grades={"a": 2, "b": 8})
    output = await ask(parts, face, policy="self_verify", search_n=3)
    assert output["answer"] == "b"
    checked = entry(output, "checked")
    assert checked["grades"] == {"0": pytest.approx(2 / 9), "1": pytest.approx(8 / 9)}
    assert checked["prompt_tokens"] == 20
    [stored] = parts.ledger_store.runs
    [candidate] = output["candidates"]
    assert stored.tokens == candidate["prompt_tokens"] + candidate["completion_tokens"]
    own = [await parts.policy_model.count_tokens(r.messages) for r in parts.policy_model.requests]
    assert candidate["prompt_tokens"] == sum(own) + 20


async def test_a_rewritten_follow_up_is_graded_as_the_question_that_it_stands_for() -> None:
    parts = weighing("Who wrote Faust?", "a", "b", grades={"a": 2, "b": 8})
    graph = create_rttc_graph(**parts.parts())
    talk: list[Any] = [HumanMessage("Faust?"), AIMessage("A play."), HumanMessage("And who?")]
    context = RttcSettings(policy="self_verify", search_n=2, rewrite_follow_ups=True)
    await graph.ainvoke({"messages": talk}, context=context)
    told = [one.messages[-1]["content"] for one in cast("Any", parts.policy_model).weighed]
    assert told
    assert all("Question: Who wrote Faust?" in one for one in told)


async def test_a_near_tie_is_compared_in_both_orders() -> None:
    # A model that always prefers A, in either order, prefers neither.
    parts = weighing("a", "b", grades={"a": 5, "b": 5}, prefers_a=(0.9, 0.9))
    assert (await ask(parts, policy="self_verify", search_n=2))["answer"] == "a"
    # A has 0.2 where it is a, and 0.7 where it is b.
    parts = weighing("a", "b", grades={"a": 5, "b": 5}, prefers_a=(0.2, 0.7))
    output = await ask(parts, policy="self_verify", search_n=2)
    assert output["answer"] == "b"
    last = [one["detail"] for one in output["ledger"] if one["event"] == "checked"][-1]
    assert last["preferred"] == [[0, 1, pytest.approx(0.25)]]
    orders = [one.messages[-1]["content"] for one in cast("Any", parts.policy_model).weighed[-2:]]
    assert ["Answer A: a" in one for one in orders] == [True, False]


async def test_pairs_that_were_compared_are_known_after_a_checkpoint() -> None:
    def parts() -> PanelParts:
        return weighing("a", "b", grades={"a": 5, "b": 5}, prefers_a=(0.2, 0.7))

    whole = await ask(parts(), policy="self_verify", search_n=2)
    resumed = await ask_in_pieces(parts().parts(), policy="self_verify", search_n=2)
    assert failures(resumed["ledger"]) == []
    assert (resumed["answer"], resumed["reward"]) == (whole["answer"], whole["reward"])
    assert entry(resumed, "stopped") == entry(whole, "stopped")


@pytest.mark.parametrize("shares", [(0.0,) * 10, (float("nan"),) * 10])
async def test_grades_that_are_none_leave_the_majority(shares: tuple[float, ...]) -> None:
    parts = weighing("a", "b", "b", shares=shares)
    output = await ask(parts, policy="self_verify", search_n=3)
    assert output["answer"] == "b"
    assert entry(output, "stopped")["reason"] == "a round failed"
    assert "the probability" in failures(output["ledger"])[0]


async def test_checking_takes_no_more_than_the_budget_has() -> None:
    parts = weighing("a", "b", "b", grades={"a": 9, "b": 1})
    output = await ask(
        parts,
        policy="self_verify",
        search_n=3,
        search_from="direct",
        max_new_tokens=2,
        budget_tokens=30,
    )
    assert output["answer"] == "b"  # by votes
    assert not cast("Any", parts.policy_model).weighed
    assert "checking answers takes 2 prompts of" in failures(output["ledger"])[0]
    assert parts.ledger_store.runs[0].tokens <= 30


@dataclass
class SizedWeighingModel(WeighingModel):
    """Says how large it is."""

    weights: int | None = 10

    async def parameters(self) -> int | None:
        return self.weights


@pytest.mark.parametrize("weights", [10, None])
async def test_grading_and_comparing_count_as_operations(weights: int | None) -> None:
    model = SizedWeighingModel(says=("a", "b"), grades={"a": 5, "b": 5}, weights=weights)
    parts = PanelParts(policy_model=model)
    graph = create_rttc_graph(**parts.parts(), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    context = RttcSettings(policy="self_verify", search_n=2)
    stream = graph.astream({"query": QUERY}, config, context=context, stream_mode="custom")
    told: list[dict[str, Any]] = [one async for one in stream]
    output: dict[str, Any] = (await graph.aget_state(config)).values
    [candidate] = output["candidates"]
    tokens = candidate["prompt_tokens"] + candidate["completion_tokens"]
    checked = [one["detail"]["flops"] for one in output["ledger"] if one["event"] == "checked"]
    if weights is None:
        assert checked == [None, None]
        assert candidate["flops"] is None
        assert "flops" not in output["spent"]
    else:
        assert checked == [2 * weights * 20] * 2  # two grades, then two orders of a pair
        assert candidate["flops"] == output["spent"]["flops"] == 2 * weights * tokens
    assert entry(output, "stopped")["flops"] == candidate["flops"]
    assert [one for one in told if one["event"] == "panel"][-1]["flops"] == candidate["flops"]


async def test_checking_takes_no_more_operations_than_the_budget_has() -> None:
    model = SizedWeighingModel(says=("a", "b", "b"), grades={"a": 9, "b": 1})
    output = await ask(
        PanelParts(policy_model=model),
        policy="self_verify",
        search_n=3,
        search_from="direct",
        max_new_tokens=2,
        budget_flops=2 * 10 * 30,
    )
    assert output["answer"] == "b"  # by votes
    assert not model.weighed
    assert "are left of budget_flops=600 at 20 for a token" in failures(output["ledger"])[0]
    assert output["candidates"][0]["flops"] <= 600


async def test_a_model_that_weighs_nothing_leaves_the_arm_out_and_the_ledger_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"policy='self_verify' .* weighs given answers"):
        await ask(drawing("a"), policy="self_verify")
    output = await ask(drawing("a"), arms=("direct", "self_verify"))
    [skipped] = [one["detail"] for one in output["ledger"] if one["event"] == "skipped"]
    assert skipped["arm"] == "self_verify"
    assert "weighs given answers" in skipped["reason"]


class SaysNumbers(TransformersPolicyModel):
    """A real model that is made to answer 0, 1, 2, …"""

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        made = await super().generate(requests, deadline=deadline)
        return [
            replace(one, text=str(number), finish_reason="stop") for number, one in enumerate(made)
        ]


async def test_a_real_model_grades_its_answers(tiny_engine: LocalEngine) -> None:
    parts: RttcParts = {**Parts().parts(), "policy_model": SaysNumbers(tiny_engine)}
    output = await ask(parts, policy="self_verify", search_n=3, max_new_tokens=2)
    graded, *_ = (one["detail"] for one in output["ledger"] if one["event"] == "checked")
    grades = list(graded["grades"].values())
    assert len(grades) == 3
    assert all(0 < grade < 1 for grade in grades)
    assert failures(output["ledger"]) == []


# --- what cannot be read -----------------------------------------------------------------------


async def test_empty_draws_are_left_out() -> None:
    parts = drawing("", "", "a")
    output = await ask(parts, policy="majority", search_n=3)
    assert (output["answer"], entry(output, "answered")["votes"]) == ("a", 1)


@pytest.mark.parametrize("policy", PANELS)
async def test_without_any_text_the_panel_has_no_answer(policy: str) -> None:
    parts = drawing(" ")
    parts.policy_model.texts = {}
    output = await ask(parts, policy=policy, search_n=4)
    assert output["arm"] == "direct"  # which has none either, and says so as ever
    assert sum("draws gave any text" in one for one in failures(output["ledger"])) == 1


async def test_without_any_vote_the_best_text_is_kept() -> None:
    parts = drawing("I do not know.", "I cannot answer.", **{"I cannot answer.": 0.4})
    output = await ask(parts, policy="majority", search_n=4)
    assert output["answer"] == "I cannot answer."
    assert entry(output, "answered")["votes"] == 0
    assert not output["accepted"]


@pytest.mark.parametrize("policy", ["majority", "adaptive", "best_of_n"])
async def test_a_model_without_an_end_token_has_its_best_text_kept(
    policy: str, tiny_engine: LocalEngine
) -> None:
    """No draw comes to its end, so none votes, and the ledger says that none could be read."""
    await tiny_engine.in_lane(lambda loaded: setattr(loaded, "eos_ids", frozenset()))
    parts: RttcParts = {
        "policy_model": TransformersPolicyModel(tiny_engine),
        "reward_model": ScriptedRewardModel(),
    }
    output = await ask(parts, policy=policy, search_n=4, max_new_tokens=6)
    assert output["answer"]
    assert entry(output, "answered")["votes"] == 0
    assert entry(output, "stopped")["answers"] == 0
    assert output["candidates"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("policy", PANELS)
async def test_where_all_draws_are_equal_there_is_one_answer(policy: str) -> None:
    output = await ask(drawing("a", a=0.4), policy=policy, search_n=8)
    assert (output["answer"], entry(output, "stopped")["answers"]) == ("a", 1)


@pytest.mark.parametrize("n", [0, -1, 65, "many"])
def test_a_panel_of_no_answers_or_too_many_is_refused(n: object) -> None:
    with pytest.raises(ConfigurationError, match=f"search_n={n!r}: input should be"):
        RttcSettings.of({"search_n": n}, defaults=RttcSettings())


async def test_numbers_vote_by_what_they_end_with_where_samples_are_numbers() -> None:
    parts = drawing("It is 7.", "So 7", "8")
    parts.knowledge_base.samples = [{**sample(n), "answer": f"#### {n}"} for n in range(2)]
    output = await ask(parts, policy="majority", search_n=3)
    assert (output["answer"], entry(output, "answered")["votes"]) == ("It is 7.", 2)


async def test_thoughts_do_not_vote() -> None:
    parts = drawing("<think>b or c?</think>b", "<think>hm</think>b", "a", "<think>never ends")
    output = await ask(parts, policy="majority", search_n=4)
    assert (output["answer"], entry(output, "answered")["votes"]) == ("b", 2)


# --- strategies of one's own -------------------------------------------------------------------


class OneByOne(Majority):
    def propose(self, panel: Panel) -> Proposal:
        return Proposal(draws=panel.turns(1), reason="one more")


class RevisesNothing(Majority):
    def propose(self, panel: Panel) -> Proposal:
        return Proposal(revisions=(7,), reason="revise what is not there")


class ComparesBackwards(Majority):
    def propose(self, panel: Panel) -> Proposal:
        if not panel.drawn:
            return Proposal(draws={"direct": 2}, reason="two")
        return Proposal(pairs=((1, 0),), reason="the other way round")


class FromNowhere(Majority):
    def propose(self, panel: Panel) -> Proposal:
        return Proposal(draws={"oracle": 1}, reason="ask somebody else")


class KeepsNothing(Majority):
    def choose(self, panel: Panel) -> Choice:
        return Choice(99, 1)


class Breaks(Majority):
    def choose(self, panel: Panel) -> Choice:
        raise ZeroDivisionError("no votes")


class Greedy(Majority):
    def propose(self, panel: Panel) -> Proposal:
        return Proposal(draws={"direct": 1_000 if panel.left else 0}, reason="as many as there are")


class StopsAtOnce(Majority):
    def propose(self, panel: Panel) -> Proposal:
        return Proposal(reason="it is too hot")


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[None]:
    register_strategy("own", request.param, cost=37)
    yield
    unregister_arm("own")


@pytest.mark.parametrize(
    ("own", "arm", "says"),
    [
        (FromNowhere(), "direct", "draws from ['oracle'], but there are only ['direct', 'rag']"),
        (RevisesNothing(), "direct", "names draw 7 of 0, whose text is not in hand"),
        (ComparesBackwards(), "own", "compares draws (1, 0): the earlier one comes first"),
        (KeepsNothing(), "own", "keeps draw 99 of 3, whose text is not in hand"),
        (Breaks(), "own", "ZeroDivisionError: no votes"),
        (StopsAtOnce(), "direct", "nothing was drawn: it is too hot"),
    ],
    indirect=["own"],
)
@pytest.mark.usefixtures("own")
async def test_a_strategy_that_is_wrong_costs_no_answer(arm: str, says: str) -> None:
    output = await ask(drawing("a"), policy="own", search_n=3)
    assert (output["answer"], output["arm"]) == ("a", arm)
    assert any(says in one for one in failures(output["ledger"]))


@pytest.mark.parametrize("own", [Greedy()], indirect=True)
@pytest.mark.usefixtures("own")
async def test_a_strategy_draws_no_more_than_the_panel_may_have() -> None:
    output = await ask(drawing("a"), policy="own", search_n=3)
    assert entry(output, "stopped")["draws"] == {"direct": 3}


def test_the_example_draws_until_two_agree(
    installed: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    try:
        runpy.run_path(str(REPOSITORY / "examples" / "own_strategy.py"), run_name="__main__")
    finally:
        unregister_arm("two_agree")
    answer, *rounds = capsys.readouterr().out.splitlines()
    assert answer.startswith("answer: ")
    # Answers of the tiny model are cut short, so that none of them has a vote.
    assert rounds[:-1] == ["drawn {'direct': 2} no two answers agree yet"] * 3
    assert rounds[-1] == "stopped {'direct': 6} enough after 6 draws"


# --- commands ----------------------------------------------------------------------------------


def test_commands_draw_panels_on_a_real_database(
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
    samples = [{"question": f"what is {n} plus {n}", "answer": str(2 * n)} for n in range(4)]
    questions = [{"question": "what is 7 plus 7", "answer": "14"}]
    for name, rows in (("samples", samples), ("questions", questions)):
        text = "".join(json.dumps({**row, "domain": "sums"}) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def call(*arguments: str) -> Any:
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    command = ("eval", str(folder), "--records", "rows.jsonl", "--json", "-", "--policies")
    before = call(*command, "direct,rag,ttt,cascade")
    kept = Path("rows.jsonl").read_text(encoding="utf-8")
    found = call(*command, "direct,rag,ttt,cascade,majority")["policies"]
    assert found["direct"] == before["policies"]["direct"]
    assert found["majority"]["arms_run"] == {"majority": 1}
    assert found["majority"]["completion_tokens"] > found["direct"]["completion_tokens"]
    grown = Path("rows.jsonl").read_text(encoding="utf-8")
    assert grown.startswith(kept)  # rows of before are found again

    call(*command, "direct,majority", "--n", "2")  # another size: other rows, of panels alone
    after = Path("rows.jsonl").read_text(encoding="utf-8")
    assert after.startswith(grown)
    new = [json.loads(line) for line in after.removeprefix(grown).splitlines()]
    assert [one["policy"] for one in new if one["kind"] == "answer"] == ["majority"]

    specs = "majority@4,adaptive@4,mixed@4"
    replayed = call(*command, specs, "--report", "out")
    [panels] = replayed["panels"]
    assert (panels["rows"], panels["sources"], replayed["groups"]) == (1, ["direct", "rag"], [])
    assert {one["strategy"] for one in panels["points"]} == {"majority", "adaptive", "mixed"}
    single = next(one for one in panels["points"] if one["sources"] == ["direct"])
    direct = before["policies"]["direct"]  # a majority of one is the plain answer
    for figure in ("accuracy", "prompt_tokens", "completion_tokens"):
        assert (single["n"], single[figure]) == (1, direct[figure])
    kept = Path("rows.jsonl").read_text(encoding="utf-8")
    [recorded] = [one for one in map(json.loads, kept.splitlines()) if one["kind"] == "panel"]
    assert [one["proposer"] for one in recorded["drawn"]] == ["direct", "rag"] * 4
    assert recorded["seeds"][0] == 0
    assert all(one["text"] for one in recorded["drawn"])
    assert "any of them" in Path("out/report.md").read_text(encoding="utf-8")
    assert call(*command, f"direct,{specs}")["panels"] == replayed["panels"]  # nothing is drawn
    assert Path("rows.jsonl").read_text(encoding="utf-8") == kept
    assert main((*command[:-3], "--real", "--policies", "majority@4")) == 2
    assert "name the strategy alone" in capsys.readouterr().err

    flags = ("--domain", "sums", "--policy", "adaptive", "--n", "3", "--from", "rag,direct")
    asked = call("ask", "what is 7 plus 7", *flags, "--json")
    assert asked["arm"] == "adaptive"
    [stopped] = [one["detail"] for one in asked["ledger"] if one["event"] == "stopped"]
    assert stopped["draws"] == {"rag": 2, "direct": 1}
    assert [one["arm"] for one in call("stats", "--json")["arms"]] == ["adaptive"]
    assert main(("ask", "what?", "--policy", "adaptive", "--from", "oracle")) == 2
    assert "'direct', 'recalled' or 'rag'" in capsys.readouterr().err
