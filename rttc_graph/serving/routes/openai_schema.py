"""Chat completions as OpenAI's clients send and read them, with RTTC's own in the field `rttc`.

What this server cannot do is refused rather than ignored: an answer that was made without a stop
string or a tool that was asked for is a wrong answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rttc_graph.errors import ConfigurationError
from rttc_graph.run.tau_r import best_candidate
from rttc_graph.serving.routes.response_models import Report
from rttc_graph.settings import RttcSettings
from rttc_graph.state import RttcOutput
from rttc_graph.support.identity import MAX_NAME_CHARACTERS

__all__ = (
    "MODEL",
    "Chunk",
    "Completion",
    "CompletionRequest",
    "ModelList",
    "RttcOptions",
    "Usage",
    "finish_reason",
)

MODEL = "rttc"
"""The one model that is served."""


class ContentPart(BaseModel):
    """A part of a message; those of other types than these two are refused with their names."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None
    refusal: str | None = None


class RequestMessage(BaseModel):
    """A turn of the conversation; calls of tools and what they returned are left out."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = Field(default=None, description="What an assistant said instead.")

    @model_validator(mode="after")
    def _says_something(self) -> RequestMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"content of a message of role {self.role!r} must not be null")
        return self

    def to_langchain(self) -> AnyMessage:
        """Return it as the graph takes it, which refuses parts that are no text."""
        content: Any = self.content
        if isinstance(self.content, list):
            content = [part.model_dump(exclude_none=True) for part in self.content]
        if self.role == "user":
            return HumanMessage(content)
        if self.role == "assistant":
            return AIMessage(content or self.refusal or "")
        if self.role in ("tool", "function"):
            return ToolMessage("", tool_call_id="")
        return SystemMessage(content)


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class RttcOptions(BaseModel):
    """RTTC's own part of a request: `extra_body={"rttc": {"tau_r": 0.9, "domain": "banking"}}`."""

    model_config = ConfigDict(extra="allow")

    domain: str | None = Field(default=None, max_length=MAX_NAME_CHARACTERS)
    progress: bool | Literal["live"] = Field(
        default=False,
        description="Whether a stream has a chunk for each step of the run; live: for each node "
        "that begins and each judged answer too, from the first moment on, so that every mistake "
        "is an event of the stream.",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything else: settings of the run."""
        return dict(self.model_extra or {})


Tokens = Annotated[int, Field(ge=1, le=32_768)]


class CompletionRequest(BaseModel):
    """A chat completion that is asked for."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(description=f"`{MODEL}`.")
    messages: list[RequestMessage] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | list[str] | None = Field(
        default=None, description="Strings before the first of which the answer ends."
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    rttc: RttcOptions = Field(default_factory=RttcOptions)

    def settings(self) -> dict[str, Any]:
        """Return the run's settings: OpenAI's names first, those in `rttc` over them.

        Raises:
            ConfigurationError: Something is asked for that this server does not do.
        """
        self._refuse_the_impossible()
        named = {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop_strings": self._stop_strings(),
            "seed": None if self.seed is None else self.seed % 2**31,  # ours are of 31 bits
        }
        settings = {name: value for name, value in named.items() if value is not None}
        return {**settings, **self.rttc.settings}

    def _stop_strings(self) -> tuple[str, ...] | None:
        """Return the strings to stop at; an empty one asks for nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text) or None

    def _refuse_the_impossible(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in _WITHOUT_EFFECT or value is None:
                continue
            if name not in _NEUTRAL or value not in _NEUTRAL[name]:
                shown = json.dumps(value, default=str)
                shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
                if name in _RTTCS:
                    raise ConfigurationError(
                        f'{name} is no field of OpenAI\'s: write "rttc": {{"{name}": {shown}}}, in '
                        f'OpenAI\'s client extra_body={{"rttc": {{"{name}": {shown}}}}}'
                    )
                raise ConfigurationError(
                    f"{name}={shown} is not supported by this server; leave it out"
                )


_RTTCS = RttcOptions.model_fields.keys() | RttcSettings.model_fields.keys()
"""Names that belong into the field `rttc`."""

_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Fields that a client may send for its own records; they are ignored."""

_NEUTRAL: dict[str, list[Any]] = {
    "n": [1],
    "frequency_penalty": [0],
    "presence_penalty": [0],
    "logprobs": [False],
    "parallel_tool_calls": [True, False],
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "response_format": [{"type": "text"}],
}
"""Values that ask for nothing that is not done anyway."""


class Usage(BaseModel):
    """Tokens of all arms that ran, also of those whose answer was not taken."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def from_output(cls, output: RttcOutput) -> Usage:
        """Sum up a run's."""
        prompt = sum(c["prompt_tokens"] for c in output["candidates"])
        completion = sum(c["completion_tokens"] for c in output["candidates"])
        return cls(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )


FinishReason = Literal["stop", "length"]


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class CompletionChoice(BaseModel):
    """The one choice of a completion."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: None = None


class Completion(BaseModel):
    """An answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    rttc: Report = Field(description="How the answer came about.")


class Delta(BaseModel):
    """Text that a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The one choice of a chunk."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class Chunk(BaseModel):
    """A piece of a streamed answer; `rttc` has progress, and at the end the report."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    rttc: dict[str, Any] | None = None


class ModelEntry(BaseModel):
    """A model of the list."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rttc-graph"


class ModelList(BaseModel):
    """List of the served models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]

    @classmethod
    def at(cls, created: int) -> ModelList:
        """Return the list of a server that started then."""
        return cls(data=[ModelEntry(id=MODEL, created=created)])


def finish_reason(output: RttcOutput) -> FinishReason:
    """Return why the answer ends where it does; a spent budget cuts it like a limit of tokens."""
    if output["declined"]:
        return "stop"
    taken = best_candidate(output["candidates"])
    return "stop" if taken is not None and taken["finish_reason"] == "stop" else "length"
