"""Answers written step by step: where a step ends, its hidden state, and what is computed again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from decoding import QUESTIONS, BiasedRows, computed, decode, held, in_lane, request
from tiny_adapters import adapter_of

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import adapter_layout
from rttc_graph.integrations.transformers.decoding.hidden_states import DEPTH
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.protocols import Doubt, StepCut

CUT = StepCut(marks=("e", "st"), least_tokens=3, most_tokens=6)


def test_a_step_ends_at_a_mark_not_before_its_least_nor_behind_its_most(
    tiny_engine: LocalEngine,
) -> None:
    for question in QUESTIONS[:3]:
        [whole] = decode(tiny_engine, request(question))
        [step] = decode(tiny_engine, request(question, step=CUT))
        assert step.tokens == whole.tokens[: len(step.tokens)]
        texts, ended = [""], False
        for count in range(1, len(step.tokens) + 1):
            [part] = decode(tiny_engine, request(question, max_new_tokens=count))
            texts.append(part.text)
            new = texts[-1][max(0, len(texts[-2]) - 1) :]  # with the last character for "st"
            ended = count >= 3 and ("e" in texts[-1][len(texts[-2]) :] or "st" in new)
            assert ended <= (count == len(step.tokens)), "it has ended before"
        if step.finish_reason == "step":
            assert ended or len(step.tokens) == 6
        else:
            assert step.finish_reason == whole.finish_reason


@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_doubt_is_the_first_window_of_unlikely_tokens(
    tiny_engine: LocalEngine, window: int
) -> None:
    for question in QUESTIONS[:2]:
        [whole] = decode(tiny_engine, request(question, answer_prefix="So "))
        size = min(window, len(whole.logprobs))
        means = [
            sum(whole.logprobs[at : at + size]) / size
            for at in range(len(whole.logprobs) - size + 1)
        ]
        least = sorted(means)[len(means) // 3] + 1e-4  # a third of the windows are below it
        first = next(at for at, mean in enumerate(means) if mean < least)
        doubt = Doubt(window=window, least_logprob=least)
        [told] = decode(tiny_engine, request(question, answer_prefix="So ", doubt=doubt))
        assert (told.text, told.finish_reason) == (whole.text, whole.finish_reason)
        before = "So "
        if first:
            [part] = decode(
                tiny_engine, request(question, answer_prefix="So ", max_new_tokens=first)
            )
            before = part.text
        assert told.doubt_at is not None
        assert before[: told.doubt_at] == whole.text[: told.doubt_at]
        assert before[told.doubt_at :].strip("\N{REPLACEMENT CHARACTER}") == ""  # half a letter
        halting = replace(doubt, halts=True)
        [halted] = decode(tiny_engine, request(question, answer_prefix="So ", doubt=halting))
        assert halted.doubt_at == told.doubt_at
        if size == window:
            assert halted.tokens == whole.tokens[: first + window]
            assert halted.finish_reason in {"step", whole.finish_reason}
        sure = Doubt(window=window, least_logprob=min(means) - 0.1)
        asked = request(question, answer_prefix="So ", doubt=sure)
        assert decode(tiny_engine, asked)[0].doubt_at is None


@pytest.mark.parametrize("given", [{"window": 0}, {"least_logprob": 0.1}])
def test_a_doubt_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be: take at least 1 token"):
        Doubt(**given)


def test_what_goes_on_from_a_step_computes_none_of_it(keeping_engine: LocalEngine) -> None:
    """All tokens but the step's last are known: it was chosen and never computed."""
    keeping_engine.attach_adapters(BiasedRows)
    cut = StepCut(marks=("\n",), least_tokens=5, most_tokens=5)
    asked: dict[str, Any] = {"step": cut, "adapter": "token 40"}  # says one letter for ever
    text = ""
    for number in range(3):
        [step] = decode(keeping_engine, request("hi", answer_prefix=text, **asked))
        assert step.finish_reason == "step"
        assert not number or step.prompt_tokens - step.reused_tokens == 1
        text = step.text
    [whole] = decode(keeping_engine, request("hi", max_new_tokens=15, adapter="token 40"))
    assert text == whole.text


