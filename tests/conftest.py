"""Fences around every test: no network but loopback, no model hub, no tracing, no blocked loop."""

from __future__ import annotations

import functools
import gc
import inspect
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest
from blockbuster import blockbuster_ctx

if TYPE_CHECKING:  # nothing of ours or of a vendor's may be imported before the lines below
    from graph_runs import Face

os.environ.update(
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    LANGCHAIN_TRACING_V2="false",
    LANGSMITH_TRACING="false",
    TOKENIZERS_PARALLELISM="false",
    TORCHDYNAMO_DISABLE="1",  # or bitsandbytes, which peft imports, imports the whole compiler
    TRANSFORMERS_OFFLINE="1",
)
# Read once, when torch is imported: sums in one order, and no more threads than the machine has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

pytest_plugins = ["installations", "postgres_fixtures", "tiny_adapters", "tiny_models"]


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Read the bundle of certificates once, and not for each client: 20 ms, some thousand times."""
    with pytest.MonkeyPatch.context() as patch:
        import httpx  # noqa: PLC0415  # behind the environment above

        read = functools.cache(httpx.create_ssl_context)
        patch.setattr("httpx._transports.default.create_ssl_context", read)
        yield


@pytest.hookimpl(tryfirst=True)  # before pytest-socket reads its options
def pytest_configure(config: pytest.Config) -> None:
    config.option.allow_hosts = "127.0.0.1,::1,localhost"
    config.option.allow_unix_socket = True
    config.addinivalue_line(
        "markers", "blocking_allowed: an async test that calls blocking code of ours on its loop"
    )


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all modules and tests again and again."""
    gc.freeze()


_OURS = ["rttc_graph", "rttc_graph.nodes", "rttc_graph.integrations"]


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which code of ours blocks an event loop, its own or the sync face's."""
    waits = inspect.iscoroutinefunction(getattr(request, "function", None))
    if not waits or request.node.get_closest_marker("blocking_allowed"):
        yield
        return
    gc.disable()  # what another test has left may block where it is finalised
    try:
        with blockbuster_ctx(_OURS) as fence:
            lock = fence.functions["threading.Lock.acquire"]
            lock.can_block_in("coverage/collector.py", "lock_data")
            yield
    finally:
        gc.enable()


@pytest.fixture(params=["invoke", "ainvoke"])
def face(request: pytest.FixtureRequest) -> Face:
    """Run the test once with the sync and once with the async face of the graph."""
    return cast("Face", request.param)
