"""Any LangChain chat model as our `PolicyModel`, with adapters where its server has them.

What a model takes and reports differs from vendor to vendor: settings are passed as far as the
model's own constructor knows their names, and counts that it does not report are estimated.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.constants import TAG_NOSTREAM

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.langchain.chat_calls import (
    ChatCall,
    ChatCalls,
    ChatReply,
    accepted_fields,
    model_name,
)
from rttc_graph.integrations.langchain.vendor_errors import (
    describe,
    is_refused_request,
    is_retryable,
)
from rttc_graph.protocols import Generation, GenerationRequest
from rttc_graph.state import ChatTurn, FinishReason
from rttc_graph.support.thinking import THINKING

LIMIT_NAMES: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "num_predict",
)
"""Vendors' names for the length limit of an answer; the first that the model has is used."""

_LENGTH_REASONS: Final = ("length", "max_tokens", "max_output_tokens")

_LOGPROBS: Final = "logprobs"

_SCHEMA: Final = "response_format"

_OPTIONAL: Final = (_LOGPROBS, _SCHEMA, "seed", "top_p", "temperature")
"""Options without which an answer is still one; the first that a refusal names is left out."""

_LOG = logging.getLogger(__name__)

CallOptions = Callable[[GenerationRequest], Mapping[str, Any]]
"""Keyword arguments of the chat model for one request."""


