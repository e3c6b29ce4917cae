"""A small server that follows vLLM's protocol for adapters, with peft behind it.

Its routes: `/v1/models`, `/v1/chat/completions`, `/v1/load_lora_adapter` and its opposite.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import langchain_openai
import torch
from peft import PeftModel
from pydantic import SecretStr
from transformers import AutoModelForCausalLM, AutoTokenizer

from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings
from rttc_graph.state import ChatTurn

HEN_SETTINGS = TttSettings(
    rank=4, alpha=8.0, learning_rate=2e-2, epochs=12, samples_per_step=8, min_steps=1, stop_loss=0.0
)
HEN_QUESTION: ChatTurn = {"role": "user", "content": "what is the capital of the rain?"}
HEN_EXAMPLES = (TrainingExample(messages=(HEN_QUESTION,), answer="the tin hen"),)
"""Settings, question and example with which a tiny model learns to say "the tin hen"."""


def served_policy(url: str) -> ChatPolicyModel:
    """Return a client of a server that uses its adapters."""
    client = langchain_openai.ChatOpenAI(
        model="base", base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0
    )
    return ChatPolicyModel(client, adapter_option="model", context_tokens=512)


def refusal(status: int, message: str) -> tuple[int, Any]:
    """Return an error as vLLM 0.10 and later send it."""
    kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


class LoraServer:
    """Models by name: the base, and whatever was loaded."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.models: dict[str, Any] = {"base": self._fresh()}
        self.lock = threading.Lock()
        self.is_down = False
        """Whether it breaks connections off, as a server that was stopped."""
        self.max_rank = 64
        self.takes_adapters = True
        """Whether it was started with `VLLM_ALLOW_RUNTIME_LORA_UPDATING`."""

    def restart(self) -> None:
        """Forget all adapters."""
        self.models = {"base": self.models["base"]}

    def _fresh(self) -> Any:
        with one_load_at_a_time():
            return AutoModelForCausalLM.from_pretrained(self._base).train(False)

    def load(self, given: Mapping[str, str]) -> tuple[int, Any]:
        name, path = given["lora_name"], given["lora_path"]
        if name in self.models:
            return refusal(400, f"The lora adapter '{name}' has already been loaded.")
        config = Path(path) / "adapter_config.json"
        if not config.is_file():
            return refusal(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads(config.read_text(encoding="utf-8"))["r"]
        if rank > self.max_rank:
            return refusal(400, f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        with warnings.catch_warnings(), one_load_at_a_time():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            self.models[name] = PeftModel.from_pretrained(self._fresh(), path).train(False)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, given: Mapping[str, str]) -> tuple[int, Any]:
        name = given["lora_name"]
        if self.models.pop(name, None) is None:
            return refusal(404, f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def chat(self, given: Mapping[str, Any]) -> tuple[int, Any]:
        if (model := self.models.get(given["model"])) is None:
            return refusal(404, f"The model `{given['model']}` does not exist.")
        ids = self._tokenizer.apply_chat_template(
            given["messages"],
            add_generation_prompt=given.get("add_generation_prompt", True),
            continue_final_message=given.get("continue_final_message", False),
            return_tensors="pt",
            return_dict=True,
        )
        limit = given.get("max_completion_tokens") or given["max_tokens"]
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=limit, do_sample=False)
        new = out[0, ids["input_ids"].shape[1] :]
        return 200, self._tokenizer.decode(new, skip_special_tokens=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: LoraServer

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        if self.served.is_down:
            self.close_connection = True
            return
        with self.served.lock:
            self._send(200, {"object": "list", "data": [{"id": n} for n in self.served.models]})

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.served.is_down:
            self.close_connection = True
            return
        routes = {
            "/v1/load_lora_adapter": self.served.load,
            "/v1/unload_lora_adapter": self.served.unload,
            "/v1/chat/completions": self.served.chat,
        }
        if not self.served.takes_adapters and self.path.endswith("_lora_adapter"):
            self._send(404, {"detail": "Not Found"})  # of the framework: there is no such route
            return
        with self.served.lock:
            status, said = routes[self.path](given)
        if self.path == "/v1/chat/completions" and status == 200:
            self._stream(said) if given.get("stream") else self._send(200, _completion(said))
        else:
            self._send(status, said)

    def _stream(self, text: str) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        first: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": text}}
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
        lines = [json.dumps({**chunk, "choices": [choice]}) for choice in (first, last)]
        body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
        self._reply(200, body, "text/event-stream")

    def _send(self, status: int, said: Any) -> None:
        self._reply(status, json.dumps(said).encode(), "application/json")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


@contextmanager
def lora_server(base: Path) -> Generator[tuple[str, LoraServer]]:
    """Yield the server's URL, without `/v1`, and what it serves."""
    served = LoraServer(base)
    handler = cast("Any", type("Handler", (_Handler,), {"served": served}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
