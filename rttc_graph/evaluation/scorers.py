"""Right or wrong: an answer against the reference answer of its row.

Scorers are strict in what they compare and lenient in form: letter case, white space, sentence
punctuation and thousands commas never decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.support.canonical import normalised as normalised
from rttc_graph.support.canonical import states_number, without_punctuation
from rttc_graph.support.extras import require
from rttc_graph.support.marks import final_part
from rttc_graph.support.numbers import last_number
from rttc_graph.support.refusals import is_refusal
from rttc_graph.support.thinking import answer_behind

ScorerName = Literal[
    "auto",
    "sentences",
    "exact",
    "number",
    "choice",
    "contains",
    "f1",
    "reasoning-gym",
    "chat-judge",
]

CHAT_JUDGE: ScorerName = "chat-judge"
"""Scorer that asks a chat model, see `rttc_graph.evaluation.verdicts`; all others are functions."""

F1_THRESHOLD = 0.3
"""Token F1 from which on a sentence counts as right, if its numbers agree: so do 47 of 48 right
answers in other words and 4 of 48 wrong ones, from 0.5 on 37 and 2 (decision 0033)."""

SENTENCE_WORDS = 4.0
"""Mean words of the references from which on they are sentences: labels of banking77 have 2 to 3,
answers about a handbook 6, those of a support FAQ 14."""

_MOST_REPEATED = 0.5
"""Share of different references below which they are labels, however long."""

REASONING_GYM_KEY = "reasoning_gym"
"""Key in a row's metadata that holds the entry metadata of reasoning-gym, which name the task."""

_CHOICES = (frozenset({"yes", "no", "maybe"}), frozenset({"true", "false"}))
_MARKUP = r"[\s\"'*_`(\[{<>)\]}]{0,9}"  # bounded: a regex must not be slow on noise
_STATING = rf"\b(?P<what>answer|verdict|conclusion|choice|option)\b{_MARKUP}"
_LINK = rf"(?:(?:is|be|was)\b|[:=>]|->|→){_MARKUP}:?{_MARKUP}"
_STATED_WORD = (
    rf"{_STATING}(?:[^.!?\n]{{0,60}}?{_LINK})"
    r"(?:(?:an?|clearly|definitely|therefore|thus|simply)\b[\s,]*(?:\w+\s+)?)?"
)
_CLAUSE = "as|because|and|but|for|if|in|is|it|not|or|since|so|which|while"
_NOT_BEFORE_A_WORD = rf"(?![\w'\u2019])(?!\s+(?!(?:{_CLAUSE})\b)[a-z])"
"""Words after a single letter: an article or pronoun is followed by a word, a chosen letter by a
new clause."""
_STATED_LETTER = re.compile(
    rf"(?i:{_STATING}(?:{_LINK})?(?:(?:choice|option|letter)\s+)?{_MARKUP})"
    rf"(?P<letter>[B-HJ-Z](?![\w'\u2019])|[Aa-z]{_NOT_BEFORE_A_WORD}|I(?![\w'\u2019])(?!\s+[a-z]))"
    r"(?!\s+(?:is|was)\s+(?:wrong|incorrect|false|not)\b)"
)
_SINGLE_LETTER = re.compile(
    rf"(?<![\w'\u2019.])(?<!\bnot )([B-HJ-Z](?![\w'\u2019]|\.\w)|A{_NOT_BEFORE_A_WORD}(?!\s+[A-Z])"
    r"|I(?![\w'\u2019])(?!\s+\w))"
)
_UNDECIDED = re.compile(
    r"\bno\s+(?:doubt|question|matter|problem|wonder|idea|need|uncertainty)\b"
    r"|(?:\b(?:not|never|hardly|neither|nor)|n['\u2019]t)\s+(?:\w+\s+)?(?:yes|no|true|false)\b"
    r"|\b(?:yes|no|true|false|maybe)(?:\s*(?:/|\bor\b|\band\b)\s*(?:yes|no|true|false|maybe)\b)+"
)
"""Words of choice that choose nothing: "no doubt", "not true", "yes or no"."""
_FULL_SCORE = 0.99
"""reasoning-gym gives 1 for a right answer and parts of it for a right form."""


def is_right(answer: str, sample: NewSample, scorer: ScorerName = "auto") -> bool:
    """Tell whether an answer agrees with the sample's answer.

    To a question that is marked unanswerable, only to say that one does not know is right.

    Args:
        answer: What the model said; what it thought before does not count.
        sample: Row with the reference answer.
        scorer: `auto` chooses by row, see `scorer_for`; `sentences` likewise, with `f1` in the
            place of `exact`.

    Raises:
        ConfigurationError: The reference answer is none for this scorer, for example without a
            number for `number`; or the scorer asks a model.
    """
    if scorer == CHAT_JUDGE:
        raise ConfigurationError(
            f"scorer {CHAT_JUDGE!r} asks a model and cannot be computed: take another one here"
        )
    if is_unanswerable(sample.metadata):
        return is_refusal(answer)
    named = scorer_for(sample) if scorer in ("auto", "sentences") else scorer
    if scorer == "sentences" and named == "exact":
        named = "f1"
    return _SCORERS[named](answer_behind(answer), sample)


