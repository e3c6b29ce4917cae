"""Rounds of self-training: draw answers, keep those that are accepted, train, put to the trial."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rttc_graph.arms import PLAIN
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import ScorerName, is_right
from rttc_graph.improvement.answer_log import AnswerLog, Ask, DrawnAnswer
from rttc_graph.improvement.held_out_trial import Trial
from rttc_graph.improvement.lessons import answer_lesson, revision_lesson
from rttc_graph.improvement.questions import KnownQuestion, Questions
from rttc_graph.protocols import (
    AdapterTrainer,
    GenerationRequest,
    PolicyModel,
    RewardModel,
    TrainedAdapter,
    TrainingExample,
    parameters_of,
    reward_requests,
    training_flops,
)
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.run.prompts import direct_messages
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.settings import PromptSettings, TttSettings
from rttc_graph.state import Candidate
from rttc_graph.support.progress import Advance

__all__ = ("Improved", "ImprovementParts", "ImprovementSettings", "Round", "SelfTraining")


class KeepingStore(Protocol):
    """Keeps adapters by their keys, as the query-state cache does."""

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        ...

    async def keep_adapter(self, adapter: TrainedAdapter) -> None:
        """Store an adapter, unless it is there."""
        ...

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovementSettings:
    """Settings of an improvement.

    Raises:
        ConfigurationError: A value is out of its bounds.
    """

    rounds: int = 1
    """Most rounds; each is trained from the base, on answers that the round before it drew."""
    draws: int = 4
    """Most answers that are drawn for a question; the first is greedy."""
    temperature: float = 0.7
    """Sampling temperature of the others."""
    chance: float = 0.05
    """Probability of a gain by chance from which on an adapter is not kept. It is shared out among
    the rounds, since the best of several is more often lucky than each."""
    bound: float = 0.9
    """P(right) from which on the majority's answer to an unrated question is taken for right."""
    revisions: bool = False
    """Whether the adapter also learns to give the right answer after wrong ones."""
    scorer: ScorerName = "auto"
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    prompts: PromptSettings = field(default_factory=PromptSettings)
    training: TttSettings = field(default_factory=TttSettings)

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name, least in (("rounds", 1), ("draws", 1), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least {least}")
        for name, most in (("chance", 0.5), ("bound", 1.0)):
            if not 0 < getattr(self, name) <= most:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} must be above 0 and at most {most:g}"
                )
        if not 0 <= self.temperature <= 2:
            raise ConfigurationError(f"temperature={self.temperature!r} must be from 0 to 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovementParts:
    """Parts that an improvement works with."""

    policy_model: PolicyModel
    trainer: AdapterTrainer
    store: KeepingStore
    reward_model: RewardModel
    """Judge of unrated answers, for the domain."""
    step: Callable[[str], AbstractContextManager[Advance]]
    """Shows a step of the work."""
    reuse_scope: str = ""
    """Among whom adapters are shared, see `adapter_key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round of self-training."""

    adapter: TrainedAdapter
    lessons: dict[str, int]
    """Number of lessons by where they came from."""
    trial: Trial

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the round."""
        return {
            "adapter": self.adapter.key,
            "lessons": self.lessons,
            "steps": self.adapter.steps,
            "trained_tokens": self.adapter.trained_tokens,
            "loss": [self.adapter.losses[0], self.adapter.losses[-1]],
            **self.trial.as_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Improved:
    """What came of an improvement."""

    rounds: Sequence[Round]
    best: Round | None
    """Round that is better than the plain model by more than chance; `None` if none is."""
    flops: float | None
    """Operations of drawing, training and trials in this process, as far as they are known."""


class SelfTraining:
    """Trains one adapter for a domain from answers of the model that turned out right.

    STaR (arXiv 2203.14465) without its hints: each question of which an accepted answer is known or
    was drawn counts once, and each round is trained from the base, so that what an earlier round
    learnt wrongly is not built on. Only a trial on held-out questions decides.

    Args:
        parts: Parts to work with.
        settings: Settings of the improvement.
        log: Answers of an earlier try, and where new ones go.
    """

    def __init__(
        self, parts: ImprovementParts, settings: ImprovementSettings, log: AnswerLog
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._log = log
        self._base = ""
        self._trained_flops = 0.0

    async def run(self, questions: Questions) -> Improved:
        """Run the rounds; one that is no better than the plain model is the last.

        Adapters that are not the best one are dropped; what was drawn stays in the log.

        Raises:
            ConfigurationError: Unrated questions are given, and the judge is not calibrated; or no
                answer was accepted.
            RttcError: The model, the trainer or the store failed.
        """
        self._base = await self._parts.trainer.base_fingerprint()
        if questions.unrated and not await self._parts.reward_model.is_calibrated():
            raise ConfigurationError(
                "answers that nobody rated are taken by their P(right), and the rewards of this "
                "domain are raw scores: run rttc calibrate first, or leave out --unrated"
            )
        before = await self.rights(questions.held_out, None, "answer held-out questions")
        rounds: list[Round] = []
        teacher: str | None = None
        for number in range(1, self._settings.rounds + 1):
            lessons, counts = await self._lessons(number, questions, teacher)
            if not lessons and rounds:
                break
            made = await self._round(number, questions, before, lessons, counts)
            rounds.append(made)
            teacher = made.adapter.key
            if not made.trial.is_better:
                break
        good = [one for one in rounds if one.trial.is_better]
        best = max(good, key=lambda one: sum(one.trial.after), default=None)
        for one in rounds:
            if best is None or one.adapter.key != best.adapter.key:
                await self._parts.store.discard_adapter(one.adapter.key)
        return Improved(rounds=rounds, best=best, flops=self._log.flops + self._trained_flops)

    async def rights(
        self, questions: Sequence[KnownQuestion], adapter: str | None, what: str
    ) -> list[bool]:
        """Return which questions the model answers rightly when it answers once.

        Args:
            questions: Questions of known outcome.
            adapter: Key of a stored adapter; `None` for the plain model.
            what: Name of the step, for people.
        """
        asks = [self._ask(one.row.question, adapter, 0) for one in questions]
        with self._parts.step(what) as advance:
            made = await self._log.ask(asks, advance)
        return [self._is_right(answer, one) for answer, one in zip(made, questions, strict=True)]

    async def _round(
        self,
        number: int,
        questions: Questions,
        before: Sequence[bool],
        lessons: Sequence[TrainingExample],
        counts: dict[str, int],
    ) -> Round:
        if not lessons:
            raise ConfigurationError(
                f"of {len(questions.training)} questions the model answered none rightly in "
                f"{self._settings.draws} draws, so there is nothing to learn from: draw more "
                "(--draws), rate runs (rttc rate), or take a larger model"
            )
        adapter = await self._train(number, lessons)
        after = await self.rights(
            questions.held_out, adapter.key, f"round {number}: put the adapter to the trial"
        )
        trial = Trial(
            before=before, after=after, chance=self._settings.chance / self._settings.rounds
        )
        return Round(adapter=adapter, lessons=counts, trial=trial)

    async def _lessons(
        self, number: int, questions: Questions, teacher: str | None
    ) -> tuple[list[TrainingExample], dict[str, int]]:
        """Return the lessons of a round, each question once, and how many came from where."""
        settings, prompts = self._settings, self._settings.prompts
        counts: Counter[str] = Counter()
        lessons: list[TrainingExample] = []
        drawn = await self._drawn_for_known(number, questions, teacher)
        for one, answers in zip(questions.training, drawn, strict=True):
            text = one.accepted or next(
                (made["answer"] for made in answers if self._is_right(made, one)), None
            )
            if text is None:
                continue
            counts["rated" if one.accepted else "drawn"] += 1
            lessons.append(answer_lesson(one.row.question, text, prompts))
            wrong = [made["answer"] for made in answers if not self._is_right(made, one)]
            revised = revision_lesson(one.row.question, text, wrong, prompts)
            if settings.revisions and revised is not None:
                counts["revisions"] += 1
                lessons.append(revised)
        for question, text in await self._trusted(number, questions, teacher):
            counts["unrated"] += 1
            lessons.append(answer_lesson(question, text, prompts))
        return lessons, dict(counts)

    async def _drawn_for_known(
        self, number: int, questions: Questions, teacher: str | None
    ) -> list[list[DrawnAnswer]]:
        """Return drawn answers to the training questions, until one is right or all were drawn.

        With revisions all are drawn, as they learn from wrong answers too.
        """
        settings, known = self._settings, questions.training
        drawn: list[list[DrawnAnswer]] = [[] for _ in known]
        for turn in range(settings.draws):
            waiting = [
                place
                for place, one in enumerate(known)
                if settings.revisions
                or (not one.accepted and not any(self._is_right(a, one) for a in drawn[place]))
            ]
            asks = [self._ask(known[place].row.question, teacher, turn) for place in waiting]
            with self._parts.step(f"round {number}: draw answer {turn + 1}") as advance:
                made = await self._log.ask(asks, advance)
            for place, answer in zip(waiting, made, strict=True):
                drawn[place].append(answer)
        return drawn

    async def _trusted(
        self, number: int, questions: Questions, teacher: str | None
    ) -> list[tuple[str, str]]:
        """Return unrated questions with an answer that most draws give and the judge trusts."""
        if not questions.unrated:
            return []
        draws = self._settings.draws
        asks = [self._ask(q, teacher, turn) for q in questions.unrated for turn in range(draws)]
        with self._parts.step(f"round {number}: draw for unrated questions") as advance:
            made = await self._log.ask(asks, advance)
        numeric = wants_number(one.row.answer for one in questions.training)
        trusted: list[tuple[str, str]] = []
        for place, question in enumerate(questions.unrated):
            answers = _majority(made[place * draws : (place + 1) * draws], numeric)
            if not answers:
                continue
            candidates = [_candidate(one) for one in answers]
            rewards = await self._parts.reward_model.score(question, reward_requests(candidates))
            reward, best = max(zip(rewards, range(len(answers)), strict=True))
            if reward >= self._settings.bound:
                trusted.append((question, answers[best]["answer"]))
        return trusted

    async def _train(self, number: int, lessons: Sequence[TrainingExample]) -> TrainedAdapter:
        """Return the adapter of these lessons, stored and resident; trained unless it is stored."""
        parts, training = self._parts, self._settings.training
        key = adapter_key(self._base, lessons, training, reuse_scope=parts.reuse_scope)
        adapter = await parts.store.load_adapter(key, base_fingerprint=self._base)
        with parts.step(f"round {number}: train on {len(lessons)} answers") as advance:
            if adapter is None:
                adapter = await parts.trainer.train(
                    key, lessons, training, on_step=lambda one: advance(one.step, one.steps)
                )
                await parts.store.keep_adapter(adapter)
                parameters = await parameters_of(parts.policy_model)
                tokens, layers = adapter.trained_tokens, training.layers
                self._trained_flops += training_flops(parameters, tokens, layers=layers) or 0.0
            await parts.trainer.load(adapter)
        return adapter

    def _ask(self, question: str, adapter: str | None, turn: int) -> Ask:
        """Return one answer that is wanted: the first of a question greedy, the others sampled."""
        settings = self._settings
        messages = direct_messages(question, (), settings.prompts)
        made_from = [
            self._base,
            adapter,
            [dict(message) for message in messages],
            settings.max_new_tokens,
            list(settings.stop),
            [settings.temperature, settings.seed, turn] if turn else [],
        ]
        text = json.dumps(made_from, ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        request = GenerationRequest(
            messages=messages,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature if turn else 0.0,
            seed=int(digest[:8], 16) % 2**31,
            stop=settings.stop,
            adapter=adapter,
        )
        return Ask(key=digest[:32], request=request)

    def _is_right(self, made: DrawnAnswer, one: KnownQuestion) -> bool:
        return is_right(made["answer"], one.row, self._settings.scorer)


def training_settings(
    run: TttSettings, *, epochs: int = 2, samples_per_step: int = 8, learning_rate: float = 0.0
) -> TttSettings:
    """Return the settings of a standing adapter's training.

    Shape and seed are those of a run's trainings, which go on from it. It goes through all lessons
    in each epoch, since it is trained once and not while somebody waits.

    Args:
        run: Settings of a run's trainings.
        epochs: Passes over the lessons.
        samples_per_step: Lessons of one step.
        learning_rate: Rate of AdamW; 0 takes the one that suits the base.
    """
    return replace(
        run,
        epochs=epochs,
        samples_per_step=samples_per_step,
        learning_rate=learning_rate,
        stop_loss=0.0,
        min_steps=1,
    )


def _majority(answers: Sequence[DrawnAnswer], numeric: bool) -> list[DrawnAnswer]:
    """Return the answers with the vote that more than half of the draws give; none without one."""
    votes = [
        read_vote(one["answer"], finish_reason=one["finish_reason"], numeric=numeric)
        for one in answers
    ]
    counted = Counter(vote for vote in votes if vote is not None)
    if not counted:
        return []
    [(vote, count)] = counted.most_common(1)
    if 2 * count <= len(answers):
        return []
    return [one for one, its in zip(answers, votes, strict=True) if its == vote]


def _candidate(one: DrawnAnswer) -> Candidate:
    return {
        "arm": PLAIN,
        "answer": one["answer"],
        "reward": None,
        "seconds": 0.0,
        "prompt_tokens": one["prompt_tokens"],
        "completion_tokens": one["completion_tokens"],
        "trained_tokens": 0,
        "mean_logprob": one["mean_logprob"],
        "finish_reason": one["finish_reason"],
        "adapter": None,
    }
