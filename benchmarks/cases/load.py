"""Plain asks beside panels, against the same asks alone, on a server in a process of its own.

Panels of 16 are asked for at once, and clients ask plain questions one after the other. What counts
is the 95th percentile of the plain asks, that no answer is lost, and that no panel exceeds its
budget.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import httpx

from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.prompts import prompts

PANELS = 20
ANSWERS = 16
ASKS = 200
CLIENTS = 8
LEAST_RATIO = 1 / 3
PANEL_TOKENS = 16_000
"""Budget of a panel; it takes some 2,000."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a server made of one request."""

    seconds: float
    status: int
    report: dict[str, Any]
    """The run's report, `rttc` in the body; empty where there is none."""
    refused: int = 0
    """Times that the server said it was busy; the wait until the next try is in `seconds`."""


def client_of(url: str) -> httpx.Client:
    """Return a client of a server for all threads: one a question reads certificates for 20 ms."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(base_url=url, timeout=600.0, limits=limits)


def ask(client: httpx.Client, question: str, *, tokens: int, **settings: Any) -> Asked:
    """Ask a server's `/v1`, and again where it says that it is busy, as clients do."""
    body = {
        "model": "rttc",
        "messages": [{"role": "user", "content": question}],
        "rttc": {"max_new_tokens": tokens, **settings},
    }
    began, refused = time.perf_counter(), 0
    while True:
        answer = client.post("/v1/chat/completions", json=body)
        if answer.status_code != 429:
            break
        refused += 1
        time.sleep(float(answer.headers["retry-after"]))
    seconds = time.perf_counter() - began
    report = answer.json().get("rttc") if answer.status_code == 200 else None
    return Asked(seconds, answer.status_code, report or {}, refused)


def panel(client: httpx.Client, question: str, *, tokens: int) -> Asked:
    """Ask for a panel."""
    return ask(
        client,
        question,
        tokens=tokens,
        policy="majority",
        search_n=ANSWERS,
        search_from=["direct"],
        budget_tokens=PANEL_TOKENS,
    )


def plain(
    client: httpx.Client, questions: Iterator[str], *, count: int, tokens: int
) -> list[Asked]:
    """Ask plain questions, each of the clients one after the other."""
    asked = list(itertools.islice(questions, count))
    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(partial(ask, client, tokens=tokens, policy="direct"), asked))


def p95(asked: Sequence[Asked]) -> float:
    """Return the 95th percentile of the seconds."""
    return sorted(one.seconds for one in asked)[int(0.95 * len(asked))]


class Beside(NamedTuple):
    """Plain asks, and the panels that were asked for at once beside them."""

    plain: list[Asked]
    panels: list[Asked]
    early: int
    """Panels that were answered before the last plain ask was."""


def beside_panels(
    client: httpx.Client, questions: Iterator[str], *, panels: int, count: int, tokens: int
) -> Beside:
    """Ask for panels at once, and plain questions beside them."""
    with ThreadPoolExecutor(panels) as pool:
        waiting = [
            pool.submit(panel, client, next(questions), tokens=tokens) for _ in range(panels)
        ]
        asks = plain(client, questions, count=count, tokens=tokens)
        early = sum(one.done() for one in waiting)
        return Beside(asks, [one.result() for one in waiting], early)


def is_within_budget(one: Asked) -> bool:
    """Tell whether a panel was answered in full, with no more than it was given."""
    (kept,) = one.report["candidates"]
    (stopped,) = (entry for entry in one.report["ledger"] if entry["event"] == "stopped")
    tokens = kept["prompt_tokens"] + kept["completion_tokens"]
    return bool(tokens <= PANEL_TOKENS) and sum(stopped["detail"]["draws"].values()) == ANSWERS


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[dict[str, Any]]]:
    """Yield the rows."""
    with server(setup) as url, client_of(url) as client:
        yield _rows(client, setup)


def _rows(client: httpx.Client, setup: Setup) -> Iterator[dict[str, Any]]:
    questions, found = endless(), list[tuple[float, float]]()
    lost = exceeded = 0
    plain(client, questions, count=CLIENTS, tokens=setup.tokens)
    for number in range(1, 1 + setup.pairs):
        tell(f"load: {number} of {setup.pairs}")
        alone = plain(client, questions, count=ASKS, tokens=setup.tokens)
        beside, panels, _ = beside_panels(
            client, questions, panels=PANELS, count=ASKS, tokens=setup.tokens
        )
        found.append((p95(beside), p95(alone)))
        lost += sum(one.status != 200 for one in [*alone, *beside, *panels])
        exceeded += sum(not is_within_budget(one) for one in panels if one.status == 200)
        yield row_of(
            Case(
                name=f"{ASKS} asks beside {PANELS} panels, p95",
                ours=lambda: 0.0,
                peer=lambda: 0.0,
                peer_name=f"the same without panels; {lost} lost, {exceeded} over the budget",
                unit="s",
                least_ratio=LEAST_RATIO,
            ),
            found,
        )


def endless() -> Iterator[str]:
    """Yield questions, none of them twice: there are fewer than five rounds ask."""
    for number in itertools.count():
        for question in prompts():
            yield f"In part {number}: {question}" if number else question


@contextmanager
def server(setup: Setup, *, queue: int = PANELS + CLIENTS) -> Generator[str]:
    """Start `rttc serve` in a process of its own, on one torch thread, and yield its address."""
    command = [sys.executable, "-m", "rttc_graph", "serve", "--port", "0"]
    limits = ["--queue", str(queue), "--run-seconds", "600"]
    env = {
        **os.environ,
        "RTTC_HOME": str(setup.home),
        "RTTC_MODEL": str(setup.model),
        "RTTC_THREADS": "1",
    }
    with subprocess.Popen([*command, *limits], env=env, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            yield run.stdout.readline().split()[2].rstrip(",")
        finally:
            run.terminate()
            run.communicate(timeout=60)
