"""One form for answers that say the same: what scorers compare, and what samples vote for."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from rttc_graph.support.marks import FINAL_MARK, final_part
from rttc_graph.support.numbers import is_number, last_number

VOTE_SHARPNESS = 8.0
"""Rate at which a vote loses weight with distance: one that is 0.1 less similar than the nearest
sample counts `exp(-0.8)`, not quite half of it. Measured, see docs/experiments.md."""

_WORD_PUNCTUATION = ".,;:!?\"'()[]{}<>*_`…“”\u2018\u2019«»"
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-_](?=[^\W\d_])")


def without_punctuation(word: str) -> str:
    """Return a word without the sentence punctuation and markup around it."""
    return word.strip(_WORD_PUNCTUATION)


def normalised(text: str) -> str:
    """Return a text in the form in which `exact` compares: lower case, words by single spaces.

    Words lose the punctuation around them and hyphens between letters become spaces; signs,
    decimals and symbols stay, so that -5 is not 5. A text of punctuation alone is left as it is.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _HYPHEN.sub(" ", plain).split()
    bare = [without_punctuation(word) for word in words]
    return " ".join(word for word in bare if word) or " ".join(words)


def states_number(text: str) -> bool:
    """Tell whether an answer is a number, or reasoning that ends with one behind `####`."""
    return FINAL_MARK in text or is_number(text)


def canonical(answer: str) -> str:
    """Return the same text for answers that a scorer takes for the same one.

    A number is one number however it is written, reasoning counts by the number it ends with, and
    all else is compared as `normalised` leaves it: "Card arrival" and "card arrival" are one.
    """
    if states_number(answer) and (value := last_number(answer)) is not None:
        return str(value)
    return normalised(final_part(answer))


def vote_shares(
    said: Sequence[tuple[str, float]], *, sharpness: float = VOTE_SHARPNESS
) -> dict[str, float]:
    """Return what samples vote for, by canonical answer, as shares that add up to 1.

    Each has the weight `exp(sharpness * (similarity - highest similarity))`.

    Args:
        said: Answer of each sample, and its similarity to the question; without any, there are no
            shares.
        sharpness: 0 gives every sample the same weight.
    """
    highest = max((similarity for _, similarity in said), default=0.0)
    weights: dict[str, float] = {}
    for answer, similarity in said:
        form = canonical(answer)
        weights[form] = weights.get(form, 0.0) + math.exp(sharpness * (similarity - highest))
    total = sum(weights.values())
    return {form: weight / total for form, weight in weights.items()}
