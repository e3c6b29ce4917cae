from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from blockbuster import blockbuster_ctx
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableLambda
from langchain_fakes import BareChat, SyncChat, fails, says

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.protocols import GenerationRequest


def request(question: str = "Why?", **options: Any) -> GenerationRequest:
    return GenerationRequest(
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": question},
        ),
        **cast(dict[str, Any], {"max_new_tokens": 50, **options}),
    )


def in_one_minute() -> float:
    return time.monotonic() + 60


def echo(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(f"re: {messages[-1].text}")


async def test_a_batch_is_answered_in_order_with_its_roles() -> None:
    chat = SyncChat(answer=echo)
    questions = [f"question {number}" for number in range(20)]
    answers = await ChatPolicyModel(chat).generate([request(text) for text in questions])
    assert [answer.text for answer in answers] == [f"re: {text}" for text in questions]
    assert [m.type for m in chat.calls[0]["messages"]] == ["system", "human", "ai", "human"]


async def test_no_requests_are_no_answers() -> None:
    assert await ChatPolicyModel(SyncChat(answer=echo)).generate([]) == []


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        pytest.param({}, {"temperature": 0.0, "max_tokens": 50}, id="greedy-needs-no-seed"),
        pytest.param(
            {"temperature": 0.5, "seed": 7},
            {"temperature": 0.5, "seed": 7, "max_tokens": 50},
            id="sampling-is-repeatable",
        ),
        pytest.param(
            {"temperature": 0.5, "top_p": 0.9},
            {"temperature": 0.5, "max_tokens": 50},
            id="what-the-model-does-not-know-is-left-out",
        ),
        pytest.param(
            {"stop": ("\n",)},
            {"temperature": 0.0, "max_tokens": 50, "stop": ["\n"]},
            id="stop-strings",
        ),
    ],
)
async def test_settings_reach_the_model(options: dict[str, Any], passed: dict[str, Any]) -> None:
    chat = SyncChat(answer=echo)
    await ChatPolicyModel(chat).generate([request(**options)])
    [call] = chat.calls
    assert {
        k: v for k, v in call.items() if k not in ("messages", "tags") and v is not None
    } == passed


async def test_call_options_replace_the_known_ones() -> None:
    chat = SyncChat(answer=echo)
    model = ChatPolicyModel(chat, call_options=lambda request: {"n": request.max_new_tokens})
    await model.generate([request()])
    assert "temperature" not in chat.calls[0]
    assert chat.calls[0]["n"] == 50


