"""Connections that only hold a place: they are cut off, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from http_servers import MemoryKeys, get, post, send, served
from scripted_parts import Parts

from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.log_limit import LogLimit
from rttc_graph.serving.serve_options import ServeOptions
from rttc_graph.serving.server import server_config

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")

CHAT = "/v1/chat/completions"
HELLO = {
    "model": "rttc",
    "messages": [{"role": "user", "content": "hello"}],
    "rttc": {"policy": "direct"},
}
HALF = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "
PATIENCE_SECONDS = 10.0


@contextmanager
def serving(parts: Parts | None = None, *, keys: Any = None, **more: Any) -> Generator[str]:
    options = ServeOptions(drain_seconds=5, **more)
    made = (parts or Parts().rewarding(direct=0.95)).parts()
    with served(create_app(ServedParts(parts=made), options=options, keys=keys), options) as url:
        yield url


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE_SECONDS)


def is_cut_off(one: socket.socket, seconds: float = 0.0) -> bool:
    """Tell whether the server ends a connection within some time, whatever it sends before."""
    until = time.monotonic() + seconds
    while True:
        one.settimeout(max(0.01, until - time.monotonic()))
        try:
            if not one.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True


def is_torn(one: socket.socket, seconds: float) -> bool:
    """Tell whether the server gives a connection up within some time, with nothing of it read."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            one.sendall(b"x")  # what is sent to a closed end comes back as a reset
        except TimeoutError:
            continue
        except ConnectionError:
            return True
        time.sleep(0.5)
    return False


def trickle(one: socket.socket, piece: bytes, seconds: float) -> None:
    """Send a little again and again, until the server does not want it any more."""
    until = time.monotonic() + seconds
    one.settimeout(1)
    with suppress(OSError):
        while time.monotonic() < until:
            one.sendall(piece)
            time.sleep(0.1)


def answer_to(one: socket.socket) -> bytes:
    """Ask for the health of the server and return all of its answer."""
    one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    said = b""
    while not said.endswith(b"}"):
        said += one.recv(1000)
    return said


def _nothing(one: socket.socket) -> None:
    del one


def _half(one: socket.socket) -> None:
    one.sendall(HALF)


def _trickled_head(one: socket.socket) -> None:
    one.sendall(HALF)
    trickle(one, b"x", 3)


def _second_head(one: socket.socket) -> None:
    assert answer_to(one).startswith(b"HTTP/1.1 200")
    one.sendall(HALF)
    trickle(one, b"x", 3)


def _body_of_an_open_route(one: socket.socket) -> None:
    one.sendall(b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
    trickle(one, b"x", 3)


def _body(one: socket.socket) -> None:
    one.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode())
    trickle(one, b"x", 3)


def _head_without_end(one: socket.socket) -> None:
    one.sendall(HALF)
    one.settimeout(1)
    with suppress(OSError):
        for _ in range(1000):
            one.sendall(b"x" * 1000)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(_nothing, id="not-a-byte"),
        pytest.param(_half, id="half-a-head"),
        pytest.param(_trickled_head, id="head-byte-by-byte"),
        pytest.param(_second_head, id="second-head-byte-by-byte"),
        pytest.param(_body_of_an_open_route, id="body-where-none-is-read"),
        pytest.param(_body, id="body-byte-by-byte"),
        pytest.param(_head_without_end, id="head-without-end"),
    ],
)
def test_who_does_not_end_a_request_is_cut_off(attack: Callable[[socket.socket], None]) -> None:
    limits: dict[str, Any] = {"head_seconds": 0.5, "idle_seconds": 1.0, "body_seconds": 1.0}
    with serving(**limits) as url, connect(url) as one:
        attack(one)
        assert is_cut_off(one, 4)


def test_who_does_not_take_its_answer_is_cut_off() -> None:
    with serving(head_seconds=0.5, idle_seconds=0.5) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect((host, int(port)))
            with suppress(OSError):
                one.settimeout(1)
                for _ in range(400):  # pipelined: some 20 MB of answers
                    one.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
            assert is_torn(one, seconds=30)  # a busy machine is slow to fill the buffers in between


