"""Two replicas of a policy model on a Ray cluster against one, each on one torch thread.

A replica is one process with one thread for its products, so two of them can use two cores where
one cannot. Clients ask one question after the other, enough of them to fill the batches of both;
the answers per second count. It shows something only with a model that has much to compute, and on
a machine that has nothing else to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.ray_nodes import nodes
from rttc_graph.installation.local import open_local
from rttc_graph.integrations.ray_serve.ray_settings import RaySettings
from rttc_graph.protocols import GenerationRequest, PolicyModel

LEAST_SPEED_UP = 1.7


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[dict[str, Any]]]:
    """Yield the row, after each pair."""
    with ExitStack() as stack:
        config = setup.config(stack.enter_context(scratch(setup)), reward="self-confidence")
        stack.enter_context(nodes(1))
        sides: list[PolicyModel] = []
        for count in (2, 1):
            tell(f"replicas: starting {count}")
            ray = RaySettings(name=f"of-{count}", min_replicas=count, trainers=0, cpus=0.1)
            told = config.model_copy(update={"ray": ray})
            sides.append(stack.enter_context(open_local(told, ray="auto")).policy.model)
        yield _rows(setup, *sides)


def _rows(setup: Setup, two: PolicyModel, one: PolicyModel) -> Iterator[dict[str, Any]]:
    found: list[tuple[float, float]] = []
    for side in (two, one):
        _answers_a_second(setup, side)  # a warm-up
    for number in range(setup.pairs):
        tell(f"replicas: pair {number + 1} of {setup.pairs}")
        found.append((_answers_a_second(setup, two), _answers_a_second(setup, one)))
        yield row_of(
            Case(
                name=f"answers a second of {setup.clients} clients, two replicas",
                ours=lambda: 0.0,
                peer=lambda: 0.0,
                peer_name="one replica",
                unit="1/s",
                more_is_better=True,
                least_ratio=LEAST_SPEED_UP,
            ),
            found,
        )


def _answers_a_second(setup: Setup, model: PolicyModel) -> float:
    """Return the pace of the middle half of the answers: at both ends places are empty."""
    ended: list[float] = []

    async def client(number: int) -> None:
        for turn in range(setup.asks):
            text = f"Name {2 + number} rivers that begin with {chr(97 + turn % 26)}."
            turns: Any = ({"role": "user", "content": text},)
            # Of many lengths, so that rows do not end all at once.
            tokens = setup.tokens * (8 + (5 * number + 3 * turn) % 17) // 16
            await model.generate([GenerationRequest(messages=turns, max_new_tokens=tokens)])
            ended.append(time.perf_counter())

    async def all_of_them() -> None:
        await asyncio.gather(*(client(number) for number in range(setup.clients)))

    asyncio.run(all_of_them())
    first, last = len(ended) // 4, 3 * len(ended) // 4
    return (last - first) / (ended[last] - ended[first])
