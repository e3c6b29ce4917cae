"""The evidence for one answer as numbers, for the grounded head.

A sample speaks for an answer as far as its question is near and its answer says the same. The two
nearnesses are cosines of the judge's own encoder, so that they mean the same whichever embedder
found the samples; numbers, names and denials are compared as text, since an encoder blurs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.integrations.rewards.grounded.stated_facts import (
    Statement,
    copied_share,
    is_frame,
    same_answer,
    share_missing,
    stands_in,
    statement_of,
)
from rttc_graph.support.logistic import sigmoid

MOST_SAMPLES = 8
"""Nearest samples that are looked at: as many as a run retrieves by default."""

_SHARPNESS = 16.0
"""Rate at which a sample's vote loses weight with its distance."""

_SAYS_SO = 0.75
"""Agreement from which an answer counts as said by a sample."""

_UNLIKE = 0.4
"""Cosine of two answers below which they have nothing to do with each other."""

_OTHER_NUMBER = 0.2
_OTHER_SIGN = 0.4
"""Share of an agreement that is left where the numbers differ, and where one of the two denies."""

_PART = 0.9
"""Agreement of an answer that stands in a sample's longer answer, as a price in its sentence."""

_LOWEST_LOGPROB = -4.0
_LARGEST_LOGIT = 8.0

_NUMBERS_OF_A_TASK = 2
"""Numbers of a question that a sample's question lacks from which it is another task. One number
stands in many a question about a rule that holds for all numbers."""

_WORDS_OF_A_TASK = 2
"""Words of an answer from which it may be made of its question's, as a list in another order. One
word, as a label, stands in many a question by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A sample beside the answer, and how near the encoder sees it."""

    question: str
    answer: str
    question_cosine: float
    """Cosine with the question that was asked, in [-1, 1]."""
    answer_cosine: float
    """Cosine with the answer that is judged, in [-1, 1]."""
    top_cosine: float = 1.0
    """Cosine of its answer with that of the nearest sample."""
    is_addressed: bool = False
    """Whether it speaks to a judge; such a sample is no evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An answer with everything the head may know of it."""

    question: str
    answer: str
    logit: float
    """Logit of the network that reads question and answer alone."""
    samples: Sequence[Said]
    mean_logprob: float | None
    is_cut_off: bool
    refusal: float
    """Log-odds that the answer declines to answer."""
    plea: float
    """Log-odds that it speaks to its judge."""


FEATURES: dict[str, int] = {
    "logit": 1,
    "logit_alone": 1,
    "logprob": 1,
    "has_logprob": 0,
    "cut_off": -1,
    "refusal": -1,
    "declines": -1,
    "plea": -1,
    "nearest": 0,
    "applies": 0,
    "supporter_distance": -1,
    "support": 1,
    "agreement": 1,
    "margin": 1,
    "vote": 1,
    "vote_applies": 1,
    "unanimity": 0,
    "copied": 1,
    "asked_numbers": -1,
    "foreign": 0,
    "new_numbers": -1,
    "missing_numbers": -1,
    "new_names": -1,
    "new_words": -1,
    "missing_words": -1,
    "other_sign": -1,
    "clash": -1,
    "length": 0,
    "length_ratio": 0,
}
"""Names in the order of `features_of`, and the direction in which each may move P(right): 1 up, -1
down, 0 either. Those from `new_numbers` to `clash` count as far as the samples apply."""

_APPLIES_FROM = 0.25
_APPLIES_TO = 0.7
"""Nearness of the supporting sample's question between which it comes to apply: near ones of
paraphrases are above 0.7, those of other questions about the same thing around 0.4."""


def stated(question: str, answer: str, answers: Sequence[str]) -> str:
    """Return what an answer states: the sample's answer that it has in a frame, else itself.

    "The answer is card arrival." states "card arrival" where a sample answers so. Both are then
    judged as one text, so that a sentence and a bare label get the same reward.

    Args:
        question: What is answered; its words may be in the frame.
        answer: What is judged.
        answers: Answers of the samples, nearest first.
    """
    asked, said = statement_of(question), statement_of(answer)
    return next((own for own in answers if is_frame(said, statement_of(own), asked)), answer)


