"""Calls by handle, settings and addresses of a Ray cluster, without Ray."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from rttc_graph.cli.command_group import bare_option, command_group
from rttc_graph.errors import BudgetExceeded, ConfigurationError, PolicyModelError
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.concurrency.loop_thread import LoopThread
from rttc_graph.integrations.ray_serve import cluster, deploying, handle_calls, lost_nodes
from rttc_graph.integrations.ray_serve.cluster import open_cluster
from rttc_graph.integrations.ray_serve.deploying import PartFactories
from rttc_graph.integrations.ray_serve.embedder_replica import EmbedderFacts
from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls
from rttc_graph.integrations.ray_serve.ray_settings import RaySettings
from rttc_graph.protocols import MeasuringEmbedder


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("traceback of the replica")
        self.cause = cause


class RayServeException(Exception):
    pass


class RpcError(Exception):
    pass


class BackPressureError(RayServeException):
    pass


class DeploymentUnavailableError(RayServeException):
    pass


class Response:
    """What a handle gives for a call: does its work when it is awaited or gone through."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._work().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        found: AsyncIterator[Any] = self._work()
        return found

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A handle whose calls do, in turn, what the test says."""

    def __init__(self, *turns: Callable[[], Any]) -> None:
        self._turns = list(turns)
        self.asked: list[dict[str, Any]] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.responses: list[Response] = []

    def options(self, **given: Any) -> Handle:
        if given:
            self.asked.append(given)
        return self

    def remote(self, *arguments: Any) -> Response:
        self.arguments.append(arguments)
        turn = self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]
        self.responses.append(Response(turn))
        return self.responses[-1]


def raising(error: BaseException) -> Callable[[], Any]:
    async def work() -> Any:
        raise error

    return work


def giving(result: Any) -> Callable[[], Any]:
    async def work() -> Any:
        return result

    return work


class FakeServe:
    """Ray Serve with one application, in one state until it is deployed, and then running."""

    def __init__(self, status: str | None, handle: Handle) -> None:
        self._status = status
        self._handle = handle
        self.deployed: list[str] = []

    def status(self) -> Any:
        if self.deployed:
            self._status = "RUNNING"
        if self._status is None:
            return SimpleNamespace(applications={})
        found = SimpleNamespace(status=ApplicationStatus(self._status))
        return SimpleNamespace(applications={"rttc-embedder": found})

    def get_app_handle(self, _name: str) -> Handle:
        return self._handle

    def deployment(self, *_: Any, **__: Any) -> FakeServe:
        return self

    def bind(self, *_: Any) -> None:
        """Take the arguments."""

    def RunTarget(self, *, name: str, **_: Any) -> str:
        return name

    def run_many(self, names: list[str], **_: Any) -> None:
        self.deployed += names


class ApplicationStatus(StrEnum):
    RUNNING = "RUNNING"
    DEPLOYING = "DEPLOYING"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    DELETING = "DELETING"


@pytest.fixture
def nodes() -> list[dict[str, Any]]:
    return [{"NodeID": name, "Alive": name != "long gone"} for name in ("a", "b", "long gone")]


@pytest.fixture(autouse=True)
def fake_ray(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]]) -> None:
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    ray = SimpleNamespace(exceptions=exceptions, nodes=lambda: [*nodes])
    serve = SimpleNamespace(
        RayServeException=RayServeException,
        BackPressureError=BackPressureError,
        DeploymentUnavailableError=DeploymentUnavailableError,
    )
    monkeypatch.setattr(handle_calls, "ray_library", lambda: ray)
    monkeypatch.setattr(lost_nodes, "ray_library", lambda: ray)
    monkeypatch.setattr(handle_calls, "rpc_error", lambda: RpcError)
    monkeypatch.setattr(handle_calls, "serve_library", lambda: SimpleNamespace(exceptions=serve))
    monkeypatch.setattr(handle_calls, "_FIRST_PAUSE_SECONDS", 0.0)


def calls_of(handle: Handle) -> HandleCalls:
    loop = LoopThread("rttc-test", workers=1)
    return HandleCalls(handle, what="the policy model", error=PolicyModelError, loop=loop)


async def test_a_call_goes_to_the_holder_of_its_adapter() -> None:
    handle = Handle(giving(3))
    assert await calls_of(handle).call("count_tokens", "a", key="k") == 3
    assert handle.asked == [{"method_name": "count_tokens", "multiplexed_model_id": "k"}]
    assert handle.arguments == [("a",)]


@pytest.mark.parametrize(
    "lost", [RayError("node died"), RayServeException("gone"), RpcError("stream reset")]
)
async def test_a_lost_replica_is_followed_by_any_other(lost: Exception) -> None:
    handle = Handle(raising(lost), raising(lost), giving("answer"))
    assert await calls_of(handle).call("generate", key="k") == "answer"
    assert [one["multiplexed_model_id"] for one in handle.asked] == ["k", "", ""]


async def test_a_call_to_a_machine_that_vanishes_is_made_again(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]]
) -> None:
    """Nobody ends such a call: no connection is closed."""
    monkeypatch.setattr(handle_calls, "_LOOK_SECONDS", 0.02)
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def forever() -> None:
        loop.call_soon_threadsafe(began.set)
        await asyncio.sleep(60)

    handle = Handle(forever, giving("answer"))
    task = asyncio.ensure_future(calls_of(handle).call("generate", key="k"))
    await began.wait()
    await asyncio.sleep(0.05)
    assert not task.done()
    nodes[1]["Alive"] = False
    assert await asyncio.wait_for(task, 5) == "answer"
    assert handle.responses[0].is_cancelled
    assert [one["multiplexed_model_id"] for one in handle.asked] == ["k", ""]


async def test_replicas_that_all_die_are_an_error_with_a_way_out() -> None:
    handle = Handle(raising(RayError("node died\nlong trace")))
    with pytest.raises(
        PolicyModelError, match=r"8 times in mid-call.*RayError node died\. Ask"
    ) as e:
        await calls_of(handle).call("generate")
    assert e.value.retryable
    assert len(handle.asked) == 8


async def test_an_error_of_the_replica_is_raised_as_it_is() -> None:
    handle = Handle(raising(RayTaskError(BudgetExceeded("no time"))))
    with pytest.raises(BudgetExceeded, match="no time"):
        await calls_of(handle).call("weigh")
    assert len(handle.asked) == 1


@pytest.mark.parametrize(
    ("error", "words", "retryable"),
    [
        (RayTaskError(KeyError("x")), "the policy model failed: 'x'", False),
        (BackPressureError(), "as much to do as it takes", True),
        (DeploymentUnavailableError("no"), "is not running: no; look at", False),
    ],
)
async def test_other_failures_are_of_the_part(
    error: Exception, words: str, retryable: bool
) -> None:
    with pytest.raises(PolicyModelError, match=words) as caught:
        await calls_of(Handle(raising(error))).call("generate")
    assert caught.value.retryable is retryable


async def test_cancelling_cancels_on_the_replica() -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def forever() -> None:
        loop.call_soon_threadsafe(began.set)
        await asyncio.sleep(60)

    handle = Handle(forever)
    task = asyncio.ensure_future(calls_of(handle).call("generate"))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if handle.responses[0].is_cancelled:
            break
        await asyncio.sleep(0.01)
    assert handle.responses[0].is_cancelled


async def test_a_call_that_the_replica_ends_is_made_again() -> None:
    """Serve tells a replica that shuts down as a cancellation, which is not the caller's."""
    handle = Handle(raising(asyncio.CancelledError()), giving(1))
    assert await calls_of(handle).call("generate") == 1


