"""What stands between the socket and the routes: who may enter, how much, how many, how long.

Plain ASGI on purpose: a place in the queue is kept until the last byte of a stream is out, and a
client that hangs up cancels its run on every route, also on those of LangServe, which never look.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rttc_graph.errors import RttcError
from rttc_graph.serving.admission.authentication import Authentication, Caller, request_caller
from rttc_graph.serving.admission.rate_limit import RateLimit
from rttc_graph.serving.admission.request_queue import RequestQueue
from rttc_graph.serving.admission.route_rights import QueueName, RouteRights, needed_rights
from rttc_graph.serving.client_address import client_address_key
from rttc_graph.serving.http_errors import HttpError, as_http_error, response_to
from rttc_graph.serving.metrics import Metrics
from rttc_graph.serving.serve_options import ServeOptions
from rttc_graph.serving.stream_start import StreamStart

__all__ = ("Admission",)

_log = logging.getLogger(__name__)


class Admission:
    """Lets a request through to the application when it may, fits and has a place.

    Args:
        app: The routes.
        authentication: Knows who may enter.
        queues: The queues.
        options: The limits.
        metrics: Counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authentication: Authentication,
        queues: Mapping[QueueName, RequestQueue],
        options: ServeOptions,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._queues = queues
        self._options = options
        self._metrics = metrics
        rate = options.address_requests
        self._rate = RateLimit(rate, max(1.0, 2 * rate))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        with self._metrics.request(scope, answer):
            try:
                await self._admit(scope, receive, answer)
            except RttcError as exc:
                error = as_http_error(exc)
                if error is not exc and error.status >= 500:
                    _log.warning("%s %s: %s", scope["method"], error.status, exc)
                if answer.status is not None:
                    raise  # too late to say it: a cut connection is not taken for an answer
                await response_to(error, scope["path"])(scope, receive, answer)
            except _HungUp:
                self._metrics.hung_up()
            except Exception:
                failure = answer.stream_start.error
                if failure is not None and answer.status is None:  # what its own send() has raised
                    await response_to(failure, scope["path"])(scope, receive, answer)
                    return
                if not answer.is_stream:
                    raise
                # LangServe has said so in the stream; what is left is to end it as a whole one.
                _log.exception("a stream failed on its way")
                await answer({"type": "http.response.body", "body": b"", "more_body": False})

    async def _admit(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        rights, address = needed_rights(scope), client_address_key(scope)
        if rights.is_counted and (wait := self._rate.wait_seconds(address)):
            raise HttpError(
                429,
                f"more than {self._options.address_requests:g} requests a second from one address; "
                "try again later",
                kind="TooManyRequests",
                retry_after_seconds=wait,
            )
        caller = Caller(tenant=None)
        if rights.scope is not None:
            headers = Headers(scope=scope)
            caller = await self._authentication.caller(headers, rights.scope, address=address)
        body = await self._body(scope, receive, rights)
        deadline = time.monotonic() + self._options.longest_seconds
        caller = replace(caller, deadline=deadline, stream_start=answer.stream_start)
        scope.setdefault("state", {})["rttc_caller"] = caller
        work = asyncio.create_task(self._work(scope, _Replay(body), answer, rights))
        leaving = asyncio.create_task(_gone(receive))
        try:
            left = deadline - time.monotonic()
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({work, leaving}, timeout=left, return_when=first)
            if answer.ended:  # whoever has the whole answer may hang up
                await asyncio.wait({work}, timeout=deadline - time.monotonic())
            has_left, is_late = leaving.done() and not work.done(), not work.done()
        finally:
            leaving.cancel()
            work.cancel()
            await asyncio.wait({work, leaving})
        _raise_what_ended(work, has_left=has_left, is_late=is_late, options=self._options)

    async def _work(
        self, scope: Scope, replay: _Replay, answer: _Answer, rights: RouteRights
    ) -> None:
        if rights.queue is None:
            await self._app(scope, replay.receive, answer)
            return
        async with self._queues[rights.queue].place() as place:
            caller = request_caller(scope)
            deadline = time.monotonic() + self._options.run_seconds
            scope["state"]["rttc_caller"] = replace(caller, deadline=deadline, place=place)
            await self._app(scope, replay.receive, answer)

    async def _body(self, scope: Scope, receive: Receive, rights: RouteRights) -> bytes:
        """Read the body, but no more than may be sent, and no longer than it may take."""
        if rights.scope is None:
            return b""  # none of these takes one, so nobody is waited for
        limit = self._options.ingest_bytes if rights.is_ingest else self._options.body_bytes
        headers = Headers(scope=scope)
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._options.body_seconds):
                body = await _read(receive, limit)
        except TimeoutError:
            raise HttpError(
                408,
                f"the body did not arrive within {self._options.body_seconds:g} s",
                kind="RequestTimeout",
                retry_after_seconds=1,
            ) from None
        if scope["method"] == "POST" and rights.queue is not None:
            _check_json(headers, body)
        return body


