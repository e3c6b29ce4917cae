"""What goes over the wire to a remote knowledge base, and what happens when it breaks."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from http_servers import post, served
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.remote.remote_knowledge_base import RemoteKnowledgeBase
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.testing import MemoryKnowledgeBase, at_angle, new_sample

SECRET = "the patient's name is Ada and her question is private"


class Angles:
    """An embedder of dimension 3 for any text."""

    def __init__(self, fingerprint: str = "angles") -> None:
        self.name = "angles"
        self._fingerprint = fingerprint

    async def fingerprint(self) -> str:
        return self._fingerprint

    async def dimension(self) -> int:
        return 3

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [at_angle(len(text)) for text in texts]


class Listener:
    """A port in front of a server that keeps all bytes that go up."""

    def __init__(self, url: str) -> None:
        self._target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.up = bytearray()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            for pair in ((client, server, self.up), (server, client, bytearray())):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    try:
        while data := source.recv(65536):
            kept.extend(data)
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            end.close()


@contextmanager
def knowledge_server(fingerprint: str = "angles") -> Generator[Listener]:
    served_parts = ServedParts(knowledge_base=MemoryKnowledgeBase(), embedder=Angles(fingerprint))
    with served(create_app(served_parts)) as url:
        listener = Listener(url)
        yield listener
        listener.close()


def bodies(up: bytes) -> list[dict[str, Any]]:
    """Return the JSON bodies among bytes that went up."""
    parts = up.split(b"\r\n\r\n")[1:]
    found = [part[: part.rfind(b"}") + 1] for part in parts]
    return [cast("dict[str, Any]", json.loads(text)) for text in found if text]


@pytest.mark.blocking_allowed
async def test_a_question_never_goes_up() -> None:
    with knowledge_server() as listener:
        async with RemoteKnowledgeBase(listener.url, Angles()) as remote:
            samples = [new_sample(1), new_sample(2)]
            await remote.ingest(samples, [at_angle(1), at_angle(2)], tenant="default")
            listener.up.clear()
            parts = Parts().rewarding(direct=0.1, rag=0.95)
            made = parts.parts()
            made["embedder"], made["knowledge_base"] = Angles(), remote

            given: Any = {"query": SECRET, "domain": "math"}
            output = await create_rttc_graph(**made).ainvoke(given, context=RttcSettings(k=2))

    assert output["arm"] == "rag"
    sent = bytes(listener.up)
    words = [word for word in SECRET.split() if len(word) > 3]
    assert [word for word in words if word.encode() in sent] == []
    known_domains, search = bodies(sent)
    assert known_domains == {"tenant": "default"}
    assert search.keys() == {"vector", "k", "domain", "tenant"}
    assert (search["k"], search["domain"], search["tenant"]) == (2, "math", "default")
    assert search["vector"] == pytest.approx(at_angle(len(SECRET)))
    assert listener.connections == 1  # kept alive


@pytest.mark.blocking_allowed
async def test_the_server_chooses_and_only_a_choice_goes_up() -> None:
    with knowledge_server() as listener:
        async with RemoteKnowledgeBase(listener.url, Angles()) as remote:
            samples = [new_sample(number) for number in range(6)]
            vectors = [*[at_angle(20)] * 5, at_angle(-25)]
            await remote.ingest(samples, vectors, tenant="t")
            listener.up.clear()
            found = await remote.search(at_angle(0), k=2, domain="math", tenant="t", choice="sift")
            await remote.search(at_angle(0), k=2, domain="math", tenant="t", choice="nearest")
    assert found.samples[1]["question"] == "question 5"
    by_sift, by_nearness = bodies(bytes(listener.up))
    assert by_sift["choice"] == "sift"
    # what a client and a server from before there was a choice say and understand
    assert by_nearness.keys() == {"vector", "k", "domain", "tenant"}


@pytest.mark.blocking_allowed
async def test_another_embedder_is_refused_before_anything_goes_up() -> None:
    with knowledge_server("theirs") as listener:
        async with RemoteKnowledgeBase(listener.url, Angles("mine")) as remote:
            with pytest.raises(KnowledgeBaseError, match=r"'theirs'.*'mine'.*same embedder"):
                await remote.search(at_angle(1), k=1, domain=None, tenant="t")
            with pytest.raises(KnowledgeBaseError, match="same embedder"):
                await remote.ingest([new_sample(1)], [at_angle(1)], tenant="t")
    assert bodies(bytes(listener.up)) == []


Scripting = tuple[int, dict[str, str], Any]
"""Status, headers and body of an answer; status 0 breaks off."""


class Scripted(BaseHTTPRequestHandler):
    """Answers with what a test has written down, one answer a request."""

    protocol_version = "HTTP/1.1"
    answers: list[Scripting]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer()

    def _answer(self) -> None:
        status, headers, body = self.answers.pop(0)
        if status == 0:  # break off
            self.close_connection = True
            return
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def scripted(*answers: Scripting) -> Generator[tuple[str, list[Any]]]:
    left = list(answers)
    handler = type("Handler", (Scripted,), {"answers": left})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", left
    server.shutdown()
    thread.join()
    server.server_close()


class Naps:
    """Sleeps that take no time."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def info(*, protocol: int = 1, fingerprint: str = "angles") -> Scripting:
    embedder = {"name": "angles", "fingerprint": fingerprint, "dimension": 3}
    return 200, {}, {"protocol": protocol, "server": "9.9", "embedder": embedder}


