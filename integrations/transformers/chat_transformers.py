"""The local engine as a LangChain chat model, sync and async, with every per-call option honoured.

Calls of any thread and event loop meet in the engine's running batch, so `batch`, `abatch` and
concurrent `ainvoke`s are real batches. A cancelled call or a closed stream ends at the next token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import GenerationRequest
from rttc_graph.state import ChatTurn
from rttc_graph.support.others_words import problem_words


class CallOptions(BaseModel):
    """Options that a call may set; they override the model's fields of the same names."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    adapter: str | None = None
    logprobs: bool = False
    stop: list[str] | None = None
    model: str | None = None
    """Name to show in traces and metadata; the weights are the engine's."""


class ChatTransformers(BaseChatModel):
    """An in-process chat model over a `LocalEngine`, which stays the caller's to close."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: LocalEngine = Field(exclude=True)
    max_tokens: int = 512
    """Longest answer in tokens."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """Makes sampling repeatable, whatever a call is batched with, up to the rounding of logits."""
    adapter: str | None = None
    """Key of a resident adapter; `None` is the base model."""
    logprobs: bool = False
    """Whether `response_metadata["logprobs"]` lists each token's log-probability in nats."""
    stop: list[str] | None = None

    @property
    def _llm_type(self) -> str:
        return "rttc-transformers"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.engine.name, **self._fields()}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        options = self._options(stop, kwargs)
        params = LangSmithParams(
            ls_provider="transformers",
            ls_model_name=options.model or self.engine.name,
            ls_model_type="chat",
            ls_temperature=options.temperature,
            ls_max_tokens=options.max_tokens,
        )
        if options.stop:
            params["ls_stop"] = options.stop
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        future = self._queue(messages, options)
        try:
            return self._result(future.result(), options)
        finally:
            future.cancel()

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        row = await asyncio.wrap_future(self._queue(messages, options))
        return self._result(row, options)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        options = self._options(stop, kwargs)
        pieces: SimpleQueue[str | None] = SimpleQueue()
        future = self._queue(messages, options, pieces.put)
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                chunk = _text_chunk(piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield self._last_chunk(future.result(), options)
        finally:
            future.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        options = self._options(stop, kwargs)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def tell(piece: str | None) -> None:
            with suppress(RuntimeError):  # the loop is closed, so nobody listens any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        future = self._queue(messages, options, tell)
        future.add_done_callback(lambda _: tell(None))
        try:
            while (piece := await pieces.get()) is not None:
                chunk = _text_chunk(piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield self._last_chunk(future.result(), options)
        finally:
            future.cancel()

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CallOptions.model_fields if name != "model"}

    def _options(self, stop: list[str] | None, kwargs: dict[str, Any]) -> CallOptions:
        """Lay the call's options over the model's; `None` means not given."""
        given = {
            name: value for name, value in {**kwargs, "stop": stop}.items() if value is not None
        }
        try:
            return CallOptions.model_validate({**self._fields(), **given})
        except ValidationError as exc:
            problem = exc.errors()[0]
            name = ".".join(map(str, problem["loc"]))
            raise ConfigurationError(
                f"{name}={problem['input']!r}: {problem_words(problem)}"
            ) from exc

    def _queue(
        self,
        messages: list[BaseMessage],
        options: CallOptions,
        on_text: Callable[[str], None] | None = None,
    ) -> Future[Decoded]:
        generation = GenerationRequest(
            messages=tuple(_turn(message) for message in messages),
            max_new_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            stop=tuple(options.stop or ()),
            adapter=options.adapter,
        )
        return self.engine.decode([DecodeRequest(generation=generation, on_text=on_text)])[0]

    def _result(self, row: Decoded, options: CallOptions) -> ChatResult:
        metadata = self._metadata(row, options)
        message = AIMessage(
            content=row.text, usage_metadata=_usage(row), response_metadata=metadata
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _last_chunk(self, row: Decoded, options: CallOptions) -> ChatGenerationChunk:
        message = AIMessageChunk(
            content="",
            usage_metadata=_usage(row),
            response_metadata=self._metadata(row, options),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _metadata(self, row: Decoded, options: CallOptions) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "model_name": options.model or self.engine.name,
            "finish_reason": row.finish_reason,
            "mean_logprob": row.mean_logprob,
        }
        if options.logprobs:
            pairs = zip(row.token_texts, row.logprobs, strict=True)
            metadata["logprobs"] = {
                "content": [{"token": token, "logprob": logprob} for token, logprob in pairs]
            }
        return metadata


def _text_chunk(piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece))


def _usage(row: Decoded) -> UsageMetadata:
    made = len(row.tokens)
    return UsageMetadata(
        input_tokens=row.prompt_tokens,
        output_tokens=made,
        total_tokens=row.prompt_tokens + made,
    )


def _turn(message: BaseMessage) -> ChatTurn:
    """Return a message as a turn of the chat template.

    Raises:
        ConfigurationError: The kind of message has no place in a plain chat.
    """
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": message.text}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": message.text}
    if isinstance(message, AIMessage):
        return {"role": "assistant", "content": message.text}
    raise ConfigurationError(
        f"a message of type {message.type!r} cannot be put into the prompt: "
        "use system, human and ai messages"
    )