def evidence_of(samples: Sequence[Said]) -> list[Said]:
    """Return the samples that count: the nearest ones that do not speak to a judge."""
    honest = [sample for sample in samples if not sample.is_addressed]
    return sorted(honest, key=lambda s: -s.question_cosine)[:MOST_SAMPLES]


def features_of(case: Case) -> list[float] | None:
    """Return the features of `FEATURES`, in their order; `None` where no sample is evidence."""
    samples = evidence_of(case.samples)
    if not samples:
        return None
    asked, said = statement_of(case.question), statement_of(case.answer)
    compared = [_compared(asked, said, case.answer, sample) for sample in samples]
    best = max(compared, key=lambda c: c.support)
    values = _own(case) | _told(samples, compared, best)
    values |= _differences(asked, said, compared, best)
    values["logit_alone"] = values["logit"] * (1 - values["applies"])
    values["declines"] = sigmoid(values["refusal"]) * (1 - values["vote"])
    values["vote_applies"] = values["vote"] * values["applies"]
    return [values[name] for name in FEATURES]


def _own(case: Case) -> dict[str, float]:
    """Return what the answer says of itself."""
    has_logprob = case.mean_logprob is not None and math.isfinite(case.mean_logprob)
    logprob = case.mean_logprob if has_logprob and case.mean_logprob is not None else 0.0
    return {
        "logit": _bounded(case.logit),
        "logprob": min(max(logprob, _LOWEST_LOGPROB), 0.0),
        "has_logprob": float(has_logprob),
        "cut_off": float(case.is_cut_off),
        "refusal": _bounded(case.refusal),
        "plea": _bounded(case.plea),
        "length": math.log1p(len(statement_of(case.answer).words)),
    }


def _bounded(logit: float) -> float:
    return max(-_LARGEST_LOGIT, min(logit, _LARGEST_LOGIT))


def _told(
    samples: Sequence[Said], compared: Sequence[_Compared], best: _Compared
) -> dict[str, float]:
    """Return how near the samples are, and how far they say the same."""
    return {
        "nearest": samples[0].question_cosine,
        "supporter_distance": samples[0].question_cosine - best.nearness,
        "support": best.support,
        "agreement": best.agreement,
        "margin": _margin(compared),
        "vote": _vote([c.agreement for c in compared], samples),
        "unanimity": _vote([_same_as_top(s, samples[0]) for s in samples], samples),
    }


def _differences(
    asked: Statement, said: Statement, compared: Sequence[_Compared], best: _Compared
) -> dict[str, float]:
    """Return in what the answer differs from the sample that supports it best.

    A sample whose question lacks several of the asked numbers, or whose answer is made of words
    that were not asked about, is another task of the same form, as in a computation: its answer
    need not hold, so differences from it say nothing.
    """
    sources = [c.answer for c in compared]
    known = frozenset(asked.words).union(*(source.words for source in sources))
    mean_length = sum(len(source.words) for source in sources) / len(sources)
    asked_numbers = share_missing(asked.numbers, best.question.numbers)
    nearness = (best.nearness - _APPLIES_FROM) / (_APPLIES_TO - _APPLIES_FROM)
    missing = len(asked.numbers - best.question.numbers)
    foreign = asked_numbers if missing >= _NUMBERS_OF_A_TASK else 0.0
    if _is_made_of_other_words(asked, best, compared):
        foreign = 1.0
    applies = (1 - foreign) * max(0.0, min(nearness, 1.0))
    copied = copied_share(said, sources)
    found = {
        "new_numbers": share_missing(said.numbers, asked.numbers, best.answer.numbers),
        "missing_numbers": share_missing(best.answer.numbers, said.numbers),
        "new_names": share_missing(said.names, known),
        "new_words": share_missing(said.content, asked.content, best.answer.content),
        "missing_words": share_missing(best.answer.content, said.content),
        "other_sign": float(said.denies != best.answer.denies),
    }
    other_numbers = _other_numbers(said, best.answer, asked)
    clashes = other_numbers or found["new_names"] or found["other_sign"]
    found["clash"] = copied if clashes else 0.0
    return {name: value * applies for name, value in found.items()} | {
        "applies": applies,
        "asked_numbers": asked_numbers,
        "foreign": foreign,
        "copied": copied,
        "length_ratio": math.log((1 + len(said.words)) / (1 + mean_length)),
    }


