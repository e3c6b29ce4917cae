"""The fences around the tests hold: a test that reaches out or blocks a loop fails."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from blockbuster import BlockingError

from rttc_graph.run.scope import run_blocking


def test_the_network_is_out_of_reach() -> None:
    # 192.0.2.1 is reserved for documentation, so even a broken fence reaches nobody
    with socket.socket() as reaching, pytest.raises((RuntimeError, UserWarning), match="192"):
        reaching.connect(("192.0.2.1", 9))


def test_loopback_and_unix_sockets_are_in_reach(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "s")
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, path)):
        with socket.socket(family) as server, socket.socket(family) as client:
            server.bind(address)
            server.listen()
            client.connect(server.getsockname())


async def test_code_of_ours_that_blocks_a_loop_is_caught() -> None:
    with pytest.raises(BlockingError):
        run_blocking(_hang())


@pytest.mark.blocking_allowed
async def test_a_test_may_say_that_it_blocks() -> None:
    assert run_blocking(asyncio.sleep(0.01, "done")) == "done"


async def _hang() -> None:
    await asyncio.Event().wait()


def test_no_hub_is_asked_and_nothing_is_traced() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["LANGSMITH_TRACING"] == "false"
