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
from rttc_graph.evaluation.numbers import FINAL_MARK, is_number, last_number
from rttc_graph.protocols import NewSample
from rttc_graph.support.extras import require

ScorerName = Literal["auto", "exact", "number", "choice", "reasoning-gym"]

REASONING_GYM_KEY = "reasoning_gym"
"""Key in a row's metadata that holds the entry metadata of reasoning-gym, which name the task."""

_CHOICES = (frozenset({"yes", "no", "maybe"}), frozenset({"true", "false"}))
_WORD_PUNCTUATION = ".,;:!?\"'()[]{}<>*_`…“”\u2018\u2019«»"
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-_](?=[^\W\d_])")
_STATED_LETTER = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+is)?\s*:?\s*[(\[*]*([A-Za-z])(?![\w'])", re.IGNORECASE
)
_SINGLE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?![\w'])(?!(?<=[AI])\s+[a-z])")
_FULL_SCORE = 0.99
"""reasoning-gym gives 1 for a right answer and parts of it for a right form."""


def is_right(answer: str, sample: NewSample, scorer: ScorerName = "auto") -> bool:
    """Tell whether an answer agrees with the sample's answer.

    Args:
        answer: What the model said.
        sample: Row with the reference answer.
        scorer: `auto` chooses by row, see `scorer_for`.

    Raises:
        ConfigurationError: The reference answer is none for this scorer, for example without a
            number for `number`.
    """
    return _SCORERS[scorer_for(sample) if scorer == "auto" else scorer](answer, sample)


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
    return normalised(answer) == normalised(sample.answer)


def _number(answer: str, sample: NewSample) -> bool:
    expected = last_number(sample.answer)
    if expected is None:
        raise _unusable("number", "a number", sample)
    return last_number(answer) == expected


def _choice(answer: str, sample: NewSample) -> bool:
    choices = _choices_of(sample.answer)
    if choices is not None:
        words = (word.strip(_WORD_PUNCTUATION) for word in re.split(r"[\s,.:;!?—-]+", answer))
        said = next((word for word in map(str.casefold, words) if word in choices), None)
        return said == normalised(sample.answer)
    letter = _letter_of(sample.answer)
    if letter is None:
        raise _unusable("choice", "yes, no, maybe, true, false or a single letter", sample)
    return _said_letter(answer) == letter


def _said_letter(answer: str) -> str | None:
    """Return the letter that an answer chooses: stated, alone, or its first single capital."""
    alone = _letter_of(answer)
    if alone is not None:
        return alone
    stated = _STATED_LETTER.search(answer)
    found = stated or _SINGLE_LETTER.search(answer)
    return found[1].upper() if found else None


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