@pytest.mark.parametrize(
    ("message", "counts", "logprob", "reason"),
    [
        pytest.param(AIMessage("12345"), (12, 2), None, "stop", id="nothing-reported"),
        pytest.param(AIMessage(""), (12, 0), None, "stop", id="an-empty-answer"),
        pytest.param(
            AIMessage(
                "a",
                usage_metadata={"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
                response_metadata={"finish_reason": "length"},
            ),
            (9, 4),
            None,
            "length",
            id="usage-and-length",
        ),
        pytest.param(
            AIMessage("a", response_metadata={"stop_reason": "max_tokens"}),
            (12, 1),
            None,
            "length",
            id="anthropics-word-for-length",
        ),
        pytest.param(
            AIMessage("a", response_metadata={"finish_reason": "MAX_TOKENS"}),
            (12, 1),
            None,
            "length",
            id="googles-word-for-length",
        ),
        pytest.param(
            AIMessage(
                "a b",
                response_metadata={"logprobs": {"content": [{"logprob": -1}, {"logprob": -2.0}]}},
            ),
            (12, 1),
            -1.5,
            "stop",
            id="openais-logprobs",
        ),
        pytest.param(
            AIMessage("a", response_metadata={"logprobs": {"content": []}}),
            (12, 1),
            None,
            "stop",
            id="no-tokens-no-logprob",
        ),
        pytest.param(
            AIMessage("a", response_metadata={"logprobs": None}), (12, 1), None, "stop", id="null"
        ),
        pytest.param(
            AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            (12, 1),
            None,
            "stop",
            id="content-blocks",
        ),
    ],
)
async def test_what_the_model_reports_is_read(
    message: AIMessage, counts: tuple[int, int], logprob: float | None, reason: str
) -> None:
    # The prompt is estimated as 12 tokens and 3 for each of its 4 messages: see the next test.
    model = ChatPolicyModel(SyncChat(answer=lambda _: message))
    [answer] = await model.generate([request()])
    prompt = counts[0] if counts[0] == 9 else await model.count_tokens(request().messages)
    assert answer.text == message.text
    assert (answer.prompt_tokens, answer.completion_tokens) == (prompt, counts[1])
    assert answer.mean_logprob == logprob
    assert answer.finish_reason == reason


async def test_tokens_are_estimated_without_a_tokenizer() -> None:
    # 40 characters and 4 of the role "user" are 11 tokens, and 3 more for a message.
    model = ChatPolicyModel(SyncChat(answer=echo))
    assert await model.count_tokens([{"role": "user", "content": "x" * 40}]) == 14


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        pytest.param("a\nb", ("\n",), "a", id="the-model-ignored-it"),
        pytest.param("a END", (" END",), "a", id="the-model-kept-it"),
        pytest.param("x;y,z", (",", ";"), "x", id="the-first-of-several"),
        pytest.param("plain", ("#", ""), "plain", id="none-in-the-text"),
    ],
)
async def test_no_stop_string_is_part_of_the_text(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    model = ChatPolicyModel(SyncChat(answer=says(text)))
    [answer] = await model.generate([request(stop=stop)])
    assert (answer.text, answer.finish_reason) == (expected, "stop")


async def test_what_has_come_until_the_deadline_is_kept() -> None:
    chat = BareChat(words=["one ", "two ", "three"], hangs_after=2)
    [answer] = await ChatPolicyModel(chat).generate([request()], deadline=time.monotonic() + 0.5)
    assert (answer.text, answer.finish_reason) == ("one two ", "budget")
    assert answer.completion_tokens == 2
    assert await asyncio.to_thread(chat.cancelled.wait, 10)


async def test_a_model_that_cannot_stream_has_nothing_at_the_deadline() -> None:
    done = threading.Event()

    def stuck(messages: list[BaseMessage]) -> AIMessage:
        done.wait(20)
        return AIMessage("late")

    model = ChatPolicyModel(SyncChat(answer=stuck))
    [answer] = await model.generate([request()], deadline=time.monotonic() + 0.1)
    done.set()
    assert (answer.text, answer.completion_tokens, answer.finish_reason) == ("", 0, "budget")


async def test_a_deadline_that_has_passed_asks_nothing() -> None:
    chat = SyncChat(answer=echo)
    [answer] = await ChatPolicyModel(chat).generate([request()], deadline=time.monotonic() - 1)
    assert answer.finish_reason == "budget"
    assert chat.calls == []


@pytest.mark.parametrize(
    "chat",
    [
        pytest.param(SyncChat(answer=says("to be")), id="without-streaming"),
        pytest.param(BareChat(words=["to ", "be"]), id="streamed"),
        pytest.param(GenericFakeChatModel(messages=iter(["to be"])), id="streamed-in-threads"),
    ],
)
async def test_a_far_deadline_changes_nothing(chat: BaseChatModel) -> None:
    [answer] = await ChatPolicyModel(chat).generate([request()], deadline=in_one_minute())
    assert (answer.text, answer.finish_reason) == ("to be", "stop")


async def test_a_model_that_takes_no_limit_is_cut_off_while_streaming() -> None:
    chat = BareChat(words=["w "] * 1000)
    [answer] = await ChatPolicyModel(chat).generate([request(max_new_tokens=5)])
    assert (answer.text, answer.finish_reason) == ("w " * 5, "length")
    assert chat.pieces_sent <= 6


async def test_a_cancelled_call_stops_the_model() -> None:
    chat = BareChat(words=["a", "b"], hangs_after=1)
    task = asyncio.create_task(
        ChatPolicyModel(chat).generate([request()], deadline=in_one_minute())
    )
    assert await asyncio.to_thread(chat.hanging.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(chat.cancelled.wait, 10)


async def test_a_failure_cancels_the_rest_of_its_batch() -> None:
    class Mixed(BareChat):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            if messages[-1].text == "bad":
                await asyncio.to_thread(self.hanging.wait, 10)
                raise ValueError("bad question")
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    chat = Mixed(words=[])
    model = ChatPolicyModel(chat, call_options=lambda request: {})
    with pytest.raises(PolicyModelError, match="ValueError: bad question"):
        await model.generate([request("good"), request("bad")])
    assert chat.cancelled.is_set()


class Counting:
    """Counts how many calls are in a model at once."""

    def __init__(self, expected: int) -> None:
        self.barrier = threading.Barrier(expected)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, messages: list[BaseMessage]) -> AIMessage:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.barrier.wait(20)  # passes only when `expected` calls are in here together
        with self.lock:
            self.now -= 1
        return AIMessage("ok")


async def test_calls_run_at_the_same_time_up_to_the_bound() -> None:
    counting = Counting(3)
    model = ChatPolicyModel(SyncChat(answer=counting), concurrency=3)
    await asyncio.gather(*(model.generate([request()] * 3) for _ in range(3)))
    assert counting.most == 3


async def test_an_asynchronous_model_is_bounded_too() -> None:
    now: list[int] = []
    most: list[int] = []

    class Counted(SyncChat):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            now.append(1)
            most.append(len(now))
            for _ in range(20):  # lets every other call in that is allowed in
                await asyncio.sleep(0)
            now.pop()
            return await super()._agenerate(messages)

    model = ChatPolicyModel(Counted(answer=echo), concurrency=2)
    await model.generate([request()] * 6)
    assert max(most) == 2


async def test_a_count_that_came_before_the_cut_is_not_taken_for_the_whole() -> None:
    # Some vendors report the prompt, and one token of the answer, with the first piece.
    usage: UsageMetadata = {"input_tokens": 40, "output_tokens": 1, "total_tokens": 41}
    chat = BareChat(words=["one two three ", "four five six ", "never"], hangs_after=2, usage=usage)
    [answer] = await ChatPolicyModel(chat).generate([request()], deadline=time.monotonic() + 0.5)
    assert (answer.prompt_tokens, answer.completion_tokens) == (40, 7)  # 28 characters, 4 a token


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        pytest.param(ModelTimeoutError("slow"), True, id="vendor-timeout"),
        pytest.param(TimeoutError("read"), True, id="built-in-timeout-is-not-our-deadline"),
        pytest.param(ConnectionResetError(), True, id="lost-connection"),
        pytest.param(ContextOverflowError("too long"), False, id="too-long-a-prompt"),
        pytest.param(KeyError("choices"), False, id="anything-else"),
    ],
)
@pytest.mark.parametrize("deadline", [None, 1e12], ids=["whole", "with-deadline"])
async def test_vendor_errors_are_translated(
    error: Exception, retryable: bool, deadline: float | None
) -> None:
    model = ChatPolicyModel(SyncChat(answer=fails(error)))
    with pytest.raises(PolicyModelError, match="'sync-chat' could not generate") as caught:
        await model.generate([request()], deadline=deadline)
    assert caught.value.retryable is retryable