def _is_made_of_other_words(
    asked: Statement, best: _Compared, compared: Sequence[_Compared]
) -> bool:
    """Tell whether an answer only has words of its own question, some of which were not asked.

    A list in another order is such an answer. A label is none as soon as one sample has it whose
    question lacks its words.
    """
    words = frozenset(best.answer.words)
    if len(words) < _WORDS_OF_A_TASK or words <= frozenset(asked.words):
        return False
    alike = [c for c in compared if c.answer.words == best.answer.words]
    return all(words <= frozenset(c.question.words) for c in alike)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One sample beside the answer."""

    question: Statement
    answer: Statement
    nearness: float
    """Nearness of its question to the one asked, in [0, 1]."""
    agreement: float
    """Agreement of its answer with the judged one, in [0, 1]."""

    @property
    def support(self) -> float:
        return self.nearness * self.agreement


def _compared(asked: Statement, said: Statement, answer: str, sample: Said) -> _Compared:
    theirs = statement_of(sample.answer)
    return _Compared(
        question=statement_of(sample.question),
        answer=theirs,
        nearness=max(0.0, sample.question_cosine),
        agreement=_agreement(asked, said, answer, theirs, sample),
    )


def _agreement(
    asked: Statement, said: Statement, answer: str, theirs: Statement, other: Said
) -> float:
    """Return how far two answers say the same, in [0, 1].

    They do where they are the same words or number, or one is the other in a frame. Else their
    vectors say how far; less is left where one has numbers that neither the other nor the question
    has, and where one denies what the other states.
    """
    if same_answer(answer, other.answer) or is_frame(said, theirs, asked):
        return 1.0
    if is_frame(theirs, said, asked):
        return 1.0
    found = max(0.0, (other.answer_cosine - _UNLIKE) / (1 - _UNLIKE))
    if _is_telling_part(said, theirs, asked):
        found = max(found, _PART)
    if _other_numbers(said, theirs, asked):
        found *= _OTHER_NUMBER
    if said.denies != theirs.denies:
        found *= _OTHER_SIGN
    return min(found, 1.0)


def _other_numbers(said: Statement, theirs: Statement, asked: Statement) -> bool:
    """Tell whether an answer has a number that the other lacks, or lacks one in as many words."""
    if share_missing(said.numbers, asked.numbers, theirs.numbers):
        return True
    return len(said.words) >= len(theirs.words) and bool(theirs.numbers - said.numbers)


def _is_telling_part(said: Statement, theirs: Statement, asked: Statement) -> bool:
    """Tell whether an answer stands in a longer one and has more of it than the question has."""
    return stands_in(said, theirs) and bool(said.content - asked.content)


def _margin(compared: Sequence[_Compared]) -> float:
    """Return how much nearer the nearest sample that says so is than the nearest that does not."""
    for_it = [c.nearness for c in compared if c.agreement >= _SAYS_SO]
    against = [c.nearness for c in compared if c.agreement < _SAYS_SO]
    return max(for_it, default=0.0) - max(against, default=0.0)


def _vote(values: Sequence[float], samples: Sequence[Said]) -> float:
    """Return the mean of values, samples weighted by nearness."""
    top = samples[0].question_cosine
    weights = [math.exp(_SHARPNESS * (s.question_cosine - top)) for s in samples]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def _same_as_top(sample: Said, top: Said) -> float:
    if same_answer(sample.answer, top.answer):
        return 1.0
    return max(0.0, (sample.top_cosine - _UNLIKE) / (1 - _UNLIKE)) ** 4
