"""A real `langgraph dev` on the exported graphs, with tiny models and a database of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from installations import REPOSITORY
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

START_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class ServedGraphs:
    """A folder from which a server is started, and whatever it keeps from one start to the next."""

    folder: Path
    env: Mapping[str, str]

    def restarting(self) -> RestartingServer:
        """Return a server, started, that can be stopped and started again."""
        return RestartingServer(self)

    @contextmanager
    def running(self) -> Generator[SyncLangGraphClient]:
        """Yield a client of a server that is up."""
        config = shutil.copy(REPOSITORY / "langgraph.json", self.folder)
        port, log = _free_port(), self.folder / "server.log"
        options = ["--port", str(port), "--no-browser", "--no-reload", "--n-jobs-per-worker", "4"]
        command = [sys.executable, "-m", "langgraph_cli", "dev", "--config", str(config), *options]
        url = f"http://127.0.0.1:{port}"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as server,
        ):
            try:
                _wait_until_up(url, server, log)
                with get_sync_client(url=url) as client:
                    yield client
            finally:
                server.send_signal(signal.SIGINT)


class RestartingServer:
    """A server that tests share, and that one of them starts anew."""

    def __init__(self, served: ServedGraphs) -> None:
        self._served = served
        self._running = ExitStack()
        self.client = self._running.enter_context(served.running())

    def restart(self) -> SyncLangGraphClient:
        """Stop the server, start it from what it kept, and return the new client."""
        self.stop()
        self.client = self._running.enter_context(self._served.running())
        return self.client

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        self._running.close()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS * 5):
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/ok", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"langgraph dev did not come up:\n{log.read_text()[-4000:]}")
