"""The number that an answer ends with, exactly: as a fraction, never as a float."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 100
"""Longer runs of digits are noise, and would make exact arithmetic slow."""

FINAL_MARK = "####"
"""What the answers of GSM8K write before the final number."""

_NUMBER = re.compile(
    r"""
    (?P<minus>(?<![\w.)])-\s?)?         # a sign, but not the minus of 7-3 or a hyphen
    (?:[$€£](?P<inner>-)?)?             # $-5 as well as -$5
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
    (?P<decimals>(?:(?<=\d)|(?<![\w.]))\.\d+)?
    (?P<exponent>[eE][+-]?\d{1,2}(?!\d))?
    (?:\s?/\s?(?P<denominator>\d+)(?![\d.]))?
    """,
    re.VERBOSE,
)


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, or the one behind its last `####`; `None` without one.

    Thousands commas, a currency sign, a percent sign, decimals, an exponent and a fraction such
    as `3/4` are understood; `12 %` is 12.
    """
    tail = text.rpartition(FINAL_MARK)[2] if FINAL_MARK in text else text
    found = [m for m in _NUMBER.finditer(_plain(tail)) if m["whole"] or m["decimals"]]
    return _value(found[-1]) if found else None


def is_number(text: str) -> bool:
    """Tell whether a text is one number and nothing else but a currency or percent sign."""
    match = _NUMBER.fullmatch(_plain(text).strip().rstrip("%").rstrip())
    return match is not None and _value(match) is not None


def _plain(text: str) -> str:
    """Return the text with the minus signs of typography as hyphens."""
    return text.replace("\u2212", "-").replace("\u2013", "-")


def _value(match: re.Match[str]) -> Fraction | None:
    whole = (match["whole"] or "0").replace(",", "")
    decimals = match["decimals"] or ""
    denominator = match["denominator"] or "1"
    if not (match["whole"] or decimals) or len(whole + decimals + denominator) > MAX_DIGITS:
        return None
    if int(denominator) == 0:
        return None
    size = Fraction(whole + decimals + (match["exponent"] or "")) / int(denominator)
    return -size if match["minus"] or match["inner"] else size
