"""The number that an answer ends with, exactly: as a fraction, never as a float."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from rttc_graph.support.marks import final_part

MAX_DIGITS = 100
"""Longer runs of digits are noise, and would make exact arithmetic slow."""

_NUMBER = re.compile(
    r"""
    (?P<minus>(?<![\w.)])-\s?)?                   # a sign, but not the minus of 7-3 or a hyphen
    (?:[$€£¥₹]\s?(?P<inner>-)?)?                  # $-5 as well as -$5
    (?:(?<![\d.,])(?P<mixed>\d{1,9})[ ]+(?=\d+[ ]?/[ ]?\d))?    # 1 1/2
    (?P<whole>\d+)?
    (?P<decimals>(?:(?<=\d)|(?<![\w.]))\.\d+)?
    (?P<exponent>[eE][+-]?\d{1,2}(?!\d))?
    (?:\s?/\s?(?P<below>-?)(?P<denominator>\d+)(?![\d.]))?
    """,
    re.VERBOSE,
)

_SUPERSCRIPTS = str.maketrans({s: f"^{n}" for n, s in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "^-"})
_DASHES = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2012": "-", "\u2044": "/"})

_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2 "),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;:!> ]|~"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    # 1.5 times 10^3, and then the exponents of units, as in cm^2, which are no numbers
    (
        re.compile(
            r"(?<=\d)\s*(?:\\times|\\cdot|[\u00d7\u00b7*x])\s*10\s*\^\s*\{?\s*([+-]?)\^?(\d+)\}?"
        ),
        r"e\1\2",
    ),
    (
        re.compile(
            r"(?<=[A-Za-z])\s*\^\s*\{?\s*-?\^?\d+\s*\}?|(?<=\b[ckdm]m)[23]\b|(?<=\bm)[23]\b"
        ),
        "",
    ),
)
"""LaTeX and powers, in words that `_NUMBER` knows."""

_START = r"(?<![\d.,'_])"
_GROUPED: tuple[re.Pattern[str], ...] = tuple(
    re.compile(_START + pattern)
    for pattern in (
        r"(?P<whole>[1-9]\d{0,2}(?:[.]\d{3})+),(?P<part>\d+)(?!\d|,\d)",  # 1.234,50
        r"(?P<whole>[1-9]\d{0,2}(?:[ ']\d{3})+),(?P<part>\d{1,2})(?!\d|,\d)",  # 1 234,50
        r"(?P<whole>[1-9]\d{0,2}(?:[.]\d{3}){2,})(?P<part>)(?!\d|[.,]\d)",  # 1.234.567
        r"(?P<whole>[1-9]\d?(?:,\d\d)+,\d{3})(?P<part>)(?!\d|,\d)",  # 12,34,567
        r"(?P<whole>[1-9]\d{0,2}(?P<mark>[ ',_])\d{3}(?:(?P=mark)\d{3})*)(?P<part>)"
        r"(?!\d|(?P=mark)\d)",
        r"(?P<whole>\d+),(?P<part>\d{1,2})(?=\s?[€%])",  # 12,5 % and 3,50 €
        r"(?<=€)(?P<whole>\d+),(?P<part>\d\d)(?!\d|,\d)",
        r"(?<![(\[{;])(?P<whole>0),(?P<part>\d+)(?!\d|,\d)",  # 0,5 and 0,125
    )
)
"""Numbers with thousands separators or a decimal comma. What may be a list, as `1, 2`, `3,5` and
`12 34`, is none of them."""


def last_number(text: str) -> Fraction | None:
    r"""Return the last number of a text, or of the part that it marks as final; `None` without one.

    Understood are thousands separators, a decimal comma where it can be nothing else, a currency
    or percent sign, an exponent, fractions such as `3/4`, `1 1/2` and `\frac{3}{4}`; `12 %` is 12.
    """
    numbers = [m for m in _NUMBER.finditer(_plain(final_part(text))) if m["whole"] or m["decimals"]]
    return _value(numbers[-1]) if numbers else None


def is_number(text: str) -> bool:
    """Tell whether a text is one number and nothing else but a currency or percent sign."""
    bare = _plain(text).strip().removeprefix("\\(").removesuffix("\\)")
    if bare.startswith("$") and bare.endswith("$"):
        bare = bare[1:-1]
    match = _NUMBER.fullmatch(bare.strip().rstrip("%€").strip())
    return match is not None and _value(match) is not None


def _plain(text: str) -> str:
    """Return the text with its numbers in the one spelling that `_NUMBER` knows."""
    # A fraction in one character is a number of its own: behind a whole one, a part of it.
    apart = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text).translate(_SUPERSCRIPTS)
    plain = unicodedata.normalize("NFKC", apart).translate(_DASHES).replace("\u2019", "'")
    for pattern, spelling in _SPELLINGS:
        plain = pattern.sub(spelling, plain)
    for pattern in _GROUPED:
        plain = pattern.sub(_ungrouped, plain)
    return plain


def _ungrouped(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match["whole"])
    return f"{digits}.{match['part']}" if match["part"] else digits


def _value(match: re.Match[str]) -> Fraction | None:
    whole, decimals = match["whole"] or "0", match["decimals"] or ""
    denominator = match["denominator"] or "1"
    if not (match["whole"] or decimals) or len(whole + decimals + denominator) > MAX_DIGITS:
        return None
    if int(denominator) == 0:
        return None
    size = Fraction(whole + decimals + (match["exponent"] or "")) / int(denominator)
    size = int(match["mixed"] or "0") + size
    return -size if bool(match["minus"] or match["inner"]) != bool(match["below"]) else size