def scorer_for(sample: NewSample) -> ScorerName:
    """Choose a scorer by the row's reference answer.

    Rows made by reasoning-gym get the verifier of their task, `#### 72` and bare numbers
    `number`, yes, no, maybe, true, false and single letters `choice`, all others `exact`.
    """
    if REASONING_GYM_KEY in sample.metadata:
        return "reasoning-gym"
    if states_number(sample.answer):
        return "number"
    if _choices_of(sample.answer) is not None or _letter_of(sample.answer) is not None:
        return "choice"
    return "exact"


@dataclass(frozen=True, slots=True)
class ScorerChoice:
    """A scorer for a set of questions, and why it is that one."""

    scorer: ScorerName
    reason: str


def choose_scorer(samples: Sequence[NewSample], scorer: ScorerName = "auto") -> ScorerChoice:
    """Return what scores a set: the scorer that was named, else `sentences` or `auto` by the data.

    They are sentences if the references that `exact` would compare have `SENTENCE_WORDS` words or
    more on average and are mostly different from each other. Labels repeat, and rows of numbers
    have no words: where each stands matters, and no share of them is half right.

    Args:
        samples: The questions of one evaluation with their reference answers.
        scorer: The one that was asked for.
    """
    if scorer != "auto":
        return ScorerChoice(scorer, f"scorer {scorer!r}, as asked for")
    answered = [s for s in samples if not is_unanswerable(s.metadata)]
    texts = [normalised(s.answer) for s in answered if scorer_for(s) == "exact"]
    if not texts:
        return ScorerChoice("auto", "each answer is scored by the form of its reference")
    words = sum(len(text.split()) for text in texts if _has_letters(text)) / len(texts)
    if words < SENTENCE_WORDS or len(set(texts)) < _MOST_REPEATED * len(texts):
        return ScorerChoice("auto", f"labels, {words:.1f} words on average: exact match")
    return ScorerChoice(
        "sentences",
        f"references are sentences, {words:.1f} words on average: an answer is right from token F1 "
        f"{F1_THRESHOLD} on if its numbers agree; --scorer names another",
    )


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


EARLY_ROWS = 20
"""Answers after which it is said that exact match finds none of them right."""


class ExactMatchWatch:
    """Tells early that exact match finds nothing right where the words do agree."""

    def __init__(self) -> None:
        self._answers = 0
        self._right = 0
        self._alike = 0

    def add(self, answer: str, sample: NewSample, scorer: ScorerName, *, right: bool) -> str | None:
        """Count an answer, and return a warning with the last of the first `EARLY_ROWS`, if due."""
        named = scorer_for(sample) if scorer == "auto" else scorer
        is_exact = named == "exact" and not is_unanswerable(sample.metadata)
        if not is_exact or self._answers >= EARLY_ROWS:
            return None
        self._answers += 1
        self._right += right
        self._alike += says_the_same(answer_behind(answer), sample.answer)
        if self._answers < EARLY_ROWS or self._right or not self._alike:
            return None
        return (
            f"of the first {EARLY_ROWS} answers none is right by exact match, {self._alike} are by "
            f"token F1 from {F1_THRESHOLD} on: --scorer sentences counts those; kept answers are "
            "scored anew without running again"
        )


def check_reference(sample: NewSample, scorer: ScorerName = "auto") -> None:
    """Refuse a row whose own reference answer the scorer cannot use, before any work.

    Raises:
        ConfigurationError: As `is_right`.
    """
    if scorer != CHAT_JUDGE:  # it takes any reference
        is_right("", sample, scorer)


def _exact(answer: str, sample: NewSample) -> bool:
    return normalised(final_part(answer)) == normalised(final_part(sample.answer))


def _contains(answer: str, sample: NewSample) -> bool:
    """Tell whether the reference's words stand in the answer, in a row."""
    wanted, said = normalised(final_part(sample.answer)), normalised(answer)
    return f" {wanted} " in f" {said} "


def _f1(answer: str, sample: NewSample) -> bool:
    return says_the_same(answer, sample.answer)


def says_the_same(answer: str, reference: str, threshold: float = F1_THRESHOLD) -> bool:
    """Tell whether a sentence says what the reference does, as far as words can tell.

    Every number of the reference must be in the answer, a yes must not be a no, and the token F1
    must reach the threshold. The first two are there because near misses overlap most of all:
    "It costs 35 euros" and "It costs 20 euros" have an F1 of 0.75.
    """
    said, wanted = normalised(answer).split(), normalised(reference).split()
    if not _numbers_of(wanted) <= _numbers_of(said) or _is_opposed(said, wanted):
        return False
    return token_f1(answer, reference) >= threshold


def _numbers_of(words: Sequence[str]) -> set[str]:
    """Return the numbers among words, those that are spelt out from two to twelve as digits."""
    spelt = {_SPELT[word] for word in words if word in _SPELT}
    return spelt | {word for word in words if any(letter.isdigit() for letter in word)}


