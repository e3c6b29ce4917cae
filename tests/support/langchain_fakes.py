"""Chat models, embeddings and cross encoders that say what a test tells them to."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field, PrivateAttr

Answer = Callable[[list[BaseMessage]], AIMessage]


class SyncChat(BaseChatModel):
    """Has a synchronous face only, and blocks in it."""

    answer: Answer
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    model_name: str = "sync-chat"
    _calls: list[dict[str, Any]] = PrivateAttr(default_factory=list[dict[str, Any]])

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self._calls

    @property
    def _llm_type(self) -> str:
        return "sync-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        time.sleep(0)  # what BlockBuster reports when it happens on an event loop
        tags = run_manager.tags if run_manager else []
        self._calls.append({"messages": messages, "stop": stop, "tags": tags, **kwargs})
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])


class BareChat(BaseChatModel):
    """Streams word by word, declares no settings, and can be told to hang after some words."""

    words: list[str]
    hangs_after: int | None = None
    usage: UsageMetadata | None = None
    """Reported with the first word."""
    hanging: Any = Field(default_factory=threading.Event)
    cancelled: Any = Field(default_factory=threading.Event)
    pieces_sent: int = 0

    @property
    def _llm_type(self) -> str:
        return "bare-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert not kwargs, kwargs
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(self.words)))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        assert not kwargs, kwargs
        for index, word in enumerate(self.words):
            if index == self.hangs_after:
                self.hanging.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            self.pieces_sent += 1
            usage = None if index else self.usage
            yield ChatGenerationChunk(message=AIMessageChunk(content=word, usage_metadata=usage))

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        raise AssertionError("the asynchronous face is there")


def says(*texts: str) -> Answer:
    """Answer with these texts in turn, the last one for ever."""
    left = list(texts)

    def answer(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(left.pop(0) if len(left) > 1 else left[0])

    return answer


def fails(error: BaseException) -> Answer:
    def answer(messages: list[BaseMessage]) -> AIMessage:
        raise error

    return answer


class HashEmbeddings(Embeddings):
    """Not unit length, the same for the same text, and a record of the calls."""

    def __init__(self, dimension: int = 8, *, salt: str = "", noise: float = 0.0) -> None:
        self.dimension = dimension
        self.salt = salt
        self.noise = noise
        self.calls: list[list[str]] = []
        self.error: Exception | None = None
        self.threads: set[str] = set()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0)  # what BlockBuster reports when it happens on an event loop
        self.threads.add(threading.current_thread().name)
        self.calls.append(texts)
        if self.error is not None:
            raise self.error
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError("questions are embedded as documents")

    def _vector(self, text: str) -> list[float]:
        digest = hashlib.sha512((self.salt + text).encode()).digest()
        return [byte - 127.3 + self.noise for byte in digest[: self.dimension]]


class FixedCrossEncoder(BaseCrossEncoder):
    """Scores a pair by a function; blocks while it does."""

    def __init__(self, function: Callable[[str, str], float]) -> None:
        self.function = function
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        time.sleep(0)
        self.calls.append(list(text_pairs))
        return [self.function(query, answer) for query, answer in text_pairs]
