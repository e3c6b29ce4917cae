"""Search over steps in the graph: the tree, the budget, and judges of steps that fail."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from graph_runs import QUERY, ask, failures, run, until
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from scripted_parts import Parts, ScriptedPolicyModel, sample, take

from rttc_graph import RttcSettings
from rttc_graph.cli.step_tree_view import step_trees
from rttc_graph.errors import NoAnswerError, RewardModelError
from rttc_graph.graph import RttcParts, create_rttc_graph
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    ProcessRewardModel,
    StepScores,
    note_work,
)
from rttc_graph.run.prompts import direct_messages
from rttc_graph.settings import PromptSettings
from rttc_graph.state import FinishReason

POLICIES = ("beam", "dvts", "particles", "lookahead", "mcts")
LENGTH = 4


@dataclass
class DigitsModel(ScriptedPolicyModel):
    """Writes four digits, one a step, each of one token; the prompt is five tokens long."""

    continues_answers: bool = True
    tokens: int = 0

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.requests.extend(requests)
        try:
            await take(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [self._written(request) for request in requests]

    def _written(self, asked: GenerationRequest) -> Generation:
        begun, dice = asked.answer_prefix, random.Random(asked.seed)
        room = min(LENGTH - len(begun), asked.max_new_tokens)
        if asked.step is not None:
            room = min(room, 1)
        greedy = asked.temperature == 0
        text = begun + "".join(str(1 if greedy else dice.randrange(6)) for _ in range(room))
        ended: FinishReason = "step" if asked.step is not None else "length"
        prompt = 5 + len(begun)
        self.tokens += prompt + room
        return Generation(
            text=text,
            prompt_tokens=prompt,
            completion_tokens=room,
            mean_logprob=-1.8,
            finish_reason="stop" if len(text) == LENGTH else ended,
        )


@dataclass
class ExactSteps(ProcessRewardModel):
    """Knows how many of the digits are a five."""

    error: Exception | None = None
    reason: str = ""
    asked: list[BegunAnswer] = field(default_factory=list[BegunAnswer])

    @property
    def name(self) -> str:
        return "exact"

    async def fingerprint(self) -> str:
        return "exact"

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        self.asked.extend(answers)
        if self.error is not None:
            raise self.error
        return [(0.97 * 0.8 ** sum(5 - int(d) for d in "".join(one.steps)),) for one in answers]

    async def closed(self) -> str:
        return self.reason


def parts(
    judge: ExactSteps | None = None, *, seconds: float = 0.0
) -> tuple[DigitsModel, RttcParts]:
    model = DigitsModel(seconds=seconds)
    whole = Parts(policy_model=model).parts()
    whole["process_reward_model"] = judge
    whole["reward_model"] = lambda query, answer: (
        0.97 * 0.8 ** sum(5 - int(digit) for digit in answer)
    )
    return model, whole


def tree_of(output: dict[str, Any]) -> list[dict[str, Any]]:
    [stopped] = [e for e in output["ledger"] if e["event"] == "stopped"]
    steps: list[dict[str, Any]] = stopped["detail"]["steps"]
    return steps


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_tree_is_grown_and_told(policy: str) -> None:
    model, whole = parts(ExactSteps())
    output = await ask(whole, policy=policy, search_n=8, search_from="direct", seed=1)
    assert failures(output["ledger"]) == []
    steps = tree_of(output)
    for step in steps:
        assert step["p"] is not None
        assert step["parent"] is None or step["parent"] < step["node"]
    paths = {
        step["answer"]: "".join(steps[place]["step"] for place in _path(steps, int(step["node"])))
        for step in steps
        if step["answer"] is not None
    }
    [stopped] = [e["detail"] for e in output["ledger"] if e["event"] == "stopped"]
    assert paths[stopped["kept"]] == output["answer"]
    assert len(paths) <= 8
    [candidate] = output["candidates"]
    assert candidate["prompt_tokens"] + candidate["completion_tokens"] == model.tokens
    assert all(request.tells_state for request in model.requests)


def _path(steps: Sequence[dict[str, Any]], place: int) -> list[int]:
    path = [place]
    while (parent := steps[path[-1]]["parent"]) is not None:
        path.append(parent)
    return path[::-1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("budget", [9, 40, 150, 400, 1000])
async def test_the_budget_holds_with_32_children_at_once(policy: str, budget: int) -> None:
    """And with what it has room for there is an answer, were it a short one."""
    model, whole = parts(ExactSteps())
    output = await ask(
        whole,
        policy=policy,
        search_n=32,
        search_children=16,
        search_from="direct",
        budget_tokens=budget,
        max_new_tokens=LENGTH,
        search_step_most=1,
        search_step_least=1,
    )
    assert model.tokens <= budget
    assert output["answer"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_first_steps_leave_room_for_one_whole_answer(policy: str) -> None:
    model, whole = parts(ExactSteps())
    prompt = await model.count_tokens(direct_messages(QUERY, [], PromptSettings()))
    output = await ask(
        whole,
        policy=policy,
        search_n=8,
        search_from="direct",
        budget_tokens=prompt + LENGTH,
        max_new_tokens=LENGTH,
    )
    assert output["answer"] == "1" * LENGTH
    assert output["candidates"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("policy", POLICIES)
async def test_samples_that_do_not_fit_leave_their_steps_to_the_plain_model(policy: str) -> None:
    scripted = Parts(policy_model=DigitsModel(context=100))
    scripted.knowledge_base.samples = [{**sample(1), "answer": "word " * 300}]
    output = await ask(scripted, policy=policy, search_from="rag,direct", max_new_tokens=LENGTH)
    assert output["arm"] == policy
    assert {step["proposer"] for step in tree_of(output)} == {"direct"}
    [skipped] = [e for e in output["ledger"] if e["event"] == "skipped"]
    assert skipped["detail"]["draws"] == "rag"
    assert "not one of 1 samples fits" in skipped["detail"]["reason"]


@pytest.mark.parametrize(
    ("context", "budget", "says"),
    [
        (None, 7, "and 7 are left of budget_tokens=7: raise it"),
        (5, 1000, "the model's context is 5: shorten the question"),
    ],
)
async def test_a_first_step_without_room_is_said_so(
    context: int | None, budget: int, says: str
) -> None:
    model, whole = parts(ExactSteps())
    model.context = context
    with pytest.raises(NoAnswerError, match=f"beam: BudgetExceeded: .*{says}"):
        await ask(whole, policy="beam", search_from="direct", budget_tokens=budget)


async def test_a_judge_of_steps_that_fails_costs_no_answer() -> None:
    judge = ExactSteps(error=RewardModelError("no GPU"))
    _, whole = parts(judge)
    output = await ask(whole, policy="beam", search_n=4, search_from="direct")
    assert output["answer"]
    assert any("no GPU" in failure for failure in failures(output["ledger"]))
    assert {step["p"] for step in tree_of(output)} == {None}


async def test_a_judge_that_is_closed_is_not_asked() -> None:
    judge = ExactSteps(reason="no better than a vote in this domain")
    _, whole = parts(judge)
    output = await ask(whole, policy="beam", search_n=4, search_from="direct")
    assert judge.asked == []
    [skipped] = [e for e in output["ledger"] if e["event"] == "skipped"]
    assert skipped["detail"]["reason"] == "no better than a vote in this domain"
    assert len(output["answer"]) == LENGTH


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("judge", [None, ExactSteps(reason="no better than a vote")])
async def test_where_nobody_judges_steps_as_many_answers_vote_as_are_wanted(
    policy: str, judge: ExactSteps | None
) -> None:
    _, whole = parts(judge)
    output = await ask(whole, policy=policy, search_n=8, search_from="direct", seed=1)
    [stopped] = [e["detail"] for e in output["ledger"] if e["event"] == "stopped"]
    assert stopped["draws"] == {"direct": 8}
    assert len(tree_of(output)) == 8 * LENGTH


async def test_only_the_new_step_is_judged_with_the_prompt_and_all_before_it() -> None:
    judge = ExactSteps()
    _, whole = parts(judge)
    await ask(whole, policy="beam", search_n=2, search_from="direct")
    assert all(one.scored == 1 and one.messages for one in judge.asked)
    assert {len(one.steps) for one in judge.asked} == {1, 2, 3, 4}
    assert {one.is_finished for one in judge.asked if len(one.steps) == 4} == {True}


@dataclass
class CountingSteps(ExactSteps):
    """Says that each step takes a hundred operations."""

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        note_work(tokens=9 * len(answers), flops=100.0 * len(answers))
        return await super().score_steps(query, answers)


async def test_judging_steps_counts_as_operations_of_the_run() -> None:
    judge = CountingSteps()
    _, whole = parts(judge)
    graph = create_rttc_graph(**whole, checkpointer=InMemorySaver())
    context = RttcSettings(policy="beam", search_n=4, search_from=("direct",))
    await run(graph, {"query": QUERY}, context=context, thread="t")
    kept = await graph.aget_state({"configurable": {"thread_id": "t"}})
    assert kept.values["spent"]["flops"] == 100 * len(judge.asked)


@pytest.mark.parametrize(("memory", "fits"), [(2**24, True), (2**16, False)])
async def test_a_tree_that_does_not_fit_the_memory_says_so(
    tiny_model_path: Path, memory: int, fits: bool
) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, prefix_cache_bytes=memory)
    _, whole = parts(ExactSteps())
    whole["policy_model"] = TransformersPolicyModel(engine)
    whole["process_reward_model"] = None
    try:
        output = await ask(
            whole,
            policy="beam",
            search_n=6,
            search_from="direct",
            search_step_least=1,
            search_step_most=12,
            max_new_tokens=72,
        )
    finally:
        engine.close()
    told = [
        e["detail"]["reason"]
        for e in output["ledger"]
        if e["event"] == "skipped" and e["detail"]["what"] == "reuse earlier steps"
    ]
    assert bool(told) is not fits
    assert all("raise it, or lower search_nodes" in reason for reason in told)


async def test_one_answer_is_the_plain_models_own() -> None:
    """With a size of one the request is the one of the plain arm, bit for bit."""
    model, whole = parts(ExactSteps())
    await ask(whole, policy="beam", search_n=1, search_from="direct")
    other, plain = parts(ExactSteps())
    await ask(plain, policy="direct")
    assert model.requests == other.requests


async def test_the_same_seed_gives_the_same_tree() -> None:
    trees = []
    for _ in range(2):
        _, whole = parts(ExactSteps())
        output = await ask(whole, policy="particles", search_from="direct", seed=7)
        trees.append(tree_of(output))
    assert trees[0] == trees[1]


async def test_a_search_is_cancelled_with_its_round() -> None:
    model, whole = parts(ExactSteps(), seconds=30)
    context = RttcSettings(policy="beam", search_from=("direct",))
    graph = create_rttc_graph(**whole)
    task = asyncio.create_task(run(graph, {"query": "why"}, context=context))
    await until(lambda: model.requests)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    await until(lambda: model.cancelled)
    assert len(model.requests) == 8


async def test_the_tree_is_drawn_in_the_terminal() -> None:
    _, whole = parts(ExactSteps())
    output = await ask(whole, policy="lookahead", search_n=2, search_from="direct")
    [tree] = step_trees(output["ledger"])
    shown_to = io.StringIO()
    Console(width=100, file=shown_to).print(tree)
    shown = shown_to.getvalue()
    assert "lookahead" in shown
    assert "look]" in shown
    assert "answer 0" in shown
    assert shown.count("✓") == LENGTH  # steps of the kept answer
    assert shown.count("P 0.") == len(tree_of(output))
