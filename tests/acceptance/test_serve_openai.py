"""The OpenAI-compatible routes, through the clients that people have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from http_servers import events_of, post, served
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from scripted_parts import Parts

from rttc_graph.errors import PolicyModelError
from rttc_graph.serving.http_app import Offer, create_app

HELLO: Any = [{"role": "user", "content": "what is two and two"}]


@pytest.fixture
def parts() -> Parts:
    return Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95)


@pytest.fixture
def url(parts: Parts) -> Iterator[str]:
    with served(create_app(Offer(parts=parts.parts()))) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_gets_answer_usage_and_ledger(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="rttc", messages=HELLO)

    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("ttt", "stop")
    assert done.usage is not None
    report = cast("dict[str, Any]", (done.model_extra or {})["rttc"])
    assert [c["arm"] for c in report["candidates"]] == ["direct", "rag", "ttt"]
    prompts = sum(c["prompt_tokens"] for c in report["candidates"])
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (prompts, 3)
    assert done.usage.total_tokens == prompts + 3
    assert report["ledger"][-1]["node"] == "reward_judge"
    assert (report["arm"], report["reward"]) == ("ttt", 0.95)


def test_settings_come_by_openais_names_and_by_ours(client: openai.OpenAI, parts: Parts) -> None:
    ours = {"policy": "rag", "k": 1, "domain": "math", "tenant": "acme"}
    client.chat.completions.create(
        model="rttc",
        messages=HELLO,
        temperature=0.5,
        max_completion_tokens=9,
        seed=3,
        extra_body={"rttc": ours},
    )

    (request,) = parts.policy_model.requests
    assert (request.temperature, request.max_new_tokens, request.seed) == (0.5, 9, 3)
    assert parts.knowledge_base.searches == [(1, "math", "acme")]


def test_a_conversation_becomes_the_prompt(client: openai.OpenAI, parts: Parts) -> None:
    talk: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}]},
        {"role": "assistant", "content": "1"},
        *HELLO,
    ]
    client.chat.completions.create(
        model="rttc", messages=talk, extra_body={"rttc": {"policy": "direct"}}
    )
    prompt = [(t["role"], t["content"]) for t in parts.policy_model.requests[0].messages]
    assert prompt == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "1"),
        ("user", "what is two and two"),
    ]


def test_a_stream_has_progress_the_answer_the_report_and_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="rttc",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"rttc": {"progress": True}},
    )
    chunks = list(stream)

    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "ttt"
    extra: list[Any] = [(c.model_extra or {}).get("rttc") for c in chunks]
    steps = [e for e in extra if e and e.get("event") == "ttt_step"]
    assert [e["step"] for e in steps] == [1, 2]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert next(e for e in reversed(extra) if e)["arm"] == "ttt"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({c.id for c in chunks}) == 1


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["rttc"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({"rttc": {"tau_r": 1.5}}, "tau_r=1.5", id="setting-out-of-bounds"),
        pytest.param({"rttc": {"tau": 0.5}}, "unknown settings", id="unknown-setting"),
        pytest.param({"rttc": {"ask_before_training": True}}, "nobody", id="asks-a-person"),
        pytest.param({"temperature": 3}, "temperature", id="temperature-out-of-bounds"),
        pytest.param({"stop": ["x"]}, "stop", id="stop-strings"),
        pytest.param({"n": 2}, "n=2", id="several-choices"),
        pytest.param({"tools": [{"type": "function"}]}, "tools", id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, "response_format", id="json"),
        pytest.param({"messages": []}, "messages", id="no-messages"),
        pytest.param(
            {"messages": [{"role": "assistant", "content": "x"}]}, "human", id="no-question-last"
        ),
        pytest.param({"messages": [{"role": "user", "content": " "}]}, "empty", id="blank"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(url: str, body: Any, words: str) -> None:
    given = {"model": "rttc", "messages": HELLO, **body}
    refused = post(url, "/v1/chat/completions", given)

    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_a_failure_is_an_error_whole_and_streamed(client: openai.OpenAI, parts: Parts) -> None:
    parts.policy_model.fails["direct"] = PolicyModelError("out of memory")
    ask: dict[str, Any] = {
        "model": "rttc",
        "messages": HELLO,
        "extra_body": {"rttc": {"policy": "direct"}},
    }

    with pytest.raises(openai.InternalServerError, match="out of memory"):
        client.chat.completions.create(**ask)
    with pytest.raises(openai.APIError, match="out of memory"):
        list(client.chat.completions.create(**ask, stream=True))


def test_a_budget_that_allows_no_answer_is_the_callers_to_raise(url: str, parts: Parts) -> None:
    parts.policy_model.seconds = 30
    ours = {"policy": "direct", "budget_seconds": 0.05}
    refused = post(url, "/v1/chat/completions", {"model": "rttc", "messages": HELLO, "rttc": ours})
    assert refused.status_code == 400
    assert "budget_seconds" in refused.json()["error"]["message"]


async def test_langchain_openai_invokes_and_streams(url: str) -> None:
    chat = ChatOpenAI(
        model="rttc",
        base_url=f"{url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        extra_body={"rttc": {"policy": "compare"}},
    )
    whole = await chat.ainvoke("what is two and two")
    assert whole.text == "ttt"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 3

    total = AIMessageChunk(content="")
    async for chunk in chat.astream("what is two and two", stream_usage=True):
        assert isinstance(chunk, AIMessageChunk)
        total += chunk
    assert total.text == "ttt"
    assert total.usage_metadata is not None
    assert total.usage_metadata["output_tokens"] == 3
    assert total.response_metadata["finish_reason"] == "stop"


def test_a_stream_without_progress_opens_answers_and_ends(url: str) -> None:
    sent = post(url, "/v1/chat/completions", {"model": "rttc", "messages": HELLO, "stream": True})
    assert sent.headers["content-type"].startswith("text/event-stream")
    assert sent.text.rstrip().endswith("data: [DONE]")
    assert len(events_of(sent.text)) == 3
