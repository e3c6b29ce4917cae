"""Drawing answers step by step, and completing some of them to see where they went wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import ScorerName, is_right
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    NewSample,
    PolicyModel,
    StepCut,
    can_continue,
    seeded_by_prompt,
)
from rttc_graph.reward_training.process.step_rows import (
    DrawnAnswer,
    DrawnStep,
    OutcomeState,
    QuestionSteps,
    add_step_row,
    encoded_state,
    read_step_rows,
)
from rttc_graph.run.prompts import direct_messages
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.settings import PromptSettings
from rttc_graph.state import ChatTurn, FinishReason
from rttc_graph.support.progress import Advance, show_nothing

AT_ONCE = 4
"""Questions that are drawn at once: where a pass reads weights, more rows of it are nearly free."""

_ROWS = 2
"""Form of the rows: those of 1 have no log-probabilities, and are drawn anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDrawing:
    """Settings of drawing steps.

    Raises:
        ConfigurationError: A number is below its least.
    """

    answers: int = 8
    """Answers to each question, all of one batch."""
    rollouts: int = 4
    """Completions from the end of a step."""
    points: int = 2
    """Steps of an answer that are completed, at most: a binary search halves what is left."""
    decay: float = 0.8
    """Factor by which an outcome says less of the step before."""
    max_new_tokens: int = 256
    temperature: float = 0.7
    cut: StepCut = field(default_factory=StepCut)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    scorer: ScorerName = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"answers": 2, "rollouts": 1, "points": 0, "max_new_tokens": 1}.items():
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least {least}")
        if not 0 < self.decay <= 1:
            raise ConfigurationError(f"decay={self.decay!r} must be above 0 and at most 1")


@dataclass(slots=True)
class _Answer:
    """An answer that is being written."""

    texts: list[str] = field(default_factory=list[str])
    tokens: list[int] = field(default_factory=list[int])
    states: list[str | None] = field(default_factory=list["str | None"])
    logprobs: list[float | None] = field(default_factory=list["float | None"])
    reason: FinishReason = "step"

    @property
    def text(self) -> str:
        return "".join(self.texts)


