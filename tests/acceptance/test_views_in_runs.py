"""Runs whose adapter is trained and asked in several views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from graph_runs import Face, Output, run
from scripted_parts import Parts, ScriptedKnowledgeBase, ScriptedPolicyModel, sample

from rttc_graph.errors import PolicyModelError
from rttc_graph.graph import create_rttc_graph
from rttc_graph.protocols import Generation, GenerationRequest
from rttc_graph.settings import RttcSettings
from rttc_graph.state import RttcInput

GRID = "Input:\n0 1 2 3\n0 0 4 5\n\nWhat comes out?"
SAMPLES = [{**sample(n), "question": GRID.replace("1", str(n)), "answer": f"{n} 2"} for n in (6, 7)]


@dataclass
class Painter(ScriptedPolicyModel):
    """Answers the question as it is wrongly, and each turned or coloured one with its grid."""

    broken: bool = False
    asked: list[Sequence[GenerationRequest]] = field(
        default_factory=list[Sequence[GenerationRequest]]
    )

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.asked.append(requests)
        if self.broken and len(requests) > 1:
            raise PolicyModelError("no room")
        made = await super().generate(requests, deadline=deadline)
        return [
            Generation(
                text="9 9" if one.messages[-1]["content"] == GRID else self.its_grid(one),
                prompt_tokens=got.prompt_tokens,
                completion_tokens=2,
                mean_logprob=-0.2,
                finish_reason="stop",
            )
            for one, got in zip(requests, made, strict=True)
        ]

    def its_grid(self, one: GenerationRequest) -> str:
        return one.messages[-1]["content"].removeprefix("Input:\n").partition("\n\n")[0]


async def ask(made: Parts, face: Face, **settings: Any) -> Output:
    context = RttcSettings(policy="ttt", **settings)
    given: RttcInput = {"query": GRID, "domain": "math"}
    return await run(create_rttc_graph(**made.parts()), given, face, context=context)


def parts(**given: Any) -> Parts:
    base = ScriptedKnowledgeBase(samples=SAMPLES)  # type: ignore[arg-type]
    return Parts(policy_model=Painter(**given), knowledge_base=base)


async def test_views_are_learnt_asked_at_once_undone_and_voted_on(face: Face) -> None:
    made = parts()
    output = await ask(made, face, ttt_augment="grids,names", ttt_views=2)
    assert [count for _, count in made.trainer.trainings] == [6]  # two samples, three ways each
    assert isinstance(made.policy_model, Painter)
    assert [len(requests) for requests in made.policy_model.asked] == [1, 2]
    adapters = {one.adapter for requests in made.policy_model.asked for one in requests}
    assert adapters == {made.trainer.trainings[0][0]}
    [voted] = [one["detail"] for one in output["ledger"] if one["event"] == "voted"]
    assert voted["transforms"] == ["plain", "grids 1", "grids 2"]
    assert voted["taken"] == "grids 1"  # two views agree, against the question as it is
    assert voted["votes"][1] == voted["votes"][2] != voted["votes"][0]
    [candidate] = output["candidates"]
    assert (candidate["draws"], candidate["answer"]) == (3, "0 1 2 3\n0 0 4 5")
    answered = [one["detail"] for one in output["ledger"] if one["event"] == "answered"]
    tokens = voted["prompt_tokens"] + voted["completion_tokens"]
    assert candidate["prompt_tokens"] == answered[0]["prompt_tokens"] + voted["prompt_tokens"]
    assert tokens > 0


async def test_one_view_does_not_outvote_the_plain_answer(face: Face) -> None:
    made = parts()
    output = await ask(
        made,
        face,
        ttt_augment="grids,order",
        ttt_views=1,
        ttt_shown=2,
    )
    [voted] = [one["detail"] for one in output["ledger"] if one["event"] == "voted"]
    assert voted["transforms"] == ["plain", "grids 1", "order 1"]
    assert output["answer"] == "9 9"  # the order leaves the question as it is


@pytest.mark.parametrize("broken", [True, False])
async def test_views_never_cost_the_answer(face: Face, broken: bool) -> None:
    made = parts(broken=broken)
    limit = {} if broken else {"budget_tokens": 400}
    output = await ask(made, face, ttt_augment="grids", **limit)
    assert output["answer"] == "9 9"
    failed = [one["detail"] for one in output["ledger"] if one["event"] == "failed"]
    assert ["no room" in one["error"] for one in failed] == [True] * broken
