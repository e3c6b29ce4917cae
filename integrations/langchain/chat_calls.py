"""Calls of a LangChain chat model: bounded in number and time, cancellable, errors translated.

With a deadline the answer is streamed where the model can stream, so that at the deadline what
has come is kept. The calls run on a loop and threads of their own: a model with only a
synchronous face, or with an asynchronous one that blocks, never stops the caller's loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.runnables import RunnableConfig

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.concurrency.loop_thread import LoopThread
from rttc_graph.state import ChatTurn
from rttc_graph.support.identity import clean

T = TypeVar("T")

_NAME_FIELDS = ("model_name", "model", "model_id", "deployment_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One call of a chat model."""

    turns: Sequence[ChatTurn]
    stop: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the model, such as `temperature`."""
    deadline: float | None = None
    """Reading of `time.monotonic()` in seconds."""
    max_chunks: int | None = None
    """The stream is cut after this many non-empty pieces, for models that take no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """Reply to one call."""

    message: AIMessage
    cut: str | None = None
    """`deadline` or `length` when we stopped the model; `None` when it ended by itself."""


class ChatCalls:
    """Calls one chat model from any number of event loops.

    Args:
        chat_model: Any LangChain chat model.
        concurrency: Calls at the same time, over all callers.
        tags: For callbacks and LangGraph's `messages` stream.
    """

    def __init__(
        self, chat_model: BaseChatModel, *, concurrency: int, tags: Sequence[str] = ()
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, got {concurrency!r}")
        self._chat_model = chat_model
        self._config: RunnableConfig = {"tags": list(tags)}
        self._thread = LoopThread(f"rttc-chat-{model_name(chat_model)}", workers=concurrency)
        self._slots = asyncio.Semaphore(concurrency)  # only ever awaited on the thread's loop

    async def replies(self, calls: Sequence[ChatCall]) -> list[ChatReply]:
        """Return one reply for each call, in order; the first failure cancels the others.

        Raises:
            Exception: Whatever the chat model raised.
        """
        return await self._thread.await_on_loop(
            all_or_first_error([self._reply(call) for call in calls])
        )

    async def _reply(self, call: ChatCall) -> ChatReply:
        pieces: list[AIMessage] = []
        seconds = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
        limit = asyncio.timeout(seconds)
        try:
            async with limit, self._slots:
                is_cut = await self._collect(call, pieces)
        except TimeoutError:
            if not limit.expired():  # the vendor's own timeout
                raise
            return ChatReply(message=_joined(pieces), cut="deadline")
        return ChatReply(message=_joined(pieces), cut="length" if is_cut else None)

    async def _collect(self, call: ChatCall, pieces: list[AIMessage]) -> bool:
        """Fill `pieces` and tell whether the stream was cut at `max_chunks`."""
        messages = [_message(turn) for turn in call.turns]
        stop = list(call.stop) or None
        if call.deadline is None and call.max_chunks is None:
            pieces.append(
                await self._chat_model.ainvoke(messages, self._config, stop=stop, **call.options)
            )
            return False
        # `astream` itself falls back to one whole answer where the model cannot stream.
        stream = self._chat_model.astream(messages, self._config, stop=stop, **call.options)
        filled = 0
        async with aclosing(cast(AsyncGenerator[AIMessage], stream)) as pieces_to_come:
            async for piece in pieces_to_come:
                pieces.append(piece)
                filled += bool(piece.text)
                if isinstance(piece, AIMessageChunk) and filled == call.max_chunks:
                    return True
        return False


async def all_or_first_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all coroutines at once; the first error cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def model_name(chat_model: BaseChatModel) -> str:
    """Return the name a chat model goes by at its vendor; else the name of its class."""
    for field_name in _NAME_FIELDS:
        value: object = getattr(chat_model, field_name, None)
        if isinstance(value, str) and value:
            return value
    return type(chat_model).__name__


def accepted_fields(chat_model: BaseChatModel) -> frozenset[str]:
    """Return the names a chat model's constructor takes, aliases included."""
    fields = type(chat_model).model_fields
    aliases = (field.alias for field in fields.values())
    return frozenset(fields) | frozenset(alias for alias in aliases if alias)


def _joined(pieces: Sequence[AIMessage]) -> AIMessage:
    if not pieces:
        return AIMessage("")
    first, *rest = pieces
    if not isinstance(first, AIMessageChunk):
        return first
    return first.__add__([piece for piece in rest if isinstance(piece, AIMessageChunk)])


def _message(turn: ChatTurn) -> BaseMessage:
    content = clean(turn["content"])
    match turn["role"]:
        case "system":
            return SystemMessage(content)
        case "user":
            return HumanMessage(content)
        case "assistant":
            return AIMessage(content)
