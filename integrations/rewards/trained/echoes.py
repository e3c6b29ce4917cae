"""What an answer adds to its question: the answer less the words that it copies from there.

A network that compares two texts takes a copy of the question for an answer to it, whatever stands
beside the copy. So the copy is taken out before the network reads the answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("without_echo",)

_RUN = 3
"""Words in a row that count as copied. Shorter runs are shared by chance, and a question that is
shorter is part of many answers ("Why?"). With 4, a copy that lacks every seventh word keeps twice
as many words (17 of 100)."""

_SHARE = 2 / 3
"""Share of the question's words that copies have. A sentence that restates the task mostly has less
of them ("The intent of this request to a voice assistant is"), a copy with gaps more."""

_SHARE_FROM_EDGE = 0.2
"""That share for copies that reach the question's beginning or end (its message alone, or half) and
are followed by more of the answer. At an answer's end, a part of the question mostly is what is
answered, as in "It is the second one that you named"."""

_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that put no spaces between words (Thai to Khmer, Japanese, Chinese)."""

_WORD = re.compile(f"[{_NO_SPACES}]|[^\\W_{_NO_SPACES}]+")
"""A word, or one letter of a script without spaces."""

_BEHIND = re.compile(
    r"[\s.,;:!?…'\"”\u2019»)\]}>*_`\u3002\uff0c\u3001\uff1a\uff1b\uff01\uff1f\u300d\u300f]*"
)
"""Characters that close a copy; a sign or currency before a number belongs to the answer."""

_LABEL_BEFORE = re.compile(r"(?:\A|\n)[*_#> ]*[^\W_]+(?: [^\W_]+)? ?[:\uff1a][*_ ]*\Z")
"""Label before a copy: "Q:", "You asked:"."""

_LABEL_BEHIND = re.compile(r"\A[*_#> ]*[^\W_]+(?: [^\W_]+)? ?[:\uff1a](?:[*_]*\s+|\Z)")
"""Label before the answer that follows a copy: "A:", "My answer:"."""

_OPENING = " \t\r\n'\"“\u2018«([{<*_`\u300c\u300e"


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    """Text in lower case and with normalised character width."""
    start: int
    end: int


def without_echo(question: str, answer: str) -> str:
    """Return the answer less what it copies from the question, wherever the copies stand.

    Letter case, punctuation and spacing do not matter. Copies of the whole question are taken out;
    where there is none, copies of parts, which may have gaps. An answer that is nothing but the
    question becomes the question, whatever stands around it. The answer stays as it is where the
    copies are so small a part of the question that they may well be the answer (an option, a
    name, a quotation), or where nothing but parts of the question is in it. Takes time in
    proportion to the texts' lengths.
    """
    asked, said = _words(question), _words(answer)
    if len(asked) < _RUN:
        return answer
    whole = _whole(said, asked)
    if any(whole):
        left = _left(answer, said, whole)
        return left if _WORD.search(left) else question
    copied = _parts(said, asked)
    if not any(copied):
        return answer
    if not _is_echo(copied, _parts(asked, said)):
        return answer
    left = _left(answer, said, copied)
    return left if _WORD.search(left) else answer


def _words(text: str) -> list[_Word]:
    return [
        _Word(unicodedata.normalize("NFKC", found[0]).casefold(), *found.span())
        for found in _WORD.finditer(text)
    ]


def _whole(words: Sequence[_Word], others: Sequence[_Word]) -> list[bool]:
    """Return of each word whether it is in a copy of all the other words."""
    said, wanted = (
        "".join(["\n", *(f"{word.text}\n" for word in side)]) for side in (words, others)
    )
    shared = [False] * len(words)
    place, number, counted = said.find(wanted), 0, 0
    while place >= 0:
        number += said.count("\n", counted, place)
        shared[number : number + len(others)] = [True] * len(others)
        counted = place
        place = said.find(wanted, place + len(wanted) - 1)
    return shared


def _parts(words: Sequence[_Word], others: Sequence[_Word]) -> list[bool]:
    """Return of each word whether it is in a run of words that the others have too."""
    known = set(_runs(others))
    shared = [False] * len(words)
    for first, found in enumerate(_runs(words)):
        if found in known:
            shared[first : first + _RUN] = [True] * _RUN
    return shared


def _is_echo(copied: Sequence[bool], repeated: Sequence[bool]) -> bool:
    """Tell whether copies are large enough, by the words that both sides share.

    Args:
        copied: Number of the answer's words that are copied; at least one.
        repeated: Number of the question's words that are repeated.
    """
    share = min(sum(copied), sum(repeated)) / len(repeated)
    reaches_edge = repeated[0] or repeated[-1]
    return share >= (_SHARE_FROM_EDGE if reaches_edge and not copied[-1] else _SHARE)


def _runs(words: Sequence[_Word]) -> list[tuple[str, ...]]:
    texts = [word.text for word in words]
    return list(zip(*(texts[n:] for n in range(_RUN)), strict=False))


def _left(answer: str, words: Sequence[_Word], copied: Sequence[bool]) -> str:
    """Return what stands between the copies, less the labels around them, with single spaces."""
    pieces: list[str] = []
    begin = 0
    labelled = False
    for number, word in enumerate(words):
        if not copied[number]:
            continue
        if number == 0 or not copied[number - 1]:
            piece, labelled = _before(answer[begin : word.start], labelled)
            pieces.append(piece)
        begin = _end(answer, word)
    pieces.append(_LABEL_BEHIND.sub("", answer[begin:]) if labelled else answer[begin:])
    return " ".join(piece for piece in pieces if piece).strip()


def _before(piece: str, labelled: bool) -> tuple[str, bool]:
    """Return the text before a copy without labels, and whether one announced the copy."""
    if labelled:
        piece = _LABEL_BEHIND.sub("", piece)
    piece = piece.rstrip(_OPENING)
    bare = _LABEL_BEFORE.sub("", piece)
    return bare, bare != piece


def _end(answer: str, word: _Word) -> int:
    found = _BEHIND.match(answer, word.end)
    return found.end() if found else word.end
