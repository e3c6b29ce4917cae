"""Cancelling a run, the sync face in odd places, and many runs at once."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from graph_runs import QUERY, arms, ask, run, until
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.protocols import Generation, GenerationRequest
from rttc_graph.run.scope import run_blocking
from rttc_graph.state import Candidate

FOREVER = 3_600.0


def hanging_in(what: str) -> Parts:
    parts = Parts()
    getattr(parts, what).seconds = FOREVER
    return parts


def begun(parts: Parts) -> bool:
    """Tell whether the part that hangs has been called."""
    hangs_in_training = bool(parts.trainer.seconds)
    return bool(parts.trainer.trainings if hangs_in_training else parts.policy_model.requests)


def is_waiting(thread: int) -> bool:
    """Tell whether a thread waits for another one."""
    return sys._current_frames()[thread].f_code is threading.Condition.wait.__code__  # pyright: ignore[reportPrivateUsage]  # the documented way to see a stack


HANGING = pytest.mark.parametrize("what", ["policy_model", "trainer"])


@HANGING
async def test_a_cancelled_run_stops_the_work(what: str) -> None:
    parts = hanging_in(what)
    task = asyncio.create_task(ask(parts))
    await until(lambda: begun(parts))

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert getattr(parts, what).cancelled == 1
    assert parts.ledger_store.runs == []
    assert parts.cache.states == []


@HANGING
async def test_a_timeout_of_the_host_stops_the_work(what: str) -> None:
    parts = hanging_in(what)
    limit = asyncio.timeout(None)

    async def host() -> None:
        async with limit:
            await ask(parts)

    task = asyncio.create_task(host())
    await until(lambda: begun(parts))
    limit.reschedule(asyncio.get_running_loop().time())

    with pytest.raises(TimeoutError):
        await task
    assert getattr(parts, what).cancelled == 1


@HANGING
def test_an_interrupt_from_the_keyboard_stops_the_work_of_the_sync_face(what: str) -> None:
    parts = hanging_in(what)
    graph = create_rttc_graph(**parts.parts())
    # a test run in the background of a shell inherits that the signal is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.get_ident()

    def press() -> None:
        # in between, the main thread may still be handing the work over
        asyncio.run(until(lambda: begun(parts) and is_waiting(main)))
        signal.pthread_kill(main, signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            graph.invoke({"query": QUERY})
        finger.join()
    finally:
        signal.signal(signal.SIGINT, before)

    asyncio.run(until(lambda: getattr(parts, what).cancelled == 1))


def test_the_sync_face_works_inside_a_running_loop() -> None:
    """As in a Jupyter cell, which runs on the kernel's loop."""
    graph = create_rttc_graph(**Parts().rewarding(direct=0.1, rag=0.95).parts())

    async def cell() -> Any:
        return graph.invoke({"query": QUERY})

    assert asyncio.run(cell())["answer"] == "rag"


def test_the_sync_face_works_without_any_loop() -> None:
    graph = create_rttc_graph(**Parts().parts())
    assert graph.invoke({"query": QUERY})["arm"] == "direct"


def test_the_sync_face_on_its_own_loop_is_refused_instead_of_hanging() -> None:
    """A part of the graph that itself calls the sync face of a graph."""
    inner = create_rttc_graph(**Parts().parts())
    parts: Any = Parts().parts()

    async def score(query: str, candidates: Sequence[Candidate]) -> list[float]:
        inner.invoke({"query": query})
        return [1.0 for _ in candidates]

    parts["reward_model"].score = score
    output = create_rttc_graph(**parts).invoke({"query": QUERY})

    failed = next(e for e in output["ledger"] if e["event"] == "failed")
    assert "await it" in failed["detail"]["error"]


def test_context_variables_of_the_caller_reach_the_parts() -> None:
    """Tracing and interrupts of the host stand in them."""
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []
    parts: Any = Parts().parts()

    async def score(query: str, candidates: Sequence[Candidate]) -> list[float]:
        del query
        seen.append(user.get())
        return [1.0 for _ in candidates]

    parts["reward_model"].score = score
    user.set("ada")
    create_rttc_graph(**parts).invoke({"query": QUERY})
    assert seen == ["ada"]


def test_what_a_coroutine_returns_and_raises_passes_through_the_sync_face() -> None:
    async def fail() -> None:
        raise LookupError("not there")

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert run_blocking(double(21)) == 42
    with pytest.raises(LookupError, match="not there"):
        run_blocking(fail())


class Echo:
    """A policy model that answers with the question, out of turn with the other runs."""

    name = "echo"

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        return len(messages)

    async def context_tokens(self) -> None:
        return None

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        del deadline
        question = requests[0].messages[-1]["content"]
        for _ in range(hash(question) % 7):
            await asyncio.sleep(0)
        return [
            Generation(
                text=f"{question} by {'adapter' if requests[0].adapter else 'prompt'}",
                prompt_tokens=1,
                completion_tokens=1,
                mean_logprob=None,
                finish_reason="stop",
            )
        ]


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
async def test_fifty_runs_at_once_do_not_mix(face: Any) -> None:
    parts = Parts()
    made = parts.parts()
    made["policy_model"] = Echo()
    graph = create_rttc_graph(**made)

    def settings(number: int) -> RttcSettings:
        return RttcSettings(tenant=f"tenant {number}", tau_r=number % 2)

    outputs = await asyncio.gather(
        *(run(graph, {"query": f"q{n}"}, face, context=settings(n)) for n in range(50))
    )

    for number, output in enumerate(outputs):
        # a threshold of 0 accepts the first answer, one of 1 runs every arm
        assert arms(output) == (["direct", "rag", "ttt"] if number % 2 else ["direct"])
        assert {c["answer"].split()[0] for c in output["candidates"]} == {f"q{number}"}
    tenants = {state.query: state.tenant for state in parts.cache.states}
    assert tenants == {f"q{n}": f"tenant {n}" for n in range(1, 50, 2)}


FORKING_SERVER = """
import os, signal, sys
from scripted_parts import Parts
from rttc_graph import create_rttc_graph

graph = create_rttc_graph(**Parts().parts())
graph.invoke({"query": "before the fork"})
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(20)
os._exit(0 if graph.invoke({"query": "after it"})["arm"] == "direct" else 1)
"""


def test_the_sync_face_works_in_a_forked_process() -> None:
    """A server that loads first and then forks: the thread behind the sync face stays behind."""
    tests = Path(__file__).parents[1] / "support"
    ended = subprocess.run(
        [sys.executable, "-c", FORKING_SERVER], cwd=tests, timeout=60, check=False
    )
    assert ended.returncode == 0
