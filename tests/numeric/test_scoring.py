"""Log-probabilities of given answers, against one slow pass for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pytest
import torch

from rttc_graph.errors import BudgetExceeded, ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers import scoring
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.scoring import (
    ScoringRequest,
    log_probabilities,
    option_probabilities,
)
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import OptionsRequest
from rttc_graph.state import ChatTurn

PAIRS = (
    ("hi", "the answer"),
    ("what is the rain in Spain?", "x"),
    ("x" * 150, "plain, mainly"),
    ("and", "y" * 120),
    ("10 €", "日本"),
)


def asked(question: str, answer: str, adapter: str | None = None) -> ScoringRequest:
    return ScoringRequest(
        messages=({"role": "user", "content": question},), answer=answer, adapter=adapter
    )


def slowly(loaded: LoadedModel, question: str, answer: str, *, end: bool) -> float:
    """One pair, no padding, softmax over all positions in float64."""
    prompt = encode_prompt(loaded, [{"role": "user", "content": question}])
    ids = cast("list[int]", loaded.tokenizer(answer, add_special_tokens=False)["input_ids"])
    ids = [*ids, 2] if end else ids
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*prompt, *ids]])).logits.double()
    logprobs = logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return float(torch.stack([logprobs[n, token] for n, token in enumerate(ids)]).mean())


@pytest.mark.parametrize("end", [True, False], ids=["with-end", "text-only"])
async def test_scores_are_those_of_a_slow_pass(tiny_engine: LocalEngine, end: bool) -> None:
    scores = await log_probabilities(tiny_engine, [asked(q, a) for q, a in PAIRS], end=end)
    for (question, answer), score in zip(PAIRS, scores, strict=True):
        expected = await tiny_engine.in_lane(
            partial(slowly, question=question, answer=answer, end=end)
        )
        assert score == pytest.approx(expected, abs=1e-4)


async def test_batches_do_not_change_scores(
    tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(q, a) for q, a in PAIRS]
    whole = await log_probabilities(tiny_engine, requests)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    assert await log_probabilities(tiny_engine, requests) == pytest.approx(whole, abs=1e-5)


async def test_each_pair_is_scored_under_its_own_adapter(tiny_engine: LocalEngine) -> None:
    class Certain:
        """The adapter `40` makes token 40 certain."""

        def __init__(self, loaded: LoadedModel) -> None:
            self.forward = loaded.model.forward

        def has(self, key: str) -> bool:
            return key == "40"

        def version(self, key: str) -> int:
            raise NotImplementedError

        def hold(self, key: str) -> Callable[[], None]:
            raise NotImplementedError

        @contextmanager
        def rows(self, keys: Sequence[str | None]) -> Generator[Callable[..., Any]]:
            def forward(**kwargs: Any) -> Any:
                out = self.forward(**kwargs)
                for row, key in enumerate(keys):
                    if key is not None:
                        out.logits[row, :, int(key)] += 1000
                return out

            yield forward

    tiny_engine.attach_adapters(Certain)
    letter = await tiny_engine.in_lane(lambda loaded: loaded.tokenizer.decode([40]))
    base, adapted, other = await log_probabilities(
        tiny_engine,
        [asked("hi", str(letter)), asked("hi", str(letter), "40"), asked("hi", "zz", "40")],
        end=False,
    )
    assert adapted == pytest.approx(0, abs=1e-4)
    assert base < -0.1
    assert other < -900
    with pytest.raises(PolicyModelError, match="adapter '41' is not resident"):
        await log_probabilities(tiny_engine, [asked("hi", "x", "41")])


async def test_nothing_to_score_is_nothing(tiny_engine: LocalEngine) -> None:
    assert await log_probabilities(tiny_engine, []) == []


async def test_an_empty_answer_is_scored_by_its_end_only(tiny_engine: LocalEngine) -> None:
    (score,) = await log_probabilities(tiny_engine, [asked("hi", "")])
    assert score < 0
    with pytest.raises(ConfigurationError, match="score it with its end"):
        await log_probabilities(tiny_engine, [asked("hi", "")], end=False)


async def test_a_pair_beyond_the_context_is_refused(tiny_engine: LocalEngine) -> None:
    with pytest.raises(PolicyModelError, match=r"have 5\d\d tokens together .* context is 512"):
        await log_probabilities(tiny_engine, [asked("y" * 300, "z" * 230)])


# --- options -----------------------------------------------------------------------------------


def weigh_options(text: str, *options: str, adapter: str | None = None) -> OptionsRequest:
    messages: tuple[ChatTurn, ...] = ({"role": "user", "content": text},)
    return OptionsRequest(messages=messages, options=options, adapter=adapter)


async def test_an_option_is_as_likely_as_its_first_token_is_scored(
    tiny_engine: LocalEngine,
) -> None:
    """The prompt is read once for all options, in a batch of prompts of other lengths."""
    requests = [
        weigh_options("x", *"0123456789"),
        weigh_options("a longer question " * 3, "A", "B"),
    ]
    found = await option_probabilities(tiny_engine, requests)
    for request, one in zip(requests, found, strict=True):
        expected = await log_probabilities(
            tiny_engine,
            [
                ScoringRequest(messages=request.messages, answer=option)
                for option in request.options
            ],
            end=False,
        )
        assert one.shares == pytest.approx([math.exp(score) for score in expected], rel=1e-4)
        model = TransformersPolicyModel(tiny_engine)
        assert one.prompt_tokens == await model.count_tokens(request.messages)
    assert await option_probabilities(tiny_engine, []) == []


async def test_options_that_begin_alike_are_refused(tiny_engine: LocalEngine) -> None:
    with pytest.raises(ConfigurationError, match="cannot be told apart"):
        await option_probabilities(tiny_engine, [weigh_options("x", "1", "1 or 2")])


async def test_a_prompt_beyond_the_context_weighs_nothing(tiny_engine: LocalEngine) -> None:
    with pytest.raises(PolicyModelError, match="the model's context is"):
        await option_probabilities(tiny_engine, [weigh_options("word " * 5000, "A", "B")])


async def test_no_time_to_weigh_is_said_so(tiny_engine: LocalEngine) -> None:
    model = TransformersPolicyModel(tiny_engine)
    with pytest.raises(BudgetExceeded, match="no time is left to weigh"):
        await model.weigh([weigh_options("x", "A", "B")], deadline=0.0)
