"""Examples to token ids, and ids to batches without waste that fit in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_trainings import CPU, ROOMY, TIGHT, WINDOW, encoded, tiny_gpt2, tiny_mistral
from transformers import LlamaForCausalLM

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.training_batches import (
    EncodedExample,
    StepLimits,
    encode_examples,
    pack,
)
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.protocols import TrainingExample


@pytest.fixture
def loaded(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="float32")


@pytest.fixture
def model(loaded: LoadedModel) -> AdaptedModel:
    return AdaptedModel(loaded.model)


@pytest.mark.parametrize(("pass_tokens", "prefix"), [(17.0, 6), (18.0, 0)])
def test_a_prefix_gets_a_pass_where_that_saves_more_than_the_calls_cost(
    pass_tokens: float, prefix: int
) -> None:
    limits = replace(ROOMY, pass_tokens=pass_tokens)  # 6 tokens are saved in three rows of four
    [batch] = pack(encoded(), limits, device=CPU, share_prefix=True)
    assert batch.prefix.numel() == prefix
    assert batch.input_ids.shape == (4, 30 - prefix)


def test_several_passes_are_what_a_tight_limit_asks_for() -> None:
    batches = pack(encoded(), TIGHT, device=CPU, share_prefix=False)
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(2, 30), (2, 12)]
    assert sum(batch.tokens for batch in batches) == 12 + 30 + 9 + 21
    assert sum(batch.targets.numel() for batch in batches) == 3 + 5 + 2 + 4


def test_a_shared_prefix_counts_once_in_a_pass() -> None:
    batches = pack(encoded(), TIGHT, device=CPU, share_prefix=True)  # 6 + 2 * 24, 6 + 2 * 6
    assert [tuple(batch.prefix.shape) for batch in batches] == [(1, 6), (1, 6)]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(2, 24), (2, 6)]
    assert sum(batch.tokens for batch in batches) == 12 + 30 + 9 + 21


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([((4, 5, 6, 7), 1), ((4, 5, 8, 9), 1)], 2, id="what-is-the-same"),
        pytest.param([((4, 5, 6, 7), 1), ((4, 5, 6, 7), 1)], 2, id="never-the-last-of-a-prompt"),
        pytest.param([((4, 5, 6, 7), 1), ((4, 5), 1)], 0, id="nor-of-the-shortest-prompt"),
        pytest.param([((4, 5), 1), ((6, 5), 1)], 0, id="nothing"),
        pytest.param([((4, 5, 6, 7), 1)], 0, id="one-example-alone"),
        pytest.param([((5,), 1), ((5, 5, 5), 1)], 0, id="an-answer-without-prompt"),
    ],
)
def test_how_much_is_shared(rows: list[tuple[tuple[int, ...], int]], expected: int) -> None:
    examples = [EncodedExample(ids=ids, answer_tokens=answer) for ids, answer in rows]
    [batch] = pack(examples, ROOMY, device=CPU, share_prefix=True)
    assert batch.prefix.shape == (1, expected)


def test_a_pass_of_two_bytes_a_number_takes_less(model: AdaptedModel) -> None:
    whole, half = (
        StepLimits.from_layout(model.layout, vocabulary=300, max_bytes=1.0, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert 2 < whole.token_bytes / half.token_bytes < 4
    assert whole.answer_bytes == half.answer_bytes  # logits are float32


@pytest.mark.parametrize(
    ("recompute", "free", "expected"),
    [
        pytest.param(None, 1.9, [True, False, False, False], id="one-has-more-than-half-of-free"),
        pytest.param(None, 2.1, [False] * 4, id="all-have-less"),
        pytest.param(True, 2.1, [True, True, False, False], id="those-beyond-the-limit"),
        pytest.param(False, 0.1, [False] * 4, id="never"),
    ],
)
def test_what_is_computed_twice_follows_the_free_memory(
    recompute: bool | None, free: float, expected: list[bool], model: AdaptedModel
) -> None:
    largest = StepLimits.from_layout(model.layout, vocabulary=300, max_bytes=0.0)
    longest = 30 * largest.token_bytes + 5 * largest.answer_bytes  # the others: 21, 12 and 9 tokens
    limits = StepLimits.from_layout(
        model.layout,
        vocabulary=300,
        max_bytes=0.6 * longest,
        free_bytes=free * longest,
        recompute=recompute,
    )
    batches = [
        batch
        for each in sorted(encoded(), key=lambda example: -len(example.ids))
        for batch in pack([each], limits, device=CPU, share_prefix=True)
    ]
    assert [batch.recompute for batch in batches] == expected


def test_a_tree_has_no_padding_and_no_last_tokens() -> None:
    examples = [
        EncodedExample(ids=(4, 5, 6, 7, 8), answer_tokens=2),
        EncodedExample(ids=(4, 5, 9), answer_tokens=1),
    ]
    [batch] = pack(examples, ROOMY, device=CPU, share_prefix=True, tree_tokens=99)
    assert batch.places is not None
    assert batch.sees is not None
    # The prompts are 4 5 6 and 4 5; the 5 predicts an answer, so only the 4 is shared.
    assert batch.input_ids.tolist() == [[4, 5, 6, 7, 5]]
    assert batch.places.tolist() == [[0, 1, 2, 3, 1]]
    assert batch.positions.tolist() == [2, 3, 4]
    assert batch.targets.tolist() == [7, 8, 9]
    assert batch.tokens == 8
    assert batch.sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("lengths", "pair_tokens", "is_tree"),
    [
        pytest.param((40, 20), 0.001, True, id="padding-costs-more"),
        # 79 tokens in 6,241 pairs, against 80 in 3,200 pairs
        pytest.param((40, 40), 0.001, False, id="attention-costs-more"),
        pytest.param((40, 40), 0.0, True, id="without-the-last-tokens"),
        pytest.param((40,), 0.0, False, id="one-example-alone"),
    ],
)
def test_a_tree_is_made_where_it_is_less_work(
    lengths: tuple[int, ...], pair_tokens: float, is_tree: bool
) -> None:
    limits = replace(ROOMY, pair_tokens=pair_tokens)
    examples = [
        EncodedExample(ids=(*range(first, first + length),), answer_tokens=1)
        for first, length in zip((0, 100), lengths, strict=False)
    ]
    [batch] = pack(examples, limits, device=CPU, share_prefix=False, tree_tokens=99)
    assert (batch.sees is not None) == is_tree


def test_a_model_that_ignores_our_mask_gets_no_tree(loaded: LoadedModel) -> None:
    model = AdaptedModel(loaded.model)
    plain = LlamaForCausalLM.forward

    def deaf(self: LlamaForCausalLM, **given: Any) -> Any:
        given.pop("attention_mask", None)
        return plain(self, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", deaf)
        assert model.tree_tokens == 0
    assert AdaptedModel(loaded.model).tree_tokens > 10**6


def test_a_sliding_window_caches_no_prefix_and_limits_a_tree() -> None:
    sliding = AdaptedModel(tiny_mistral())
    assert not sliding.can_share_prefix
    assert sliding.tree_tokens == WINDOW
    assert AdaptedModel(tiny_gpt2()).can_share_prefix


def test_an_example_longer_than_a_tree_may_hold_keeps_its_batch_in_rows() -> None:
    examples = [EncodedExample(ids=(*range(length),), answer_tokens=1) for length in (40, 20)]
    for tree_tokens, is_tree in ((40, True), (39, False)):
        [batch] = pack(examples, ROOMY, device=CPU, share_prefix=False, tree_tokens=tree_tokens)
        assert (batch.sees is not None) == is_tree
        assert batch.prefix.numel() == 0


def test_an_example_beyond_the_limit_has_a_pass_of_its_own() -> None:
    limits = StepLimits(token_bytes=1.0, answer_bytes=1.0, max_bytes=1)
    batches = pack(encoded(), limits, device=CPU, share_prefix=True)
    assert [batch.input_ids.shape[0] for batch in batches] == [1, 1, 1, 1]


def example(question: str, answer: str) -> TrainingExample:
    return TrainingExample(messages=({"role": "user", "content": question},), answer=answer)


def test_an_example_is_the_prompt_of_generation_and_the_answer_with_its_end(
    loaded: LoadedModel,
) -> None:
    [found] = encode_examples(loaded, [example("where?", "there")])
    tokenizer = cast("Any", loaded.tokenizer)
    assert (
        tokenizer.decode(found.ids)
        == "<|start|>user\nwhere?<|end|>\n<|start|>assistant\nthere<|end|>"
    )
    assert tokenizer.decode(found.ids[-found.answer_tokens :]) == "there<|end|>"
    [batch] = pack([found], ROOMY, device=CPU, share_prefix=True)
    assert [int(token) for token in batch.targets] == [*found.ids[-found.answer_tokens :]]
    before = torch.tensor(found.ids)[batch.positions]
    assert tokenizer.decode(before) == tokenizer.decode(found.ids[-found.answer_tokens - 1 : -1])


def test_a_long_prompt_loses_its_left_end_and_the_answer_nothing(loaded: LoadedModel) -> None:
    [found] = encode_examples(loaded, [example("z" * 600 + " where?", "there")])
    text = cast("Any", loaded.tokenizer).decode(found.ids)
    assert len(found.ids) == loaded.context_tokens
    assert text.endswith("z where?<|end|>\n<|start|>assistant\nthere<|end|>")
    assert "user" not in text


@pytest.mark.parametrize(
    ("letters", "fits"),
    [pytest.param(510, True, id="one-place-for-the-prompt"), pytest.param(511, False, id="none")],
)
def test_an_answer_may_fill_the_context_but_for_one_token(
    letters: int, fits: bool, loaded: LoadedModel
) -> None:
    examples = [example("a", "b"), example("a", "z" * letters)]  # and the end token
    if fits:
        assert len(encode_examples(loaded, examples)[1].ids) == 512
        return
    with pytest.raises(AdaptationError, match=r"example 2 has 512 tokens, the model's context 512"):
        encode_examples(loaded, examples)


def test_no_examples_are_an_error(loaded: LoadedModel) -> None:
    with pytest.raises(AdaptationError, match="no example"):
        encode_examples(loaded, [])
