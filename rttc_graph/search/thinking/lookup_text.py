"""Look-ups as text: the tag that asks for one, what is inserted, and an answer without both.

The tag is cut out before the answer goes on, and the query stands in what is inserted: so a stop
string that ends the answer at the next tag is never in its beginning.
"""

from __future__ import annotations

import re

OPENING, CLOSING = "<search>", "</search>"
"""Tag around what the model looks for."""

_FOUND, _END = "<result>", "</result>"

INSTRUCTION = (
    f"Where you need a fact that you do not know, write {OPENING}what to look for{CLOSING} and "
    f"nothing behind it. What is known about it then follows between {_FOUND} and {_END}; use it, "
    "and go on with the answer."
)
"""Text behind the system prompt of a model that may look something up."""

NOTHING = "Nothing was found."

_MARKS = re.compile(r"</?(?:search|result)>", re.IGNORECASE)
_BLOCK = re.compile(rf"(?P<end>[.!?:;]?)\s*{_FOUND}\n.*?\n{_END}\s*", re.DOTALL)
_ASKED = re.compile(rf"{OPENING}.*?(?:{CLOSING}|\Z)", re.DOTALL)


def open_query(text: str, *, behind: int = 0) -> tuple[int, str] | None:
    """Return where a tag begins that is not closed, and what stands in it; `None` without one.

    Args:
        text: An answer that was stopped before the closing tag.
        behind: Number of characters at its beginning that are not looked at.
    """
    at = text.rfind(OPENING)
    if at < behind or CLOSING in text[at:]:
        return None
    query = " ".join(text[at + len(OPENING) :].split())
    return (at, query) if query else None


def inserted(query: str, found: str) -> str:
    """Return what stands in an answer where something was looked up.

    Args:
        query: What was looked up; empty where the model did not ask for it.
        found: What is known about it.
    """
    asked = f"Looked up: {harmless(query)}\n" if query else ""
    return f"\n{_FOUND}\n{asked}{found}\n{_END}\n"


def harmless(text: str) -> str:
    """Return a text without marks of look-ups, on as few lines as it has."""
    return _MARKS.sub("", text).strip()


def without_lookups(text: str) -> str:
    """Return an answer without its look-ups: neither the tags nor what was inserted.

    A sentence that was stopped goes on in its line. Marks alone, which small models copy from what
    was inserted, are no answer: 15 of 120 were a lone `<result>` (docs/experiments.md).
    """
    if not _MARKS.search(text):
        return text

    def join(block: re.Match[str]) -> str:
        return f"{block['end']}\n" if block["end"] else " "

    left = _ASKED.sub("", _BLOCK.sub(join, text)).strip()
    return left if harmless(left) else ""
