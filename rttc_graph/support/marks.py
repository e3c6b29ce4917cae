r"""The part of an answer that it marks as final: behind `####`, in `\boxed{…}` or in `<answer>`."""

from __future__ import annotations

import re

FINAL_MARK = "####"
"""Mark before the final number in the answers of GSM8K."""

_MARK = re.compile(r"####|\\f?boxed\s*\{|<answer>", re.IGNORECASE)
_END_TAG = re.compile(r"</answer>", re.IGNORECASE)
_TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox)\s*\{([^{}]*)\}")


def final_part(text: str) -> str:
    """Return what stands behind or in the last mark of a text, the whole text without a mark.

    Commands of LaTeX for fonts are left out.
    """
    marks = list(_MARK.finditer(text))
    if marks:
        mark, tail = marks[-1][0], text[marks[-1].end() :]
        if mark.endswith("{"):
            text = _in_braces(tail)
        else:
            text = tail if mark == FINAL_MARK else _END_TAG.split(tail, maxsplit=1)[0]
    return _TEXT_COMMAND.sub(r"\1", text)


def _in_braces(tail: str) -> str:
    """Return what comes before the closing brace; all of it where the answer was cut off."""
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", tail):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return tail[: brace.start()]
    return tail
