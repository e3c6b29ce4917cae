"""Baselines: answers that the samples give by themselves, without a model and without a judge.

They are worked out from the samples that the rows keep, so a file of rows is enough to have them
again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from rttc_graph.arms import ARMS
from rttc_graph.evaluation.evaluation_rows import EvaluationRow
from rttc_graph.evaluation.replay import ReplayedRun
from rttc_graph.nodes.nearest import vote
from rttc_graph.protocols.managed_knowledge_base import (
    MAX_PAGE_SAMPLES,
    ManagedKnowledgeBase,
    SampleFilter,
)
from rttc_graph.run.prompts import solved
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.state import Sample
from rttc_graph.support.canonical import canonical
from rttc_graph.support.passages import is_passage
from rttc_graph.support.thinking import answer_behind

Baseline = Literal["majority answer", "nearest sample", "vote of samples"]

MAJORITY: Baseline = "majority answer"
"""The most common answer of the domain's samples, whatever the question."""

NEAREST_SAMPLE: Baseline = "nearest sample"
"""The answer of the one nearest sample."""

VOTE: Baseline = "vote of samples"
"""The vote of all samples that were retrieved, weighted by similarity as in the arm `nearest`."""

BASELINES: tuple[Baseline, ...] = (MAJORITY, NEAREST_SAMPLE, VOTE)
"""From cheap to dear: the first needs no search."""


class MajorityAnswers:
    """The most common answer of a domain's solved samples, counted once for each domain.

    Args:
        knowledge_base: Its samples are read page by page.
        tenant: Tenant of the samples.
    """

    def __init__(self, knowledge_base: ManagedKnowledgeBase, *, tenant: str) -> None:
        self._knowledge_base = knowledge_base
        self._tenant = tenant
        self._known: dict[str | None, str | None] = {}

    async def most_common(self, domain: str | None) -> str | None:
        """Return the answer; `None` where there are no solved samples.

        Answers that a scorer takes for the same count as one; of equals the first by id wins.

        Args:
            domain: Domain of the samples; `None` for all.

        Raises:
            KnowledgeBaseError: The samples cannot be read.
        """
        if domain not in self._known:
            self._known[domain] = await self._count(SampleFilter(domain=domain))
        return self._known[domain]

    async def _count(self, which: SampleFilter) -> str | None:
        counts: Counter[str] = Counter()
        said: dict[str, str] = {}
        after: str | None = None
        while True:
            page = await self._knowledge_base.list_samples(
                which, tenant=self._tenant, limit=MAX_PAGE_SAMPLES, after=after
            )
            for sample in page.samples:
                if not is_passage(sample.metadata):
                    answer = answer_behind(sample.answer)
                    counts[canonical(answer)] += 1
                    said.setdefault(canonical(answer), answer)
            after = page.next
            if after is None:
                break
        return said[counts.most_common(1)[0][0]] if counts else None


def baseline_runs(
    rows: Sequence[EvaluationRow], is_right: Callable[[str], bool]
) -> dict[Baseline, ReplayedRun]:
    """Return what the baselines make of one question; those that its rows cannot tell are missing.

    Rows of earlier releases have neither the samples nor the majority answer.

    Args:
        rows: At least one, of one question under its policies; the first with samples tells what a
            search costs.
        is_right: Tells whether an answer to the question is right.
    """
    runs: dict[Baseline, ReplayedRun] = {}
    named = [row["majority"] for row in rows if "majority" in row]
    if named:
        # Of a domain that grew between two rows, the later count holds.
        runs[MAJORITY] = _run(MAJORITY, named[-1], is_right)
    found = _samples_in_hand(rows)
    if found is not None:
        runs |= _said_by(*found, is_right)
    unanswerable = is_unanswerable(rows[0]["metadata"])
    return {name: replace(run, unanswerable=unanswerable) for name, run in runs.items()}


def scored_answers(row: EvaluationRow) -> list[str]:
    """Return the answers of a row that are told right or wrong: its own and the baselines'."""
    answers = [candidate["answer"] for candidate in row["candidates"]]

    def note(answer: str) -> bool:
        answers.append(answer)
        return False

    baseline_runs([row], note)
    return answers


def _said_by(
    samples: Sequence[Sample], seconds: float, is_right: Callable[[str], bool]
) -> dict[Baseline, ReplayedRun]:
    """Return what the nearest sample and all samples say, with how sure each is."""
    runs: dict[Baseline, ReplayedRun] = {}
    voters_of: dict[Baseline, int] = {NEAREST_SAMPLE: 1, VOTE: max(1, len(samples))}
    for name, voters in voters_of.items():
        if samples:
            won = vote(samples, voters=voters)
            sure = won.sample["similarity"] if name == NEAREST_SAMPLE else won.share
            answer = answer_behind(won.sample["answer"])
            runs[name] = _run(name, answer, is_right, seconds=seconds, confidence=sure)
        else:
            runs[name] = _run(name, None, is_right, seconds=seconds)
    return runs


def _samples_in_hand(rows: Sequence[EvaluationRow]) -> tuple[Sequence[Sample], float] | None:
    """Return a question's solved samples and the seconds of finding them; `None` if not known."""
    searched = [row for row in rows if _retrieves(row["policy"])]
    for row in (*searched, *rows):  # a panel may have searched too
        if row.get("samples"):
            return solved(row.get("samples", ())), row["seconds"]["retrieval"]
    # Without samples, rows tell that there are none only if nothing was made of any.
    empty = [row for row in searched if row.get("samples") == []]
    if not empty or any(_retrieves(c["arm"]) for row in searched for c in row["candidates"]):
        return None
    return [], empty[0]["seconds"]["retrieval"]


def _retrieves(policy: str) -> bool:
    """Tell whether a policy, or an arm, may search for samples."""
    return policy not in ARMS or ARMS[policy].retrieves


def _run(
    name: Baseline,
    answer: str | None,
    is_right: Callable[[str], bool],
    *,
    seconds: float = 0.0,
    confidence: float | None = None,
) -> ReplayedRun:
    return ReplayedRun(
        right=float(answer is not None and is_right(answer)),
        seconds=seconds,
        prompt_tokens=0,
        completion_tokens=0,
        trained_tokens=0,
        flops=0.0,
        shares={} if answer is None else {name: 1.0},
        reward=confidence,
        answers=answer is not None and confidence is not None,
    )
