"""LangServe's routes, through its own client in all its methods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from http_servers import PATIENCE_SECONDS, get, post, send, served
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langserve import RemoteRunnable
from scripted_parts import Parts

from rttc_graph import RttcSettings
from rttc_graph.errors import PolicyModelError
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.serve_options import ServeOptions

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
"""LangServe reads `model_fields` of instances, which pydantic 3 will not allow."""

ASK = {"query": "what is two and two"}
Client = RemoteRunnable[Any, Any]


@pytest.fixture
def parts() -> Parts:
    return Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95)


@pytest.fixture
def url(parts: Parts) -> Iterator[str]:
    made = parts.parts()
    made["settings"] = RttcSettings(k=1, arms=parts.arms)
    app = create_app(ServedParts(parts=made), options=ServeOptions(batch=3, threads=2))
    with served(app) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    client: Client = RemoteRunnable(f"{url}/rttc", timeout=PATIENCE_SECONDS)
    yield client
    client.sync_client.close()
    await client.async_client.aclose()


def settings(**said: Any) -> RunnableConfig:
    return {"configurable": said}


def test_invoke_returns_the_typed_answer(client: Client) -> None:
    answer = client.invoke(ASK)
    assert (answer["answer"], answer["arm"], answer["reward"]) == ("ttt", "ttt", 0.95)
    assert [c["arm"] for c in answer["candidates"]] == ["direct", "rag", "ttt"]
    assert answer["cache"] == {"samples": "miss", "adapter": "miss"}
    assert (answer["accepted"], answer["tau_r"], answer["calibrated"]) == (True, 0.5, False)
    assert [source["taken"] for source in answer["sources"]] == [True]
    assert answer["run_id"]


def test_batch_answers_in_order_each_with_its_settings(client: Client) -> None:
    policies: Any = ["direct", "rag"]
    each: Any = [settings(policy=policy) for policy in policies]
    answers = client.batch([ASK, ASK], each)
    assert [answer["arm"] for answer in answers] == policies
    assert [a["arm"] for a in client.batch([ASK, ASK], settings(policy="rag"))] == ["rag", "rag"]


def test_stream_ends_with_the_answer(client: Client) -> None:
    assert [chunk["answer"] for chunk in client.stream(ASK)] == ["ttt"]


async def test_the_asynchronous_methods_do_the_same(client: Client) -> None:
    assert (await client.ainvoke(ASK))["answer"] == "ttt"
    assert [a["answer"] for a in await client.abatch([ASK, ASK])] == ["ttt", "ttt"]
    assert [c["answer"] async for c in client.astream(ASK)] == ["ttt"]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_events_have_progress(client: Client, version: Any) -> None:
    events = [event async for event in client.astream_events(ASK, version=version)]
    progress = [e["data"] for e in events if e["event"] == "on_custom_event"]
    steps: list[Any] = [d for d in progress if d.get("event") == "ttt_step"]
    assert [step["step"] for step in steps] == [1, 2]
    assert {"on_chain_start", "on_chain_end"} <= {e["event"] for e in events}


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
async def test_the_log_ends_with_the_answer(client: Client) -> None:
    patches = [patch async for patch in client.astream_log(ASK)]
    last: Any = sum(patches[1:], patches[0])
    assert last.state["final_output"]["answer"] == "ttt"


def test_it_stands_in_a_pipe(client: Client) -> None:
    ask: RunnableLambda[str, Any] = RunnableLambda(lambda text: {"query": text})
    shout: RunnableLambda[Any, str] = RunnableLambda(lambda answer: answer["answer"].upper())
    chain = ask | client | shout
    assert chain.invoke("what is two and two") == "TTT"


def test_settings_reach_the_run_over_the_servers_own(client: Client, parts: Parts) -> None:
    client.invoke({**ASK, "domain": "math"}, settings(policy="rag"))
    client.invoke(ASK, settings(policy="rag", k=2, tenant="acme"))
    assert parts.knowledge_base.searches == [(1, "math", "default"), (2, None, "acme")]


@pytest.mark.parametrize("method", ["invoke", "stream", "stream_events", "stream_log"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": ASK, "config": settings(tau_r=1.5)}, "tau_r"),
        ({"input": ASK, "config": settings(policy="best")}, "policy"),
        ({"input": {"query": 5}}, "query"),
        ({"input": ASK, "config": settings(thread_id="x" * 201)}, "thread_id"),
        ({"input": ASK, "config": settings(tua_r=0.9)}, "'tua_r': did you mean 'tau_r'"),
        ({}, "input"),
    ],
    ids=["out-of-bounds", "unknown-policy", "wrong-type", "long-thread", "unknown", "no-input"],
)
def test_a_wrong_request_is_refused_before_it_streams(
    url: str, method: str, body: Any, words: str
) -> None:
    refused = post(url, f"/rttc/{method}", body)
    assert refused.status_code == 422
    assert words in refused.json()["detail"]


MISTAKES: list[Any] = [
    pytest.param({"query": "x " * 900}, {}, "context", id="longer-than-the-context"),
    pytest.param({"query": "hello"}, {"budget_tokens": 1}, "budget", id="budget"),
    pytest.param({"query": "hello"}, {"tau_r_of": "x"}, "fingerprint", id="judge"),
]


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.parametrize("policy", ["direct", "cascade"])
@pytest.mark.parametrize("method", ["invoke", "stream", "stream_events", "stream_log"])
@pytest.mark.parametrize(("asked", "said", "words"), MISTAKES)
def test_what_a_run_finds_wrong_before_it_answers_has_a_status(
    url: str, parts: Parts, asked: Any, said: Any, words: str, method: str, policy: str
) -> None:
    parts.policy_model.context = 500
    body = {"input": asked, "config": settings(policy=policy, **said)}
    refused = post(url, f"/rttc/{method}", body)
    assert (refused.status_code, words in refused.json()["detail"]) == (422, True)
    assert not parts.policy_model.requests


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.parametrize("method", ["invoke", "stream", "stream_events", "stream_log"])
@pytest.mark.parametrize(("asked", "said", "words"), MISTAKES[:2])
def test_what_no_model_can_answer_the_nearest_sample_may(
    asked: Any, said: Any, words: str, method: str
) -> None:
    parts = Parts(arms=()).rewarding(**{"answer 1": 0.3})
    parts.policy_model.context = 500
    body = {"input": asked, "config": settings(**said)}
    with served(create_app(ServedParts(parts=parts.parts()))) as url:
        sent = post(url, f"/rttc/{method}", body)
        assert (sent.status_code, '"arm":"nearest"' in sent.text) == (200, True)
        assert words in sent.text  # in the ledger
        parts.knowledge_base.samples = []
        refused = post(url, f"/rttc/{method}", body)
        assert (refused.status_code, words in refused.json()["detail"]) == (422, True)
    assert not parts.policy_model.requests


def test_unknown_settings_of_a_batch_are_refused_and_names_of_langgraph_are_not(url: str) -> None:
    each = [settings(k=3), settings(kk=3)]
    refused = post(url, "/rttc/batch", {"inputs": [ASK, ASK], "config": each})
    assert (refused.status_code, "unknown settings 'kk'" in refused.json()["detail"]) == (422, True)
    of_a_node = settings(thread_id="1", checkpoint_ns="", __pregel_task_id="x")
    assert post(url, "/rttc/invoke", {"input": ASK, "config": of_a_node}).status_code == 200


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.parametrize("method", ["stream", "stream_events", "stream_log"])
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PolicyModelError("out of memory"), 502, "out of memory"),
        (PolicyModelError("the model is being loaded", retryable=True), 502, "being loaded"),
    ],
)
def test_what_fails_on_its_way_is_an_event_that_says_what(
    url: str, parts: Parts, method: str, error: Exception, status: int, words: str
) -> None:
    parts.policy_model.fails["direct"] = error
    body = {"input": ASK, "config": settings(policy="direct")}
    sent = post(url, f"/rttc/{method}", body)
    assert sent.status_code == 200
    _, _, told = sent.text.partition("event: error")
    assert json.loads(told.split("data: ", 1)[1].splitlines()[0])["status_code"] == status
    assert words in told
    assert "Internal Server Error" not in sent.text


def test_an_empty_question_is_refused_with_its_reason(url: str) -> None:
    refused = post(url, "/rttc/invoke", {"input": {"query": " "}})
    assert (refused.status_code, "empty" in refused.json()["detail"]) == (422, True)


def test_a_batch_has_a_limit(url: str) -> None:
    refused = post(url, "/rttc/batch", {"inputs": [ASK] * 4})
    assert (refused.status_code, "limit is 3" in refused.json()["detail"]) == (422, True)


def test_a_batch_with_a_wrong_question_is_refused(url: str) -> None:
    refused = post(url, "/rttc/batch", {"inputs": [ASK, {"query": 5}]})
    assert (refused.status_code, "query" in refused.json()["detail"]) == (422, True)


def test_messages_come_back_as_messages(client: Client) -> None:
    answer = client.invoke({"messages": [HumanMessage("hello")]})
    assert [type(m) for m in answer["messages"]] == [HumanMessage, AIMessage]


def test_a_thread_remembers_and_the_oldest_is_forgotten(client: Client) -> None:
    def talk(thread: str, **more: Any) -> int:
        given = {"messages": [HumanMessage("hello")]}
        return len(client.invoke(given, settings(thread_id=thread, **more))["messages"])

    assert [talk("a"), talk("a"), talk("b")] == [2, 4, 2]
    assert talk("a", tenant="other") == 2  # the third thread, so the oldest of them is dropped
    assert [talk("b"), talk("a")] == [4, 2]


async def test_runs_of_one_thread_take_turns(client: Client, parts: Parts) -> None:
    parts.policy_model.seconds = 0.05
    given = {"messages": [HumanMessage("hello")]}
    runs = [client.ainvoke(given, settings(thread_id="a")) for _ in range(3)]
    lengths = [len(answer["messages"]) for answer in await asyncio.gather(*runs)]
    assert sorted(lengths) == [2, 4, 6]


def test_the_schemas_and_the_playground_are_there(url: str) -> None:
    def schema(kind: str) -> str:
        return get(url, f"/rttc/{kind}_schema").text

    assert "query" in schema("input")
    assert "candidates" in schema("output")
    config = schema("config")
    assert all(name in config for name in (*RttcSettings.model_fields, "thread_id", "maximum"))
    page = get(url, "/rttc/playground/")
    assert (page.status_code, "tau_r" in page.text) == (200, True)
    form = page.text.partition("window.INPUT_SCHEMA = ")[2].partition("\n")[0]
    assert '"query"' in form
    titles = {one["title"] for one in json.loads(form.rstrip(";"))["properties"].values()}
    shown = json.loads(config)["$defs"]["Configurable"]["properties"]
    titles |= {one["title"] for one in shown.values()}
    assert {
        "Question",
        "Domain",
        "Threshold of the reward",
        "Max new tokens",
        "Panel size",
        "Training: rank",
    } <= titles
    assert all(title[0].isupper() for title in titles)
    assert not any("_" in title for title in titles)
    assert all(one.get("description") for one in shown.values())
    assert "null" not in form  # of which the playground makes nothing
    assert '"null"' not in page.text.partition("window.CONFIG_SCHEMA = ")[2].partition("\n")[0]
    assert int(page.headers["content-length"]) == len(page.content)


def test_an_empty_tenant_is_none_at_all(url: str, parts: Parts) -> None:
    body = {"input": ASK, "config": settings(policy="rag", tenant="")}
    assert post(url, "/rttc/invoke", body).status_code == 200
    assert parts.knowledge_base.searches == [(1, None, "default")]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hello"},
        {"type": "human", "content": "hello"},
        ["human", "hello"],
        ["user", "hello"],
        "hello",
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ],
)
def test_a_message_is_taken_in_the_forms_of_langchain(url: str, parts: Parts, message: Any) -> None:
    body = {"input": {"messages": [message]}, "config": settings(policy="direct")}
    answered = post(url, "/rttc/invoke", body)
    assert answered.status_code == 200, answered.text
    assert parts.policy_model.requests[0].messages[-1]["content"] == "hello"


@pytest.mark.parametrize("method", ["invoke", "stream", "stream_events", "stream_log", "batch"])
@pytest.mark.parametrize(
    "messages",
    [
        [None],
        [5],
        [[]],
        [["human", 5]],
        [["bard", "x"]],
        [{"type": 5, "content": "x"}],
        [{"type": "human"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{}],
        [{"role": "assistant", "content": "last"}],
        ["  "],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
    ],
    ids=str,
)
def test_another_message_is_refused_before_it_streams(
    url: str, parts: Parts, method: str, messages: Any
) -> None:
    asked = {"messages": messages}
    body = {"inputs": [asked]} if method == "batch" else {"input": asked}
    assert post(url, f"/rttc/{method}", body).status_code == 422
    assert not parts.policy_model.requests


@pytest.mark.parametrize("method", ["invoke", "stream", "stream_events", "batch"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"query": "x", "domain": "a\0b"}, {}),
        ({"query": "x", "domain": "caf\udce9"}, {}),
        ({"query": "x"}, {"tenant": "a\0b"}),
        ({"query": "x"}, {"tenant": "caf\udce9"}),
        ({"query": "x"}, {"thread_id": "a\0b"}),
    ],
)
def test_names_that_cannot_be_are_refused(
    url: str, parts: Parts, method: str, asked: Any, said: Any
) -> None:
    given = {"inputs": [asked]} if method == "batch" else {"input": asked}
    refused = post(url, f"/rttc/{method}", {**given, "config": settings(**said)})
    assert refused.status_code == 422, refused.text
    assert not parts.policy_model.requests


@pytest.mark.parametrize("given", [{"query": "\ud83d hi"}, {"messages": ["\ud83d hi"]}])
def test_half_a_surrogate_pair_is_asked_as_a_question_mark(
    url: str, parts: Parts, given: Any
) -> None:
    for method in ("invoke", "stream", "stream_events"):
        body = {"input": given, "config": settings(policy="direct")}
        answered = post(url, f"/rttc/{method}", body)
        assert (answered.status_code, "event: error" in answered.text) == (200, False)
        assert parts.policy_model.requests.pop().messages[-1]["content"] == "? hi"


@pytest.mark.parametrize(
    "path", ["c/N4XyA/config_schema", "c/N4XyA/invoke", "c/N4XyA/playground/", "c/x/stream"]
)
def test_settings_are_not_unpacked_from_a_path(url: str, path: str) -> None:
    for method in ("GET", "POST"):
        body = {"json": {"input": ASK}} if method == "POST" else {}
        assert send(method, f"{url}/rttc/{path}", **body).status_code == 404


@pytest.mark.parametrize(
    "page", ["%00", "assets", "assets/", "..", "%2e%2e/%2e%2e/server.py", "x" * 300, "index.html/x"]
)
def test_a_page_that_is_not_there_is_not_found(url: str, page: str) -> None:
    assert get(url, f"/rttc/playground/{page}").status_code in (404, 307)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"input": {"query": "x"}, "config": {"metadata": ' + b"[" * 70 + b"]" * 70 + b"}}",
        b'{"input": ' + b"9" * 20_000 + b"}",
        b'{"input": {"query": "x"}, "config": {"configurable": {"k": ' + b"9" * 20_000 + b"}}}",
        b"{",
        b'{"input": {"query": "\\ud83d',
    ],
    ids=["arrays", "objects", "deep", "deep-config", "digits", "digits-of-k", "open", "cut"],
)
@pytest.mark.parametrize(
    "path", ["rttc/invoke", "rttc/batch", "rttc/stream", "rttc/stream_events", "rttc/stream_log"]
)
def test_json_that_cannot_be_read_is_the_clients(url: str, path: str, body: bytes) -> None:
    kind = {"content-type": "application/json"}
    refused = send("POST", f"{url}/{path}", content=body, headers=kind)
    assert refused.status_code in (400, 422), refused.text


def test_brackets_in_texts_are_no_nesting(url: str) -> None:
    asked = {"query": 'why "[[[' * 100 + "\\", "domain": "math"}
    body = {"input": asked, "config": settings(policy="direct")}
    assert post(url, "/rttc/invoke", body).status_code == 200
