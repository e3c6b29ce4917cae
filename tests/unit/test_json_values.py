"""What is bound for PostgreSQL is stored as it is, refused, or made readable."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.postgres.json_values import (
    checked_jsonb,
    checked_text,
    cleaned,
)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param({"a": "\0"}, "holds a NUL character at 0", id="nul-in-a-value"),
        pytest.param({"\0": 1}, "holds a NUL", id="nul-in-a-key"),
        pytest.param([{"a": ["x", "y\0"]}], "at 1", id="nul-deep-inside"),
        pytest.param({"a": "é\udfff"}, "a lone surrogate at 1", id="half-a-pair"),
        pytest.param({"a": math.inf}, "not JSON", id="infinite"),
        pytest.param({"a": object()}, "not JSON", id="object"),
        pytest.param({(1, 2): 3}, "not JSON", id="tuple-as-a-key"),
    ],
)
def test_json_that_cannot_be_stored_is_refused(value: Any, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        checked_jsonb("metadata", value)


def test_json_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigurationError, match="not JSON"):
        checked_jsonb("metadata", endless)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"escape": "\\u0000", "text": "é 数 🧮", "control": "\x01\x1f\x7f"},
        [None, True, 1, 1.5, "", [], {}],
    ],
)
def test_other_json_is_passed_on(value: Any) -> None:
    assert checked_jsonb("metadata", value).obj == value


@pytest.mark.parametrize("text", ["", "é 数 🧮", "\\u0000", "\x01"])
def test_text_that_can_be_stored_is_passed_on(text: str) -> None:
    assert checked_text("query", text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\0b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\ud800x\udc00", "\ufffdx\ufffd"),
        ({1: (1, 2.5, True, None)}, {"1": [1, 2.5, True, None]}),
        ([math.nan, -math.inf], [None, None]),
        ({"\0": {"x": frozenset({"\0"})}}, {"\ufffd": {"x": "frozenset({'\\x00'})"}}),
    ],
    ids=["nul", "a-pair-in-halves", "lone-halves", "keys-and-tuples", "not-finite", "object"],
)
def test_what_people_read_is_cleaned(value: Any, expected: Any) -> None:
    assert cleaned(value) == expected