async def test_seconds_left_travel_and_the_call_ends_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handle_calls, "GRACE_SECONDS", 0.05)

    async def forever() -> None:
        await asyncio.sleep(60)

    handle = Handle(forever)
    with pytest.raises(PolicyModelError, match="gave no answer within"):
        await calls_of(handle).call_within(time.monotonic() + 0.05, "generate", "a")
    assert 0 < handle.arguments[0][1] <= 0.05
    assert handle.responses[0].is_cancelled


async def test_items_are_handed_over_and_the_last_one_returned() -> None:
    async def lost_after_one() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise RayError("node died")

    async def whole() -> AsyncIterator[int]:
        for number in (1, 2, 3):
            yield number

    handle, seen = Handle(lost_after_one, whole), list[int]()
    last = await calls_of(handle).follow_within(None, "train", on_item=seen.append)
    assert (last, seen) == (3, [1, 1, 2])
    assert handle.arguments == [(None,), (None,)]


@pytest.mark.parametrize(
    ("status", "made_from", "deployed"),
    [
        ("RUNNING", "these", []),
        ("UNHEALTHY", "these", []),  # a replica was lost; the others must not be replaced too
        ("DEPLOYING", "these", []),
        ("RUNNING", "others", ["rttc-embedder"]),
        ("UNHEALTHY", "others", ["rttc-embedder"]),
        ("DEPLOY_FAILED", "these", ["rttc-embedder"]),
        ("DELETING", "these", ["rttc-embedder"]),
        (None, "these", ["rttc-embedder"]),
    ],
)
def test_what_answers_from_the_same_settings_is_not_deployed_again(
    status: str | None, made_from: str, deployed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = EmbedderFacts(made_from=made_from, name="e", fingerprint="f", dimension=2)
    cluster_of_one = FakeServe(status, Handle(giving(facts)))
    monkeypatch.setattr(deploying, "serve_library", lambda: cluster_of_one)
    factories = PartFactories(embedder=cast("Callable[[], MeasuringEmbedder]", dict))
    with deploying.deploy(factories, RaySettings(), made_from="these") as parts:
        assert parts.embedder is not None
    assert cluster_of_one.deployed == deployed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_replicas": 0}, "ray.min_replicas=0 must be above 0"),
        ({"gpus": -0.5}, "ray.gpus=-0.5 must be 0 or more"),
        ({"min_replicas": 3, "max_replicas": 2}, "ray.max_replicas=2 is below"),
        ({"name": ""}, "ray.name"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RaySettings(**given)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTTC_RAY__MIN_REPLICAS", "2")
    assert load_config(ray={"gpus": 0.5}).ray == RaySettings(min_replicas=2, gpus=0.5)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"'rttc-graph\[ray\]'"), open_cluster():
        pass


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("no node here\ntrace")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setattr(cluster, "ray_library", lambda: ray)
    monkeypatch.setattr(cluster, "serve_library", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("head", "'head' is no address: give the head's HOST:PORT"),
        ("ray://head:10001", "address of Ray Client"),
        ("auto", "join the Ray cluster at 'auto': no node here. A machine that joins"),
        ("here", "start a Ray cluster on this machine: no node here"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(address: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words), open_cluster(address):
        pass


@pytest.mark.usefixtures("unconnected")
def test_a_port_that_nobody_listens_on_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with (
        pytest.raises(ConfigurationError, match=f"no Ray cluster answers at '127.0.0.1:{port}'"),
        open_cluster(f"127.0.0.1:{port}"),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "ray", "port"),
    [
        ([], None, 1),
        (["--ray"], "here", 1),
        (["--ray", "--port", "3"], "here", 3),
        (["--ray", "head:1", "--port", "3"], "head:1", 3),
        (["--ray=head:1"], "head:1", 1),
    ],
)
def test_the_flag_may_stand_without_an_address(
    arguments: list[str], ray: str | None, port: int
) -> None:
    seen: list[tuple[str | None, int]] = []
    app = command_group()

    @app.command("serve", cls=bare_option("--ray", "here"))
    def _serve(ray: str | None = None, port: int = 1) -> None:
        seen.append((ray, port))

    app.command("other")(lambda: None)
    typer.main.get_command(app)(["serve", *arguments], standalone_mode=False)
    assert seen == [(ray, port)]