class StepSampler:
    """Draws the steps of questions into a file, question by question.

    Args:
        policy_model: Answers, and goes on from the beginnings of answers.
        fingerprint: Digest of that model.
        settings: How it draws.

    Raises:
        ConfigurationError: The model begins answers anew.
    """

    def __init__(
        self, policy_model: PolicyModel, fingerprint: str, settings: StepDrawing | None = None
    ) -> None:
        if not can_continue(policy_model):
            raise ConfigurationError(
                f"{policy_model.name} begins an answer anew, so its steps cannot be completed: "
                "take a model in this process"
            )
        self._policy = policy_model
        self._fingerprint = fingerprint
        self._settings = settings or StepDrawing()

    async def draw(
        self, questions: Sequence[NewSample], file: Path, *, on_progress: Advance = show_nothing
    ) -> list[QuestionSteps]:
        """Return the rows of all questions; those that the file has are not drawn again.

        Args:
            questions: With their answers.
            file: Rows are appended to it as they are there, so a killed run goes on.
            on_progress: Told how many questions are done.

        Raises:
            ConfigurationError: The file holds something else.
            PolicyModelError: The model failed.
        """
        known = {row["key"]: row for row in await asyncio.to_thread(read_step_rows, file)}
        keys = [self._key(question) for question in questions]
        missing = {key: one for key, one in zip(keys, questions, strict=True) if key not in known}
        numeric = wants_number(question.answer for question in questions)
        done = len(questions) - len(missing)
        on_progress(done, len(questions))
        room, writing = asyncio.Semaphore(AT_ONCE), asyncio.Lock()

        async def add(key: str, question: NewSample) -> None:
            nonlocal done
            async with room:
                row = await self._question(question, key, numeric=numeric)
                known[key] = row
                async with writing:
                    await asyncio.to_thread(add_step_row, file, row)
                done += 1
                on_progress(done, len(questions))

        try:
            async with asyncio.TaskGroup() as group:
                for key, question in missing.items():
                    group.create_task(add(key, question))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others were cancelled for it
        return [known[key] for key in keys]

    def _key(self, question: NewSample) -> str:
        asked = [question.question, question.answer, question.domain, self._fingerprint]
        text = json.dumps([*asked, asdict(self._settings), _ROWS], sort_keys=True)
        return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]

    async def _question(self, question: NewSample, key: str, *, numeric: bool) -> QuestionSteps:
        messages = tuple(direct_messages(question.question, [], self._settings.prompts))
        answers = await self._answers(messages)
        right = [is_right(one.text, question, self._settings.scorer) for one in answers]
        rate = sum(right) / len(right)
        drawn = [
            _drawn(one, ok, rate, self._settings.decay, numeric=numeric)
            for one, ok in zip(answers, right, strict=True)
        ]
        row: QuestionSteps = {
            "key": key,
            "question": question.question,
            "domain": question.domain,
            "rate": rate,
            "answers": drawn,
            "completions": [],
        }
        if 0 < rate < 1:  # else every beginning is worth the same
            for at in (right.index(False), right.index(True)):
                await self._probe(row, at, messages, question)
        return row

    async def _answers(self, messages: tuple[ChatTurn, ...]) -> list[_Answer]:
        """Return answers, written together step by step."""
        answers = [_Answer() for _ in range(self._settings.answers)]
        while live := [n for n, one in enumerate(answers) if one.reason == "step"]:
            requests = [
                self._request(
                    messages,
                    answers[n].text,
                    room=self._settings.max_new_tokens - sum(answers[n].tokens),
                    seed=n + 1000 * len(answers[n].texts),
                    cut=self._settings.cut,
                )
                for n in live
            ]
            for n, request, made in zip(
                live, requests, await self._policy.generate(requests), strict=True
            ):
                _add_step(answers[n], request, made, self._settings.max_new_tokens)
        return answers

    def _request(
        self,
        messages: tuple[ChatTurn, ...],
        begun: str,
        *,
        room: int,
        seed: int,
        cut: StepCut | None,
    ) -> GenerationRequest:
        settings = self._settings
        request = GenerationRequest(
            messages=messages,
            answer_prefix=begun,
            max_new_tokens=max(1, room),
            temperature=settings.temperature,
            seed=(settings.seed * 100_003 + seed) % 2**31,
            ends_loops=True,
            step=cut,
            tells_state=True,
        )
        return seeded_by_prompt(request)

    async def _probe(
        self,
        row: QuestionSteps,
        at: int,
        messages: tuple[ChatTurn, ...],
        question: NewSample,
    ) -> None:
        """Complete an answer from a few steps, and label its steps by what comes of it.

        In a wrong answer the first step behind which nothing is right any more is searched for by
        halves (OmegaPRM, arXiv 2406.06592); a right one is completed from its middle.
        """
        answer = row["answers"][at]
        steps = answer["steps"]
        good, bad = -1, len(steps) - 1  # the last step known to be good, the first known to be bad
        for _ in range(self._settings.points):
            if bad - good <= 1:
                break
            middle = (good + bad) // 2
            share = await self._completed(row, steps, middle, messages, question)
            steps[middle] = {
                **steps[middle],
                "label": share,
                "rollouts": self._settings.rollouts,
            }
            if share > 0:
                good = middle
            else:
                bad = middle
        first_wrong = None if answer["right"] else bad
        if first_wrong is not None:
            steps[first_wrong:] = [{**step, "label": 0.0} for step in steps[first_wrong:]]
        row["answers"][at] = {**answer, "first_wrong": first_wrong, "was_probed": True}

    async def _completed(
        self,
        row: QuestionSteps,
        steps: Sequence[DrawnStep],
        last: int,
        messages: tuple[ChatTurn, ...],
        question: NewSample,
    ) -> float:
        """Return the share of right completions behind a step; each is an outcome of its own."""
        begun = "".join(step["text"] for step in steps[: last + 1])
        used = sum(step["tokens"] for step in steps[: last + 1])
        requests = [
            self._request(
                messages,
                begun,
                room=self._settings.max_new_tokens - used,
                seed=500_000 + 1000 * last + n,
                cut=None,
            )
            for n in range(self._settings.rollouts)
        ]
        right = 0
        for made in await self._policy.generate(requests):
            ok = is_right(made.text, question, self._settings.scorer)
            right += ok
            if (state := encoded_state(made.state)) is not None:
                before = [step.get("logprob") for step in steps[: last + 1]]
                logprobs = [*before, made.mean_logprob]
                outcome: OutcomeState = {"state": state, "right": ok, "logprobs": logprobs}
                row["completions"].append(outcome)
        return right / len(requests)


def _add_step(answer: _Answer, request: GenerationRequest, made: Generation, most: int) -> None:
    answer.texts.append(made.text[len(request.answer_prefix) :])
    answer.tokens.append(made.completion_tokens)
    answer.states.append(encoded_state(made.state))
    answer.logprobs.append(made.mean_logprob)
    is_full = made.finish_reason == "step" and sum(answer.tokens) >= most
    answer.reason = "length" if is_full else made.finish_reason


def _drawn(
    answer: _Answer, right: bool, rate: float, decay: float, *, numeric: bool
) -> DrawnAnswer:
    """Return an answer whose steps are labelled by its outcome, the less so the earlier they are.

    A label goes from the share of right answers at the beginning towards the outcome at the end.
    """
    last = len(answer.texts) - 1
    outcome = float(right)
    steps: list[DrawnStep] = [
        {
            "text": text,
            "tokens": tokens,
            "label": rate + (outcome - rate) * decay ** (last - number),
            "rollouts": 0,
            "state": state,
            "logprob": logprob,
        }
        for number, (text, tokens, state, logprob) in enumerate(
            zip(answer.texts, answer.tokens, answer.states, answer.logprobs, strict=True)
        )
    ]
    return {
        "steps": steps,
        "right": right,
        "vote": read_vote(answer.text, finish_reason=answer.reason, numeric=numeric),
        "first_wrong": None,
        "was_probed": False,
    }
