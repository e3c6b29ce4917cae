"""`ChatTransformers` against LangChain's own conformance suite, and what that does not ask for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.chat_transformers import ChatTransformers
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine


@pytest.fixture(scope="class")
def shared_engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1)
    yield engine
    engine.close()


class _OverTinyModel:
    """What both suites need to know."""

    _engine: LocalEngine

    @pytest.fixture(autouse=True)
    def _give_engine(self, shared_engine: LocalEngine) -> None:
        self._engine = shared_engine

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTransformers

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self._engine}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 16, "stop": []}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str | None:
        return "another-name"


class TestUnits(_OverTinyModel, ChatModelUnitTests):
    """LangChain's checks without a call."""


class TestCalls(_OverTinyModel, ChatModelIntegrationTests):
    """LangChain's checks with calls."""


@pytest.fixture
def chat(tiny_engine: LocalEngine) -> ChatTransformers:
    return ChatTransformers(engine=tiny_engine, max_tokens=24)


async def _watch_passes(engine: LocalEngine, passes: list[int], begun: threading.Event) -> None:
    """Count forward passes by their batch size, and tell of the first."""

    def watch(loaded: LoadedModel) -> None:
        forward = loaded.model.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            passes.append(int(kwargs["input_ids"].shape[0]))
            begun.set()
            return forward(*args, **kwargs)

        loaded.model.forward = counting

    await engine.in_lane(watch)


async def _assert_next_call_is_alone(chat: ChatTransformers, passes: list[int]) -> None:
    """A row that is still in work would share the passes of the next call."""
    await chat.ainvoke("hi", max_tokens=8)
    assert passes[-8:] == [1] * 8
    assert len(passes) < 400


async def test_all_four_ways_give_the_same_answer(chat: ChatTransformers) -> None:
    whole = (await chat.ainvoke("hi")).content
    assert (await asyncio.to_thread(chat.invoke, "hi")).content == whole
    assert "".join([cast("str", c.content) async for c in chat.astream("hi")]) == whole
    streamed = await asyncio.to_thread(lambda: [c.content for c in chat.stream("hi")])
    assert "".join(cast("list[str]", streamed)) == whole
    assert len(streamed) > 3


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_usage_and_log_probabilities_are_reported(chat: ChatTransformers, way: str) -> None:
    message: Any
    if way == "invoke":
        message = await chat.ainvoke("hi", logprobs=True)
    else:
        chunks = [chunk async for chunk in chat.astream("hi", logprobs=True)]
        message = chunks[0]
        for chunk in chunks[1:]:
            message += chunk
    usage, metadata = message.usage_metadata, message.response_metadata
    listed = [token["logprob"] for token in metadata["logprobs"]["content"]]
    assert usage["output_tokens"] == len(listed) == 24
    assert usage["total_tokens"] == usage["input_tokens"] + 24
    assert metadata["mean_logprob"] == pytest.approx(sum(listed) / 24)
    assert metadata["finish_reason"] == "length"
    assert metadata["model_name"] == "tiny-llama"


async def test_a_call_may_set_every_option(chat: ChatTransformers) -> None:
    base = cast("str", (await chat.ainvoke("hi")).content)
    assert len(cast("str", (await chat.ainvoke("hi", max_tokens=3)).content)) < len(base)
    stopped = await chat.ainvoke("hi", stop=[base[5:7]])
    assert stopped.content == base[: base.index(base[5:7])]
    warm = [await chat.ainvoke("hi", temperature=2.0, seed=seed) for seed in (5, 5, 6)]
    assert warm[0].content == warm[1].content != warm[2].content
    with pytest.raises(PolicyModelError, match="adapter 'k' cannot be used"):
        await chat.ainvoke("hi", adapter="k")


async def test_options_may_be_bound(chat: ChatTransformers) -> None:
    bound = chat.bind(max_tokens=2)
    usage = (await bound.ainvoke("hi")).usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_tokens": 0}, "max_tokens=0: .*greater than or equal to 1", id="length"),
        pytest.param({"temperature": -1}, "temperature=-1: ", id="temperature"),
        pytest.param({"top_p": 0}, "top_p=0: ", id="nucleus"),
        pytest.param({"seed": "x"}, "seed='x': ", id="seed"),
    ],
)
async def test_an_option_out_of_bounds_is_refused(
    chat: ChatTransformers, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await chat.ainvoke("hi", **options)


async def test_a_conversation_becomes_a_prompt_and_a_tool_message_does_not(
    chat: ChatTransformers,
) -> None:
    first = HumanMessage("a"), AIMessage("b"), HumanMessage("c")
    alone = await chat.ainvoke([first[-1]])
    assert (await chat.ainvoke(list(first))).usage_metadata != alone.usage_metadata
    with pytest.raises(ConfigurationError, match="type 'tool' cannot be put into the prompt"):
        await chat.ainvoke([ToolMessage("x", tool_call_id="1")])


async def test_concurrent_calls_are_one_batch(
    chat: ChatTransformers, tiny_engine: LocalEngine
) -> None:
    passes: list[int] = []
    await _watch_passes(tiny_engine, passes, threading.Event())
    answers = await chat.abatch([f"question {n}" for n in range(8)])
    assert all(answer.content for answer in answers)
    assert max(passes) == 8
    assert len(passes) < 8 * 24 / 2


async def test_nothing_blocks_the_loop(chat: ChatTransformers, no_blocking_calls: None) -> None:
    await chat.ainvoke("hi")
    assert [chunk async for chunk in chat.astream("hi")]
    await chat.abatch(["a", "b"])


async def test_a_cancelled_call_stops_at_the_next_token(
    chat: ChatTransformers, tiny_engine: LocalEngine
) -> None:
    passes: list[int] = []
    begun = threading.Event()
    await _watch_passes(tiny_engine, passes, begun)
    call = asyncio.create_task(chat.ainvoke("hi", max_tokens=400))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _assert_next_call_is_alone(chat, passes)


@pytest.mark.parametrize("face", ["async", "sync"])
async def test_a_closed_stream_stops_at_the_next_token(
    chat: ChatTransformers, tiny_engine: LocalEngine, face: str
) -> None:
    passes: list[int] = []
    await _watch_passes(tiny_engine, passes, threading.Event())
    if face == "async":
        stream = cast("Any", chat.astream("hi", max_tokens=400))
        await anext(stream)
        await stream.aclose()
    else:

        def first_chunk() -> None:
            stream = cast("Any", chat.stream("hi", max_tokens=400))
            next(stream)
            stream.close()

        await asyncio.to_thread(first_chunk)
    await _assert_next_call_is_alone(chat, passes)


async def test_a_stream_passes_errors_on(chat: ChatTransformers) -> None:
    with pytest.raises(PolicyModelError, match="leaves no room"):
        _ = [chunk async for chunk in chat.astream("y" * 600)]
    with pytest.raises(PolicyModelError, match="leaves no room"):
        await asyncio.to_thread(lambda: list(chat.stream("y" * 600)))
