"""Budget forcing in the graph: the cap holds, an answer is forced, what fails costs no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from graph_runs import ask, failures
from scripted_parts import Parts, ScriptedPolicyModel

from rttc_graph import RttcSettings
from rttc_graph.arms import unregister_arm
from rttc_graph.graph import create_rttc_graph
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import Generation, GenerationRequest
from rttc_graph.search.budget_forcing import BudgetForcing
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategies import register_strategy
from rttc_graph.search.strategy import Continuation, Proposal
from rttc_graph.state import FinishReason

Said = tuple[str, int, FinishReason]


@dataclass
class ThinkingModel(ScriptedPolicyModel):
    """Says one piece after the other, behind what an answer begins with."""

    says: Sequence[Said] = ()
    continues_answers: bool = True

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        at = len(self.requests)
        made = await super().generate(requests, deadline=deadline)
        return [
            replace(
                one,
                text=asked.answer_prefix + self.says[at + n][0],
                completion_tokens=self.says[at + n][1],
                finish_reason=self.says[at + n][2],
            )
            for n, (asked, one) in enumerate(zip(requests, made, strict=True))
        ]


@dataclass
class ThinkingParts(Parts):
    policy_model: ThinkingModel = field(default_factory=ThinkingModel)  # pyright: ignore[reportIncompatibleVariableOverride]


def thinking(*says: Said, **rewards: float) -> ThinkingParts:
    parts = ThinkingParts(policy_model=ThinkingModel(says=says))
    parts.reward_model.rewards = rewards
    return parts


SETTINGS: dict[str, Any] = {"policy": "budget_forcing", "max_new_tokens": 100}


async def test_a_model_that_thinks_to_the_end_is_made_to_answer() -> None:
    parts = thinking(("so and so", 68, "length"), (" 42", 3, "stop"))
    output = await ask(parts, **SETTINGS)
    assert output["answer"] == "so and so\n#### 42"
    first, second = parts.policy_model.requests
    assert (first.max_new_tokens, first.ends_loops, first.answer_prefix) == (68, True, "")
    assert (second.max_new_tokens, second.answer_prefix) == (32, "so and so\n####")
    assert second.messages == first.messages
    [candidate] = output["candidates"]
    assert candidate["completion_tokens"] == 71
    assert failures(output["ledger"]) == []


async def test_it_thinks_again_below_tau_r_and_the_better_answer_is_kept() -> None:
    parts = thinking(("7", 5, "stop"), (" no: 8", 5, "stop"), (" 8", 2, "stop"))
    parts.reward_model.rewards = {"7": 0.4, "7\nWait, no: 8": 0.2, "7\nWait, no: 8\n#### 8": 0.3}
    output = await ask(parts, **SETTINGS)
    assert (output["answer"], output["reward"]) == ("7", 0.4)
    assert len(parts.policy_model.requests) == 3
    accepted = thinking(("7", 5, "stop"), **{"7": 0.9})
    await ask(accepted, **SETTINGS)
    assert len(accepted.policy_model.requests) == 1


async def test_a_budget_of_one_is_the_direct_answer() -> None:
    parts = thinking(("7", 5, "length"))
    await ask(parts, **SETTINGS, search_n=1)
    direct = thinking(("7", 5, "length"))
    await ask(direct, policy="direct", max_new_tokens=100)
    [one], [other] = parts.policy_model.requests, direct.policy_model.requests
    assert replace(one, drafts=()) == replace(other, drafts=())


async def test_the_budget_of_tokens_keeps_room_for_the_forced_answer() -> None:
    parts = thinking(("so", 0, "length"), (" 7", 1, "stop"))
    prompt = await parts.policy_model.count_tokens(await _first_request(thinking(("x", 1, "stop"))))
    output = await ask(parts, **SETTINGS, budget_tokens=2 * prompt + 80, search_from=("direct",))
    first, second = parts.policy_model.requests
    assert first.max_new_tokens == 24  # twice, with 32 of the forced answer
    assert second.max_new_tokens == 32
    assert output["answer"] == "so\n#### 7"


async def _first_request(parts: ThinkingParts) -> Any:
    await ask(parts, **SETTINGS, search_n=1, search_from=("direct",))
    return parts.policy_model.requests[0].messages


async def test_a_stop_string_in_what_is_gone_on_with_ends_it_with_the_answer_in_hand() -> None:
    parts = thinking(("It is 7", 5, "stop"))
    output = await ask(parts, **SETTINGS, stop_strings=("\n",))
    assert output["answer"] == "It is 7"
    [failed] = failures(output["ledger"])
    assert r"stop string '\n' stands in answer_prefix at character 7" in failed


@pytest.mark.parametrize(
    ("place", "begun", "continues", "words"),
    [
        (0, "x", False, "register it with continues=True"),
        (1, "x", True, "goes on from draw 1 of 1"),
        (-1, "x", True, "goes on from draw -1"),
        (0, "", True, "with the text ''"),
    ],
)
async def test_a_strategy_that_goes_on_with_nonsense_is_told(
    place: int, begun: str, continues: bool, words: str
) -> None:
    class Odd(BudgetForcing):
        def propose(self, panel: Panel) -> Proposal:
            if not panel.drawn:
                return Proposal(draws={"direct": 1}, reason="one")
            return Proposal(continuations=(Continuation(place, begun),), reason="more")

    register_strategy("odd", Odd(), cost=39, continues=continues)
    try:
        output = await ask(thinking(("7", 5, "stop")), policy="odd")
    finally:
        unregister_arm("odd")
    assert output["answer"] == "7"
    assert words in failures(output["ledger"])[0]


async def test_on_a_real_engine_the_cap_holds_with_drafts_of_the_last_time(
    tiny_model_path: Path,
) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, prefix_cache_bytes=2**24)
    graph = create_rttc_graph(
        policy_model=TransformersPolicyModel(engine),
        reward_model=CallableReward(lambda query, answer: 0.1, name="low"),
        settings=RttcSettings(policy="budget_forcing", max_new_tokens=40, search_answer_tokens=8),
    )
    found = [await graph.ainvoke({"query": "what is the rain?"}) for _ in range(3)]
    engine.close()
    assert len({one["answer"] for one in found}) == 1
    [candidate] = found[0]["candidates"]
    assert candidate["completion_tokens"] <= 40
    assert "\n####" in found[0]["answer"]
