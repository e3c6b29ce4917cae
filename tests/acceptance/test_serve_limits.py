"""Who may call a server, how much and how many; what becomes of clients that hang up."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from http_servers import (
    PATIENCE_SECONDS,
    Impatient,
    MemoryKeys,
    Vectors,
    events_of,
    get,
    post,
    send,
    served,
    until,
)
from scripted_parts import Parts

from rttc_graph.errors import BackendError, KnowledgeBaseError
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.serve_options import ServeOptions
from rttc_graph.testing import MemoryKnowledgeBase

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
"""LangServe reads `model_fields` of instances, which pydantic 3 will not allow."""

CHAT = "/v1/chat/completions"
HELLO = {
    "model": "rttc",
    "messages": [{"role": "user", "content": "hello"}],
    "rttc": {"policy": "direct"},
}
INVOKE = {"input": {"query": "hello"}, "config": {"configurable": {"policy": "direct"}}}


@pytest.fixture
def parts() -> Parts:
    return Parts().rewarding(direct=0.95)


@pytest.fixture
def keys() -> MemoryKeys:
    return MemoryKeys()


@contextmanager
def serving(parts: Parts, **more: Any) -> Generator[str]:
    served_parts = ServedParts(
        parts=parts.parts(), knowledge_base=MemoryKnowledgeBase(), embedder=Vectors()
    )
    with served(create_app(served_parts, **more)) as url:
        yield url


@pytest.fixture
def url(parts: Parts, keys: MemoryKeys) -> Iterator[str]:
    with serving(parts, keys=keys) as url:
        yield url


def metric(url: str, line: str) -> float:
    """Return the value of a line of `/metrics`; 0 while it is not there."""
    for found in get(url, "/metrics").text.splitlines():
        if found.startswith(f"{line} "):
            return float(found.rsplit(" ", 1)[1])
    return 0.0


ROUTES: list[tuple[str, str, Any]] = [
    ("ask", CHAT, HELLO),
    ("ask", "/rttc/invoke", INVOKE),
    ("kb:read", "/kb/search", {"vector": [1, 0], "k": 1}),
    ("kb:read", "/kb/stats", {}),
    ("kb:read", "/kb/list", {}),
    ("kb:read", "/kb/count", {"domain": "d"}),
    ("kb:write", "/kb/ingest", {"samples": [], "vectors": [], "embedder": "vectors"}),
    ("kb:write", "/kb/delete", {"domain": "d"}),
    ("kb:write", "/kb/delete", {"ids": ["a"]}),
]


def test_each_scope_opens_its_routes_and_no_other(url: str, keys: MemoryKeys) -> None:
    made = {scope: keys.add(scope) for scope in ("ask", "kb:read", "kb:write")}
    for needed, path, body in ROUTES:
        assert post(url, path, body).status_code == 401
        for scope, key in made.items():
            answer = post(url, path, body, key=key)
            assert answer.status_code == (200 if scope == needed else 403), (path, scope)
    refused = post(url, CHAT, HELLO)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["type"] == "authentication_error"


def test_without_a_key_only_health_and_figures_are_shown(url: str, keys: MemoryKeys) -> None:
    keys.add("ask")
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert get(url, path).status_code == 200
    for path in ("/v1/models", "/rttc/input_schema", "/rttc/playground/", "/kb/info", "/nothing"):
        assert get(url, path).status_code == 401


def test_what_is_not_quite_a_key_does_not_open(url: str, keys: MemoryKeys) -> None:
    key = keys.add("ask")
    other = keys.add("ask")
    mixed = key[:22] + other[22:]
    for wrong in (key[:-1], key + "x", mixed, key.upper(), "rttc_", "x" * 5000, "'; drop table"):
        assert post(url, CHAT, HELLO, key=wrong).status_code == 401
    assert send("GET", f"{url}/v1/models", headers={"authorization": f"Basic {key}"}).is_error
    assert send("GET", f"{url}/v1/models", headers={"authorization": f"bearer {key}"}).is_success


def test_a_revoked_key_does_not_open(url: str, keys: MemoryKeys) -> None:
    key = keys.add("ask")
    ((key_id, stored),) = keys.kept.items()
    keys.kept[key_id] = replace(stored, revoked_at=datetime.now(UTC))
    assert post(url, CHAT, HELLO, key=key).status_code == 401


def test_a_key_works_for_its_tenant_alone(url: str, keys: MemoryKeys, parts: Parts) -> None:
    key = keys.add("ask", "kb:read", "kb:write", tenant="acme")
    stored = {"question": "q", "answer": "a", "domain": "d"}
    body = {"samples": [stored], "vectors": [[1, 0]], "embedder": "vectors"}
    assert post(url, "/kb/ingest", body, key=key).json() == {"samples": 1, "updated": 0}
    other = keys.add("kb:read", tenant="other")
    search = {"vector": [1, 0], "k": 1}
    assert len(post(url, "/kb/search", search, key=key).json()["samples"]) == 1
    assert post(url, "/kb/search", search, key=other).json()["samples"] == []
    assert post(url, "/kb/search", {**search, "tenant": "acme"}, key=other).status_code == 403

    rag: Any = {**HELLO, "rttc": {"policy": "rag"}}
    assert post(url, CHAT, rag, key=key).status_code == 200
    assert [tenant for _, _, tenant in parts.knowledge_base.searches] == ["acme"]
    for path, asked in (
        (CHAT, {**HELLO, "rttc": {"tenant": "other"}}),
        ("/rttc/invoke", {"input": {"query": "x"}, "config": {"configurable": {"tenant": "o"}}}),
    ):
        assert post(url, path, asked, key=key).status_code == 403


def test_without_any_key_a_server_is_open_unless_keys_are_required(
    parts: Parts, keys: MemoryKeys
) -> None:
    with serving(parts, keys=keys) as url:
        assert post(url, CHAT, HELLO).status_code == 200
    with serving(parts, keys=keys, keys_required=True) as url:
        assert post(url, CHAT, HELLO).status_code == 401


def test_a_key_store_that_is_down_is_no_way_in(url: str, keys: MemoryKeys) -> None:
    key = keys.add("ask")
    keys.is_down = True
    refused = post(url, CHAT, HELLO, key=key)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)


def test_a_page_of_another_site_gets_nothing_by_default(parts: Parts) -> None:
    with serving(parts, hosts=["127.0.0.1"]) as url:
        # what a form or a script may send without asking, and what a name of theirs would lead to
        plain = {"content-type": "text/plain", "origin": "https://evil.example"}
        assert send("POST", url + CHAT, content=b"{}", headers=plain).status_code == 415
        rebound = send("GET", f"{url}/v1/models", headers={"host": "evil.example"})
        assert rebound.status_code == 400
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        assert (
            "access-control-allow-origin" not in send("OPTIONS", url + CHAT, headers=asked).headers
        )


def test_a_named_origin_may_call(parts: Parts) -> None:
    options = ServeOptions(cors_origins=("https://our.example",))
    asked = {"origin": "https://our.example", "access-control-request-method": "POST"}
    with serving(parts, options=options) as url:
        allowed = send("OPTIONS", url + CHAT, headers=asked).headers
        assert allowed["access-control-allow-origin"] == "https://our.example"


def test_a_long_body_is_refused_told_or_not(parts: Parts) -> None:
    def parts_of_a_body() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    with serving(parts, options=ServeOptions(body_bytes=1000)) as url:
        kind = {"content-type": "application/json"}
        told = send("POST", url + CHAT, content=b"x" * 1001, headers=kind)
        untold = send("POST", url + CHAT, content=parts_of_a_body(), headers=kind)
        assert (told.status_code, untold.status_code) == (413, 413)
        assert "1000 bytes" in told.json()["error"]["message"]
        assert post(url, CHAT, HELLO).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"\xff\xfe", 400), (b"[1]", 400), (b'{"model": NaN}', 400), (b"", 400)],
)
def test_a_broken_body_is_refused(url: str, body: bytes, status: int) -> None:
    kind = {"content-type": "application/json; charset=utf-8"}
    assert send("POST", url + CHAT, content=body, headers=kind).status_code == status
    langserve = send("POST", f"{url}/rttc/invoke", content=body, headers=kind)
    assert langserve.status_code in (400, 422)


def test_a_body_that_is_no_json_is_told_where(url: str) -> None:
    kind = {"content-type": "application/json"}
    told = send("POST", url + CHAT, content=b'{"model":}', headers=kind)
    said = told.json()["error"]["message"]
    assert said == "the body is not JSON: Expecting value at character 10"


def test_a_body_that_does_not_come_is_not_waited_for(parts: Parts) -> None:
    with serving(parts, options=ServeOptions(body_seconds=0.05)) as url:
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_who_finds_the_queue_full_is_told_when_to_come_back(parts: Parts) -> None:
    parts.policy_model.seconds = 600
    options = ServeOptions(concurrency=1, queue=1, queue_seconds=600)
    with serving(parts, options=options) as url, Impatient(url, CHAT, HELLO) as first:
        until(lambda: metric(url, 'rttc_inside{lane="runs"}') == 1)
        with Impatient(url, CHAT, HELLO):
            until(lambda: metric(url, 'rttc_waiting{lane="runs"}') == 1)
            refused = post(url, CHAT, HELLO)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert post(url, "/kb/stats", {}).status_code == 200  # another queue
            assert get(url, "/healthz").status_code == 200
        until(lambda: metric(url, 'rttc_waiting{lane="runs"}') == 0)
        first.hang_up()
        until(lambda: metric(url, 'rttc_inside{lane="runs"}') == 0)


def test_a_wait_that_takes_too_long_ends_with_429(parts: Parts) -> None:
    parts.policy_model.seconds = 2
    options = ServeOptions(concurrency=1, queue=5, queue_seconds=0.05)
    with serving(parts, options=options) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, url, CHAT, HELLO)
        until(lambda: metric(url, 'rttc_inside{lane="runs"}') == 1)
        assert post(url, CHAT, HELLO).status_code == 429
        assert first.result().status_code == 200


def test_a_runs_own_budget_is_cut_to_the_servers(parts: Parts) -> None:
    parts.policy_model.seconds = 600
    options = ServeOptions(run_seconds=1.0)
    with serving(parts, options=options) as url:
        refused = post(url, CHAT, {**HELLO, "rttc": {"policy": "direct", "budget_seconds": 900}})
        assert (refused.status_code, "budget" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, HELLO),
        (CHAT, {**HELLO, "stream": True}),
        ("/rttc/invoke", INVOKE),
        ("/rttc/stream", INVOKE),
        ("/rttc/stream_events", INVOKE),
        ("/rttc/batch", {"inputs": [{"query": "a"}, {"query": "b"}]}),
    ],
    ids=["completion", "streamed-completion", "invoke", "stream", "events", "batch"],
)
def test_a_client_that_hangs_up_cancels_its_run(
    url: str, parts: Parts, path: str, body: Any
) -> None:
    parts.policy_model.seconds = 600
    with Impatient(url, path, body):
        until(lambda: parts.policy_model.requests)

    until(lambda: parts.policy_model.cancelled == 1)
    until(lambda: metric(url, 'rttc_inside{lane="runs"}') == 0)
    until(lambda: metric(url, "rttc_hung_up_total") == 1)


def test_a_stream_that_fails_says_so_and_frees_its_place(url: str, parts: Parts) -> None:
    parts.policy_model.fails["direct"] = RuntimeError("boom")
    sent = post(url, CHAT, {**HELLO, "stream": True})
    assert "boom" in events_of(sent.text)[-1]["error"]["message"]
    assert metric(url, 'rttc_inside{lane="runs"}') == 0


def test_readiness_follows_the_database(parts: Parts) -> None:
    down = threading.Event()

    async def check() -> None:
        if down.is_set():
            raise BackendError("no database", retryable=True)

    with serving(parts, check=check) as url:
        assert get(url, "/readyz").status_code == 200
        down.set()
        assert get(url, "/readyz").status_code == 503
        assert get(url, "/healthz").status_code == 200


def test_however_many_ask_whether_it_is_ready_the_database_is_asked_once_at_a_time(
    parts: Parts,
) -> None:
    asked, at_once, now = 0, 0, 0

    async def check() -> None:
        nonlocal asked, at_once, now
        asked, now = asked + 1, now + 1
        at_once = max(at_once, now)
        await asyncio.sleep(0.5)
        now -= 1

    with serving(parts, check=check) as url, ThreadPoolExecutor(20) as pool:
        seen = [one.status_code for one in pool.map(get, [url] * 20, ["/readyz"] * 20)]
    assert seen == [200] * 20
    assert at_once == 1
    assert asked < 20


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/v1/models", "/nowhere"])
def test_requests_of_one_address_have_a_rate(parts: Parts, path: str) -> None:
    with serving(parts, options=ServeOptions(address_requests=0.001)) as url:
        assert get(url, path).status_code != 429
        refused = get(url, path)
        assert (refused.status_code, "one address" in refused.text) == (429, True)
        assert int(refused.headers["retry-after"]) > 1
        assert get(url, "/healthz").status_code == 200


def test_made_up_keys_have_a_rate(parts: Parts, keys: MemoryKeys) -> None:
    key = keys.add("ask")
    with serving(parts, keys=keys) as url:
        assert post(url, CHAT, HELLO, key=key).status_code == 200
        seen = [post(url, CHAT, HELLO, key=MemoryKeys().add("ask")).status_code for _ in range(40)]
        assert seen[:19] == [401] * 19
        assert 429 in seen
        assert post(url, CHAT, HELLO, key=key).status_code == 200


def test_the_figures_count_requests_answers_and_tokens(url: str) -> None:
    post(url, CHAT, HELLO)
    assert metric(url, f'rttc_requests_total{{method="POST",route="{CHAT}",status="200"}}') == 1
    assert metric(url, 'rttc_answers_total{arm="direct"}') == 1
    assert metric(url, 'rttc_tokens_total{kind="completion"}') == 1


@pytest.mark.parametrize("method", ["stream", "stream_events", "stream_log"])
def test_a_langserve_stream_that_fails_ends_whole_with_an_error_event(
    url: str, parts: Parts, method: str
) -> None:
    parts.policy_model.fails["direct"] = RuntimeError("boom")
    sent = post(url, f"/rttc/{method}", INVOKE)
    assert sent.status_code == 200
    assert "event: error" in sent.text
    assert metric(url, 'rttc_inside{lane="runs"}') == 0


PLACES = (
    'connection to server at "10.1.2.3", port 5432 failed: FATAL: password authentication failed '
    'for user "admin"; postgresql://admin:secret@db.internal:5432/rttc; host=db.internal '
    "password=secret; /home/admin/.rttc/data; http://judge.internal:8000/score; "
    "Connect call failed ('10.1.2.3', 5432); socket \"/run/pg/.s.PGSQL.5432\"; [fe80::1]:5432"
)
SECRETS = (r"10\.1\.2\.3", "admin", "secret", "internal", "/home", "/run")
NUMBERS = (r"(?<![\da-f.])5432(?![\da-f])", r"(?<![\da-f.])fe80(?![\da-f])")
"""By chance, the id of a run or a number of seconds has the same digits in it."""


def shows_a_place(text: str) -> list[str]:
    return [word for word in (*SECRETS, *NUMBERS) if re.search(word, text)]


def test_places_are_seen_and_numbers_by_chance_are_not() -> None:
    assert shows_a_place(PLACES) == [*SECRETS, *NUMBERS]
    assert shows_a_place('"run_id": "a5432b", "x": "0fe80", "seconds": 0.005432') == []


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.parametrize(
    "path", [CHAT, "/rttc/invoke", "/rttc/stream", "/rttc/stream_log", "/rttc/stream_events"]
)
@pytest.mark.parametrize("streams", [False, True])
def test_no_answer_says_where_the_servers_parts_are(
    url: str, parts: Parts, path: str, streams: bool
) -> None:
    parts.rewarding(direct=0.1)
    parts.knowledge_base.error = KnowledgeBaseError(PLACES, retryable=True)
    chat = {**HELLO, "rttc": {"policy": "compare", "progress": True}, "stream": streams}
    ask: dict[str, Any] = {
        "input": {"query": "x"},
        "config": {"configurable": {"policy": "compare"}},
        **({"diff": True} if path.endswith("log") else {}),
    }
    answered = post(url, path, chat if path == CHAT else ask)
    assert answered.status_code == 200
    assert "KnowledgeBaseError" in answered.text
    assert shows_a_place(answered.text) == []

    parts.policy_model.fails["direct"] = BackendError(PLACES, retryable=True)
    assert shows_a_place(post(url, path, chat if path == CHAT else ask).text) == []


def test_without_a_key_nobody_is_told_why_keys_cannot_be_looked_up(
    parts: Parts, keys: MemoryKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise BackendError(PLACES, retryable=True)

    monkeypatch.setattr(keys, "find", fail)
    monkeypatch.setattr(keys, "is_empty", fail)
    key = MemoryKeys().add("ask")
    with serving(parts, keys=keys) as url:
        for given in (None, key):
            refused = post(url, CHAT, HELLO, key=given)
            assert refused.status_code == 503
            assert refused.json()["error"]["message"] == "API keys cannot be checked at the moment"


@pytest.mark.parametrize("name", ["a\0b", "caf\udce9", "", "x" * 201])
@pytest.mark.parametrize("field", ["domain", "tenant"])
def test_names_that_cannot_be_are_refused_at_every_door(
    url: str, parts: Parts, field: str, name: str
) -> None:
    sample = {"question": "q", "answer": "a", "domain": name if field == "domain" else "d"}
    tenant = {"tenant": name} if field == "tenant" else {}
    given: list[tuple[str, Any]] = [
        ("/kb/search", {"vector": [1, 0], "k": 1, field: name}),
        ("/kb/delete", {"domain": "d", field: name}),
        ("/kb/missing", {"samples": [sample], **tenant}),
        ("/kb/ingest", {"samples": [sample], "vectors": [[1, 0]], "embedder": "vectors", **tenant}),
    ]
    for path, body in given:
        assert post(url, path, body).status_code == 422, path
    if field == "tenant":
        assert post(url, "/kb/stats", tenant).status_code == 422
    if name or field == "tenant":  # an empty domain is none
        refused = post(url, CHAT, {**HELLO, "rttc": {field: name}})
        assert refused.status_code == 400
    assert not parts.policy_model.requests


@pytest.mark.parametrize(
    "sample",
    [
        {"question": ""},
        {"question": " \n"},
        {"answer": " "},
        {"question": "x" * 5_000_000},
        {"answer": "x" * 100_001},
        {"metadata": {"text": "x" * 100_001}},
        {"external_id": "x" * 201},
    ],
    ids=["empty", "blank", "no-answer", "5-MB", "long-answer", "metadata", "id"],
)
def test_samples_that_no_file_may_bring_are_refused(url: str, sample: Any) -> None:
    whole = {"question": "q", "answer": "a", "domain": "d", **sample}
    body = {"samples": [whole], "vectors": [[1, 0]], "embedder": "vectors"}
    assert post(url, "/kb/ingest", body).status_code == 422
    assert post(url, "/kb/stats", {}).json() == {"domains": []}


@pytest.mark.parametrize(
    "body",
    [
        {"rttc": {"\ud83d": 1}},
        {"model": "\ud83d"},
        {"\ud83d": 1},
        {"tools": ["\ud83d"]},
        {"rttc": {"policy": "\ud83d"}},
    ],
)
def test_half_a_surrogate_pair_anywhere_is_the_clients(url: str, body: Any) -> None:
    assert post(url, CHAT, {**HELLO, **body}).status_code in (400, 404)
    assert post(url, "/kb/search", {"vector": [1, 0], "k": 1, **body}).status_code == 422


@pytest.mark.parametrize("path", [CHAT, "/kb/search", "/kb/ingest", "/kb/stats"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"tools": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"k": ' + b"9" * 20_000 + b"}",
    ],
    ids=["open", "deep", "digits"],
)
def test_json_that_cannot_be_read_is_refused(url: str, path: str, body: bytes) -> None:
    kind = {"content-type": "application/json"}
    assert send("POST", url + path, content=body, headers=kind).status_code in (400, 422)
