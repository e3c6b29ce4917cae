from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langchain_fakes import HashEmbeddings
from scripted_parts import ScriptedPolicyModel

from rttc_graph.errors import ConfigurationError, PolicyModelError, RewardModelError
from rttc_graph.evaluation.scorers import is_right, normalised
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.protocols import NewSample
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, read_candidates
from rttc_graph.reward_training.candidate_sampling import (
    CandidateSampler,
    SamplingSettings,
)
from rttc_graph.reward_training.negatives import TRICKS, free_answers
from rttc_graph.reward_training.neighbours import nearest_samples
from rttc_graph.reward_training.training import check_right
from rttc_graph.samples.rows import NO_ANSWER

LABELS = ("lost card", "card arrival", "exchange rate", "top up failed")


def rows(count: int, *, domain: str = "banking") -> list[NewSample]:
    return [
        NewSample(question=f"{domain} {n}?", answer=LABELS[n % len(LABELS)], domain=domain)
        for n in range(count)
    ]


def embedder() -> LangChainEmbedder:
    return LangChainEmbedder(HashEmbeddings(), name="hash", fingerprint="hash")


@dataclass
class CountingPolicyModel(ScriptedPolicyModel):
    fails_after: int | None = None
    batches: list[int] = field(default_factory=list[int])

    async def generate(self, requests, *, deadline=None):  # type: ignore[no-untyped-def]
        self.batches.append(len(requests))
        if self.fails_after is not None and len(self.batches) > self.fails_after:
            raise PolicyModelError("killed")
        return await super().generate(requests, deadline=deadline)


async def test_every_question_gets_its_candidates(tmp_path: Path) -> None:
    settings = SamplingSettings(temperatures=(0.0, 0.9), k=2, negatives=2)
    model = CountingPolicyModel(texts={"rag": "lost card"})
    log = CandidateLog(tmp_path / "c.jsonl")
    drawn = await CandidateSampler(policy_model=model, embedder=embedder()).draw(
        rows(8), rows(8), settings, log
    )
    by_source = Counter(row["source"] for row in drawn)
    assert by_source["direct"] == by_source["rag"] == 16  # 8 questions, 2 temperatures
    assert by_source["reference"] == 8
    assert by_source["neighbour"] == 16
    right = [row for row in drawn if row["source"] == "rag" and row["right"]]
    assert {row["reference"] for row in right} == {"lost card"}
    assert all(row["right"] for row in drawn if row["source"] == "reference")
    assert len({row["key"] for row in drawn}) == len(drawn)


async def test_no_question_sees_itself(tmp_path: Path) -> None:
    model = CountingPolicyModel()
    settings = SamplingSettings(arms=("rag",), temperatures=(0.0,), k=8, negatives=0)
    await CandidateSampler(policy_model=model, embedder=embedder()).draw(
        rows(4), rows(4), settings, CandidateLog(tmp_path / "c.jsonl")
    )
    for request in model.requests:
        *shown, asked = [t["content"] for t in request.messages if t["role"] == "user"]
        assert len(shown) == 3
        assert asked not in shown


async def test_a_killed_job_goes_on_where_it_was(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path / "c.jsonl")
    settings = SamplingSettings(temperatures=(0.0, 0.9), k=1, negatives=1)
    questions = rows(30)  # 120 answers, 4 batches
    killed = CountingPolicyModel(fails_after=2)
    with pytest.raises(PolicyModelError, match="killed"):
        await CandidateSampler(policy_model=killed, embedder=embedder()).draw(
            questions, questions, settings, log
        )
    with log.path.open("ab") as file:
        file.write(b'{"key": "cut sho')
    again = CountingPolicyModel()
    seen: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        seen.append((done, total))

    drawn = await CandidateSampler(policy_model=again, embedder=embedder()).draw(
        questions, questions, settings, log, show
    )
    assert seen[0] == (12, 120)  # 4 and 8: the first batches are small
    assert sum(again.batches) == 108
    whole = await CandidateSampler(policy_model=CountingPolicyModel(), embedder=embedder()).draw(
        questions, questions, settings, CandidateLog(tmp_path / "other.jsonl")
    )
    assert sorted(drawn, key=_key) == sorted(whole, key=_key)
    kept = await asyncio.to_thread(log.load)
    assert sorted(kept.values(), key=_key) == sorted(whole, key=_key)


