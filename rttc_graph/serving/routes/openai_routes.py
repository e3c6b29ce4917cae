"""`/v1/chat/completions` and `/v1/models`, for every client that speaks OpenAI's protocol.

An answer is known only when it has been judged, so a stream has it in one piece at the end; until
then it has comments that keep the connection open and, if asked for, a chunk for each step.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rttc_graph.errors import RttcError
from rttc_graph.serving.admission.authentication import Caller, caller_of
from rttc_graph.serving.http_errors import OpenAIProblem, Refusal, refusal_of, response_to
from rttc_graph.serving.routes.openai_schema import (
    MODEL,
    AssistantMessage,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
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
            raise Refusal(404, f"model={body.model!r} is not served here; use {MODEL!r}")
        caller = caller_of(request.scope)
        run = _Run(runner, body, runner.settings(body.settings(), caller), caller)
        if body.stream:
            return StreamingResponse(
                run.stream(),
                media_type="text/event-stream",
                headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            )
        return Response((await run.whole()).model_dump_json(), media_type="application/json")

    return router


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
        choice = Choice(
            message=AssistantMessage(content=output["answer"]), finish_reason=finish_reason(output)
        )
        return Completion(
            **self._head, choices=[choice], usage=Usage.of(output), rttc=Report.of(output)
        )

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the completion as server-sent events; an error ends it as one of them."""
        yield self._chunk(Delta(role="assistant", content=""))
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        work = asyncio.create_task(self._answer(events.put if self._body.rttc.progress else None))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while True:
                event: dict[str, Any] | None = {}
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), _PING_SECONDS)
                if event is None:
                    break
                yield self._chunk(Delta(), rttc=event) if event else _PING
            for part in self._end(await work):
                yield part
        except RttcError as exc:
            yield b"data: " + bytes(response_to(refusal_of(exc), "/v1/").body) + b"\n\n"
        finally:
            work.cancel()
            await asyncio.wait({work})

    def _end(self, output: RttcOutput) -> list[bytes]:
        report = Report.of(output).model_dump()
        parts = [
            self._chunk(Delta(content=output["answer"])),
            self._chunk(Delta(), finish_reason=finish_reason(output), rttc=report),
        ]
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            parts.append(_event(Chunk(**self._head, choices=[], usage=Usage.of(output))))
        return [*parts, _DONE]

    async def _answer(self, on_event: EventSink | None) -> RttcOutput:
        messages = [message.to_langchain() for message in self._body.messages]
        domain = self._body.rttc.domain
        return await self._runner.run(
            {"messages": messages} if domain is None else {"messages": messages, "domain": domain},
            self._settings,
            self._caller,
            on_event=on_event,
        )

    def _chunk(self, delta: Delta, *, finish_reason: Any = None, rttc: Any = None) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        return _event(Chunk(**self._head, choices=[choice], rttc=rttc))


def _event(chunk: BaseModel) -> bytes:
    return b"data: " + chunk.model_dump_json(exclude_none=True).encode() + b"\n\n"
