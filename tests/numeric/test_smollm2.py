"""The engine with a real model: SmolLM2-135M-Instruct."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch

from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.scoring import ScoringRequest, log_probabilities
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest
from rttc_graph.state import ChatTurn

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours of the rainbow, please, and one animal that likes carrots.",
    "Say hello.",
)


def turns(question: str) -> tuple[ChatTurn, ...]:
    return (
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": question},
    )


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(smollm2_path, device="cpu", threads=1)
    yield engine
    engine.close()


async def test_it_answers_and_stops_by_itself(engine: LocalEngine) -> None:
    model = TransformersPolicyModel(engine)
    (answer,) = await model.generate(
        [GenerationRequest(messages=turns(QUESTIONS[0]), max_new_tokens=40)]
    )
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert "<|" not in answer.text


async def test_a_batch_says_what_generate_says(engine: LocalEngine) -> None:
    def reference(loaded: LoadedModel) -> list[list[int]]:
        generate = cast("Callable[..., torch.Tensor]", loaded.model.generate)
        found: list[list[int]] = []
        for question in QUESTIONS:
            prompt = encode_prompt(loaded, turns(question))
            ids = torch.tensor([prompt])
            out = generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
            )
            found.append(cast("list[int]", out[0, len(prompt) :].tolist()))
        return found

    model = TransformersPolicyModel(engine)
    rows = await model.generate(
        [GenerationRequest(messages=turns(q), max_new_tokens=12) for q in QUESTIONS]
    )
    expected = await engine.in_lane(reference)
    texts = await engine.in_lane(
        lambda loaded: [loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    )
    assert [row.text for row in rows] == texts
    assert [row.completion_tokens for row in rows] == [len(ids) for ids in expected]


async def test_it_finds_the_right_answer_likelier(engine: LocalEngine) -> None:
    right, wrong = await log_probabilities(
        engine,
        [
            ScoringRequest(messages=turns(QUESTIONS[0]), answer=f"The capital of France is {city}.")
            for city in ("Paris", "Oslo")
        ],
    )
    assert wrong < right < 0


async def test_a_cancelled_answer_frees_the_lane(engine: LocalEngine) -> None:
    model = TransformersPolicyModel(engine)
    long = asyncio.create_task(
        model.generate([GenerationRequest(messages=turns(QUESTIONS[1]), max_new_tokens=2000)])
    )
    await model.count_tokens(turns("loaded"))
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    (short,) = await model.generate(
        [GenerationRequest(messages=turns(QUESTIONS[2]), max_new_tokens=3)]
    )
    assert short.completion_tokens <= 3
