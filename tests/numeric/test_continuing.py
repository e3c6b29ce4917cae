"""An answer goes on from text that it begins with, as if the model had written that itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from decoding import (
    QUESTIONS,
    BiasedRows,
    computed,
    decode,
    held,
    in_lane,
    request,
    resident_adapters,
)
from tiny_adapters import adapter_of
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rttc_graph.integrations.transformers.decoding.detokenise import TextStream
from rttc_graph.integrations.transformers.decoding.loops import is_looping
from rttc_graph.integrations.transformers.literal import encode_begun
from rttc_graph.integrations.transformers.local_engine import LocalEngine

LETTER = "token 40"
"""An adapter that says one letter again and again."""


@pytest.fixture
def keeping_engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, prefix_cache_bytes=2**24)
    yield engine
    engine.close()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kept", [1, 7])
def test_what_the_model_has_written_goes_on_as_it_would_have(
    tiny_engine: LocalEngine, question: str, kept: int
) -> None:
    """If its text has the tokens that the model chose, which another text may have too."""
    (whole,) = decode(tiny_engine, request(question, max_new_tokens=12))

    def begun(loaded: Any) -> tuple[str, list[int]]:
        text = loaded.tokenizer.decode(whole.tokens[:kept])
        return text, encode_begun(loaded.tokenizer, text)

    text, ids = in_lane(tiny_engine, begun)
    (rest,) = decode(tiny_engine, request(question, max_new_tokens=12 - kept, answer_prefix=text))
    assert rest.text.startswith(text)
    assert rest.prompt_tokens == whole.prompt_tokens + len(ids)
    if ids == list(whole.tokens[:kept]):
        assert rest.tokens == whole.tokens[kept:]
        assert rest.text == whole.text


def test_no_turn_ends_before_the_continuation(tiny_engine: LocalEngine) -> None:
    seen: list[list[int]] = []

    def watch(loaded: Any) -> None:
        forward = loaded.model.forward

        def recording(*args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs["input_ids"][0].tolist())
            return forward(*args, **kwargs)

        loaded.model.forward = recording

    in_lane(tiny_engine, watch)
    decode(tiny_engine, request("hi", max_new_tokens=1, answer_prefix="The <|end|> is"))
    written = cast("str", tiny_tokenizer().decode(seen[0]))
    assert written.endswith("<|start|>assistant\nThe <|end|> is")
    assert seen[0].count(2) == 1  # the end of the question's turn; that of the text is letters


def test_continuations_are_drawn_in_one_batch_with_plain_rows_and_adapters(
    tiny_engine: LocalEngine,
) -> None:
    """Each says what it says alone, and stops, is cut and is counted for itself."""
    resident = resident_adapters(tiny_engine)
    resident.put("a", adapter_of(resident.adapted.layout, rank=8, alpha=16.0, seed=1))
    asked = [
        request("hi", max_new_tokens=9),
        request("hi", max_new_tokens=9, answer_prefix="The rain"),
        request("hi", max_new_tokens=9, answer_prefix="The rain", adapter="a"),
        request("what is it?", max_new_tokens=5, answer_prefix="Not", temperature=1.0, seed=3),
        request("what is it?", max_new_tokens=5, answer_prefix="Not", temperature=1.0, seed=4),
    ]
    alone = [decode(tiny_engine, one)[0] for one in asked]
    with held(tiny_engine):
        futures = tiny_engine.decode(asked)
    together = [future.result(60) for future in futures]
    assert [row.tokens for row in together] == [row.tokens for row in alone]
    assert [row.text for row in together] == [row.text for row in alone]
    # The last two share their prompt.
    assert [row.reused_tokens for row in together] == [0] * 4 + [together[4].prompt_tokens]
    assert together[1].tokens != together[2].tokens


def test_draws_of_a_prompt_are_one_prefill(tiny_engine: LocalEngine) -> None:
    with computed(tiny_engine) as shapes:
        with held(tiny_engine):
            futures = tiny_engine.decode(
                [request("the rain in Spain", temperature=1.0, seed=n) for n in range(8)]
            )
        rows = [future.result(60) for future in futures]
    prompt = rows[0].prompt_tokens
    assert shapes[0] == (1, prompt)
    assert [row.reused_tokens for row in rows] == [0] + [prompt] * 7


def test_continuations_of_a_prompt_share_its_keys(keeping_engine: LocalEngine) -> None:
    question = "what is the rain in Spain, and where does it stay for the most of the year?"
    (first,) = decode(keeping_engine, request(question))
    later = decode(keeping_engine, request(question, answer_prefix="In the plain"))
    assert later[0].reused_tokens == first.prompt_tokens


def test_prompts_that_begin_alike_wait_for_the_first_of_them(keeping_engine: LocalEngine) -> None:
    """Continuations that nobody asked before compute the prompt once, also in one call."""
    question = "what is the rain in Spain, and where does it stay for the most of the year?"
    begins = ("In the plain", "On the mountains", "Nowhere at all")
    with held(keeping_engine):
        futures = keeping_engine.decode(
            [request(question, max_new_tokens=4, answer_prefix=begun) for begun in begins]
        )
    rows = [future.result(60) for future in futures]
    (plain,) = decode(keeping_engine, request(question))
    assert rows[0].reused_tokens == 0
    # All rows of a pass compute as many tokens, so the shorter one computes some known ones again.
    assert all(row.reused_tokens >= plain.prompt_tokens - 8 for row in rows[1:])
    for begun, row in zip(begins, rows, strict=True):
        (alone,) = decode(keeping_engine, request(question, max_new_tokens=4, answer_prefix=begun))
        assert alone.tokens == row.tokens


@pytest.mark.parametrize(
    ("prefix", "stop", "text"),
    [
        pytest.param("It is", "FFF", "It is", id="in-what-is-new"),
        pytest.param("It is F", "FF", "It is ", id="across-the-border"),
        pytest.param("It is", "I", None, id="in-the-beginning"),
    ],
)
def test_stop_strings(tiny_engine: LocalEngine, prefix: str, stop: str, text: str | None) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    if text is None:
        with pytest.raises(Exception, match="stands in answer_prefix at character 0"):
            request(answer_prefix=prefix, stop=(stop,))
        return
    pieces: list[str] = []
    (row,) = decode(
        tiny_engine,
        request(adapter=LETTER, answer_prefix=prefix, stop=(stop,), on_text=pieces.append),
    )
    assert (row.text, row.finish_reason) == (text, "stop")
    assert not "".join(pieces)  # of the beginning nothing is said again


def test_pieces_are_what_is_new(tiny_engine: LocalEngine) -> None:
    pieces: list[str] = []
    (row,) = decode(tiny_engine, request(answer_prefix="In the plain", on_text=pieces.append))
    assert "In the plain" + "".join(pieces) == row.text


def test_drafts_are_of_the_whole_answer(tiny_engine: LocalEngine) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    drafts = ("Another answer", "It is FFFFFF")
    with computed(tiny_engine) as shapes:
        (row,) = decode(
            tiny_engine,
            request(adapter=LETTER, answer_prefix="It is ", max_new_tokens=7, drafts=drafts),
        )
    assert row.text == "It is FFFFFFF"
    assert len(shapes) == 1


def test_a_model_without_an_end_token_goes_on_to_its_limit(tiny_engine: LocalEngine) -> None:
    def endless(loaded: Any) -> None:
        loaded.eos_ids = frozenset()
        loaded.tokenizer.eos_token = None

    in_lane(tiny_engine, endless)
    (row,) = decode(tiny_engine, request(answer_prefix="It", max_new_tokens=40, drafts=("It is",)))
    assert (len(row.tokens), row.finish_reason) == (40, "length")


@pytest.mark.parametrize("drafted", [False, True])
def test_a_loop_ends_an_answer_at_the_same_token_with_drafts(
    tiny_engine: LocalEngine, drafted: bool
) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    drafts = ("F" * 200,) if drafted else ()
    asked = request(adapter=LETTER, max_new_tokens=200, ends_loops=True, drafts=drafts)
    (row,) = decode(tiny_engine, asked)
    assert (row.tokens, row.finish_reason) == ((40,) * 48, "loop")
    (other,) = decode(tiny_engine, request(adapter=LETTER, max_new_tokens=60))
    assert (len(other.tokens), other.finish_reason) == (60, "length")


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([], False),
        ([7] * 47, False),
        ([7] * 48, True),
        ([1, 2] * 24, True),
        ([5, *range(60), *range(60), *range(60)], True),
        ([*range(60), *range(59), 5, *range(60)], False),
        ([*range(70), *range(70), *range(70)], False),  # longer than what is looked for
        ([n for at in range(30) for n in (1, 2, 3, at)], False),  # a table with a number in it
        ([*range(20), *range(20)], False),  # said twice
    ],
)
def test_what_a_loop_is(tokens: list[int], loops: bool) -> None:
    assert is_looping(tokens) is loops


def test_a_space_before_the_next_word_is_kept() -> None:
    """Tokenizers of words drop the space before a first one."""
    words = {"<unk>": 0, "▁The": 1, "▁rain": 2, "▁falls": 3}
    raw = Tokenizer(models.WordLevel(vocab=words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    make = cast("Callable[..., PreTrainedTokenizerFast]", PreTrainedTokenizerFast)  # untyped
    tokenizer = make(tokenizer_object=raw)
    begun = encode_begun(tokenizer, "The rain")
    stream = TextStream(tokenizer, begun="The rain", begun_ids=begun)
    assert stream.push(3) + stream.finish() == " falls"
    assert stream.text == "The rain falls"


def test_marks_of_thoughts_stay_what_they_are() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    ids = encode_begun(tokenizer, "<think>so</think>It <|end|>")
    (opening,) = encode_begun(tokenizer, "<think>")
    (closing,) = encode_begun(tokenizer, "</think>")
    assert (ids[0], ids.count(closing), ids.count(2)) == (opening, 1, 0)
    assert tokenizer.decode(ids) == "<think>so</think>It <|end|>"
