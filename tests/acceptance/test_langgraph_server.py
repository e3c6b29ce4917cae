"""The exported graph in a real `langgraph dev`, asked through its own client."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from installations import REPOSITORY
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

START_SECONDS = 90
NODES = {"prepare", "generate", "reward_judge", "retrieve", "rag_generate", "ttt_adapt"}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
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


@pytest.fixture
def client(tmp_path: Path, process_env: dict[str, str]) -> Iterator[SyncLangGraphClient]:
    # Paths count from the working folder, where the server also keeps its state.
    described = (REPOSITORY / "langgraph.json").read_text(encoding="utf-8")
    config = tmp_path / "langgraph.json"
    config.write_text(described.replace("./", f"{REPOSITORY}/"), encoding="utf-8")
    port, log = free_port(), tmp_path / "server.log"
    url = f"http://127.0.0.1:{port}"
    command = ["dev", "--config", str(config), "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", *command, "--no-browser", "--no-reload"],
            cwd=tmp_path,
            env=process_env,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            wait_until_up(url, server, log)
            with get_sync_client(url=url) as found:
                yield found
        finally:
            server.send_signal(signal.SIGINT)


@pytest.mark.timeout(300)
def test_the_server_draws_runs_and_streams_the_graph(client: SyncLangGraphClient) -> None:
    (assistant,) = client.assistants.search(graph_id="rttc")
    drawn = client.assistants.get_graph(assistant["assistant_id"])
    assert {node["id"] for node in drawn["nodes"]} >= NODES
    schemas = cast("dict[str, Any]", client.assistants.get_schemas(assistant["assistant_id"]))
    settings = schemas["context_schema"]["properties"]
    assert {"tau_r", "policy", "budget_seconds"} <= settings.keys()

    thread = client.threads.create()["thread_id"]
    told = list(
        client.runs.stream(
            thread,
            "rttc",
            input={"query": "what is 7 plus 8"},
            context={"tau_r": 1.0},
            stream_mode=["updates", "custom"],
        )
    )

    assert not [part for part in told if part.event == "error"]
    updates = [cast("dict[str, Any]", part.data) for part in told if part.event == "updates"]
    updated = {name for update in updates for name in update}
    assert {"generate", "reward_judge", "retrieve"} <= updated
    assert [part for part in told if part.event == "custom"]
    state = cast("dict[str, Any]", client.threads.get_state(thread)["values"])
    assert state["answer"] == state["candidates"][0]["answer"]
    assert state["arm"] == "direct"  # an empty knowledge base leaves nothing to retrieve
