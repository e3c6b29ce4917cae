"""Answers that follow a JSON schema: whatever the weights say, what comes out can be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from decoding import QUESTIONS, decode, request

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.local_engine import LocalEngine

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["red", "green"]},
            "parts": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 9},
                "minItems": 2,
                "maxItems": 3,
            },
        },
        "required": ["kind", "parts"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_follows_its_schema_beside_one_that_has_none(
    tiny_engine: LocalEngine, temperature: float
) -> None:
    questions = QUESTIONS[:3]
    asked: dict[str, Any] = {"max_new_tokens": 120, "temperature": temperature, "seed": 7}
    plain = decode(tiny_engine, *(request(one, **asked) for one in questions))
    held = [request(one, answer_schema=SCHEMA, **asked) for one in questions]
    free = [request(one, **asked) for one in questions]
    rows = decode(tiny_engine, *held, *free)
    for row in rows[:3]:
        found = json.loads(row.text)
        assert found["kind"] in {"red", "green"}
        assert 2 <= len(found["parts"]) <= 3
        assert row.finish_reason == "stop"
    assert [row.text for row in rows[3:]] == [row.text for row in plain]


def test_a_lone_row_is_held_to_its_schema_in_spite_of_drafts(tiny_engine: LocalEngine) -> None:
    asked = request("hi", answer_schema=SCHEMA, max_new_tokens=120, drafts=('{"kind":"blue"}',))
    for _ in range(2):
        [row] = decode(tiny_engine, asked)
        assert json.loads(row.text)["kind"] in {"red", "green"}


def test_a_schema_that_cannot_be_followed_fails_its_own_row(tiny_engine: LocalEngine) -> None:
    bad, good = tiny_engine.decode(
        [request("hi", answer_schema='{"type": "nothing"}'), request("hi")]
    )
    with pytest.raises(PolicyModelError, match="the answer's schema cannot be followed"):
        bad.result(60)
    assert good.result(60).text