class _HungUp(Exception):
    """The client has gone, so nobody is there to be told anything."""


class _Answer:
    """The way back to the client, which knows what was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.ended = False
        self.is_stream = False
        """Whether events are on their way and more could follow."""
        self.stream_start = StreamStart()
        self._held: Message | None = None
        """The start of a stream, whose status may still become another."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self.is_stream = kind.startswith("text/event-stream")
            self._held = message
            if self.is_stream:
                return
            await self._begin()
        elif message["type"] == "http.response.body":
            if self.is_stream and self._held is not None:  # only the first byte waits
                await self.stream_start.wait()
            await self._begin()
            self.ended = not message.get("more_body", False)
            self.is_stream = self.is_stream and not self.ended
            await self._send(message)

    async def _begin(self) -> None:
        if (start := self._held) is not None:
            self._held, self.status = None, start["status"]
            await self._send(start)


class _Replay:
    """A body that has been read, for an application that reads it once more."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._never = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._never.wait()  # a client that has gone is noticed outside, and cancels this
        return {"type": "http.disconnect"}


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _HungUp
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(limit: int) -> HttpError:
    return HttpError(
        413,
        f"the body is longer than {limit} bytes; send less at once",
        headers={"connection": "close"},  # the rest of it is not read
    )


def _check_json(headers: Headers, body: bytes) -> None:
    """Refuse what is not sent as JSON: a page elsewhere can send anything else without asking."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(
            415, f"content-type {kind!r} is not understood; send application/json with JSON in it"
        )
    with suppress(UnicodeDecodeError):
        body.decode()
        if not _is_deep(body):
            return
        raise HttpError(
            400, f"the JSON is nested more than {_DEEPEST} deep, or not closed; send it flatter"
        )
    raise HttpError(400, "the body is not UTF-8; send JSON in UTF-8")


def _is_deep(body: bytes) -> bool:
    """Tell whether brackets of JSON are nested too deep or left open.

    What parsers, validators and writers do with such a body, they do by recursion. This takes a
    few nanoseconds a byte: brackets outside of strings are all that is left, then the innermost
    ones are removed level by level.
    """
    if body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return False
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = _STRINGS.sub(b"", plain.translate(_BRACKETS, delete=_NO_BRACKETS))
    for _ in range(_DEEPEST):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)


_DEEPEST = 64
_STRINGS = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _raise_what_ended(
    work: asyncio.Task[None], *, has_left: bool, is_late: bool, options: ServeOptions
) -> None:
    """Raise what ended a request before its answer was out."""
    if not work.cancelled():
        if (error := work.exception()) is not None and not has_left:
            raise error
        if error is None:
            return
    if has_left:
        raise _HungUp
    if is_late:
        raise HttpError(
            504,
            f"no answer within {options.longest_seconds:g} s; ask for less with budget_seconds",
            kind="Timeout",
            retry_after_seconds=1,
        )
    raise HttpError(503, "the work was cancelled", kind="Cancelled", retry_after_seconds=1)
