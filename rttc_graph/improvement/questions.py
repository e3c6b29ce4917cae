"""Questions that a domain's adapter is trained and tried on: of known outcome, or unrated."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import MIN_QUESTIONS
from rttc_graph.protocols import NewSample, RatedRun
from rttc_graph.protocols.managed_knowledge_base import StoredSample
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.support.passages import is_passage

__all__ = ("KnownQuestion", "Questions", "known_questions", "split_questions")

MAX_CHARACTERS = 4_000
"""Longest question that is trained on: some 1,000 tokens, half of the context of small models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownQuestion:
    """A question with its right answer."""

    row: NewSample
    accepted: str | None = None
    """Text that a person accepted or gave; `None` for a solved sample, of which only the result is
    known, so that the model has to find its own way there."""

    @property
    def digest(self) -> str:
        """Name of the question in files, 32 hexadecimal characters."""
        return question_digest(self.row.question)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Questions of a domain, each once."""

    training: Sequence[KnownQuestion]
    held_out: Sequence[KnownQuestion]
    """Questions that are never trained on, whatever else becomes known."""
    unrated: Sequence[str] = ()
    """Questions of runs that nobody rated."""

    def check_enough(self, domain: str) -> None:
        """Do nothing if there are enough to learn from and to tell what it gains.

        Raises:
            ConfigurationError: There are not; says how many there are and what to do.
        """
        counts = f"{len(self.training)} to train on and {len(self.held_out)} held out"
        if len(self.held_out) < MIN_QUESTIONS or not self.training:
            share = "larger" if len(self.held_out) < MIN_QUESTIONS else "smaller"
            raise ConfigurationError(
                f"the domain {domain!r} has too few questions of known outcome, {counts}: it takes "
                f"{MIN_QUESTIONS} held out and one to train on; ingest solved samples, rate runs "
                f"(rttc rate), raise --limit, or hold out a {share} share (--held-out)"
            )


def question_digest(question: str) -> str:
    """Return the name of a question in files: alike for texts that differ in blanks and case."""
    plain = " ".join(question.split()).casefold()
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()[:32]


def known_questions(
    samples: Iterable[StoredSample], rated: Iterable[RatedRun], domain: str
) -> list[KnownQuestion]:
    """Return a domain's questions of known outcome, each once; a person's word comes first.

    Left out are passages of documents, questions without an answer, and texts that are too long.

    Args:
        samples: Solved samples of the domain.
        rated: Rated runs of the tenant, newest first; those of other domains are passed over.
        domain: The domain.
    """
    said = [_of_run(run, domain) for run in rated if (run.domain or run.source_domain) == domain]
    solved = [
        KnownQuestion(
            row=NewSample(
                question=one.question, answer=one.answer, domain=domain, metadata=one.metadata
            )
        )
        for one in samples
        if not is_passage(one.metadata) and not is_unanswerable(one.metadata)
    ]
    found: dict[str, KnownQuestion] = {}
    for one in (*(each for each in said if each is not None), *solved):
        if len(one.row.question) <= MAX_CHARACTERS:
            found.setdefault(one.digest, one)
    return list(found.values())


def _of_run(run: RatedRun, domain: str) -> KnownQuestion | None:
    """Return what a rating says of a question; `None` if the right answer is not known."""
    rating = run.rating
    right = rating.answer if rating.answer is not None else run.answered
    if (not rating.is_right and rating.answer is None) or run.declined or not right.strip():
        return None
    if rating.correction == "rejected":
        return None
    row = NewSample(question=run.query, answer=right, domain=domain)
    return KnownQuestion(row=row, accepted=right)


def split_questions(
    known: Sequence[KnownQuestion],
    unrated: Sequence[str] = (),
    *,
    held_out: float,
    limit: int,
    seed: int,
) -> Questions:
    """Draw questions, and hold a share of them out.

    A question's own digest decides whether it is held out, so that it stays so when others come.
    What is drawn is mixed: questions of people's ratings have no precedence.

    Args:
        known: Questions of known outcome.
        unrated: Questions of runs that nobody rated; those that are known are left out.
        held_out: Share of the known questions that is held out, in (0, 1).
        limit: Most questions of each kind together.
        seed: Seed of the drawing.
    """
    draw = random.Random(f"improve {seed}")
    chosen = list(known)
    draw.shuffle(chosen)
    chosen = chosen[:limit]
    taken = {one.digest for one in known}
    fresh = {question_digest(text): text for text in unrated if len(text) <= MAX_CHARACTERS}
    others = [text for digest, text in fresh.items() if digest not in taken]
    draw.shuffle(others)
    return Questions(
        training=[one for one in chosen if not _is_held_out(one.digest, held_out)],
        held_out=[one for one in chosen if _is_held_out(one.digest, held_out)],
        unrated=[one for one in others if not _is_held_out(question_digest(one), held_out)][
            : max(0, limit - len(chosen))
        ],
    )


def _is_held_out(digest: str, share: float) -> bool:
    return int(digest[:8], 16) < share * 2**32