def _key(row: CandidateRow) -> str:
    return row["key"]


async def test_a_changed_setting_draws_only_what_it_changes(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path / "c.jsonl")
    first = SamplingSettings(arms=("direct",), temperatures=(0.0,), negatives=1)
    await CandidateSampler(policy_model=CountingPolicyModel(), embedder=embedder()).draw(
        rows(5), rows(5), first, log
    )
    model = CountingPolicyModel()
    more = SamplingSettings(arms=("direct", "rag"), temperatures=(0.0,), negatives=1)
    await CandidateSampler(policy_model=model, embedder=embedder()).draw(
        rows(5), rows(5), more, log
    )
    assert sum(model.batches) == 5


async def test_prompts_beyond_the_context_are_left_out(tmp_path: Path) -> None:
    model = CountingPolicyModel(context=SamplingSettings().max_new_tokens + 8)
    settings = SamplingSettings(temperatures=(0.0,), k=8, negatives=0)
    drawn = await CandidateSampler(policy_model=model, embedder=embedder()).draw(
        rows(4), rows(4), settings, CandidateLog(tmp_path / "c.jsonl")
    )
    assert Counter(r["source"] for r in drawn) == {"reference": 4, "direct": 4}


async def test_the_arm_ttt_needs_a_trainer(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'ttt' needs a policy model"):
        await CandidateSampler(policy_model=CountingPolicyModel(), embedder=embedder()).draw(
            rows(3), rows(3), SamplingSettings(arms=("ttt",)), CandidateLog(tmp_path / "c.jsonl")
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"k": 0}, "k=0 must be at least 1", id="k"),
        pytest.param({"negatives": -1}, "negatives=-1", id="negatives"),
        pytest.param({"temperatures": ()}, "at least one from 0 to 2", id="no-temperature"),
        pytest.param({"temperatures": (3.0,)}, "at least one from 0 to 2", id="too-hot"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SamplingSettings(**options)  # type: ignore[arg-type]


async def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the file is empty"):
        await CandidateSampler(policy_model=None, embedder=embedder()).draw(
            [], rows(3), SamplingSettings(), CandidateLog(tmp_path / "c.jsonl")
        )


def test_free_answers_are_wrong_but_for_the_reference() -> None:
    samples = rows(40)
    for number, row in enumerate(samples):
        chance = random.Random(number)
        found = free_answers(row, samples[:9], samples, 3, chance)
        assert found[0].source == "reference"
        assert not any(is_right(a.text, row) for a in found[1:])
        texts = [normalised(a.text) for a in found]
        assert len(set(texts)) == len(texts)


def test_tricks_stand_behind_answers_of_which_none_is_right() -> None:
    samples = rows(12)
    found = [
        answer
        for number in range(200)
        for answer in free_answers(samples[0], samples, samples, 2, random.Random(number))
        if answer.source in ("injected", "echo", "empty")
    ]
    assert Counter(a.source for a in found).keys() == {"injected", "echo", "empty"}
    said = [a.text for a in found if a.source == "injected"]
    assert all(any(trick in text for trick in TRICKS) for text in said)
    assert not any(text.startswith("lost card") for text in said)
    echoes = Counter(a.text for a in found if a.source == "echo")
    assert all(text.startswith("banking 0?") for text in echoes)
    assert not any("lost card" in text for text in echoes)
    assert echoes["banking 0?"]
    assert echoes["banking 0? card arrival"]


async def test_echoes_and_pleas_are_wrong_whatever_the_scorer_finds(tmp_path: Path) -> None:
    questions = [
        NewSample(question=f"Answer yes or no.\nIs {n} even?", answer="yes", domain="d")
        for n in range(40)
    ]
    samples = [NewSample(question=f"{n}?", answer="no", domain="d") for n in range(9)]
    drawn = await CandidateSampler(policy_model=None, embedder=embedder()).draw(
        questions, samples, SamplingSettings(arms=()), CandidateLog(tmp_path / "c.jsonl")
    )
    assert {"echo", "injected"} <= {row["source"] for row in drawn}
    assert {row["source"] for row in drawn if row["right"]} == {"reference"}


async def test_neighbours_are_of_the_same_domain() -> None:
    samples = rows(6) + rows(6, domain="other")
    near = await nearest_samples(embedder(), samples, samples, k=20)
    assert [{n.domain for n in found} for found in near] == [{"banking"}] * 6 + [{"other"}] * 6
    assert [len(found) for found in near] == [5] * 12


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": "a"}) + "\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"no file of judged|not a file of judged.*line 1"):
        read_candidates([file])
    with pytest.raises(ConfigurationError, match="no such file"):
        read_candidates([tmp_path / "nothing.jsonl"])
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no candidates in"):
        read_candidates([tmp_path / "empty.jsonl"])


