"""One raw row to one sample, or to a reason why not.

What Postgres or a tokenizer would refuse later (NUL characters, broken Unicode, NaN in metadata)
is refused here, where file and line are still known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from rttc_graph.errors import BadSampleError, ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.support.encodings import undecodable
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS

DEFAULT_DOMAIN = "general"
"""Domain of rows that name none, when the caller names none either."""

UNANSWERABLE = "unanswerable"
"""Column, and key in a question's metadata, that marks a question to which there is no answer."""

NO_ANSWER = "I do not know."
"""Reference answer of a question that is marked so and has none."""

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """The names under which a source has what is read of its rows; other columns are left alone."""

    question: str = "question"
    answer: str = "answer"
    domain: str = "domain"
    id: str = "id"
    metadata: str = "metadata"

    @property
    def all(self) -> tuple[str, ...]:
        """All names."""
        return (self.question, self.answer, self.domain, self.id, self.metadata)

    @property
    def read(self) -> tuple[str, ...]:
        """All names, and the mark of a question to which there is no answer."""
        return (*self.all, *({UNANSWERABLE} - set(self.all)))

    @property
    def needed(self) -> tuple[str, ...]:
        """Question and answer, and whatever has another name than by default."""
        usual = ColumnNames()
        return (
            self.question,
            self.answer,
            *(
                name
                for name, plain in zip(self.all[2:], usual.all[2:], strict=True)
                if name != plain
            ),
        )

    def check(self) -> None:
        """Do nothing if no two of them are one.

        Raises:
            ConfigurationError: Two are, or one is blank.
        """
        twice = [name for name in self.all if self.all.count(name) > 1]
        if twice:
            raise ConfigurationError(f"two columns are named {twice[0]!r}: give each its own")
        if not all(name.strip() for name in self.all):
            raise ConfigurationError("the name of a column is blank")


USUAL_COLUMNS = ColumnNames()

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL as JSON writes it, but not the six characters that spell it behind a backslash."""


def sample_from(
    fields: Fields,
    *,
    domain: str | None,
    source: str,
    line: int,
    columns: ColumnNames = USUAL_COLUMNS,
) -> NewSample:
    """Return the sample that a row holds, question and answer without outer white space.

    A row whose column `unanswerable` is true, or whose metadata say so, is a question to which
    there is no answer: it needs none, and is marked in its metadata.

    Args:
        fields: Columns by name; `None` and a blank domain or id count as absent.
        domain: For rows that name none; `DEFAULT_DOMAIN` if this is `None` too.
        source: Path or name of the data set, for the error.
        line: 1-based line or row number, for the error.
        columns: Their names in this source.

    Raises:
        BadSampleError: The row cannot be used.
    """
    try:
        metadata = _metadata(fields.get(columns.metadata))
        if _is_marked(fields, columns):
            metadata = {**metadata, UNANSWERABLE: True}
        if is_unanswerable(metadata) and fields.get(columns.answer) in (None, ""):
            fields = {**fields, columns.answer: NO_ANSWER}
        return NewSample(
            question=_text(fields, columns.question),
            answer=_text(fields, columns.answer),
            domain=_name(fields, columns.domain) or domain or DEFAULT_DOMAIN,
            external_id=_name(_with_text_id(fields, columns.id), columns.id),
            metadata=metadata,
        )
    except ValueError as exc:
        raise BadSampleError(str(exc), source=source, line=line) from exc


def is_unanswerable(metadata: Mapping[str, Any]) -> bool:
    """Tell whether a question with these metadata has no answer, so that declining is right."""
    return metadata.get(UNANSWERABLE) is True


def _is_marked(fields: Fields, columns: ColumnNames) -> bool:
    """Tell whether a row is marked as a question without an answer."""
    value = None if UNANSWERABLE in columns.all else fields.get(UNANSWERABLE)
    said = str(value).strip().casefold()
    if value is None or said in ("", "false", "no", "0"):
        return False
    if said in ("true", "yes", "1"):
        return True
    raise ValueError(f"{UNANSWERABLE} must be true or false, got {_shown(value)}")


def _text(fields: Fields, column: str) -> str:
    value = fields.get(column)
    if value is None:
        raise ValueError(f"{column} is missing{_alike(fields, column) or _way_out(fields, column)}")
    if is_number(value):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{column} must be a string, got {_shown(value)}: write it in quotes")
    text = value.strip()
    if not text:
        raise ValueError(f"{column} is empty")
    _check_characters(text, column, limit=MAX_TEXT_CHARACTERS)
    return text


def is_number(value: object) -> bool:
    """Return whether a cell is a finite number, which is taken as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _alike(fields: Fields, column: str) -> str:
    """Return a hint at a key that differs from the column's name in form alone."""
    wanted = column.casefold()
    alike = [name for name in fields if name != column and name.strip().casefold() == wanted]
    return f", but there is {alike[0]!r}: rename it" if alike else ""


def _way_out(fields: Fields, column: str) -> str:
    """Return how a question is written that has no answer, where the answer is null."""
    if column not in fields:
        return ""
    return f"; a question that cannot be answered has {UNANSWERABLE} = true"


def _name(fields: Fields, column: str) -> str | None:
    value = fields.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{column} must be a string, got {_shown(value)}")
    name = value.strip()
    _check_characters(name, column, limit=MAX_NAME_CHARACTERS)
    return name or None


def _with_text_id(fields: Fields, column: str) -> Fields:
    """Return the row with a whole number as id turned into text, as many data sets have it."""
    number = fields.get(column)
    if isinstance(number, int) and not isinstance(number, bool):
        return {**fields, column: str(number)}
    return fields


def _metadata(value: object) -> dict[str, Any]:
    """Return metadata as plain JSON data; a string is read as JSON, as CSV has no other way."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_json(value, what="metadata")
    if not isinstance(value, dict):
        raise ValueError(f"metadata must be an object, got {_shown(value)}")
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"metadata cannot be written as JSON: {exc}") from exc
    if _NUL_ESCAPE.search(written):
        raise ValueError("metadata holds a NUL character, which Postgres cannot store")
    _check_characters(written, "metadata", limit=MAX_TEXT_CHARACTERS)
    return cast("dict[str, Any]", value)


def parse_json(text: str, *, what: str) -> object:
    """Return what a JSON text stands for.

    Raises:
        ValueError: It is no JSON, holds NaN, Infinity or a key twice, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as exc:
        raise ValueError(f"{what} is not JSON: {exc.msg} at character {exc.pos + 1}") from exc
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{what} is not usable JSON: {exc}") from exc


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twin!r} is there twice")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number in JSON")


def _check_characters(text: str, column: str, *, limit: int) -> None:
    if len(text) > limit:
        raise ValueError(f"{column} has {len(text):,} characters, at most {limit:,} are allowed")
    if "\0" in text:
        raise ValueError(f"{column} holds a NUL character, which Postgres cannot store")
    problem = undecodable(text)
    if problem is not None:
        raise ValueError(f"{column} is {problem}")


def _shown(value: object) -> str:
    """Return a value for an error message, short enough for one line."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '…'} ({type(value).__name__})"
