"""The exported graphs in a real `langgraph dev`, driven as Studio drives them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from installations import described_installation
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_server import RestartingServer, ServedGraphs
from postgres_fixtures import cloned

from rttc_graph.cli.app import main
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    CacheStats,
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres

pytestmark = [pytest.mark.timeout(300)]

OF_THE_MODEL = ["direct", "rag", "ttt"]
QUESTION = {"query": "what is 7 plus 8", "domain": "sums"}
ROWS = [
    {"question": f"what is {n} plus {n}", "answer": f"the sum is {2 * n}", "domain": "sums"}
    for n in range(64)
]


@pytest.fixture(scope="module")
def dsn(postgres_server: EmbeddedPostgres, postgres_template: str) -> Iterator[str]:
    with cloned(postgres_server.dsn, postgres_template) as found:
        yield found


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    dsn: str,
    tiny_model_path: Path,
    tiny_embedder_path: Path,
) -> ServedGraphs:
    """Graphs over a knowledge base with samples in it."""
    folder = tmp_path_factory.mktemp("served")
    env = described_installation(folder, dsn, tiny_model_path, tiny_embedder_path)
    solved = folder / "solved.jsonl"
    solved.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.described.items():
            patch.setenv(name, value)
        assert main(["kb", "ingest", str(solved), "--json"]) == 0
    return ServedGraphs(folder=folder, env=env.variables)


@pytest.fixture(scope="module")
def server(served: ServedGraphs) -> Iterator[RestartingServer]:
    found = served.restarting()
    yield found
    found.stop()


@pytest.fixture
def client(server: RestartingServer) -> SyncLangGraphClient:
    return server.client


def new_thread(client: SyncLangGraphClient) -> str:
    return str(client.threads.create()["thread_id"])


def ask(
    client: SyncLangGraphClient, thread: str, given: Any = QUESTION, **more: Any
) -> dict[str, Any]:
    """Run the graph to its end, or to where it waits, and return the values of its output."""
    return cast("dict[str, Any]", client.runs.wait(thread, "rttc", input=given, **more))


def state_of(client: SyncLangGraphClient, thread: str) -> dict[str, Any]:
    return cast("dict[str, Any]", client.threads.get_state(thread)["values"])


def arms(values: Mapping[str, Any]) -> list[str]:
    return [candidate["arm"] for candidate in values["candidates"]]


def test_studio_gets_nodes_with_their_meaning_and_settings_with_their_bounds(
    client: SyncLangGraphClient,
) -> None:
    (assistant,) = client.assistants.search(graph_id="rttc")
    drawn = cast("dict[str, Any]", client.assistants.get_graph(assistant["assistant_id"]))
    does = {n["id"]: n.get("metadata", {}).get("does") for n in drawn["nodes"]}
    machine = ["generate", "nearest", "panel_round", "prepare", "rag_generate", "retrieve"]
    machine += ["reward_judge", "ttt_adapt"]
    assert sorted(name for name in does if not name.startswith("__")) == machine
    assert all(does[name] for name in machine)

    schemas = cast("dict[str, Any]", client.assistants.get_schemas(assistant["assistant_id"]))
    fields = schemas["context_schema"]["properties"]
    assert (fields["tau_r"]["minimum"], fields["tau_r"]["maximum"]) == (0, 1)
    assert fields["tau_r"]["langgraph_nodes"] == ["reward_judge"]
    assert all(field["description"] and field["langgraph_nodes"] for field in fields.values())
    assert schemas["input_schema"]["properties"].keys() >= {"query", "domain", "messages"}


def test_every_mode_of_streaming_tells_of_decisions_and_training_steps(
    client: SyncLangGraphClient,
) -> None:
    modes = ["values", "updates", "custom", "debug", "tasks", "checkpoints", "messages-tuple"]
    told = list(
        client.runs.stream(
            new_thread(client),
            "rttc",
            input=QUESTION,
            context={"policy": "ttt", "use_cache": False},
            stream_mode=cast("Any", modes),
        )
    )

    assert not [part.data for part in told if part.event == "error"]
    seen = {part.event for part in told}
    assert {"values", "updates", "custom", "debug", "tasks", "checkpoints"} <= seen
    custom = [cast("dict[str, Any]", part.data) for part in told if part.event == "custom"]
    assert [event["step"] for event in custom if event["event"] == "ttt_step"] == [1, 2]
    entries = [event["entry"]["event"] for event in custom if event["event"] == "ledger"]
    assert {"trained", "answered", "judged", "decided"} <= set(entries)


def test_a_fork_after_the_judge_takes_the_edited_way(client: SyncLangGraphClient) -> None:
    thread = new_thread(client)
    context = {"tau_r": 1.0, "use_cache": False, "arms": OF_THE_MODEL}
    assert arms(ask(client, thread, context=context)) == OF_THE_MODEL
    history = client.threads.get_history(thread, limit=50)
    before_rag = next(state for state in history if state["next"] == ["rag_generate"])

    edited = client.threads.update_state(
        thread,
        {"decision": "ttt_adapt", "attempt": "ttt"},
        as_node="reward_judge",
        checkpoint=before_rag["checkpoint"],
    )
    forked = ask(client, thread, None, checkpoint=edited["checkpoint"], context=context)

    assert arms(forked) == ["direct", "ttt", "rag"]


def test_a_person_is_asked_and_the_run_goes_on_with_the_answer(
    client: SyncLangGraphClient,
) -> None:
    thread = new_thread(client)
    context: dict[str, Any] = {"tau_r": 1.0, "use_cache": False, "arms": OF_THE_MODEL}
    context["ask_before_training"] = True
    ask(client, thread, context=context)
    (task,) = client.threads.get_state(thread)["tasks"]
    (question,) = cast("Any", task)["interrupts"]
    assert question["value"]["choices"] == ["train", "skip", "accept"]

    output = ask(client, thread, None, command={"resume": {"choice": "skip"}}, context=context)

    assert arms(output) == ["direct", "rag"]


def test_a_conversation_is_answered_turn_by_turn(client: SyncLangGraphClient) -> None:
    thread = new_thread(client)
    for turn in ("what is 1 plus 1", "and 2 plus 2"):
        said: dict[str, Any] = {"messages": [{"role": "user", "content": turn}]}
        client.runs.wait(thread, "rttc_chat", input=said, context={"policy": "direct"})

    talk = state_of(client, thread)["messages"]
    assert [message["type"] for message in talk] == ["human", "ai", "human", "ai"]


def cache_stats(dsn: str) -> CacheStats:
    database = Database(dsn)
    try:
        return asyncio.run(PostgresQueryStateCache(database).stats())
    finally:
        database.close()


def test_a_cancelled_training_stops(client: SyncLangGraphClient, dsn: str) -> None:
    before = cache_stats(dsn)
    thread, run_id, steps = new_thread(client), "", 0
    most = {"ttt_epochs": 100, "ttt_samples_per_step": 1, "ttt_min_steps": 1000}
    long = {"k": 64, "ttt_stop_loss": 0.0, "budget_tokens": 10**8, **most}
    stream = client.runs.stream(
        thread,
        "rttc",
        input=QUESTION,
        context={"policy": "ttt", **long},
        stream_mode=["custom"],
    )
    for part in stream:
        data = cast("dict[str, Any]", part.data)
        if part.event == "metadata":
            run_id = str(data["run_id"])
        if part.event == "custom" and data["event"] == "ttt_step":
            steps = int(data["step"])
            if steps == 1:
                client.runs.cancel(thread, run_id, wait=True)

    assert client.runs.get(thread, run_id)["status"] == "interrupted"
    assert steps < 1000
    end = time.monotonic() + 60
    while cache_stats(dsn).training and time.monotonic() < end:  # the lease is given back unwaited
        time.sleep(0.1)
    assert cache_stats(dsn) == before


def test_twenty_threads_at_once_keep_apart(client: SyncLangGraphClient) -> None:
    questions = {new_thread(client): f"what is {n} plus 1" for n in range(20)}
    runs = {
        thread: client.runs.create(
            thread, "rttc", input={"query": question}, context={"policy": "rag"}
        )["run_id"]
        for thread, question in questions.items()
    }
    for thread, run_id in runs.items():
        client.runs.join(thread, run_id)

    for thread, run_id in runs.items():
        assert client.runs.get(thread, run_id)["status"] == "success"
        state = state_of(client, thread)
        assert state["task"]["query"] == questions[thread]
        assert arms(state) == ["rag"]


def test_threads_survive_a_restart(server: RestartingServer) -> None:
    thread = new_thread(server.client)
    first = ask(server.client, thread, context={"policy": "direct"})
    client = server.restart()
    assert state_of(client, thread)["answer"] == first["answer"]
    assert arms(ask(client, thread, context={"policy": "rag"})) == ["rag"]