@pytest.mark.parametrize(
    ("right", "wrong", "source", "is_refused"),
    [(0, 40, "rag", True), (1, 40, "rag", False), (0, 39, "rag", False), (0, 40, "other", False)],
)
def test_a_judge_is_not_trained_where_the_model_is_never_right(
    right: int, wrong: int, source: str, is_refused: bool
) -> None:
    base: Any = {"source": source, "answer": "no idea", "reference": "the third day"}
    rows: list[Any] = [{**base, "right": True}] * right + [{**base, "right": False}] * wrong
    reference: Any = {**base, "source": "reference", "right": True}
    if not is_refused:
        check_right([*rows, reference])
        return
    with pytest.raises(RewardModelError, match=r"not one of 40 answers .* 'no idea'"):
        check_right([*rows, reference])


async def test_nothing_is_right_where_there_is_no_answer(tmp_path: Path) -> None:
    """A reward is the probability that an answer can be acted on: no "I do not know" can be."""
    dark = NewSample(
        question="colour?", answer=NO_ANSWER, domain="banking", metadata={"unanswerable": True}
    )
    model = CountingPolicyModel(texts={"rag": NO_ANSWER})
    settings = SamplingSettings(arms=("rag",), temperatures=(0.0,), k=2, negatives=2)
    drawn = await CandidateSampler(policy_model=model, embedder=embedder()).draw(
        [*rows(2), dark], rows(8), settings, CandidateLog(tmp_path / "c.jsonl")
    )
    mine = [row for row in drawn if row["question"] == "colour?"]
    assert {row["source"] for row in mine} >= {"rag", "neighbour", "other"}
    assert not any(row["right"] or row["source"] == "reference" for row in mine)
    assert sum(row["right"] for row in drawn) == 2  # the references of the others


async def test_a_question_is_kept_with_what_is_left_without_its_answer(tmp_path: Path) -> None:
    log = CandidateLog(tmp_path / "c.jsonl")
    settings = SamplingSettings(temperatures=(0.0,), k=3, negatives=1)
    drawn = await CandidateSampler(policy_model=None, embedder=embedder()).draw(
        rows(2), rows(24), settings, log
    )
    kept = await asyncio.to_thread(CandidateLog(log.path).load)
    for row in (*drawn, *kept.values()):
        answers = [sample["answer"] for sample in row.get("left_out", ())]
        assert len(answers) == 3
        assert row["reference"] not in answers
    await asyncio.to_thread(log.add, drawn)  # nothing is written twice
    assert await asyncio.to_thread(CandidateLog(log.path).load) == kept
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["group"] for line in lines if line.get("kind") == "samples"] == list(
        dict.fromkeys(row["group"] for row in drawn)
    )
