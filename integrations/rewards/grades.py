"""Grades as chat models write them, read as a number from 0 to 10.

A grade is read only where it is the reply's own statement: the whole reply, a line of its own, a
field of JSON, or behind a label at the start of a line. A number inside of prose may be quoted from
the answer that is judged, so it is never taken for one. What is not clear is no grade.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, cast

from rttc_graph.support.thinking import answer_behind

__all__ = ("parse_grade",)

_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)
_SCALES: Final = (1, 5, 10, 20, 100)
"""Top marks of the usual scales; 4 is none of them, so `3/4` is no grade."""

_HIGHEST: Final = 10.0

_NAMES = r"(?:grade|score|rating|mark|reward|verdict|points?)"
_LABEL = (
    rf"(?:(?:i(?:'?d|\s+would)?\s+(?:give|grade|rate|score)\s+(?:(?:it|this|that|the|answer|response|"
    rf"with|as|an?|at)\s+)*)"
    rf"|(?:(?:my|the|final|overall|total|answer's)\s+)*{_NAMES}(?:\s+is|\s+of)?\s*[:=]*\s*"
    rf"(?:an?\s+)?)"
)
_NUMBER = rf"(?:\d{{1,3}}(?:[.,]\d{{1,4}})?|{'|'.join(_WORDS)})"
_GRADE = re.compile(
    rf"(?P<label>{_LABEL})?(?P<value>{_NUMBER})(?![\w.,]*\d)"
    rf"(?:\s*(?P<percent>%|per\s?cent)|\s*(?:/|\(?out\s+of|\(?of)\s*(?P<scale>\d+|ten|five)\)?)?"
    rf"(?:\s+points?)?(?P<rest>.*)",
    re.IGNORECASE | re.ASCII,
)
_ENDS = re.compile(r"\s*(?:[.!,;]?\s*|\([^()\d]*\)\s*\.?)")
"""Text that may follow a grade on its line."""

_REASONS = re.compile(
    r"(?:\.|,|;|:|\s[-\u2013\u2014]|\s\(|\s+because\b|\s+since\b)(?!\d)\D*", re.IGNORECASE
)
"""Text that may follow a labelled grade: words about it, without another number."""

_FINAL = re.compile(r"\b(?:final|overall|total)\b", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`\"'#>|]|\\boxed|[{}$\\]")
_BULLET = re.compile(r"\s*(?:[-\u2013•]\s+)?")
_WHOLE_SCALE = re.compile(
    r"[(\[]?(?:\bon\s+a\s+)?(?:\bscale\s+(?:of|from)\s+)?\b[01]\s*(?:-|\u2013|to)\s*10\b[)\]]?:?,?",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*```\w*\s*|\s*```\s*$")
_KEYS: Final = frozenset({"grade", "score", "rating", "mark", "reward", "verdict", "points"})
_SCALE_KEYS: Final = frozenset({"max", "max_score", "maximum", "out_of", "scale"})


def parse_grade(reply: str) -> float | None:
    """Return the grade that a judge's reply gives, from 0 to 10; `None` if it gives none.

    `8`, `eight`, `8/10`, `Score: 4 out of 5`, `80 %`, `**Rating**: 0.8` and `{"grade": 8}` are the
    same grade. A number with decimals below 1 counts to 1, any other without a scale to 10; `1.0`
    may mean either. Thoughts in front of the reply are left out. Several grades are one if they
    agree, or if one of them is called final or overall.
    """
    text = _FENCE.sub("", answer_behind(reply)).strip()
    grades = _in_json(text)
    if grades is not None:
        return _one_of(grades)
    lines = [line for line in text.splitlines() if line.strip()]
    stated = [(line, grade) for line in lines for grade in _in_line(line)]
    final = [grade for line, grade in stated if _FINAL.search(line)]
    return _one_of(final or [grade for _, grade in stated])


def _one_of(grades: list[float | None]) -> float | None:
    """Return the grade that all of them are."""
    different = set(grades)
    return different.pop() if len(different) == 1 else None


def _in_line(line: str) -> Iterator[float | None]:
    """Yield the grade that a line states, `None` for one that cannot be; nothing if none."""
    plain = _BULLET.sub("", _WHOLE_SCALE.sub("", _MARKUP.sub("", line)), count=1).strip()
    match = _GRADE.fullmatch(plain)
    if match is None:
        return
    rest = match["rest"]
    if _ENDS.fullmatch(rest) or (match["label"] and _REASONS.fullmatch(rest)):
        yield _value(match["value"], match["scale"], is_percent=bool(match["percent"]))
    elif match["label"]:
        yield None


def _value(number: str, scale: str | None, *, is_percent: bool = False) -> float | None:
    value = _float(number)
    if is_percent or scale is not None:
        most = 100.0 if scale is None else _float(scale)
        return value * _HIGHEST / most if most in _SCALES and value <= most else None
    has_decimals = not number.isdigit() and number.lower() not in _WORDS
    if has_decimals and value <= 1:
        return value * _HIGHEST if value < 1 else None
    return value if value <= _HIGHEST else None


def _float(number: str) -> float:
    word = number.lower()
    return float(_WORDS.index(word)) if word in _WORDS else float(number.replace(",", "."))


def _in_json(text: str) -> list[float | None] | None:
    """Return the grades in an object of JSON; `None` if the reply holds no object."""
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return None
    try:
        content = cast("object", json.loads(text[start : end + 1]))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, Mapping):
        return None
    return list(_in_value(cast("object", content)))


def _in_value(value: object) -> Iterator[float | None]:
    if isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _in_value(one)
    if not isinstance(value, Mapping):
        return
    fields = {str(key).lower(): one for key, one in cast("Mapping[object, object]", value).items()}
    scale = next((str(fields[key]) for key in _SCALE_KEYS & fields.keys()), None)
    for key, one in fields.items():
        if key in _KEYS and not _is_nested(one):
            yield _of_field(one, scale)
        else:
            yield from _in_value(one)


def _is_nested(value: object) -> bool:
    return isinstance(value, (Mapping, list))


def _of_field(value: object, scale: str | None) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not re.fullmatch(_NUMBER, value.strip(), re.IGNORECASE):
        return _one_of(list(_in_line(value)))
    number = str(value).strip()
    if not re.fullmatch(_NUMBER, number, re.IGNORECASE):
        return None
    if scale is not None and not re.fullmatch(r"\d+", scale):
        return None
    return _value(number, scale)
