"""Whether a text says that it has no answer, such as "I do not know."."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rttc_graph.support.thinking import answer_behind

__all__ = ("is_refusal",)

_MOST_WORDS = 60
"""Longest text that is taken for a refusal: behind more there is something else to read."""

_NOT = (
    r"(?:do not|don't|dont|does not|doesn't|did not|didn't|cannot|can't|can not|could not|couldn't"
    r"|am not|'m not|am unable to|'m unable to|was unable to|is not|isn't|are not|aren't|will not"
    r"|won't|have no|has no|have not|haven't|unable to)"
)
_TEXT = r"(?:information|text|documents?|question)"
_SOFT = r"(?:(?:really|actually|currently|simply|just|yet|also) )?"

_REFUSALS = (
    rf"\b(?:i|we) {_NOT} {_SOFT}(?:know|have (?:any |enough |that |this |the )?(?:information"
    r"|details|data|answer|context|knowledge|access)|sure|certain|aware|able to|find|answer|help"
    r"|assist|provide|determine|tell|say|see|information|answer|idea|way of knowing|comply)\b",
    rf"\bi{_NOT} (?:sure|certain|aware|able)\b",
    r"\b(?:there is|there's|i have|i see|i find|i found|^) ?(?:no|not enough|insufficient) "
    r"(?:relevant |available |sufficient )?(?:information|context|data|details)\b"
    r"(?! (?:is|are|was) shared)",
    rf"\b(?:context|passage|samples?|examples?|(?:given|provided|above) {_TEXT}|{_TEXT} (?:given"
    rf"|provided|above)) {_NOT} {_SOFT}(?:say|mention|contain|specify|provide|include|state|give"
    r"|answer|enough)",
    r"\b(?:it|this|that|the answer) (?:is|'s) (?:not|un)\s?(?:known|clear|specified|stated"
    r"|mentioned)(?=\W*$|[.!;,] )",
    r"\bnot possible to (?:say|tell|know|determine|answer)\b",
    r"\b(?:cannot|can't|can not) be (?:answered|determined|known|found)\b",
    r"^as an? (?:ai|language model|artificial)\b.*\b(?:cannot|can't|do not|don't|unable)\b",
    r"^(?:i )?(?:have )?no idea\b",
    r"^(?:unanswerable|not answerable|cannot answer|don't know|do not know|dunno|no answer"
    r"|not specified|not mentioned|not stated)\W*$",
    # German, French, Spanish, Italian, Portuguese: what models say instead of an answer.
    r"\b(?:ich weiss|weiss ich) (?:es |das |die antwort )?(?:leider )?nicht\b|\bkeine (?:ahnung"
    r"|angaben?|informationen)\b",
    r"\bje ne (?:sais|connais) pas\b|\bje n'ai (?:pas|aucune) (?:d'|cette |l')?information",
    r"\bno (?:lo )?s[eé]\b(?! \w+ (?:que|si))|\bno tengo (?:esa |la )?informaci[oó]n",
    r"\bnon (?:lo )?so\b(?!\w)|\bn[aã]o sei\b",
)

_REFUSED = re.compile("|".join(_REFUSALS))

_GOES_ON = re.compile(
    r"\b(?:but|however|though|although|still|probably|likely|i (?:think|believe|guess)|my guess"
    r"|perhaps|maybe|aber|mais|pero|ma|mas)\b(?P<rest>.*)",
    re.DOTALL,
)
"""Words that introduce an answer after a refusal."""

_EMPTY_REST = re.compile(
    r"\b(?:please|contact|ask|help|sorry|more|provide|support|feel free|let me|happy|glad"
    r"|information|details|context)\b"
)
"""Words after them by which nothing is answered."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@lru_cache(maxsize=4096)
def is_refusal(text: str) -> bool:
    """Tell whether a text declines to answer, and does nothing else.

    A text that says what it knows beside what it does not is an answer. What a model thought before
    it spoke does not count.
    """
    plain = unicodedata.normalize("NFKC", answer_behind(text)).casefold().replace("\u2019", "'")
    plain = " ".join(plain.split()).strip(" \"'*_")
    if not plain or len(plain.split()) > _MOST_WORDS:
        return False
    first = _REFUSED.search(plain)
    if first is None:
        return False
    if _answers_before(plain[: first.start()]):
        return False
    turn = _GOES_ON.search(plain, first.end())
    return turn is None or bool(_EMPTY_REST.search(turn["rest"]))


def _answers_before(text: str) -> bool:
    """Tell whether whole sentences stand before the refusal, other than an apology."""
    said = [part for part in _SENTENCE.split(text) if part.rstrip().endswith((".", "!", ";", ":"))]
    return any(not re.search(r"\b(?:sorry|apolog|unfortunately|hello|hi|thank)", s) for s in said)
