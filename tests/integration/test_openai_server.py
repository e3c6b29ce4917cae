"""A vendor's real client against a server that speaks OpenAI's protocol, on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from pydantic import SecretStr

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel, known_options
from rttc_graph.protocols import GenerationRequest

langchain_openai = pytest.importorskip("langchain_openai")

WORDS = ("one", " two", " three")


@dataclass
class Script:
    """What the server does and what it was sent."""

    status: int = 200
    hangs: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    release: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.script.bodies.append(body)
        if self.script.status != 200:
            self._send(json.dumps({"error": {"message": "no"}}), "application/json")
        elif body.get("stream"):
            self._stream()
        else:
            self._send(json.dumps(whole_answer()), "application/json")

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number, word in enumerate(WORDS):
            if number == 2 and self.script.hangs:
                self.script.release.wait(20)
                return
            self._event(
                {"delta": {"role": "assistant", "content": word}, "logprobs": logprobs(word)}
            )
        self._event({"delta": {}, "finish_reason": "length"})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, choice: dict[str, Any]) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "model": "m", "created": 1}
        line = json.dumps({**chunk, "choices": [{"index": 0, **choice}]})
        self.wfile.write(f"data: {line}\n\n".encode())
        self.wfile.flush()

    def _send(self, text: str, kind: str) -> None:
        self.send_response(self.script.status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


def logprobs(*words: str) -> dict[str, Any]:
    return {"content": [{"token": w, "logprob": -float(len(w)), "top_logprobs": []} for w in words]}


def whole_answer() -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs(*WORDS)}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    handler = type("ScriptedHandler", (Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    script.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def model(url: str) -> ChatPolicyModel:
    return ChatPolicyModel(
        langchain_openai.ChatOpenAI(
            model="m", base_url=url, api_key=SecretStr("none"), logprobs=True, max_retries=0
        )
    )


def request(**options: Any) -> GenerationRequest:
    settings = cast(dict[str, Any], {"max_new_tokens": 9, **options})
    return GenerationRequest(messages=({"role": "user", "content": "count"},), **settings)


def test_its_names_are_found(url: str) -> None:
    chat = langchain_openai.ChatOpenAI(model="m", base_url=url, api_key=SecretStr("none"))
    assert known_options(chat)(request(temperature=0.3, seed=1)) == {
        "temperature": 0.3,
        "top_p": 1.0,
        "seed": 1,
        "max_tokens": 9,
    }


async def test_settings_arrive_and_reports_are_read(url: str, script: Script) -> None:
    [answer] = await model(url).generate([request(temperature=0.5, seed=3, stop=("four",))])
    sent = {name: script.bodies[0].get(name) for name in ("temperature", "seed", "stop", "model")}
    assert sent == {"temperature": 0.5, "seed": 3, "stop": ["four"], "model": "m"}
    assert script.bodies[0]["max_completion_tokens"] == 9
    assert (answer.text, answer.finish_reason) == ("one two three", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 3)
    assert answer.mean_logprob == pytest.approx(-(3 + 4 + 6) / 3)


async def test_a_streamed_answer_is_put_together(url: str) -> None:
    [answer] = await model(url).generate([request()], deadline=time.monotonic() + 60)
    assert (answer.text, answer.finish_reason) == ("one two three", "length")
    assert answer.mean_logprob == pytest.approx(-(3 + 4 + 6) / 3)


async def test_a_stream_that_hangs_is_cut_at_the_deadline(url: str, script: Script) -> None:
    script.hangs = True
    [answer] = await model(url).generate([request()], deadline=time.monotonic() + 2)
    assert (answer.text, answer.finish_reason) == ("one two", "budget")
    assert answer.mean_logprob == pytest.approx(-3.5)


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (429, True), (400, False)])
async def test_a_refusal_is_translated(
    url: str, script: Script, status: int, retryable: bool
) -> None:
    script.status = status
    with pytest.raises(PolicyModelError) as caught:
        await model(url).generate([request()])
    assert caught.value.retryable is retryable


async def test_a_server_that_is_not_there_may_come_back() -> None:
    with pytest.raises(PolicyModelError, match="'m' could not generate") as caught:
        await model("http://127.0.0.1:9/v1").generate([request()])
    assert caught.value.retryable


def test_kept_connections_survive_the_callers_event_loops(url: str) -> None:
    shared = model(url)

    def ask(_: int) -> str:
        return asyncio.run(shared.generate([request()]))[0].text

    assert [ask(number) for number in range(3)] == ["one two three"] * 3
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(ask, range(6))) == {"one two three"}


@pytest.mark.parametrize("known", [True, False])
async def test_a_schema_is_asked_for_where_the_server_is_known_to_take_one(
    url: str, script: Script, known: bool
) -> None:
    chat = langchain_openai.ChatOpenAI(
        model="m", base_url=url, api_key=SecretStr("none"), max_retries=0
    )
    schema = '{"type": "object"}'
    told = ChatPolicyModel(chat, follows_schemas=known)
    await told.generate([request(answer_schema=schema)])
    [body] = script.bodies
    form = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    wanted = {"type": "json_schema", "json_schema": form} if known else None
    assert body.get("response_format") == wanted