class OverloadedError(Exception):
    """A vendor's error that only carries an HTTP status."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(("status", "retryable"), [(503, True), (429, True), (400, False)])
async def test_a_bare_http_status_decides_about_retrying(status: int, retryable: bool) -> None:
    model = ChatPolicyModel(SyncChat(answer=fails(OverloadedError(status))))
    with pytest.raises(PolicyModelError) as caught:
        await model.generate([request()])
    assert caught.value.retryable is retryable


async def test_an_adapter_is_refused_before_any_call() -> None:
    chat = SyncChat(answer=echo)
    with pytest.raises(PolicyModelError, match="has no adapters, but the request names 'key'"):
        await ChatPolicyModel(chat).generate([request(), request(adapter="key")])
    assert chat.calls == []


async def test_an_answer_gets_no_more_room_than_the_context_has() -> None:
    chat = SyncChat(answer=echo)
    model = ChatPolicyModel(chat, context_tokens=40)
    prompt = await model.count_tokens(request().messages)
    await model.generate([request()])
    assert chat.calls[0]["max_tokens"] == 40 - prompt
    with pytest.raises(PolicyModelError, match="the context of 'sync-chat' is 40"):
        await model.generate([request("why " * 100)])


async def test_the_context_comes_from_langchains_profile() -> None:
    known = SyncChat(answer=echo, profile={"max_input_tokens": 8192})
    assert await ChatPolicyModel(known).context_tokens() == 8192
    assert await ChatPolicyModel(known, context_tokens=100).context_tokens() == 100
    assert await ChatPolicyModel(SyncChat(answer=echo)).context_tokens() is None


@pytest.mark.parametrize("field", ["concurrency", "context_tokens"])
def test_a_size_of_nothing_is_refused(field: str) -> None:
    options: dict[str, Any] = {field: 0}
    with pytest.raises(ConfigurationError, match=f"{field} must be at least 1, got 0"):
        ChatPolicyModel(SyncChat(answer=echo), **options)


async def test_the_event_loop_is_never_blocked() -> None:
    with blockbuster_ctx():
        await ChatPolicyModel(SyncChat(answer=echo)).generate([request()] * 3)


async def test_a_vendor_that_computes_in_its_asynchronous_face_does_not_stop_the_caller() -> None:
    threads: set[int] = set()

    class ComputingChat(SyncChat):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            threads.add(threading.get_ident())
            return await super()._agenerate(messages)

    await ChatPolicyModel(ComputingChat(answer=echo)).generate([request()])
    assert threads.isdisjoint({threading.get_ident()})


def test_one_model_serves_several_event_loops() -> None:
    loops: set[int] = set()

    class LoopBound(SyncChat):
        """Keeps something of its first event loop, as HTTP clients do."""

        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            loops.add(id(asyncio.get_running_loop()))
            return self._generate(messages)

    model = ChatPolicyModel(LoopBound(answer=echo))

    def ask(question: str) -> str:
        return asyncio.run(model.generate([request(question)]))[0].text

    questions = [str(number) for number in range(12)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, questions)) == [f"re: {text}" for text in questions]
    assert len(loops) == 1


async def test_callbacks_and_context_of_the_caller_reach_the_model() -> None:
    seen: list[Sequence[Any]] = []
    variable = contextvars.ContextVar("variable", default="unset")

    class Handler(AsyncCallbackHandler):
        async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs["tags"])

    def answer(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(variable.get())

    model = ChatPolicyModel(SyncChat(answer=answer))

    async def node(_: str) -> str:
        variable.set("set")
        return (await model.generate([request()]))[0].text

    config: Any = {"callbacks": [Handler()], "tags": ["mine"]}
    assert await RunnableLambda(node).ainvoke("", config) == "set"
    assert seen == [["mine", "nostream"]]


async def test_the_thread_ends_with_the_model() -> None:
    model = ChatPolicyModel(SyncChat(answer=echo, model_name="dying"))
    await model.generate([request()])
    [thread] = [t for t in threading.enumerate() if t.name == "rttc-chat-dying"]
    del model
    gc.collect()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
