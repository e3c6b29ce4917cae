"""Right or wrong: an answer against the reference answer of its row.

Scorers are strict in what they compare and lenient in form: letter case, white space, sentence
punctuation and thousands commas never decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.marks import FINAL_MARK, final_part
from rttc_graph.evaluation.numbers import is_number, last_number
from rttc_graph.protocols import NewSample
from rttc_graph.support.extras import require
from rttc_graph.support.thinking import answer_behind

ScorerName = Literal["auto", "exact", "number", "choice", "reasoning-gym"]

REASONING_GYM_KEY = "reasoning_gym"
"""Key in a row's metadata that holds the entry metadata of reasoning-gym, which name the task."""

_CHOICES = (frozenset({"yes", "no", "maybe"}), frozenset({"true", "false"}))
_WORD_PUNCTUATION = ".,;:!?\"'()[]{}<>*_`…“”\u2018\u2019«»"
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-_](?=[^\W\d_])")
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

    Args:
        answer: What the model said; what it thought before does not count.
        sample: Row with the reference answer.
        scorer: `auto` chooses by row, see `scorer_for`.

    Raises:
        ConfigurationError: The reference answer is none for this scorer, for example without a
            number for `number`.
    """
    named = scorer_for(sample) if scorer == "auto" else scorer
    return _SCORERS[named](answer_behind(answer), sample)


def scorer_for(sample: NewSample) -> ScorerName:
    """Choose a scorer by the row's reference answer.

    Rows made by reasoning-gym get the verifier of their task, `#### 72` and bare numbers
    `number`, yes, no, maybe, true, false and single letters `choice`, all others `exact`.
    """
    if REASONING_GYM_KEY in sample.metadata:
        return "reasoning-gym"
    if FINAL_MARK in sample.answer or is_number(sample.answer):
        return "number"
    if _choices_of(sample.answer) is not None or _letter_of(sample.answer) is not None:
        return "choice"
    return "exact"


def check_reference(sample: NewSample, scorer: ScorerName = "auto") -> None:
    """Refuse a row whose own reference answer the scorer cannot use, before any work.

    Raises:
        ConfigurationError: As `is_right`.
    """
    is_right("", sample, scorer)


def normalised(text: str) -> str:
    """Return a text in the form in which `exact` compares: lower case, words by single spaces.

    Words lose the punctuation around them and hyphens between letters become spaces; signs,
    decimals and symbols stay, so that -5 is not 5. A text of punctuation alone is left as it is.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _HYPHEN.sub(" ", plain).split()
    bare = [word.strip(_WORD_PUNCTUATION) for word in words]
    return " ".join(word for word in bare if word) or " ".join(words)


def _exact(answer: str, sample: NewSample) -> bool:
    return normalised(final_part(answer)) == normalised(final_part(sample.answer))


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
    library = require("reasoning_gym", extra="demo", purpose="reasoning-gym rows")
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
    word = text.strip().strip(_WORD_PUNCTUATION)
    return word.upper() if len(word) == 1 and word.isascii() and word.isalpha() else None


def _unusable(scorer: str, wanted: str, sample: NewSample) -> ConfigurationError:
    row = sample.external_id or sample.question[:60]
    return ConfigurationError(
        f"scorer {scorer!r} needs {wanted}, but the answer of row {row!r} is "
        f"{sample.answer[:60]!r}: choose another scorer, or 'auto'"
    )


_SCORERS: dict[ScorerName, Callable[[str, NewSample], bool]] = {
    "exact": _exact,
    "number": _number,
    "choice": _choice,
    "reasoning-gym": _reasoning_gym,
}