def _is_opposed(said: Sequence[str], wanted: Sequence[str]) -> bool:
    """Tell whether one text begins with a yes and the other with a no."""
    return {(said or [""])[0], (wanted or [""])[0]} == {"yes", "no"}


_CARDINALS = "two three four five six seven eight nine ten eleven twelve"
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SPELT = {
    **{word: str(number) for number, word in enumerate(_CARDINALS.split(), 2)},
    **{word: f"{number}." for number, word in enumerate(_ORDINALS.split(), 3)},
    "twice": "2",
}
"""Not "one", "first" and "second", which are mostly no numbers."""


def token_f1(answer: str, reference: str) -> float:
    """Return how much two texts overlap in words, 0 to 1: SQuAD's F1, articles left out.

    It is the harmonic mean of the shares of the answer's words that the reference has and of the
    reference's words that the answer has, each word as often as it is there.
    """
    said, wanted = _tokens(answer), _tokens(reference)
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0


def _tokens(text: str) -> Counter[str]:
    words = Counter(normalised(text).split())
    return Counter({word: n for word, n in words.items() if word not in _ARTICLES}) or words


_ARTICLES = frozenset({"a", "an", "the"})


def _number(answer: str, sample: NewSample) -> bool:
    expected = last_number(sample.answer)
    if expected is None:
        raise _unusable("number", "a number", sample)
    return last_number(answer) == expected


def _choice(answer: str, sample: NewSample) -> bool:
    choices = _choices_of(sample.answer)
    if choices is not None:
        return _said_word(answer, choices) == normalised(sample.answer)
    letter = _letter_of(sample.answer)
    if letter is None:
        raise _unusable("choice", "yes, no, maybe, true, false or a single letter", sample)
    return _said_letter(answer) == letter


def _said_word(answer: str, choices: frozenset[str]) -> str | None:
    """Return the choice that an answer states last, else the first one that it names."""
    plain = unicodedata.normalize("NFKC", final_part(answer)).casefold()
    decided = _UNDECIDED.sub(" … ", plain)
    word = rf"(?<![^\W_])({'|'.join(sorted(choices))})(?![^\W_])"
    stated = re.findall(rf"{_STATED_WORD}{word}", decided)
    if stated:
        return cast("str", stated[-1][-1])
    first = re.search(word, decided)
    return first[1] if first else None


def _said_letter(answer: str) -> str | None:
    """Return the letter that an answer chooses: alone, stated, or its first single capital.

    What it calls its answer goes before what it calls an option, the last before the others.
    """
    part = final_part(answer)
    alone = _letter_of(part)
    if alone is not None:
        return alone
    stated = list(_STATED_LETTER.finditer(part))
    answers = [found for found in stated if found["what"].casefold() == "answer"]
    if answers or stated:
        return (answers[-1] if answers else stated[0])["letter"].upper()
    single = _SINGLE_LETTER.search(part)
    return single[1] if single else None


def _reasoning_gym(answer: str, sample: NewSample) -> bool:
    """Ask the task's own verifier, which may accept other answers than the row's.

    Some verifiers evaluate the answer as a formula: score answers of models you trust.
    """
    details = sample.metadata.get(REASONING_GYM_KEY)
    task = cast("Mapping[str, Any]", details).get("source_dataset") if _is_map(details) else None
    library = require("reasoning_gym", extra="puzzles", purpose="reasoning-gym rows")
    if not isinstance(task, str) or task not in library.factory.DATASETS:
        raise _unusable("reasoning-gym", "the metadata of a known reasoning-gym task", sample)
    entry = {"question": sample.question, "answer": sample.answer, "metadata": details}
    verify = cast("Callable[..., float]", library.get_score_answer_fn(task))
    try:
        return verify(answer=answer, entry=entry) >= _FULL_SCORE
    except Exception:  # noqa: BLE001 - a hundred verifiers parse whatever the model said
        return False


def _is_map(value: object) -> bool:
    return isinstance(value, Mapping)


def _choices_of(reference: str) -> frozenset[str] | None:
    word = normalised(reference)
    return next((choices for choices in _CHOICES if word in choices), None)


def _letter_of(text: str) -> str | None:
    """Return the letter, in upper case, of a text that is one letter, perhaps in brackets."""
    word = without_punctuation(text.strip())
    return word.upper() if len(word) == 1 and word.isascii() and word.isalpha() else None


def _unusable(scorer: str, wanted: str, sample: NewSample) -> ConfigurationError:
    row = sample.external_id or sample.question[:60]
    return ConfigurationError(
        f"scorer {scorer!r} needs {wanted}, but the answer of row {row!r} is "
        f"{sample.answer[:60]!r}: choose another scorer, or 'auto'"
    )


_SCORERS: dict[ScorerName, Callable[[str, NewSample], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "f1": _f1,
    "number": _number,
    "choice": _choice,
    "reasoning-gym": _reasoning_gym,
}