def test_a_connection_is_kept_for_the_next_request() -> None:
    with serving(head_seconds=0.5) as url, connect(url) as one:
        for _ in range(3):
            assert answer_to(one).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)


def test_a_run_may_take_longer_than_a_head() -> None:
    parts = Parts().rewarding(direct=0.95)
    parts.policy_model.seconds = 1.5
    with serving(parts, head_seconds=0.2, idle_seconds=0.2) as url:
        assert post(url, CHAT, HELLO).status_code == 200


@pytest.mark.parametrize("limit", ["connections", "address_connections"])
def test_the_one_that_waits_longest_gives_its_place_to_a_new_one(limit: str) -> None:
    limits: dict[str, Any] = {limit: 8}
    with serving(head_seconds=60, **limits) as url, ExitStack() as stack:
        many = [stack.enter_context(connect(url)) for _ in range(8)]
        for one in many:
            one.sendall(HALF)
        time.sleep(0.2)
        assert get(url, "/healthz").status_code == 200
        assert is_cut_off(many[0], 1)
        assert not is_cut_off(many[-1])


def test_with_a_key_the_server_is_reached_past_hundreds_that_are_half_open() -> None:
    keys = MemoryKeys()
    key = keys.add("ask")
    with serving(keys=keys, connections=64) as url, ExitStack() as stack:
        for _ in range(300):
            one = stack.enter_context(connect(url))
            with suppress(OSError):
                one.sendall(HALF)
        assert post(url, CHAT, HELLO, key=key).status_code == 200
        assert post(url, CHAT, HELLO).status_code == 401


def test_running_requests_are_not_cut_off_for_new_connections() -> None:
    parts = Parts().rewarding(direct=0.95)
    parts.policy_model.seconds = 600
    with serving(parts, connections=2, concurrency=2) as url, ExitStack() as stack:
        body = b'{"model":"rttc","messages":[{"role":"user","content":"x"}]}'
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        running = [stack.enter_context(connect(url)) for _ in range(2)]
        for one in running:
            one.sendall(head.encode() + body)
        time.sleep(0.3)
        with connect(url) as new:
            assert new.recv(1000).startswith(b"HTTP/1.1 503")
            assert is_cut_off(new, 1)
        assert not any(is_cut_off(one) for one in running)


def test_the_limit_leaves_files_for_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never called")

    def few(_: int) -> tuple[int, int]:
        return 256, 256

    def keep(_: int, limits: tuple[int, int]) -> None:
        del limits

    monkeypatch.setattr(resource, "getrlimit", few)
    monkeypatch.setattr(resource, "setrlimit", keep)
    protocol: Any = server_config(app, ServeOptions()).http
    assert 100 < protocol.options.connections < 200


def test_the_same_line_is_not_logged_without_end() -> None:
    now = [0.0]
    limit = LogLimit(3, 60, clock=lambda: now[0])
    record = logging.LogRecord("x", logging.WARNING, "place.py", 7, "no files", None, None)
    assert [limit.filter(record) for _ in range(100)].count(True) == 3
    other = logging.LogRecord("x", logging.WARNING, "place.py", 8, "something else", None, None)
    assert limit.filter(other)
    now[0] = 61
    assert limit.filter(record)
    assert record.getMessage() == "no files (97 lines like it were left out)"


async def test_a_new_server_starts_on_a_loop_of_asyncio() -> None:
    assert server_config(_app, ServeOptions()).get_loop_factory() is asyncio.SelectorEventLoop


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("never called")


def test_a_key_is_asked_for_before_a_body_is_waited_for() -> None:
    keys = MemoryKeys()
    keys.add("ask")
    with serving(keys=keys, body_seconds=60) as url, connect(url) as one:
        one.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode())
        assert one.recv(1000).startswith(b"HTTP/1.1 401")
        assert send("GET", f"{url}/healthz").status_code == 200
