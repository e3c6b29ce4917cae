"""A map from what people said of stored runs, on a real Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scripted_parts import ScriptedEmbedder, ScriptedRewardModel

from rttc_graph.calibration.map_fitting import MIN_OF_EACH, Labelled, calibrate
from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.jobs.fit_ratings import RatedAnswers, judge_anew, rated_answers
from rttc_graph.protocols import NewSample, RatedRun, Rating, RunRecord
from rttc_graph.samples.corrections import Corrections
from rttc_graph.samples.ingest import ingest
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate

CANDIDATE: Candidate = {
    "arm": "rag",
    "answer": "20 euros",
    "reward": 0.99,
    "seconds": 1.0,
    "prompt_tokens": 10,
    "completion_tokens": 3,
    "trained_tokens": 0,
    "mean_logprob": -0.5,
    "finish_reason": "stop",
    "adapter": None,
}
PLAIN: Candidate = {**CANDIDATE, "arm": "direct", "answer": "free"}
RUN = RunRecord(
    run_id="run",
    tenant="tenant",
    domain="shop",
    query="How much does a helmet cost?",
    policy="rag",
    tau_r=0.5,
    arm="rag",
    reward=0.99,
    accepted=True,
    seconds=1.0,
    tokens=10,
    entries=[],
    answer="20 euros",
    candidate=CANDIDATE,
)


async def rated(database: Database, *runs: tuple[RunRecord, bool]) -> list[RatedRun]:
    ledger, ratings = PostgresLedgerStore(database), PostgresRatingStore(database)
    for number, (run, right) in enumerate(runs):
        stored = replace(run, run_id=f"run-{number}")
        await ledger.append(stored)
        rating = Rating(run_id=stored.run_id, is_right=right)
        await ratings.rate(rating, tenant=stored.tenant)
    return await ratings.rated_runs(tenant="tenant")


async def judged(
    database: Database, answers: RatedAnswers, embedder: ScriptedEmbedder
) -> tuple[dict[str, Any], ScriptedRewardModel]:
    judge = ScriptedRewardModel(rewards={"20 euros": 0.25, "free": 0.5})
    pairs = await judge_anew(
        answers,
        judge,
        embedder,
        PostgresKnowledgeBase(database, embedder),
        settings=RttcSettings(tenant="tenant", k=2),
    )
    return pairs, judge


async def test_only_the_answer_that_was_rated_counts_by_domain_and_tenant(
    database: Database,
) -> None:
    elsewhere = replace(RUN, tenant="other")
    listed = await rated(
        database,
        (RUN, True),
        (replace(RUN, domain=None, arm="direct", candidate=PLAIN), False),
        (elsewhere, False),
    )
    answers = rated_answers(listed)
    assert (len(answers.runs), answers.right, answers.left_out) == (2, 1, {})
    pairs, judge = await judged(database, answers, ScriptedEmbedder())
    said = {domain: [(pair.score, pair.right) for pair in found] for domain, found in pairs.items()}
    # raw scores of today's judge, not the 0.99 of the run, which went through the map of its day
    assert said == {"shop": [(0.25, True)], "": [(0.5, False)]}
    assert [request["reward"] for request in judge.requests] == [None, None]


async def test_the_judge_sees_the_samples_but_not_the_correction_of_the_question(
    database: Database,
) -> None:
    embedder = ScriptedEmbedder()
    base = PostgresKnowledgeBase(database, embedder)
    solved = [
        NewSample(question=f"What costs {n}?", answer=str(n), domain="shop") for n in range(3)
    ]
    await ingest(solved, base, embedder, tenant="tenant")
    await rated(database, (RUN, True))
    ratings = PostgresRatingStore(database)
    corrections = Corrections(ratings=ratings, knowledge_base=base, embedder=embedder)
    wrong = Rating(run_id="run-0", is_right=False, answer="35 euros")
    await corrections.rate(wrong, tenant="tenant")
    await corrections.approve("run-0", tenant="tenant")
    listed = await ratings.rated_runs(tenant="tenant")
    pairs, judge = await judged(database, rated_answers(listed), embedder)
    assert [(pair.score, pair.right) for pair in pairs["shop"]] == [(0.25, False)]
    [request] = judge.requests
    answers = [sample["answer"] for sample in request.get("samples", ())]
    assert len(answers) == 2
    assert "35 euros" not in answers


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        pytest.param(replace(RUN, candidate=None), "did not keep", id="of-an-earlier-release"),
        pytest.param(replace(RUN, declined=True), "declined", id="declined"),
        pytest.param(
            replace(RUN, candidate={**CANDIDATE, "answer": "I do not know."}),
            "I do not know",
            id="a-refusal",
        ),
    ],
)
async def test_ratings_that_say_nothing_of_an_answer_are_left_out_and_counted(
    database: Database, run: RunRecord, reason: str
) -> None:
    answers = rated_answers(await rated(database, (run, True), (RUN, False)))
    assert len(answers.runs) == 1
    [(why, count)] = answers.left_out.items()
    assert reason in why
    assert count == 1
    with pytest.raises(
        ConfigurationError, match=r"0 right and 1 wrong ratings.*1 left out"
    ) as told:
        answers.check_enough()
    assert "10 of each; rate more runs (rttc rate RUN right|wrong" in str(told.value)


def fake(rights: Sequence[bool]) -> RatedAnswers:
    runs = [
        RatedRun(
            rating=Rating(run_id=str(n), is_right=right),
            query=str(n),
            domain=None,
            answered="a",
            candidate=CANDIDATE,
        )
        for n, right in enumerate(rights)
    ]
    return rated_answers(runs)


@pytest.mark.parametrize(
    ("right", "wrong", "enough"),
    [(MIN_OF_EACH, MIN_OF_EACH, True), (MIN_OF_EACH - 1, 50, False), (50, MIN_OF_EACH - 1, False)],
)
def test_the_least_number_of_ratings_is_what_a_map_takes(
    right: int, wrong: int, enough: bool
) -> None:
    answers = fake([True] * right + [False] * wrong)
    if enough:
        answers.check_enough()
        labels = [run.rating.is_right for run, _ in answers.runs]
        calibrate({"": [Labelled(0.5, label, str(n)) for n, label in enumerate(labels)]})
    else:
        with pytest.raises(ConfigurationError, match="too few"):
            answers.check_enough()