def test_what_goes_on_from_steps_begins_in_the_next_pass_of_all(
    keeping_engine: LocalEngine,
) -> None:
    """No pass is made for them: three tokens of four rows are three passes."""
    keeping_engine.attach_adapters(BiasedRows)
    cut = StepCut(marks=("\n",), least_tokens=5, most_tokens=5)
    keys = ["token 40", "token 50"]
    steps = decode(keeping_engine, *(request("hi", step=cut, adapter=key) for key in keys))
    begun = [
        request("hi", answer_prefix=step.text, adapter=key, max_new_tokens=3)
        for key, step in zip(keys, steps, strict=True)
        for _ in range(2)
    ]
    with computed(keeping_engine) as shapes:
        with held(keeping_engine):
            futures = keeping_engine.decode(begun)
        rows = [future.result(60) for future in futures]
    assert shapes == [(4, 1)] * 3
    assert [row.tokens for row in rows] == [(40,) * 3] * 2 + [(50,) * 3] * 2
    assert [row.prompt_tokens - row.reused_tokens for row in rows] == [1] * 4


def reference_state(question: str, tokens: tuple[int, ...], loaded: LoadedModel) -> torch.Tensor:
    """The states from which the last of these tokens is chosen, in one pass over all before it."""
    ids = [*encode_prompt(loaded, [{"role": "user", "content": question}]), *tokens[:-1]]
    with torch.inference_mode():
        out = cast("Any", loaded.model)(torch.tensor([ids]), output_hidden_states=True)
    middle = out.hidden_states[round(DEPTH * (len(out.hidden_states) - 1))]
    return torch.cat([middle[0, -1], out.hidden_states[-1][0, -1]])


def test_a_state_is_read_in_the_decoding_pass(tiny_engine: LocalEngine) -> None:
    """It is the one that a pass of its own would give, for each row of a batch and alone."""
    questions = [one for one in QUESTIONS if len(one) < 90]
    rows = decode(tiny_engine, *(request(one, tells_state=True, step=CUT) for one in questions))
    for question, row in zip(questions, rows, strict=True):
        assert len(row.tokens) > 1
        wanted = in_lane(tiny_engine, partial(reference_state, question, row.tokens))
        assert torch.tensor(row.state) == pytest.approx(wanted, abs=1e-3)
    [silent] = decode(tiny_engine, request("hi"))
    assert silent.state is None
    [first] = decode(tiny_engine, request("hi", tells_state=True, max_new_tokens=1))
    assert first.state is None


class OneAdapter:
    """An adapter of random weights, resident under every key."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._adapted = AdaptedModel(loaded.model)
        layout = adapter_layout(loaded.model)
        self._adapter = adapter_of(layout, rank=2, alpha=8.0, seed=1)

    def has(self, key: str) -> bool:
        return bool(key)

    def version(self, key: str) -> int:
        return len(key)

    def hold(self, key: str) -> Callable[[], None]:
        return lambda: None

    @contextmanager
    def rows(self, keys: Sequence[str | None]) -> Generator[Callable[..., Any]]:
        yield self._adapted.forward_rows([self._adapter if key else None for key in keys])


def test_a_state_is_the_adapters_own(tiny_engine: LocalEngine) -> None:
    tiny_engine.attach_adapters(OneAdapter)
    asked: dict[str, Any] = {"tells_state": True, "max_new_tokens": 2}
    base, own = decode(tiny_engine, request("hi", **asked), request("hi", adapter="own", **asked))
    assert base.state is not None
    assert own.state is not None
    assert list(base.state) != pytest.approx(list(own.state), abs=1e-2)
    wanted = in_lane(tiny_engine, partial(reference_state, "hi", base.tokens))
    assert torch.tensor(base.state) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("least", "most", "marks"), [(0, 5, ("\n",)), (6, 5, ("\n",)), (1, 5, ("",))]
)
def test_a_step_that_cannot_be_cut_is_refused(
    least: int, most: int, marks: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be cut"):
        StepCut(marks=marks, least_tokens=least, most_tokens=most)
