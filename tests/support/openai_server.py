"""A server on loopback that speaks OpenAI's API: models, chat completions, embeddings."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def words_in_unit_vector(text: str) -> list[float]:
    """Return a vector in which texts with the same words are near each other."""
    vector = [0.01] * 32
    for word in text.lower().split():
        vector[sum(word.encode()) % 32] += 1.0
    return vector


@dataclass
class OpenAIServer:
    """What the server has and says, and what it was sent."""

    models: list[str] = field(default_factory=lambda: ["small-chat"])
    reply: Callable[[dict[str, Any]], str] = lambda _: "42"
    refused: frozenset[str] = frozenset()
    """Options that it answers with 400, by name."""
    finish_reason: str = "stop"
    """Reason for which its answers end."""
    key: str | None = None
    """Key that it wants; a wrong one is repeated in its refusal, as careless servers do."""
    gives_logprobs: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: list[str] = field(default_factory=list[str])
    url: str = ""

    def chats(self) -> list[dict[str, Any]]:
        """Return the requests for an answer."""
        return [body for body in self.bodies if "messages" in body]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: OpenAIServer

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": name} for name in self.server_state.models]})

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        state.bodies.append(body)
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        state.keys.append(key)
        if state.key is not None and key != state.key:
            self._send(401, {"error": {"message": f"Incorrect API key provided: {key}."}})
        elif named := sorted(state.refused & body.keys()):
            self._send(400, {"error": {"message": f"Unsupported parameter: '{named[0]}'."}})
        elif self.path.endswith("/embeddings"):
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [
                {"index": place, "object": "embedding", "embedding": words_in_unit_vector(text)}
                for place, text in enumerate(texts)
            ]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self._send(200, {"object": "list", "model": "m", "data": data, "usage": usage})
        else:
            self._answer(body, state)

    def _answer(self, body: dict[str, Any], state: OpenAIServer) -> None:
        said = state.reply(body)
        choice: dict[str, Any] = {"index": 0, "finish_reason": state.finish_reason}
        if state.gives_logprobs and body.get("logprobs"):
            token: dict[str, Any] = {"token": said, "logprob": -0.5, "top_logprobs": []}
            choice["logprobs"] = {"content": [token]}
        head = {"id": "1", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        message = {"role": "assistant", "content": said}
        if not body.get("stream"):
            whole = {
                **head,
                "object": "chat.completion",
                "choices": [{**choice, "message": message}],
            }
            self._send(200, {**whole, "usage": usage})
            return
        chunk = {**head, "object": "chat.completion.chunk"}
        parts = [{**chunk, "choices": [{**choice, "delta": message}]}]
        parts.append({**chunk, "choices": [], "usage": usage})
        text = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"
        self._write(200, "text/event-stream", text)

    def _send(self, status: int, value: object) -> None:
        self._write(status, "application/json", json.dumps(value))

    def _write(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.send_header("connection", "close")  # clients keep connections open for good
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def openai_server() -> Generator[OpenAIServer]:
    """Run a server and yield what it has; its `url` ends with `/v1`."""
    state = OpenAIServer()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"server_state": state})
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
