"""The scorer that asks a model: verdicts on answers, each asked for once and kept in the rows.

All other scorers are functions of answer and reference. This one needs a grader, is awaited, and
may abstain; what it said is kept as lines of its own, so that rows are scored again without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from typing_extensions import TypedDict

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import CHAT_JUDGE, ScorerName, is_right, normalised
from rttc_graph.protocols import NewSample
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.support.refusals import is_refusal
from rttc_graph.support.thinking import answer_behind

RIGHT_FROM = 7.0
"""Grade from which on an answer is right; the grader's rubric says so."""

WRONG_TO = 3.0
"""Grade down from which it is wrong; between the two the grader abstains."""

AT_ONCE = 16
"""Answers graded together, and lost when the job is killed."""


class AnswerGrader(Protocol):
    """Grades answers by their reference answers."""

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of what decides a grade, known without loading a model."""
        ...

    async def grade(self, asked: Sequence[tuple[str, str, str]]) -> list[float | None]:
        """Return a grade from 0 to 10 for each question, reference answer and answer.

        It is `None` where the grader gave none.

        Raises:
            RttcError: The grader failed.
        """
        ...


class VerdictLine(TypedDict):
    """What a grader said of one answer to one question."""

    kind: Literal["verdict"]
    answered: str
    """Digest of question, reference answer and answer."""
    grader: str
    """Name of the grader, for people."""
    fingerprint: str
    """Fingerprint of the grader."""
    grade: float | None
    """From 0 to 10; `None` if it gave none."""


@dataclass(slots=True)
class Verdicts:
    """What one grader said of answers, and the way to ask it about others."""

    grader: AnswerGrader
    grades: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """Grades by digest of question, reference answer and answer."""

    def __str__(self) -> str:
        """Return how answers are scored, for reports."""
        return (
            f"chat judge {self.grader.name}, rubric and model {self.grader.fingerprint[:8]}: "
            f"right from grade {RIGHT_FROM:g} on, wrong to {WRONG_TO:g}, not counted between"
        )

    def add(self, lines: Iterable[VerdictLine]) -> None:
        """Take in what this grader said before."""
        for line in lines:
            if line["fingerprint"] == self.grader.fingerprint:
                self.grades[line["answered"]] = line["grade"]

    def is_known(self, answer: str, sample: NewSample) -> bool:
        """Tell whether a verdict is there, or needs no grader."""
        return _plain(answer, sample) is not None or _digest(answer, sample) in self.grades

    def of(self, answer: str, sample: NewSample) -> bool | None:
        """Return whether an answer is right; `None` where the grader abstained.

        An empty answer is wrong, and one in the reference's own words right, without asking.

        Raises:
            ConfigurationError: Nobody asked about it yet.
        """
        plain = _plain(answer, sample)
        if plain is not None:
            return plain
        try:
            grade = self.grades[_digest(answer, sample)]
        except KeyError:
            raise ConfigurationError(
                f"the grader {self.grader.name!r} has not judged the answer {answer[:60]!r} yet: "
                "collect or judge the rows with it first"
            ) from None
        if grade is None or WRONG_TO < grade < RIGHT_FROM:
            return None
        return grade >= RIGHT_FROM

    async def ask(
        self, answers: Iterable[tuple[str, NewSample]]
    ) -> AsyncIterator[list[VerdictLine]]:
        """Ask about answers without a verdict; yield new lines, some at a time, to be kept.

        Raises:
            RttcError: The grader failed; lines before are valid.
        """
        missing = {
            _digest(answer, sample): (answer_behind(answer), sample)
            for answer, sample in answers
            if not self.is_known(answer, sample)
        }
        waiting = list(missing.items())
        for first in range(0, len(waiting), AT_ONCE):
            some = waiting[first : first + AT_ONCE]
            grades = await self.grader.grade(
                [(sample.question, sample.answer, answer) for _, (answer, sample) in some]
            )
            lines: list[VerdictLine] = [
                {
                    "kind": "verdict",
                    "answered": digest,
                    "grader": self.grader.name,
                    "fingerprint": self.grader.fingerprint,
                    "grade": grade,
                }
                for (digest, _), grade in zip(some, grades, strict=True)
            ]
            self.add(lines)
            yield lines


def scored(
    answer: str, sample: NewSample, scorer: ScorerName, verdicts: Verdicts | None
) -> bool | None:
    """Return whether an answer is right; `None` where a grader could not tell.

    Args:
        answer: What the model said.
        sample: Row with the reference answer.
        scorer: Says what is right.
        verdicts: Needed by the scorer `chat-judge`.

    Raises:
        ConfigurationError: As `is_right`, or there is no verdict.
    """
    if scorer != CHAT_JUDGE:
        return is_right(answer, sample, scorer)
    if verdicts is None:
        raise ConfigurationError(f"scorer {CHAT_JUDGE!r} needs a grader: name one")
    return verdicts.of(answer, sample)


def _plain(answer: str, sample: NewSample) -> bool | None:
    """Return what is clear without a grader."""
    said = answer_behind(answer)
    if is_unanswerable(sample.metadata):
        return is_refusal(answer)
    if not said.strip():
        return False
    return True if normalised(said) == normalised(sample.answer) else None


def _digest(answer: str, sample: NewSample) -> str:
    texts = "\0".join((sample.question, sample.answer, answer_behind(answer)))
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()[:24]
