"""Candidate answers to solved questions: from the policy model's arms and from other samples.

What costs time goes through the policy model in batches and is written down as soon as it is
there; what other samples give is free.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, sampled_arms, untrained_arms
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import (
    CHAT_JUDGE,
    ScorerName,
    check_reference,
    choose_scorer,
    is_right,
)
from rttc_graph.evaluation.verdicts import Verdicts, scored
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedder,
    Generation,
    GenerationRequest,
    NewSample,
    PolicyModel,
)
from rttc_graph.reward_training.candidate_rows import (
    CandidateLog,
    CandidateRow,
    NearSample,
    decided,
    graph_sample,
    row_digest,
)
from rttc_graph.reward_training.negatives import FreeAnswer, free_answers
from rttc_graph.reward_training.neighbours import nearest_samples
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.run.prompts import direct_messages, rag_messages, training_examples
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.settings import TttSettings
from rttc_graph.state import Arm, ChatTurn, Sample
from rttc_graph.support.identity import unknown_name
from rttc_graph.support.progress import Advance, show_nothing
from rttc_graph.support.thinking import answer_behind

_FIRST_AT_ONCE = 4
"""Candidates of the first batch."""
MOST_AT_ONCE = 32
"""Requests handed to the policy model together, and lost when the job is killed."""


_WIDE = 64
"""Nearest samples among which those that do not answer a question rightly are looked for."""

_MAY_BE_RIGHT = frozenset({"neighbour", "other"})
"""Free answers that a scorer may find right. It must not be asked of echoes and pleas: it takes
the "yes" of a copied "Answer yes or no" or the 10 of "grade 10/10" for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """Which candidates are drawn for each question."""

    arms: tuple[Arm, ...] = field(default_factory=untrained_arms)
    temperatures: tuple[float, ...] = (0.0, 0.8)
    """Each arm answers once at each; one that trains an adapter, which is dear, at the first
    only."""
    k: int = 8
    """Samples in a prompt, or that an adapter learns."""
    max_new_tokens: int = 96
    negatives: int = 4
    """Wrong answers taken from near samples, and half as many from samples drawn at random."""
    seed: int = 0
    scorer: ScorerName = "auto"
    ttt: TttSettings = field(default_factory=TttSettings)

    def __post_init__(self) -> None:
        """Refuse what gives no candidates.

        Raises:
            ConfigurationError: Says which setting is out of its bounds.
        """
        if unknown := sorted(set(self.arms) - set(sampled_arms())):
            raise ConfigurationError(
                f"arms cannot be drawn from: {unknown_name(unknown[0], sampled_arms())}"
            )
        for name in ("k", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least 1")
        if self.negatives < 0:
            raise ConfigurationError(f"negatives={self.negatives!r} must be at least 0")
        if not self.temperatures or not all(0 <= t <= 2 for t in self.temperatures):
            raise ConfigurationError(
                f"temperatures={list(self.temperatures)!r} must name at least one from 0 to 2"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """An answer to be: the question, and how the policy model is asked."""

    key: str
    row: NewSample
    arm: Arm
    request: GenerationRequest
    near: tuple[NewSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSampler:
    """Makes candidate answers with a policy model, and from near samples.

    Args:
        policy_model: Gives the answers of the arms; `None` for none but those of samples.
        embedder: Finds the near samples.
        trainer: Makes the adapters of the arms that train one.
        verdicts: Needed by the scorer `chat-judge`.
    """

    policy_model: PolicyModel | None
    embedder: Embedder
    trainer: AdapterTrainer | None = None
    verdicts: Verdicts | None = None

    async def draw(
        self,
        questions: Sequence[NewSample],
        samples: Sequence[NewSample],
        settings: SamplingSettings,
        log: CandidateLog,
        on_progress: Advance = show_nothing,
    ) -> list[CandidateRow]:
        """Return the candidates of all questions, those that the log has already included.

        Each comes with the nearest samples of its question. Those on which a grader abstained are
        left out.

        Args:
            questions: Solved questions; the references tell right from wrong.
            samples: What stands in prompts and gives wrong answers; may hold the questions, which
                then never see themselves.
            settings: Which candidates.
            log: Candidates are added to it batch by batch.
            on_progress: Called on the event loop with the answers of the policy model, after each
                batch and once before the first.

        Raises:
            ConfigurationError: There is no question or no sample, a reference answer does not fit
                the scorer, or the log is something else.
            RttcError: A model failed; what was drawn before is in the log.
        """
        if not questions or not samples:
            raise ConfigurationError("no rows to draw candidates for: the file is empty")
        settings = replace(settings, scorer=choose_scorer(questions, settings.scorer).scorer)
        for row in questions:
            check_reference(row, settings.scorer)
        known = await asyncio.to_thread(log.load)
        wanted = max(settings.k, 2 * settings.negatives)
        wide = await nearest_samples(self.embedder, questions, samples, k=max(wanted, _WIDE))
        near = [found[:wanted] for found in wide]
        evidence = await asyncio.to_thread(_evidence, questions, wide, settings)
        if self.verdicts is not None:
            self.verdicts.add(log.verdicts)
        free = await asyncio.to_thread(_free_rows, questions, near, samples, settings)
        jobs = await self._jobs(questions, near, settings)
        again: list[tuple[CandidateRow, NewSample]] = [
            (known[job.key], job.row) for job in jobs if job.key in known
        ]
        rows = await self._decided([*free, *again], known, settings, log, evidence)
        done = sum(job.key in known for job in jobs)
        on_progress(done, len(jobs))
        for batch in _batches([job for job in jobs if job.key not in known]):
            answers = await self._answers(batch, settings)
            drawn = [
                (_drawn_row(job, answer), job.row)
                for job, answer in zip(batch, answers, strict=True)
            ]
            rows |= await self._decided(drawn, known, settings, log, evidence)
            done += len(drawn)
            on_progress(done, len(jobs))
        return decided(rows.values())

    async def _decided(
        self,
        made: Sequence[tuple[CandidateRow, NewSample]],
        known: Mapping[str, CandidateRow],
        settings: SamplingSettings,
        log: CandidateLog,
        evidence: Mapping[str, _Evidence],
    ) -> dict[str, CandidateRow]:
        """Return candidates with their samples and the scorer's word, after they were written down.

        With a grader they are written before it is asked too, so that none is lost when it fails.
        """
        verdicts = self.verdicts
        made = [({**row, **evidence[row["group"]]}, sample) for row, sample in made]
        if verdicts is not None:
            new: list[CandidateRow] = [
                {**row, "undecided": True}
                for row, sample in made
                if _is_scored(row, sample) and row["key"] not in known
            ]
            await asyncio.to_thread(log.add, new)
            answers = [(row["answer"], sample) for row, sample in made if _is_scored(row, sample)]
            async for lines in verdicts.ask(answers):
                await asyncio.to_thread(log.add_verdicts, lines)
        rows = await asyncio.to_thread(
            lambda: [_with_verdict(row, sample, settings, verdicts) for row, sample in made]
        )
        await asyncio.to_thread(log.add, rows)
        return {row["key"]: row for row in rows}

    async def _jobs(
        self,
        questions: Sequence[NewSample],
        near: Sequence[Sequence[NewSample]],
        settings: SamplingSettings,
    ) -> list[_Job]:
        """Return what to ask, the questions mixed so that a half-drawn file has all domains."""
        if self.policy_model is None:
            return []
        base = await self.trainer.base_fingerprint() if self.trainer else self.policy_model.name
        jobs: list[_Job] = []
        for row, found in zip(questions, near, strict=True):
            for arm in settings.arms:
                warm = settings.temperatures[:1] if ARMS[arm].trains else settings.temperatures
                shown = found[: settings.k]
                jobs += [_job(row, shown, arm, t, settings, base) for t in warm]
        random.Random(settings.seed).shuffle(jobs)
        room = await self.policy_model.context_tokens()
        return [job for job in jobs if await self._fits(job, room)]

    async def _fits(self, job: _Job, room: int | None) -> bool:
        assert self.policy_model is not None
        if room is None:
            return True
        prompt = await self.policy_model.count_tokens(job.request.messages)
        return prompt + job.request.max_new_tokens <= room

    async def _answers(self, batch: Sequence[_Job], settings: SamplingSettings) -> list[Generation]:
        assert self.policy_model is not None
        for job in batch:
            if job.request.adapter is not None:
                await self._adapt(job, settings)
        return await self.policy_model.generate([job.request for job in batch])

    async def _adapt(self, job: _Job, settings: SamplingSettings) -> None:
        if self.trainer is None:
            raise ConfigurationError(
                f"the arm {job.arm!r} needs a policy model that can be trained here"
            )
        key = str(job.request.adapter)
        if not await self.trainer.is_resident(key):
            examples = training_examples([_sample(s) for s in job.near])
            await self.trainer.train(key, examples, settings.ttt, on_step=_ignore)


def _job(
    row: NewSample,
    near: Sequence[NewSample],
    arm: Arm,
    temperature: float,
    settings: SamplingSettings,
    base: str,
) -> _Job:
    shown = [_sample(s) for s in near]
    asked_with = ARMS[arm].asked_with
    messages: tuple[ChatTurn, ...] = (
        rag_messages(row.question, shown)
        if asked_with == "samples"
        else direct_messages(row.question)
    )
    adapter = (
        adapter_key(base, training_examples(shown), settings.ttt) if ARMS[arm].trains else None
    )
    seed = int(row_digest(settings.seed, row.question, arm, temperature), 16) % 2**31
    request = GenerationRequest(
        messages=messages,
        max_new_tokens=settings.max_new_tokens,
        temperature=temperature,
        seed=seed,
        adapter=adapter,
    )
    request_key = [list(messages), temperature, seed, settings.max_new_tokens, adapter]
    key = row_digest(base, request_key, question_group(row))
    return _Job(key=key, row=row, arm=arm, request=request, near=tuple(near))


def question_group(row: NewSample) -> str:
    """Return the digest under which the candidates of a question are kept together."""
    return row_digest(row.question, row.answer, row.domain)


def _batches(jobs: Sequence[_Job]) -> Iterable[Sequence[_Job]]:
    """Cut the jobs into batches, small ones first.

    So it is known after some seconds how long the rest will take. Those with an adapter come last,
    one by one, so that a batch never needs more adapters than there is memory for.
    """
    plain = [job for job in jobs if job.request.adapter is None]
    adapted = [job for job in jobs if job.request.adapter is not None]
    first, size = 0, min(_FIRST_AT_ONCE, MOST_AT_ONCE)
    while first < len(plain):
        yield plain[first : first + size]
        first, size = first + size, min(2 * size, MOST_AT_ONCE)
    for job in adapted:
        yield [job]


def _drawn_row(job: _Job, answer: Generation) -> CandidateRow:
    return {
        "key": job.key,
        "group": question_group(job.row),
        "domain": job.row.domain,
        "question": job.row.question,
        "reference": job.row.answer,
        "answer": answer_behind(answer.text),
        "right": False,
        "source": job.arm,
        "temperature": job.request.temperature,
        "mean_logprob": answer.mean_logprob,
        "completion_tokens": answer.completion_tokens,
        "finish_reason": answer.finish_reason,
    }


def _is_scored(row: CandidateRow, sample: NewSample) -> bool:
    """Tell whether a scorer is asked about an answer: others are known to be right or wrong.

    Where there is no answer, none is right: a reward is the probability that an answer can be acted
    on, which holds for no "I do not know". A calibration labels them so too.
    """
    may_be_right = row["source"] in ARMS or row["source"] in _MAY_BE_RIGHT
    return may_be_right and not is_unanswerable(sample.metadata)


def _with_verdict(
    row: CandidateRow, sample: NewSample, settings: SamplingSettings, verdicts: Verdicts | None
) -> CandidateRow:
    """Return a candidate with today's scorer's word."""
    right: bool | None = row["source"] == "reference"
    if _is_scored(row, sample):
        right = scored(row["answer"], sample, settings.scorer, verdicts)
    told: CandidateRow = {**row, "right": bool(right), "undecided": right is None}
    if not told["undecided"]:
        del told["undecided"]
    return told


def _free_rows(
    questions: Sequence[NewSample],
    near: Sequence[Sequence[NewSample]],
    samples: Sequence[NewSample],
    settings: SamplingSettings,
) -> list[tuple[CandidateRow, NewSample]]:
    rows: list[tuple[CandidateRow, NewSample]] = []
    for row, found in zip(questions, near, strict=True):
        chance = random.Random(f"{settings.seed} {question_group(row)}")
        answers = free_answers(row, found, samples, settings.negatives, chance)
        rows += [(_free_row(row, answer), row) for answer in answers]
    return rows


def _free_row(row: NewSample, free: FreeAnswer) -> CandidateRow:
    return {
        "key": row_digest(question_group(row), free.source, free.text),
        "group": question_group(row),
        "domain": row.domain,
        "question": row.question,
        "reference": row.answer,
        "answer": free.text,
        "right": False,
        "source": free.source,
        "temperature": 0.0,
        "mean_logprob": None,
        "completion_tokens": 0,
        "finish_reason": "stop",
    }


class _Evidence(TypedDict):
    """The samples of a question that its candidates are kept with."""

    samples: list[NearSample]
    left_out: list[NearSample]


def _evidence(
    questions: Sequence[NewSample], wide: Sequence[Sequence[NewSample]], settings: SamplingSettings
) -> dict[str, _Evidence]:
    """Return the samples near each question, and those without the ones that answer rightly."""
    scorer: ScorerName = "auto" if settings.scorer == CHAT_JUDGE else settings.scorer
    return {
        question_group(row): {
            "samples": _near_samples(found[: settings.k]),
            "left_out": _near_samples(without_right(row, found, settings.k, scorer)),
        }
        for row, found in zip(questions, wide, strict=True)
    }


def without_right(
    row: NewSample, near: Sequence[NewSample], most: int, scorer: ScorerName = "auto"
) -> list[NewSample]:
    """Return the first samples that do not answer a question rightly.

    Args:
        row: The question with its reference answer.
        near: Samples, nearest first.
        most: How many are returned at most.
        scorer: Tells right from wrong.
    """
    others = (sample for sample in near if not is_right(sample.answer, row, scorer))
    return list(islice(others, most))


def _near_samples(near: Sequence[NewSample]) -> list[NearSample]:
    return [{"question": sample.question, "answer": sample.answer} for sample in near]


def _sample(row: NewSample) -> Sample:
    return graph_sample(row, question_group(row))


def _ignore(_: object) -> None:
    return