class ChatPolicyModel:
    """Generates with a LangChain chat model.

    Args:
        chat_model: Any chat model, with a synchronous or an asynchronous face.
        name: For people; what the model calls itself by default.
        context_tokens: Tokens that prompt and answer may have together; what LangChain knows
            about the model by default.
        concurrency: Requests at the same time, over all runs.
        call_options: Replaces `known_options`, for a model that takes other names or refuses
            some values.
        adapter_option: Call option in which the server takes the key of an adapter: `model` for
            vLLM, beside a `PublishingTrainer` for the same server. `None`: no adapters.
        asks_logprobs: Whether to ask for the log-probabilities of an answer's tokens, where the
            model has an option for that. Some models refuse to be asked, and some refuse a
            temperature: what a server names in its refusal is left out from then on.
        continues_answers: Whether the server goes on from a last turn that is the assistant's when
            it is told `continue_final_message`, as vLLM and SGLang do, behind a client that takes
            `extra_body`, as `ChatOpenAI` does. Others would begin the answer anew.
        follows_schemas: Whether the model takes OpenAI's `response_format` with a JSON schema. One
            that refuses it is not asked again.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each thing that nothing else tells
        self,
        chat_model: BaseChatModel,
        *,
        name: str | None = None,
        context_tokens: int | None = None,
        concurrency: int = 8,
        call_options: CallOptions | None = None,
        adapter_option: str | None = None,
        asks_logprobs: bool = False,
        continues_answers: bool = False,
        follows_schemas: bool = False,
    ) -> None:
        if context_tokens is not None and context_tokens < 1:
            raise ConfigurationError(f"context_tokens must be at least 1, got {context_tokens!r}")
        self._name = name or model_name(chat_model)
        self._context_tokens = context_tokens or _profile_tokens(chat_model)
        self._call_options = call_options or known_options(chat_model)
        self._adapter_option = adapter_option
        self._asks_logprobs = asks_logprobs and _LOGPROBS in accepted_fields(chat_model)
        self._refused: frozenset[str] = frozenset()
        self._continues_answers = continues_answers
        self._follows_schemas = follows_schemas
        self._counts_pieces = call_options is None and _limit_name(chat_model) is None
        # LangGraph's stream of messages is to show the answer that was taken, which the graph
        # adds, once; not every arm's, nor the same one under two ids.
        self._calls = ChatCalls(chat_model, concurrency=concurrency, tags=[TAG_NOSTREAM])

    @property
    def name(self) -> str:
        """Name for people."""
        return self._name

    @property
    def continues_answers(self) -> bool:
        """Whether it was told that the server can."""
        return self._continues_answers

    @property
    def follows_schemas(self) -> bool:
        """Whether it was told that the model can, and no server has refused it since."""
        return self._follows_schemas and _SCHEMA not in self._refused

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return an estimate: a token for four characters, and three for each message."""
        return estimated_tokens(messages)

    async def context_tokens(self) -> int | None:
        """Return how many tokens prompt and answer may have together; `None` if unknown."""
        return self._context_tokens

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        With a deadline the answers are streamed. At the deadline, what has come is returned with
        `finish_reason="budget"`; of a model that cannot stream that is an empty text.

        Raises:
            PolicyModelError: The model failed, a prompt leaves no room in the context, or a
                request names an adapter or begins the answer and the server cannot take that.
        """
        replies = await self._replies([self._call(request, deadline) for request in requests])
        return [
            _generation(request, reply) for request, reply in zip(requests, replies, strict=True)
        ]

    async def _replies(self, calls: Sequence[ChatCall]) -> list[ChatReply]:
        """Return one reply for each call, without the options that the server refuses."""
        refused = self._refused
        while True:
            left = [_without(call, refused) for call in calls]
            try:
                replies = await self._calls.replies(left)
            except Exception as exc:  # vendors' errors share no base class
                option = _refused_option(exc, {name for call in left for name in call.options})
                if option is None:
                    raise PolicyModelError(
                        f"{self._name!r} could not generate: {describe(exc)}",
                        retryable=is_retryable(exc),
                    ) from exc
                refused |= {option}
                continue
            if more := refused - self._refused:  # only now it is known that they were the reason
                _LOG.warning("%s refuses %s: left out from now on", self._name, ", ".join(more))
                self._refused |= more
            return replies

    def _call(self, request: GenerationRequest, deadline: float | None) -> ChatCall:
        request = self._fitted(request)
        options = {
            **self._call_options(request),
            **({_LOGPROBS: True} if self._asks_logprobs else {}),
            **self._adapter_choice(request),
            **(_response_format(request) if self.follows_schemas else {}),
        }
        return ChatCall(
            turns=_begun_turns(request),
            stop=request.stop,
            options=self._continued(options) if request.answer_prefix else options,
            deadline=deadline,
            max_chunks=request.max_new_tokens if self._counts_pieces else None,
        )

    def _continued(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return call options with which the server goes on from the last turn."""
        if not self._continues_answers:
            raise PolicyModelError(
                f"{self._name!r} was asked to go on from the beginning of an answer, and would "
                "begin it anew: use an in-process model, or a vLLM server with "
                "continues_answers=True"
            )
        body = cast("Mapping[str, Any]", options.get("extra_body") or {})
        return {**options, "extra_body": {**body, **_CONTINUE}}

    def _adapter_choice(self, request: GenerationRequest) -> dict[str, str]:
        if request.adapter is None:
            return {}
        if self._adapter_option is None:
            raise PolicyModelError(
                f"{self._name!r} has no adapters, but the request names {request.adapter!r}: use "
                "an in-process model for test-time training, or a server's with adapter_option"
            )
        return {self._adapter_option: request.adapter}

    def _fitted(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request with no longer an answer than the context has room for."""
        if self._context_tokens is None:
            return request
        prompt = estimated_tokens(_begun_turns(request))
        room = self._context_tokens - prompt
        if room < 1:
            raise PolicyModelError(
                f"the prompt has about {prompt} tokens, but the context of {self._name!r} is "
                f"{self._context_tokens}: shorten the query, or show fewer samples"
            )
        return replace(request, max_new_tokens=min(request.max_new_tokens, room))


def _without(call: ChatCall, refused: frozenset[str]) -> ChatCall:
    if not refused & call.options.keys():
        return call
    return replace(
        call, options={name: value for name, value in call.options.items() if name not in refused}
    )


def _refused_option(error: BaseException, given: Collection[str]) -> str | None:
    """Return the option to leave out next; `None` if the refusal has another reason.

    A refusal that names no option may be about a schema, which servers call by many names, or about
    the log-probabilities, which nobody asked for.
    """
    if not is_refused_request(error):
        return None
    said = str(error)
    named = (name for name in _OPTIONAL if re.search(rf"\b{name}\b", said))
    candidates = [*named, _SCHEMA, _LOGPROBS]
    return next((name for name in candidates if name in given), None)


def _response_format(request: GenerationRequest) -> dict[str, Any]:
    if not request.answer_schema:
        return {}
    form = {"name": "answer", "schema": json.loads(request.answer_schema), "strict": True}
    return {_SCHEMA: {"type": "json_schema", "json_schema": form}}


_CONTINUE: Final = {"continue_final_message": True, "add_generation_prompt": False}
"""Fields that make vLLM go on from the last turn, with no end of a turn in between."""


def _begun_turns(request: GenerationRequest) -> tuple[ChatTurn, ...]:
    """Return the turns of a request, the beginning of its answer as the last one."""
    if not request.answer_prefix:
        return request.messages
    return (*request.messages, {"role": "assistant", "content": request.answer_prefix})


def known_options(chat_model: BaseChatModel) -> CallOptions:
    """Return how a request becomes keyword arguments that the chat model's class declares."""
    names = accepted_fields(chat_model)
    limit = _limit_name(chat_model)

    def options(request: GenerationRequest) -> dict[str, Any]:
        wanted: dict[str, Any] = {"temperature": request.temperature}
        if request.temperature > 0:
            wanted |= {"top_p": request.top_p}
            wanted |= {} if request.seed is None else {"seed": request.seed}
        given = {name: value for name, value in wanted.items() if name in names}
        return given if limit is None else {**given, limit: request.max_new_tokens}

    return options


def estimated_tokens(messages: Sequence[ChatTurn]) -> int:
    """Return about how many tokens a prompt has, without the model's tokenizer."""
    return count_tokens_approximately([dict(turn) for turn in messages])


def _limit_name(chat_model: BaseChatModel) -> str | None:
    names = accepted_fields(chat_model)
    return next((name for name in LIMIT_NAMES if name in names), None)


def _profile_tokens(chat_model: BaseChatModel) -> int | None:
    return (chat_model.profile or {}).get("max_input_tokens")


def _generation(request: GenerationRequest, reply: ChatReply) -> Generation:
    message = reply.message
    text, was_stopped = _before_stop(request.answer_prefix + _text_of(message), request.stop)
    prompt_tokens, completion_tokens = _token_counts(request, reply)
    return Generation(
        text=text,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        mean_logprob=_mean_logprob(message),
        finish_reason="stop" if was_stopped else _finish_reason(reply),
        reused_tokens=min(prompt_tokens, _cached_tokens(message)),
    )


def _text_of(message: AIMessage) -> str:
    """Return what a message says; of one that ends while the model thinks, its thoughts, opened.

    Vendors that tell thoughts apart put them beside the text, and nothing more is needed of them.
    """
    text = str(message.text)
    if text.strip():
        return text
    blocks = [cast("Mapping[str, object]", block) for block in message.content_blocks]
    thoughts = [str(block.get("reasoning", "")) for block in blocks if _thinks(block)]
    beside = message.additional_kwargs.get("reasoning_content")
    thoughts += [beside] if isinstance(beside, str) and not thoughts else []
    return f"{THINKING}\n{''.join(thoughts)}" if any(map(str.strip, thoughts)) else text


def _thinks(block: Mapping[str, object]) -> bool:
    return block.get("type") == "reasoning"


def _before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text up to the first stop string; some models ignore `stop`, some keep it."""
    ends = [end for stop in stops if stop and (end := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def _token_counts(request: GenerationRequest, reply: ChatReply) -> tuple[int, int]:
    """Return prompt and completion tokens; a cut stream has not reported its last count."""
    usage = reply.message.usage_metadata
    estimated = math.ceil(len(str(reply.message.text)) / 4)  # as in `estimated_tokens`
    if not usage or not usage["input_tokens"]:
        return estimated_tokens(_begun_turns(request)), estimated
    return usage["input_tokens"], estimated if reply.cut else usage["output_tokens"]


def _cached_tokens(message: AIMessage) -> int:
    """Return how many tokens of the prompt the server says that it knew."""
    usage = message.usage_metadata
    return usage.get("input_token_details", {}).get("cache_read", 0) if usage else 0


def _finish_reason(reply: ChatReply) -> FinishReason:
    if reply.cut is not None:
        return "budget" if reply.cut == "deadline" else "length"
    metadata = reply.message.response_metadata
    for key in ("finish_reason", "stop_reason", "done_reason"):
        if str(metadata.get(key)).lower() in _LENGTH_REASONS:
            return "length"
    return "stop"


def _mean_logprob(message: AIMessage) -> float | None:
    """Read OpenAI's form, `{"content": [{"logprob": …}, …]}`, which servers like vLLM share."""
    found: object = message.response_metadata.get("logprobs")
    if not isinstance(found, Mapping):
        return None
    tokens = cast(Mapping[str, object], found).get("content")
    if not isinstance(tokens, list):
        return None
    values = [
        cast(Mapping[str, object], token).get("logprob")
        for token in cast(list[object], tokens)
        if isinstance(token, Mapping)
    ]
    numbers = [value for value in values if isinstance(value, (int, float))]
    return math.fsum(numbers) / len(numbers) if numbers else None
