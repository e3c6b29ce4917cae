"""Models that are named by provider or address: what a name means, and what a wrong one gets."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer, openai_server

from rttc_graph.errors import BackendError, ConfigurationError, PolicyModelError
from rttc_graph.installation.closed_arms import closed_arms
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.langchain.hosted_models import (
    HostedName,
    Role,
    hosted_name,
    open_chat_model,
    open_embeddings,
    resolved,
    whole_name,
)
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.transformers.weight_files import resolve as weights
from rttc_graph.protocols import GenerationRequest, can_follow_schema
from rttc_graph.support.others_words import HIDDEN_KEY, without_keys

pytest.importorskip("langchain_openai")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "RTTC_MODEL_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as found:
        yield found


@pytest.mark.parametrize(
    ("text", "role", "provider", "model", "url"),
    [
        ("openai:gpt-5", "model", "openai", "gpt-5", None),
        ("OpenAI:gpt-5", "model", "openai", "gpt-5", None),
        ("ollama:llama3.2:1b", "model", "ollama", "llama3.2:1b", None),
        ("http://h:8000/v1#org/m", "model", "openai", "org/m", "http://h:8000/v1"),
        ("https://h/v1/?model=m", "model", "openai", "m", "https://h/v1"),
        ("http://h/v1", "model", "openai", "", "http://h/v1"),
        ("http://h/v1/chat/completions#m", "model", "openai", "m", "http://h/v1"),
        ("http://h/v1", "reward", "openai", "", "http://h/v1"),
        ("http://h/grader#m", "reward", "openai", "m", "http://h/grader"),
        ("http://h:8080#e", "embedder", "openai", "e", "http://h:8080"),
    ],
)
def test_a_name_says_who_serves_the_model(
    text: str, role: Role, provider: str, model: str, url: str | None
) -> None:
    assert hosted_name(text, role) == HostedName(role=role, provider=provider, model=model, url=url)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("smollm2-135m-instruct", "model"),
        ("Qwen/Qwen3-0.6B", "model"),
        ("C:\\models\\mine", "model"),
        ("/models/a:b", "model"),
        ("self-confidence", "reward"),
        ("http://judge:8000", "reward"),
    ],
)
def test_other_names_are_local_or_give_scores(text: str, role: Role) -> None:
    assert hosted_name(text, role) is None


def test_a_folder_with_a_colon_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai:mine").mkdir()
    assert hosted_name("openai:mine", "model") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://user:hunter22@h/v1", "RTTC_MODEL_API_KEY"),
        ("http://h/v1?api_key=hunter22", "not api_key: give a key by RTTC_MODEL_API_KEY"),
        ("http:///v1", "has no host"),
    ],
)
def test_an_address_holds_no_key(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        hosted_name(text, "model")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("opneai:gpt-5", "did you mean openai:gpt-5"),
        ("openai:gpt-5", "needs the environment variable OPENAI_API_KEY, which is not set"),
        ("zzz:gpt-5", "LangChain knows no provider 'zzz'.*Known are 'anthropic'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_way_out(text: str, words: str) -> None:
    name = hosted_name(text, "model")
    assert name is not None
    with pytest.raises(ConfigurationError, match=words):
        open_chat_model(name)
    with pytest.raises(ConfigurationError):
        open_embeddings(name)


@pytest.mark.skipif(
    importlib.util.find_spec("langchain_anthropic") is not None, reason="it is installed"
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "some-key")
    with pytest.raises(ConfigurationError, match=r"pip install langchain-anthropic$"):
        open_chat_model(HostedName(role="model", provider="anthropic", model="claude"))


def test_a_server_with_one_model_is_asked_for_it(server: OpenAIServer) -> None:
    assert whole_name(server.url, "model") == f"{server.url}#small-chat"
    server.models = ["a", "b"]
    with pytest.raises(ConfigurationError, match=r"has 2 models: a, b: write .*/v1#MODEL"):
        whole_name(server.url, "model")
    server.models = []
    with pytest.raises(ConfigurationError, match="has none"):
        whole_name(server.url, "model")
    assert whole_name(f"{server.url}#c", "model") == f"{server.url}#c"
    assert whole_name("smollm2-135m-instruct", "model") == "smollm2-135m-instruct"


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:9/v1/models gave no list.*start the"):
        whole_name("http://127.0.0.1:9/v1", "model")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            "Connection refused): start the server",
        ),
        (socket.gaierror(-2, "Name or service not known"), "not known): start the server"),
        (ValueError("no JSON"), "VendorError: Connection error."),
    ],
)
def test_a_vendor_s_connection_error_gets_the_reason_and_the_way_out(
    cause: Exception, words: str
) -> None:
    class VendorError(Exception):
        pass

    error = VendorError("Connection error.")
    error.__cause__ = cause
    assert describe(error).startswith("VendorError: Connection error")
    assert words in describe(error)


@pytest.fixture
def policy(server: OpenAIServer) -> ChatPolicyModel:
    name = hosted_name(server.url, "model")
    assert name is not None
    name = resolved(name)
    return ChatPolicyModel(open_chat_model(name), name=name.text, asks_logprobs=True)


def request(**options: Any) -> GenerationRequest:
    return GenerationRequest(
        messages=({"role": "user", "content": "6 * 7?"},), max_new_tokens=9, **options
    )


async def test_an_address_gets_no_other_vendor_s_key(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-vendor")
    name = HostedName(role="model", provider="openai", model="m", url=server.url)
    for key in ("", "its-own-key"):
        monkeypatch.setenv("RTTC_MODEL_API_KEY", key)
        chat = await asyncio.to_thread(open_chat_model, name)
        await ChatPolicyModel(chat).generate([request()])
    assert server.keys == ["none", "its-own-key"]


@pytest.mark.parametrize("seconds", [None, 60])
async def test_tokens_and_log_probabilities_are_read(
    server: OpenAIServer, policy: ChatPolicyModel, seconds: float | None
) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    [answer] = await policy.generate([request()], deadline=deadline)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("42", 7, 2)
    assert answer.mean_logprob == pytest.approx(-0.5)
    [body] = server.bodies
    assert (body["model"], body["max_tokens"]) == ("small-chat", 9)


@pytest.mark.parametrize(
    ("refused", "sent"),
    [
        ({"logprobs"}, 2),
        ({"logprobs", "temperature"}, 3),
        ({"temperature", "top_p", "seed"}, 4),
    ],
)
async def test_what_a_server_refuses_is_left_out_from_then_on(
    server: OpenAIServer,
    policy: ChatPolicyModel,
    refused: set[str],
    sent: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.refused = frozenset(refused)
    [answer] = await policy.generate([request(temperature=0.5, seed=3)])
    assert answer.text == "42"
    assert len(server.bodies) == sent
    await policy.generate([request(temperature=0.5, seed=3)])
    assert len(server.bodies) == sent + 1
    assert "left out from now on" in caplog.text


async def test_a_schema_that_a_server_refuses_is_not_asked_for_again(server: OpenAIServer) -> None:
    name = hosted_name(f"{server.url}#m", "model")
    assert name is not None
    policy = ChatPolicyModel(open_chat_model(name), name="m", follows_schemas=True)
    server.refused = frozenset({"response_format"})
    assert can_follow_schema(policy)
    [answer] = await policy.generate([request(answer_schema='{"type": "object"}')])
    assert answer.text == "42"
    assert not can_follow_schema(policy)


async def test_another_refusal_is_an_error_and_changes_nothing(
    server: OpenAIServer, policy: ChatPolicyModel
) -> None:
    server.refused = frozenset({"messages"})
    with pytest.raises(PolicyModelError, match="Unsupported parameter: 'messages'"):
        await policy.generate([request()])
    server.refused = frozenset()
    [answer] = await policy.generate([request()])
    assert answer.mean_logprob == pytest.approx(-0.5)  # still asked for


def test_embeddings_behind_an_address_are_sent_as_texts(server: OpenAIServer) -> None:
    name = hosted_name(f"{server.url}#e", "embedder")
    assert name is not None
    [vector] = open_embeddings(name).embed_documents(["one two"])
    assert len(vector) == 32
    assert server.bodies[0]["input"] == ["one two"]


def test_words_of_errors_have_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VENDOR_API_KEY", "fancy-key-42")
    monkeypatch.setenv("HOME_TOKENS", "fine-as-it-is")
    said = "Incorrect key fancy-key-42, or sk-abcdefgh1234; Bearer xyzxyzxyz1; fine-as-it-is; sk-1"
    assert without_keys(said) == (
        f"Incorrect key {HIDDEN_KEY}, or {HIDDEN_KEY}; Bearer {HIDDEN_KEY}; fine-as-it-is; sk-1"
    )


@pytest.mark.parametrize(
    ("kind", "name", "words", "others"),
    [
        ("chat", "smolm2 135m-instruct", "did you mean 'smollm2-135m-instruct'", "MiniLM"),
        ("embedding", "all minilm-l6-v2", "did you mean 'all-minilm-l6-v2'", "smollm2"),
        ("reward", "minilm judge", "did you mean 'minilm-judge'", "smollm2"),
    ],
)
def test_a_misspelt_local_name_is_answered_with_models_of_its_kind(
    tmp_path: Path, kind: weights.ModelKind, name: str, words: str, others: str
) -> None:
    with pytest.raises(PolicyModelError) as caught:  # the blank makes it no name on a hub
        weights.resolve(name, cache_dir=tmp_path, kind=kind)
    assert words in str(caught.value)
    assert not re.search(others, str(caught.value).split("did you mean")[1], re.IGNORECASE)


def test_a_served_model_closes_the_arms_that_nothing_promises() -> None:
    address = "http://host/v1#m"
    closed = closed_arms(address, continues=False)
    continuing = {"beam", "dvts", "particles", "lookahead", "mcts", "budget_forcing", "search_o1"}
    assert closed.keys() == {"ttt", "self_verify", *continuing}
    assert "set continues_answers" in closed["beam"]
    assert closed_arms(address, continues=True).keys() == {"ttt", "self_verify"}
    assert closed_arms("smollm2-135m-instruct", continues=False) == {}
