"""What a judge is shown of a candidate, and what is made of a judge that has only some methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from graph_runs import Face, ask
from scripted_parts import Parts, candidate, sample

from rttc_graph.graph import RttcParts
from rttc_graph.protocols import (
    PlainRewardModel,
    RewardModel,
    RewardRequest,
    as_reward_model,
    reward_requests,
)
from rttc_graph.state import Candidate, Plan


def test_a_request_has_the_candidate_the_samples_and_all_others() -> None:
    run = [candidate("direct", 0.25), candidate("rag"), candidate("ttt")]
    first, second = reward_requests(run[1:], of_run=run, samples=[sample(1), sample(2)])
    direct = {"arm": "direct", "answer": "direct", "reward": 0.25, "mean_logprob": None}
    rag, ttt = ({"arm": a, "answer": a, "reward": None, "mean_logprob": None} for a in run_arms)
    evidence = {"samples": (sample(1), sample(2))}
    assert first == {**run[1], **evidence, "others": (direct, ttt)}
    assert second == {**run[2], **evidence, "others": (direct, rag)}


run_arms = ("rag", "ttt")


def test_equal_candidates_are_each_others_others() -> None:
    twin = [candidate("rag"), candidate("rag")]
    assert [len(r.get("others", ())) for r in reward_requests(twin, of_run=twin)] == [1, 1]


def test_without_a_run_there_is_no_evidence() -> None:
    assert reward_requests([candidate("rag")]) == [
        {**candidate("rag"), "samples": (), "others": ()}
    ]


class OldJudge:
    """As one wrote it before there was evidence."""

    name = "old"

    async def fingerprint(self) -> str:
        return "old"

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        return [0.25 if query else 0.0] * len(candidates)


class NamelessJudge:
    async def fingerprint(self) -> str:
        return "nameless"

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        return [0.25 if query else 0.0] * len(candidates)


class AttributeJudge(OldJudge):
    is_calibrated = True


class ScopedJudge(OldJudge):
    def __init__(self, tenant: str = "") -> None:
        self.tenant = tenant

    async def fingerprint(self) -> str:
        return f"old for {self.tenant}"

    def within(self, *, tenant: str, domain: str | None) -> ScopedJudge:
        return ScopedJudge(f"{tenant}/{domain}")


class FullJudge(OldJudge):
    sees_evidence = False

    async def is_calibrated(self) -> bool:
        return True

    async def chosen_arms(self) -> tuple[str, ...]:
        return ("rag",)

    async def chosen_plan(self) -> Plan | None:
        return None

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        return self


class InheritingJudge(OldJudge, RewardModel):
    """Takes the defaults."""


@pytest.mark.parametrize(
    ("judge", "name", "is_calibrated", "fingerprint"),
    [
        (OldJudge(), "old", False, "old"),
        (NamelessJudge(), "NamelessJudge", False, "nameless"),
        (AttributeJudge(), "old", True, "old"),
        (ScopedJudge(), "old", False, "old for acme/math"),
        (FullJudge(), "old", True, "old"),
        (InheritingJudge(), "old", False, "old"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, (OldJudge, NamelessJudge)) else "",
)
async def test_a_judge_with_some_methods_gets_the_others(
    judge: PlainRewardModel, name: str, is_calibrated: bool, fingerprint: str
) -> None:
    whole = as_reward_model(judge)
    assert whole.name == name
    assert await whole.is_calibrated() is is_calibrated
    scoped = whole.within(tenant="acme", domain="math")
    assert await scoped.fingerprint() == fingerprint
    assert scoped.name == name
    for one in (whole, scoped):
        assert await one.score("q", reward_requests([candidate("rag")])) == [0.25]
    assert as_reward_model(whole) is whole


def test_a_judge_with_all_methods_is_left_as_it_is() -> None:
    for judge in (FullJudge(), InheritingJudge()):
        assert as_reward_model(judge) is judge


@pytest.mark.parametrize("judge", [OldJudge(), NamelessJudge(), ScopedJudge()])
async def test_a_graph_takes_a_judge_with_some_methods(face: Face, judge: PlainRewardModel) -> None:
    parts: RttcParts = {**Parts().parts(), "reward_model": judge}
    output = await ask(parts, face, tau_r=0.25)
    assert (output["arm"], output["reward"]) == ("direct", 0.25)


async def test_each_candidate_is_judged_with_what_is_in_hand_then(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    await ask(parts, face)
    seen = [
        (
            request["arm"],
            len(request.get("samples", ())),
            [(other["arm"], other["reward"]) for other in request.get("others", ())],
        )
        for request in parts.reward_model.requests
    ]
    assert seen == [
        ("direct", 0, []),
        ("rag", 2, [("direct", 0.1)]),
        ("ttt", 2, [("direct", 0.1), ("rag", 0.2)]),
    ]


async def test_what_was_judged_without_samples_is_judged_again_with_them(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    parts.reward_model.sees_evidence = True
    output = await ask(parts, face)
    seen = [(r["arm"], len(r.get("samples", ()))) for r in parts.reward_model.requests]
    assert seen == [("direct", 0), ("direct", 2), ("rag", 2), ("ttt", 2)]
    assert [c["reward"] for c in output["candidates"]] == [0.1, 0.2, 0.3]
    judged = [e["detail"] for e in output["ledger"] if e["event"] == "judged"]
    assert [(d["arms"], d["samples"]) for d in judged] == [
        (["direct"], 0),
        (["direct", "rag"], 2),
        (["ttt"], 2),
    ]


async def test_evidence_stays_out_of_the_state_and_the_output(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    output = await ask(parts, face)
    assert all(one.keys() <= Candidate.__annotations__.keys() for one in output["candidates"])


async def test_the_judge_of_the_how_to_reads_the_samples(face: Face) -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "reward-models.md").read_text()
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Says" in b]
    made: dict[str, Any] = {"__name__": "howto"}
    exec(block, made)  # the docs' own code
    parts = Parts()
    parts.knowledge_base.samples = [{**sample(1), "answer": "rag"}, {**sample(2), "answer": "ttt"}]
    output = await ask({**parts.parts(), "reward_model": made["SaysWhatASampleSays"]()}, face)
    rewards = [(c["arm"], c["reward"]) for c in output["candidates"]]
    assert rewards == [("direct", 0.0), ("rag", 1.0)]
