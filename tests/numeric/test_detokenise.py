"""Text as it grows: never half a character, never a part of a stop string."""

from __future__ import annotations

from typing import cast

import pytest
from tiny_models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from rttc_graph.integrations.transformers.decoding.detokenise import TextStream

END_ID = 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def tokens_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return cast("list[int]", tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the hen in the rain", id="merged-tokens"),
        pytest.param("naïve café ½ 10 €", id="two-and-three-byte-characters"),
        pytest.param("日本語のテキスト", id="no-spaces"),
        pytest.param("👩‍🔬 works 👍🏽", id="four-byte-characters-and-joiners"),
        pytest.param("  two  spaces \n\n lines\t", id="white-space"),
        pytest.param("a � b ��", id="replacement-characters-of-its-own"),
    ],
)
def test_pieces_join_to_the_text_and_hold_whole_characters(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokens_of(tokenizer, text)]
    pieces.append(stream.finish())
    assert "".join(pieces) == stream.text == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


def test_a_character_appears_with_its_last_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokens_of(tokenizer, "a€b")] == ["a", "", "", "€", "b"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    stream = TextStream(tokenizer)
    euro = tokens_of(tokenizer, "€")
    assert [stream.push(token) for token in euro[:2]] == ["", ""]
    assert stream.finish() == "�" == stream.text


def test_special_tokens_are_not_text(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer)
    tokens = [*tokens_of(tokenizer, "hi"), END_ID]
    assert "".join([*map(stream.push, tokens), stream.finish()]) == "hi"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        pytest.param("one. two", ["."], "one", id="one-character"),
        pytest.param("abc\nQuestion: x", ["\nQuestion:"], "abc", id="across-many-tokens"),
        pytest.param("in the end", ["the"], "in ", id="inside-merged-tokens"),
        pytest.param("one two three", ["three", "two"], "one ", id="the-earliest-of-several"),
        pytest.param("xaab y", ["ab"], "xa", id="after-a-false-start"),
        pytest.param("aaab", ["aab"], "a", id="overlapping-itself"),
        pytest.param("no stop here", ["zzz"], "no stop here", id="absent"),
        pytest.param("almost sto", ["stop"], "almost sto", id="only-its-beginning-at-the-end"),
        pytest.param("10 € and", ["€"], "10 ", id="a-multi-byte-stop"),
        pytest.param("stop", ["stop"], "", id="nothing-before-it"),
        pytest.param("text", [""], "text", id="an-empty-stop-string-is-none"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(
    tokenizer: PreTrainedTokenizerFast, text: str, stop: list[str], expected: str
) -> None:
    stream = TextStream(tokenizer, stop)
    pieces: list[str] = []
    for token in tokens_of(tokenizer, text):
        if stream.is_stopped:
            break
        pieces.append(stream.push(token))
    assert stream.is_stopped is (expected != text)
    assert "".join([*pieces, stream.finish()]) == stream.text == expected


def test_the_start_of_a_stop_string_is_held_until_it_turns_out_to_be_none(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    stream = TextStream(tokenizer, ["xyz"])
    assert [stream.push(token) for token in tokens_of(tokenizer, "axyb")] == ["a", "", "", "xyb"]
