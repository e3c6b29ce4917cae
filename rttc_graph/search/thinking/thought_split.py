"""Splits of a question as text: the prompt that asks for one, its JSON schema, and what was said.

A model that follows schemas fills the form. Of one that does not, JSON is read wherever it stands,
cut short or not, and else a numbered list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from rttc_graph.state import ChatTurn

MAX_QUESTION_CHARACTERS: Final = 300
"""Longest question that a split may name; a longer one is left out."""

MAX_ANSWER_CHARACTERS: Final = 300
"""Longest answer that stands in other prompts: the end of it, where results are."""

TOKENS_OF_PART: Final = 96
"""Most tokens of one question in a split's JSON: three characters a token, and the form."""

_MAX_READ: Final = 20_000
"""Characters of a split that are read."""

_KNOWN = "Worked out already:"

_SPLITTING = (
    "You plan how a question is answered, and answer nothing. Name at most {most} smaller "
    "questions whose answers together give the answer. Each can be understood alone: it repeats "
    "the numbers and names that it is about. `needs` has the numbers of the questions whose "
    "answers must be known before, and is empty where there are none. Reply as JSON: "
    '{{"questions": [{{"question": "...", "needs": []}}]}}'
)

_EXAMPLE = (
    "Question: Ann buys 3 boxes of 12 eggs, breaks 5 eggs and sells the others for 2 euros each. "
    "How many euros does she get?"
)
_EXAMPLE_PARTS = (
    ("How many eggs are in 3 boxes of 12 eggs?", ()),
    ("How many of these eggs are left when 5 are broken?", (1,)),
    ("How many euros do the eggs that are left bring at 2 euros each?", (2,)),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A smaller question, as a split names it."""

    question: str
    needs: tuple[int, ...] = ()
    """Places in the split of the questions that it needs, from 0, as they were said: they may be
    none of it."""


def split_messages(asked: str, *, most: int) -> tuple[ChatTurn, ...]:
    """Return the prompt that asks for smaller questions.

    Args:
        asked: The question, behind what is known for it.
        most: Most questions that may be named, at least 1.
    """
    example = [
        {"question": question, "needs": list(needs)} for question, needs in _EXAMPLE_PARTS[:most]
    ]
    said = json.dumps({"questions": example}, separators=(",", ":"))
    return (
        {"role": "system", "content": _SPLITTING.format(most=most)},
        {"role": "user", "content": _EXAMPLE},
        {"role": "assistant", "content": said},
        {"role": "user", "content": f"Question: {asked}"},
    )


def split_schema(most: int) -> str:
    """Return the JSON schema of a split into so many questions at most."""
    part = {
        "type": "object",
        "properties": {
            "question": {"type": "string", "minLength": 1, "maxLength": MAX_QUESTION_CHARACTERS},
            "needs": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": most},
                "maxItems": most,
            },
        },
        "required": ["question", "needs"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {
            "questions": {"type": "array", "items": part, "minItems": 1, "maxItems": most}
        },
        "required": ["questions"],
        "additionalProperties": False,
    }
    return json.dumps(schema)


def read_parts(text: str) -> list[Part]:
    """Return the questions that a text names, in order; none where it names none."""
    text = text[:_MAX_READ]
    return _from_json(text) or _from_lines(text)


def with_known(question: str, known: Sequence[tuple[str, str]]) -> str:
    """Return a question behind the questions that are answered already, with their answers."""
    if not known:
        return question
    lines = "\n".join(f"- {asked} {answer}" for asked, answer in known)
    return f"{_KNOWN}\n{lines}\n\n{question}"


def condensed(answer: str) -> str:
    """Return an answer on one line, the end of a long one."""
    line = " ".join(answer.split())
    if len(line) <= MAX_ANSWER_CHARACTERS:
        return line
    return f"…{line[len(line) - MAX_ANSWER_CHARACTERS + 1 :]}"


_BRACKET = re.compile(r"[\[{]")

_MAX_MISSES: Final = 64
"""Brackets that begin no JSON, after which a text is given up."""


def _from_json(text: str) -> list[Part]:
    decoder, found = json.JSONDecoder(), list[Part]()
    at, misses = 0, 0
    while misses < _MAX_MISSES and (bracket := _BRACKET.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            at, misses = bracket.start() + 1, misses + 1
            continue
        found += _parts_of(value)
    return found


_MAX_DEPTH: Final = 4
"""Lists in lists that are looked into."""


def _parts_of(value: object, depth: int = 0) -> list[Part]:
    """Return the questions in a value of JSON: one, a list of them, or a list under some name."""
    if isinstance(value, str):
        return _part(value, ())
    if depth == _MAX_DEPTH:
        return []
    if isinstance(value, list):
        return [part for one in cast("list[object]", value) for part in _parts_of(one, depth + 1)]
    if not isinstance(value, dict):
        return []
    named = cast("dict[str, object]", value)
    needs, question = _numbers(named.get("needs")), named.get("question")
    if isinstance(question, str):
        return _part(question, needs)
    others = [one for name, one in named.items() if name != "needs"]
    found: list[list[Part]] = [
        *(_parts_of(cast("object", one), depth + 1) for one in others if isinstance(one, list)),
        *(_part(one, needs) for one in others if isinstance(one, str)),
    ]
    return next((parts for parts in found if parts), list[Part]())


def _part(question: str, needs: tuple[int, ...]) -> list[Part]:
    line = " ".join(question.split())
    return [Part(line, needs)] if line else []


def _numbers(said: object) -> tuple[int, ...]:
    """Return numbers from 1 as places from 0; what is no number is left out."""
    each: list[Any] = [*said] if isinstance(said, list) else [said]
    texts = (str(one).strip().lstrip("#") for one in each if not isinstance(one, bool))
    return tuple(int(text) - 1 for text in texts if re.fullmatch(r"\d{1,4}", text))


_LINE = re.compile(r"\s*(?:\d{1,2}\s*[.):]|[-*•])\s+(?P<question>\S.*)")
_REFERENCE = re.compile(r"#(\d{1,4})")


def _from_lines(text: str) -> list[Part]:
    """Return the items of a list; `#2` in one names the second as needed."""
    lines = (_LINE.fullmatch(line.rstrip()) for line in text.splitlines())
    questions = (line["question"] for line in lines if line is not None)
    return [
        part
        for one in questions
        for part in _part(one, tuple(int(number) - 1 for number in _REFERENCE.findall(one)))
    ]
