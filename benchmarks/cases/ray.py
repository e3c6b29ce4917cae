"""Replicas on a Ray cluster of three nodes on this machine, against the engine in this process.

What a handle costs a call; 300 asks of 40 clients, each with an adapter, while a node is killed:
what is lost, what is answered by a wrong adapter, how soon it is as fast as before, and how many
recalls find their adapter.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.ray_nodes import (
    Answered,
    Nodes,
    ask_all,
    fill,
    in_turn,
    nodes,
    recovery_seconds,
)
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.protocols import GenerationRequest, PolicyModel

ASKS, CLIENTS, TOPICS = 300, 40, 24
MOST_MS, MOST_RECOVERY_SECONDS, LEAST_LOCALITY = 5.0, 30.0, 0.9
CALLS = 100
"""Calls in one measurement of a handle, of which the median counts."""


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[Case | dict[str, Any]]]:
    """Yield the rows."""
    with ExitStack() as stack:
        config = setup.config(
            stack.enter_context(scratch(setup)),
            reward="self-confidence",
            ray={"min_replicas": 3, "cpus": 0.6},
        )
        cluster = stack.enter_context(nodes(3))
        here = stack.enter_context(open_local(config))
        yield _rows(config, cluster, here)


def _rows(
    config: InstallationConfig, cluster: Nodes, here: LocalRttc
) -> Iterator[Case | dict[str, Any]]:
    with open_local(config, ray="auto") as away:
        yield from _handles(away.policy.model, here.policy.model)
        yield from _loss(cluster, away, here)


def _handles(away: PolicyModel, here: PolicyModel) -> Iterator[Case]:
    turns: Any = ({"role": "user", "content": "Which river is longest?"},)
    one = GenerationRequest(messages=turns, max_new_tokens=1)

    async def counted(model: PolicyModel) -> None:
        await model.count_tokens(turns)

    async def answered(model: PolicyModel) -> None:
        await model.generate([one])

    def case(name: str, work: Callable[[PolicyModel], Any]) -> Case:
        return Case(
            name=f"{name}, by handle",
            ours=lambda: _median_ms(work, away) - _median_ms(work, here),
            peer=lambda: _median_ms(work, here),
            peer_name="the engine in this process; ours is what the handle adds",
            unit="ms",
            most_ours=MOST_MS,
        )

    yield case("a prompt counted", counted)
    yield case("an answer of one token", answered)


def _median_ms(work: Callable[[PolicyModel], Any], model: PolicyModel) -> float:
    async def measured() -> float:
        taken: list[float] = []
        for _ in range(CALLS):
            began = time.perf_counter()
            await work(model)
            taken.append(time.perf_counter() - began)
        return 1000 * statistics.median(taken)

    return asyncio.run(measured())


def _loss(cluster: Nodes, away: LocalRttc, here: LocalRttc) -> Iterator[dict[str, Any]]:
    questions = asyncio.run(fill(away, TOPICS))
    tell(f"ray: training {TOPICS} adapters")
    asyncio.run(ask_all(away, questions, clients=2))
    solo, _ = asyncio.run(ask_all(here, questions, clients=1))
    expected = {one.question: one for one in solo}
    figures = away.policy.adapter_calls
    assert figures is not None
    before = figures()
    tell(f"ray: {ASKS} asks of {CLIENTS} clients, a node is killed after {ASKS // 2}")
    asked, lost_at = asyncio.run(
        ask_all(
            away,
            in_turn(questions, ASKS),
            clients=CLIENTS,
            after=ASKS // 2,
            ring=cluster.lose,
        )
    )
    assert lost_at is not None
    came = {name: number - before[name] for name, number in figures().items()}
    lost = [one for one in asked if one.answer is None]
    wrong = [one for one in asked if one.answer is not None and _differs(one, expected)]
    for one in [*lost, *wrong][:5]:
        tell(f"ray: {one}")
    told = f"{len(lost)} lost, {len(wrong)} wrong of {len(asked)}; {_spread(asked, lost_at)}"
    yield _row(
        f"{ASKS} asks of {CLIENTS} clients, a node killed: recovery",
        recovery_seconds(asked, lost_at),
        told,
        unit="s",
        most_ours=MOST_RECOVERY_SECONDS,
    )
    recalls = came["recall_resident"] + came["recall_loaded"]
    yield _row(
        "recalls that find their adapter in the replica",
        came["recall_resident"] / recalls,
        f"{recalls:g} recalls; {came}",
        unit="share",
        more_is_better=True,
        least_ratio=LEAST_LOCALITY,
    )


def _differs(one: Answered, expected: dict[str, Answered]) -> bool:
    solo = expected[one.question]
    return (one.answer, one.adapter) != (solo.answer, solo.adapter)


def _spread(asked: Sequence[Answered], lost_at: float) -> str:
    before = sorted(one.seconds for one in asked if one.began + one.seconds < lost_at)
    after = sorted(one.seconds for one in asked if one.began >= lost_at)
    return ", ".join(
        f"p50 {part[len(part) // 2]:.2f} p95 {part[int(0.95 * len(part))]:.2f} s {name}"
        for name, part in (("before", before), ("asked after", after))
        if part
    )


def _row(name: str, value: float, told: str, **more: Any) -> dict[str, Any]:
    """Return the row of a figure that has no other side but its aim."""
    case = Case(name=name, ours=lambda: value, peer=lambda: 1.0, peer_name=told, **more)
    return row_of(case, [(value, 1.0)])
