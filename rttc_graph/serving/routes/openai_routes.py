"""`/v1/chat/completions` and `/v1/models`, for every client that speaks OpenAI's protocol.

An answer is known only when it has been judged, so a stream has it in one piece at the end; until
then it has comments that keep the connection open and, if asked for, a chunk for each step.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from rttc_graph.errors import RttcError
from rttc_graph.serving.admission.authentication import Caller, request_caller
from rttc_graph.serving.http_errors import HttpError, OpenAIProblem, response_to
from rttc_graph.serving.routes.openai_schema import (
    MODEL,
    AssistantMessage,
    Chunk,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionRequest,
    Delta,
    ModelList,
    Usage,
    finish_reason,
)
from rttc_graph.serving.routes.response_models import Report
from rttc_graph.serving.runs import EventSink, Runner
from rttc_graph.settings import RttcSettings
from rttc_graph.state import RttcOutput
from rttc_graph.support.identity import clean

__all__ = ("openai_router",)

_PING_SECONDS = 15.0

_PING = b": working\n\n"
_DONE = b"data: [DONE]\n\n"
_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)


def openai_router(runner: Runner) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(
        prefix="/v1",
        tags=["openai"],
        responses={status: {"model": OpenAIProblem} for status in _STATUSES},
    )
    started = int(time.time())

    @router.get("/models")
    async def list_models() -> ModelList:
        """List the one model."""
        return ModelList.at(started)

    @router.post(
        "/chat/completions",
        response_model=Completion,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Answer the last message of a conversation."""
        if body.model != MODEL:
            raise HttpError(404, f"model={body.model!r} is not served here; use {MODEL!r}")
        caller = request_caller(request.scope)
        run = _Run(runner, body, runner.settings(body.settings(), caller), caller)
        if body.stream:
            if body.rttc.progress == "live":
                caller.stream_start.allow()
            return _Stream(
                run.stream(),
                media_type="text/event-stream",
                headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            )
        return Response((await run.whole()).model_dump_json(), media_type="application/json")

    return router


class _Stream(StreamingResponse):
    """A stream whose run is cancelled at once when nobody takes it any more."""

    async def stream_response(self, send: Send) -> None:
        """Send the parts."""
        async with aclosing(cast("AsyncGenerator[bytes]", self.body_iterator)):
            await super().stream_response(send)


class _Run:
    """One completion."""

    def __init__(
        self, runner: Runner, body: CompletionRequest, settings: RttcSettings, caller: Caller
    ) -> None:
        self._runner = runner
        self._body = body
        self._settings = settings
        self._caller = caller
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": MODEL,
        }

    async def whole(self) -> Completion:
        """Return the completion in one piece."""
        output = await self._answer(None)
        choice = CompletionChoice(
            message=AssistantMessage(content=output["answer"]), finish_reason=finish_reason(output)
        )
        return Completion(
            **self._head,
            choices=[choice],
            usage=Usage.from_output(output),
            rttc=Report.from_output(output),
        )

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the completion as server-sent events; an error ends it as one of them."""
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def note(event: dict[str, Any]) -> None:
            if self._body.rttc.progress:
                events.put_nowait(event)

        def end(_: object) -> None:
            events.put_nowait(None)

        work = asyncio.create_task(self._answer(note))
        work.add_done_callback(end)
        try:
            yield self._chunk(Delta(role="assistant", content=""))
            while True:
                event: dict[str, Any] | None = {}
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), _PING_SECONDS)
                if event is None:
                    break
                yield self._chunk(Delta(), rttc=event) if event else _PING
            for part in await self._last_parts(work):
                yield part
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _last_parts(self, work: asyncio.Task[RttcOutput]) -> list[bytes]:
        try:
            return self._end(await work)
        except RttcError as exc:
            told = self._caller.stream_start.told(exc)
            return [b"data: " + bytes(response_to(told, "/v1/").body) + b"\n\n"]

    def _end(self, output: RttcOutput) -> list[bytes]:
        report = Report.from_output(output).model_dump()
        wants_usage = self._wants_usage
        parts = [
            self._chunk(Delta(content=output["answer"])),
            self._chunk(Delta(), finish_reason=finish_reason(output), rttc=report),
        ]
        if wants_usage:
            usage = Chunk(**self._head, choices=[], usage=Usage.from_output(output))
            parts.append(_event(usage, wants_usage=True))
        return [*parts, _DONE]

    async def _answer(self, on_event: EventSink | None) -> RttcOutput:
        messages = [message.to_langchain() for message in self._body.messages]
        domain = self._body.rttc.domain
        return await self._runner.run(
            {"messages": messages} if domain is None else {"messages": messages, "domain": domain},
            self._settings,
            self._caller,
            on_event=on_event,
            live=self._body.rttc.progress == "live",
        )

    def _chunk(self, delta: Delta, *, finish_reason: Any = None, rttc: Any = None) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        chunk = Chunk(**self._head, choices=[choice], rttc=rttc)
        return _event(chunk, wants_usage=self._wants_usage)

    @property
    def _wants_usage(self) -> bool:
        asked = self._body.stream_options
        return asked is not None and asked.include_usage


def _event(chunk: Chunk, *, wants_usage: bool) -> bytes:
    """Return a chunk as an event, with the nulls that the protocol wants and no others."""
    said = chunk.model_dump(exclude_none=True)
    for choice in said["choices"]:
        choice.setdefault("finish_reason", None)
    if wants_usage:
        said.setdefault("usage", None)
    return b"data: " + clean(json.dumps(said, ensure_ascii=False)).encode() + b"\n\n"
