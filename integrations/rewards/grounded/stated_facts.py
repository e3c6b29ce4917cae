"""A text as statements are compared: its words, numbers, names, and whether it denies something.

All of it is plain text work without a model. It sees what an encoder blurs: "20 euros" and
"25 euros" have nearly the same vector.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rttc_graph.integrations.rewards.shorten import keep_ends

MOST_CHARACTERS = 4_000
"""Longer texts keep their ends. It bounds the work for each pair of texts."""

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_NUMERAL = re.compile(r"\d")
_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")

_NUMBERS_IN_WORDS = "two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_NUMBERS_IN_WORDS.split(), start=2)}
"""Not "one", which is a pronoun more often than a number."""

_DENYING = (
    "no not never none nothing nobody neither nor cannot without hardly nowhere "
    "nicht kein keine keinen nie niemals nichts ohne "
    "ne pas jamais rien aucun aucune sans sin nunca nada non mai senza niet geen nooit"
)
_DENIALS = frozenset(_DENYING.split())
"""Words that turn a statement round, in the languages with Latin letters that are met most."""

_FRAMING = (
    "a an the answer is it it's its that this would be was are i think say guess believe so we get "
    "sure yes well of for in to as on here my your one right correct result label category class "
    "intent topic team option choice final therefore thus hence"
)
_FRAME = frozenset(_FRAMING.split())
"""Words of which a frame around an answer is made, as in "The answer is X.", which say nothing of
their own. A frame in other words is no fault: the answer is then compared with the frame on."""

_FINAL_MARK = "####"
"""Stands before the result of a worked solution."""

_RUN = 3
"""Words in a row that count as copied."""

_LEAST_LETTERS = 3
"""Shorter words carry no content of their own in most languages."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A text, read."""

    words: tuple[str, ...]
    """Without letter case, in order; numbers are among them, in one form."""
    numbers: frozenset[str]
    names: frozenset[str]
    """Words with a capital that does not stand at the beginning of a sentence, without case."""
    denies: bool

    @property
    def content(self) -> frozenset[str]:
        """Words that carry content: numbers, and words of three letters or more."""
        return frozenset(w for w in self.words if w in self.numbers or len(w) >= _LEAST_LETTERS)


@lru_cache(maxsize=8_192)
def statement_of(text: str) -> Statement:
    """Return a text as a statement; the ends of a text beyond `MOST_CHARACTERS`."""
    plain = unicodedata.normalize("NFKC", keep_ends(text, MOST_CHARACTERS))
    words: list[str] = []
    names: set[str] = set()
    numbers: set[str] = set()
    capitals = 0  # within sentences
    for found in _TOKEN.finditer(plain):
        token = found[0].replace("\u2019", "'")
        word = _number(token) or token.casefold()
        words.append(word)
        if _NUMERAL.match(word):
            numbers.add(word)
        elif token[:1].isupper() and not _begins_sentence(plain, found.start()):
            capitals += 1
            names.add(word)
    if capitals * 2 > len(words) > 2:  # a title, or shouting: capitals mark no names
        names = set()
    denies = any(word in _DENIALS or word.endswith("n't") for word in words)
    return Statement(tuple(words), frozenset(numbers), frozenset(names), denies)


def _number(token: str) -> str | None:
    """Return a number in one form ("1,000" and "1000.0" are "1000"), `None` for other words."""
    if not token[0].isdigit():
        return _NUMBER_WORDS.get(token.casefold())
    bare = _GROUPS.sub("", token)
    if "." in bare and bare.count(".") == 1 and "," not in bare and ":" not in bare:
        bare = bare.rstrip("0").rstrip(".")
    return bare.lstrip("0") or "0"


def _begins_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t\"'(*_“\u2018")
    return not before or before[-1] in ".!?:\n;"


def same_answer(one: str, other: str) -> bool:
    """Tell whether two answers are the same words, or the same final number behind `####`."""
    return _final(one).words == _final(other).words


def _final(text: str) -> Statement:
    return statement_of(text.rpartition(_FINAL_MARK)[2])


def stands_in(part: Statement, whole: Statement) -> bool:
    """Tell whether all words of a text stand in another one in the same order and in a row."""
    size = len(part.words)
    if not size or size > len(whole.words):
        return False
    first = part.words[0]
    return any(
        word == first and whole.words[n : n + size] == part.words
        for n, word in enumerate(whole.words)
    )


def is_frame(around: Statement, part: Statement, question: Statement) -> bool:
    """Tell whether a text says nothing but a part of it: the rest is a frame or from the question.

    "The banking intent is card arrival." says "card arrival"; "It is not card arrival." does not.
    """
    if not stands_in(part, around) or around.denies != part.denies:
        return False
    asked = frozenset(question.words)
    rest = list(around.words)
    for word in part.words:
        rest.remove(word)
    return all(word in _FRAME or (word in asked and not _is_number(word)) for word in rest)


def _is_number(word: str) -> bool:
    return word[:1].isdigit()


def copied_share(said: Statement, sources: Sequence[Statement]) -> float:
    """Return the share of a text's words that stand in runs of three that a source has too.

    A text of fewer words counts whole where it stands in a source.
    """
    if len(said.words) < _RUN:
        return float(any(stands_in(said, source) for source in sources))
    known = {run for source in sources for run in _runs(source)}
    copied = [False] * len(said.words)
    for first, run in enumerate(_runs(said)):
        if run in known:
            copied[first : first + _RUN] = [True] * _RUN
    return sum(copied) / len(copied)


def _runs(said: Statement) -> list[tuple[str, ...]]:
    return list(zip(*(said.words[n:] for n in range(_RUN)), strict=False))


def share_missing(wanted: frozenset[str], *known: frozenset[str]) -> float:
    """Return the share of words that none of the others has; 0 where there are none."""
    if not wanted:
        return 0.0
    return len(wanted.difference(*known)) / len(wanted)
