"""What an adapter is called."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from rttc_graph.protocols import TrainingExample
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.settings import TttSettings


def example(question: str, answer: str) -> TrainingExample:
    return TrainingExample(messages=({"role": "user", "content": question},), answer=answer)


EXAMPLES = (example("one", "1"), example("two", "2"))
KEY = adapter_key("base", EXAMPLES, TttSettings())


def test_the_same_training_has_the_same_key() -> None:
    again = adapter_key("base", [example("one", "1"), example("two", "2")], TttSettings())
    assert again == KEY


def test_a_key_is_the_digest_of_everything_that_the_adapter_is_made_from() -> None:
    # Written out by hand: keys stand in databases, so another form of them loses every adapter.
    made_from = {
        "base": "base",
        "examples": [
            {"answer": "1", "messages": [{"content": "one", "role": "user"}]},
            {"answer": "2", "messages": [{"content": "two", "role": "user"}]},
        ],
        "settings": TttSettings().fingerprint(),
    }
    assert hashlib.sha256(json.dumps(made_from).encode()).hexdigest() == KEY


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(adapter_key("other", EXAMPLES, TttSettings()), id="another-base"),
        pytest.param(adapter_key("base", EXAMPLES[:1], TttSettings()), id="fewer-samples"),
        pytest.param(adapter_key("base", EXAMPLES[::-1], TttSettings()), id="another-order"),
        pytest.param(adapter_key("base", EXAMPLES, TttSettings(seed=1)), id="another-seed"),
        pytest.param(
            adapter_key("base", [EXAMPLES[0], replace(EXAMPLES[1], answer="3")], TttSettings()),
            id="another-answer",
        ),
        pytest.param(
            adapter_key("base", [example("on", "e1"), EXAMPLES[1]], TttSettings()),
            id="the-same-text-cut-elsewhere",
        ),
    ],
)
def test_another_training_has_another_key(other: str) -> None:
    assert other != KEY


def test_text_in_any_script_has_a_key() -> None:
    assert len(adapter_key("base", [example("τr ≥ 0,9 🙂", "\u2028")], TttSettings())) == 64
