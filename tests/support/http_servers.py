"""Applications on a port of loopback, and `rttc serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import uvicorn
from installations import REPOSITORY
from starlette.types import ASGIApp

from rttc_graph.errors import BackendError
from rttc_graph.protocols.api_keys import ApiKey, new_key
from rttc_graph.serving.serve_options import ServeOptions
from rttc_graph.serving.server import listen, server_config

PATIENCE_SECONDS = 30.0
"""For what takes a moment, on a machine that does much else."""


class ServedApp(uvicorn.Server):
    """A server on a thread of its own."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        super().__init__(server_config(app, options))
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def served(app: ASGIApp, options: ServeOptions | None = None) -> Generator[str]:
    """Serve an application and yield its address."""
    listening = listen("127.0.0.1", 0)
    server = ServedApp(app, options or ServeOptions(drain_seconds=5))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        assert server.ready.wait(PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listening.close()
        assert not thread.is_alive()


class ServeProcess:
    """`rttc serve` as a user would start it, on a free port."""

    def __init__(self, env: Mapping[str, str], *arguments: str) -> None:
        command = [sys.executable, "-m", "rttc_graph", "serve", "--port", "0", *arguments]
        env = {**env, "PYTHONPATH": str(REPOSITORY)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=env, cwd=env["RTTC_HOME"], text=True, **pipes)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            raise AssertionError(f"no address: {line!r} {self._process.communicate()!r}")
        self.url = line.split()[2].rstrip(",")
        self.pid = self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code."""
        out, err = self._process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in err, f"{out}\n{err}"
        return self._process.returncode

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def send(method: str, url: str, **more: Any) -> httpx.Response:
    """Send anything."""
    return httpx.request(method, url, timeout=PATIENCE_SECONDS, **more)


def get(url: str, path: str) -> httpx.Response:
    """Ask for a page."""
    return send("GET", url + path)


def post(url: str, path: str, body: Any, *, key: str | None = None, **more: Any) -> httpx.Response:
    """Send JSON."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers["content-type"] = "application/json"
    # Escaped as most clients do it: a lone surrogate can travel in no other way.
    return send("POST", url + path, content=json.dumps(body), headers=headers, **more)


class Impatient:
    """A client that sends a request and hangs up without waiting for the answer."""

    def __init__(self, url: str, path: str, body: Any) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), PATIENCE_SECONDS)
        sent = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(sent)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + sent)

    def wait_a_moment(self) -> None:
        """Stay until the answer begins, or for some time."""
        self._socket.settimeout(0.2)
        with suppress(TimeoutError):
            self._socket.recv(1)

    def hang_up(self) -> None:
        self._socket.close()

    def __enter__(self) -> Impatient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.hang_up()


def events_of(text: str) -> list[Any]:
    """Return the data of server-sent events, without the last one's `[DONE]`."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something that another thread makes true."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")


def sockets(pid: int | str = "self") -> Sequence[str]:
    """Return the sockets that a process has open."""
    found: list[str] = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue
    return [name for name in found if name.startswith("socket:")]


class MemoryKeys:
    """An `ApiKeyStore` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, ApiKey] = {}
        self.is_down = False

    def add(self, *scopes: str, tenant: str = "acme") -> str:
        key, stored = new_key(tenant, scopes)
        self.kept[stored.id] = stored
        return key

    async def find(self, key_id: str) -> ApiKey | None:
        if self.is_down:
            raise BackendError("the database is gone", retryable=True)
        return self.kept.get(key_id)

    async def is_empty(self) -> bool:
        return not self.kept


class Vectors:
    """An embedder of dimension 2 that only says who it is."""

    name = "vectors"

    async def fingerprint(self) -> str:
        return "vectors"

    async def dimension(self) -> int:
        return 2

    async def embed(self, texts: Any) -> list[list[float]]:
        raise AssertionError("a server never embeds for the knowledge base")