def _answer(status: int, body: object) -> Scripting:
    return status, {}, body


NOTHING: Scripting = (200, {}, {"samples": [], "revision": 7})


@pytest.mark.blocking_allowed
async def test_what_fails_on_its_way_is_tried_again() -> None:
    busy: Scripting = (429, {"retry-after": "3"}, {"detail": "busy", "kind": "TooManyRequests"})
    down: Scripting = (503, {}, {"detail": "no database", "kind": "KnowledgeBaseError"})
    naps = Naps()
    with scripted(info(), (0, {}, None), busy, down, NOTHING) as (url, left):
        async with RemoteKnowledgeBase(url, Angles(), sleep=naps) as remote:
            found = await remote.search(at_angle(1), k=1, domain=None, tenant="t")
    assert (found.revision, left) == (7, [])
    assert len(naps.taken) == 3
    assert naps.taken[1] == 3  # what the server asked for
    assert naps.taken[0] < 1


@pytest.mark.blocking_allowed
async def test_after_the_last_try_the_error_says_where_and_why() -> None:
    naps = Naps()
    async with RemoteKnowledgeBase("http://127.0.0.1:9", Angles(), retries=2, sleep=naps) as remote:
        with pytest.raises(KnowledgeBaseError, match=r"127\.0\.0\.1:9") as caught:
            await remote.stats(tenant="t")
    assert caught.value.retryable
    assert len(naps.taken) == 2


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        pytest.param(info(protocol=2), KnowledgeBaseError, "version 2", id="other-version"),
        pytest.param(_answer(200, {"hello": 1}), KnowledgeBaseError, "address", id="other-service"),
        pytest.param(_answer(404, "no"), KnowledgeBaseError, "HTTP 404", id="no-such-route"),
        pytest.param(
            _answer(401, {"detail": "a valid API key is needed", "kind": "AuthenticationError"}),
            KnowledgeBaseError,
            "API key",
            id="no-key",
        ),
        pytest.param(
            _answer(422, {"detail": "k=0", "kind": "ConfigurationError"}),
            ConfigurationError,
            "k=0",
            id="misuse",
        ),
    ],
)
@pytest.mark.blocking_allowed
async def test_a_refusal_is_not_tried_again(
    answer: Any, error: type[Exception], words: str
) -> None:
    naps = Naps()
    with scripted(answer) as (url, _):
        async with RemoteKnowledgeBase(url, Angles(), sleep=naps) as remote:
            with pytest.raises(error, match=words):
                await remote.search(at_angle(1), k=1, domain=None, tenant="t")
    assert naps.taken == []


@pytest.mark.blocking_allowed
async def test_an_embedder_that_changes_on_the_server_is_noticed_with_the_next_answer() -> None:
    changed = (200, {"rttc-embedder": "new"}, NOTHING[2])
    with scripted(info(), NOTHING, changed) as (url, _):
        async with RemoteKnowledgeBase(url, Angles()) as remote:
            await remote.search(at_angle(1), k=1, domain=None, tenant="t")
            with pytest.raises(KnowledgeBaseError, match="'new'"):
                await remote.search(at_angle(1), k=1, domain=None, tenant="t")


@pytest.mark.blocking_allowed
async def test_a_server_that_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        remote = RemoteKnowledgeBase(url, Angles(), timeout_seconds=0.05, retries=0)
        async with remote:
            with pytest.raises(KnowledgeBaseError, match="Timeout"):
                await remote.stats(tenant="t")
    with pytest.raises(KnowledgeBaseError, match="closed"):
        await remote.stats(tenant="t")


@pytest.mark.parametrize("bad", [{"url": "ftp://x"}, {"timeout_seconds": 0}, {"retries": -1}])
def test_misuse_is_refused_at_once(bad: dict[str, Any]) -> None:
    given: dict[str, Any] = {"url": "http://x", **bad}
    with pytest.raises(ConfigurationError):
        RemoteKnowledgeBase(given.pop("url"), Angles(), **given)


@pytest.mark.blocking_allowed
async def test_a_batch_that_is_too_large_says_how_to_send_less() -> None:
    too_large: Scripting = (
        413,
        {},
        {"detail": "longer than 9 bytes", "kind": "ConfigurationError"},
    )
    with scripted(info(), too_large) as (url, _):
        async with RemoteKnowledgeBase(url, Angles()) as remote:
            with pytest.raises(KnowledgeBaseError, match="batch_size"):
                await remote.ingest([new_sample(1)], [at_angle(1)], tenant="t")


@pytest.mark.blocking_allowed
async def test_who_has_no_embedder_searches_by_text() -> None:
    with knowledge_server() as listener:
        async with RemoteKnowledgeBase(listener.url, Angles()) as remote:
            samples = [new_sample(1), new_sample(2)]
            await remote.ingest(samples, [at_angle(40), at_angle(5)], tenant="default")
        found = post(listener.url, "/kb/search", {"text": "hello", "k": 1})  # five letters
        assert [s["question"] for s in found.json()["samples"]] == ["question 2"]
        assert found.json()["samples"][0]["similarity"] == pytest.approx(1)
        for body in ({}, {"text": "hello", "vector": at_angle(1)}, {"text": ""}):
            refused = post(listener.url, "/kb/search", {"k": 1, **body})
            assert refused.status_code == 422
