"""Drafts of an answer cost less than the answer, and never change it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from decoding import (
    QUESTIONS,
    BiasedRows,
    computed,
    decode,
    generated,
    held,
    in_lane,
    request,
    resident_adapters,
)
from tiny_adapters import adapter_of
from tiny_models import CONTEXT_TOKENS, make_sliding_model

from rttc_graph.integrations.transformers.decoding.drafts import Drafts
from rttc_graph.integrations.transformers.local_engine import LocalEngine

LETTER = "token 40"
"""An adapter that says one letter again and again."""


def text_of(engine: LocalEngine, tokens: Sequence[int]) -> str:
    return cast("str", in_lane(engine, lambda loaded: loaded.tokenizer.decode([*tokens])))


@pytest.fixture(params=["full", "sliding"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalEngine]:
    if request.param == "full":
        yield request.getfixturevalue("tiny_engine")
        return
    engine = LocalEngine(make_sliding_model(tmp_path), device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.fixture
def letters(tiny_engine: LocalEngine) -> LocalEngine:
    tiny_engine.attach_adapters(BiasedRows)
    return tiny_engine


def test_a_draft_that_is_right_is_checked_in_one_pass(letters: LocalEngine) -> None:
    draft = text_of(letters, [40] * 7)
    with computed(letters) as shapes:
        (row,) = decode(letters, request(adapter=LETTER, max_new_tokens=8, drafts=(draft,)))
    assert row.tokens == (40,) * 8
    assert shapes == [(1, row.prompt_tokens + 7)]  # the eighth is chosen behind them


def test_a_long_draft_is_checked_in_parts_and_its_end_is_not_the_answers(
    letters: LocalEngine,
) -> None:
    draft = text_of(letters, [40] * 20)
    with computed(letters) as shapes:
        (row,) = decode(letters, request(adapter=LETTER, max_new_tokens=24, drafts=(draft,)))
    assert row.tokens == (40,) * 24
    parts = [columns for _, columns in shapes]
    assert parts == [row.prompt_tokens + 8, 9, 4, 1, 1, 1]  # of 20 tokens 8, 8, 2 and the end


def test_two_drafts_without_a_right_token_are_enough(letters: LocalEngine) -> None:
    drafts = [text_of(letters, [*[40] * right, *[50] * 5]) for right in (0, 1, 2, 3)]
    with computed(letters) as shapes:
        (row,) = decode(letters, request(adapter=LETTER, max_new_tokens=6, drafts=tuple(drafts)))
    assert row.tokens == (40,) * 6
    # The first is wrong; the second goes on with a wrong token; nobody asks for the others.
    assert [columns for _, columns in shapes] == [row.prompt_tokens + 5, 5, 1, 1, 1, 1]


@pytest.mark.parametrize("question", QUESTIONS[:4])
def test_no_draft_changes_an_answer(engine: LocalEngine, question: str) -> None:
    (plain,) = decode(engine, request(question, max_new_tokens=40))
    assert list(plain.tokens) == generated(engine, question, 40)
    dice = random.Random(question)
    for right in (0, 1, 3, 8, 9, 20, 39, 40):
        wrong = [dice.randrange(3, 256) for _ in range(dice.randrange(30))]
        drafts = (
            text_of(engine, [*plain.tokens[:right], *wrong]),
            text_of(engine, plain.tokens[: right // 2]),
            "",
        )
        (row,) = decode(engine, request(question, max_new_tokens=40, drafts=drafts))
        assert row.tokens == plain.tokens
        assert row.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 5}, {"max_new_tokens": CONTEXT_TOKENS}, {"stop": ("FFF",)}],
    ids=["length", "context", "stop"],
)
def test_a_row_ends_where_it_ends_without_a_draft(
    letters: LocalEngine, settings: dict[str, Any]
) -> None:
    assert text_of(letters, [40]) == "F"
    (plain,) = decode(letters, request(adapter=LETTER, **settings))
    drafts = (text_of(letters, [40] * 600),)
    (row,) = decode(letters, request(adapter=LETTER, drafts=drafts, **settings))
    assert (row.tokens, row.text, row.finish_reason) == (
        plain.tokens,
        plain.text,
        plain.finish_reason,
    )


def test_what_is_drawn_is_drawn_token_by_token(letters: LocalEngine) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_new_tokens": 6}
    with computed(letters) as shapes:
        decode(letters, request(adapter=LETTER, **settings, drafts=("FFFFF",)))
    assert shapes[1:] == [(1, 1)] * 5


def test_rows_in_company_have_no_drafts(letters: LocalEngine) -> None:
    asked = [request(q, adapter=LETTER, max_new_tokens=6, drafts=("FFFF",)) for q in ("hi", "ho")]
    with computed(letters) as shapes:
        with held(letters):
            futures = letters.decode(asked)
        assert [future.result(60).tokens for future in futures] == [(40,) * 6] * 2
    assert shapes[1:] == [(2, 1)] * 5


def test_the_last_answer_is_the_draft_of_the_same_prompt(keeping_engine: LocalEngine) -> None:
    (first,) = decode(keeping_engine, request(max_new_tokens=40))
    with computed(keeping_engine) as shapes:
        (again,) = decode(keeping_engine, request(max_new_tokens=40))
        decode(keeping_engine, request("ho", max_new_tokens=3))
    known = first.prompt_tokens - 1  # the last token gives the logits
    assert again == replace(first, logprobs=again.logprobs, reused_tokens=known)
    assert again.logprobs == pytest.approx(first.logprobs, abs=1e-4)
    assert shapes[:2] == [(1, 1 + 32), (1, 1 + 6)]  # the 33rd token and the last are chosen
    assert len(shapes) == 2 + 3  # another prompt has no answer yet


def test_a_drawn_answer_is_nobodys_draft(keeping_engine: LocalEngine) -> None:
    decode(keeping_engine, request(max_new_tokens=8, temperature=1.0, seed=1))
    with computed(keeping_engine) as shapes:
        decode(keeping_engine, request(max_new_tokens=8))
    assert shapes == [(1, 1)] * 8


def test_a_wrong_draft_is_no_part_of_a_known_prompt(keeping_engine: LocalEngine) -> None:
    question = "the rain in Spain"
    decode(keeping_engine, request(question, max_new_tokens=4, drafts=("wrong", "wr")))
    for longer in (question, f"{question} falls"):
        (row,) = decode(keeping_engine, request(longer))
        assert list(row.tokens) == generated(keeping_engine, longer, 24)


def test_an_adapter_chooses_the_same_with_a_draft(tiny_engine: LocalEngine) -> None:
    resident = resident_adapters(tiny_engine)
    (base,) = decode(tiny_engine, request())
    resident.put("a", adapter_of(resident.adapted.layout, rank=8, alpha=16.0, seed=1))
    (plain,) = decode(tiny_engine, request(adapter="a"))
    assert plain.tokens != base.tokens
    for right in (2, 5, 24):
        drafts = (text_of(tiny_engine, plain.tokens[:right]), base.text)
        (row,) = decode(tiny_engine, request(adapter="a", drafts=drafts))
        assert row.tokens == plain.tokens


def test_the_likeliest_draft_that_begins_as_the_answer_does_is_taken() -> None:
    def after(tokens: list[int], *, last_answer: tuple[int, ...] = (), room: int = 9) -> Any:
        drafts = Drafts(("abc", "abd", "xyz"), lambda text: [ord(letter) for letter in text])
        drafts.last_answer = last_answer
        return drafts.after(tokens, room=room)

    a, b, c, d, x, y, z = map(ord, "abcdxyz")
    assert after([]) == (a, b, c)
    assert after([a], last_answer=(x, y)) == (b, c)
    assert after([x], last_answer=(x, z)) == (z,)
    assert after([x], room=1) == (y,)
    assert after([a, b, c]) == ()
    assert after([a, b, d, d]) == ()
    assert after([], room=0) == ()
