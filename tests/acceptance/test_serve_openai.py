"""The OpenAI-compatible routes, through the clients that people have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import openai
import pytest
from http_servers import events_of, post, served
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from scripted_parts import Parts

from rttc_graph.errors import PolicyModelError
from rttc_graph.protocols import seeded_by_prompt
from rttc_graph.serving.admission import admission
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.routes.openai_schema import finish_reason
from rttc_graph.serving.stream_start import StreamStart

HELLO: Any = [{"role": "user", "content": "what is two and two"}]


@pytest.fixture
def parts() -> Parts:
    return Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95)


@pytest.fixture
def url(parts: Parts) -> Iterator[str]:
    with served(create_app(ServedParts(parts=parts.parts()))) as url:
        yield url


@pytest.mark.parametrize(
    ("taken", "others", "reason"),
    [
        (("ttt", "length", 0.9), [("ttt", "stop", 0.2)], "length"),
        (("ttt", "stop", 0.9), [("ttt", "length", 0.2)], "stop"),
        (("rag", "budget", 0.9), [("direct", "stop", 0.2)], "length"),
        (("rag", "loop", None), [], "length"),
    ],
)
def test_the_finish_reason_is_that_of_the_answer_that_was_taken(
    taken: tuple[str, str, float | None], others: list[tuple[str, str, float]], reason: str
) -> None:
    candidates = [
        {"arm": arm, "answer": "a", "completion_tokens": 1, "finish_reason": why, "reward": reward}
        for arm, why, reward in (taken, *others)
    ]
    output: Any = {"declined": False, "arm": taken[0], "candidates": candidates}
    assert finish_reason(output) == reason
    output["declined"] = True
    assert finish_reason(output) == "stop"


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
    assert (report["accepted"], report["tau_r"], report["calibrated"]) == (True, 0.5, False)
    assert [(s["answer"], s["arms"], s["taken"]) for s in report["sources"]] == [
        ("answer 1", ["rag", "ttt"], True),
        ("answer 2", ["rag", "ttt"], True),
    ]


def test_the_run_is_stored_under_the_id_in_the_response(
    client: openai.OpenAI, parts: Parts
) -> None:
    done = client.chat.completions.create(
        model="rttc", messages=HELLO, extra_body={"rttc": {"tau_r": 0.99}}
    )
    report = cast("dict[str, Any]", (done.model_extra or {})["rttc"])
    assert report["accepted"] is False
    assert [run.run_id for run in parts.ledger_store.runs] == [report["run_id"]]


def test_a_run_declines_where_the_request_says_so(client: openai.OpenAI) -> None:
    ours = {"tau_r": 0.99, "below": "decline", "decline_text": "Ask a person."}
    done = client.chat.completions.create(model="rttc", messages=HELLO, extra_body={"rttc": ours})
    assert done.choices[0].message.content == "Ask a person."
    report = cast("dict[str, Any]", (done.model_extra or {})["rttc"])
    assert (report["declined"], report["arm"], report["reward"]) == (True, "ttt", 0.95)


def test_a_misspelt_domain_is_refused_with_the_one_that_is_meant(client: openai.OpenAI) -> None:
    for stream in (False, True):
        words = r"domain 'maths' of tenant 'default' has no samples: did you mean 'math'"
        with pytest.raises(openai.BadRequestError, match=words):
            client.chat.completions.create(
                model="rttc",
                messages=HELLO,
                stream=stream,
                extra_body={"rttc": {"domain": "maths"}},
            )


def test_settings_come_by_openais_names_and_by_ours(client: openai.OpenAI, parts: Parts) -> None:
    ours = {"policy": "rag", "k": 1, "domain": "math", "tenant": "acme"}
    client.chat.completions.create(
        model="rttc",
        messages=HELLO,
        temperature=0.5,
        max_completion_tokens=9,
        top_p=0.9,
        stop=["\n\n", ""],
        seed=3,
        extra_body={"rttc": ours},
    )

    (request,) = parts.policy_model.requests
    assert (request.temperature, request.max_new_tokens) == (0.5, 9)
    assert request.seed == seeded_by_prompt(replace(request, seed=3)).seed
    assert (request.top_p, request.stop) == (0.9, ("\n\n",))
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
    report = next(e for e in reversed(extra) if e)
    assert (report["arm"], report["accepted"], len(report["sources"])) == ("ttt", True, 2)
    assert report["run_id"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({c.id for c in chunks}) == 1


def test_a_live_stream_has_each_node_that_begins_and_each_judged_answer(
    url: str, parts: Parts
) -> None:
    asked: Any = {**STREAMED, "messages": HELLO, "rttc": {"progress": "live"}}
    told = [e.get("rttc") for e in events_of(post(url, "/v1/chat/completions", asked).text)]
    events: list[Any] = [event for event in told if event and "event" in event]
    nodes = [event["node"] for event in events if event["event"] == "node"]
    assert nodes[:3] == ["prepare", "generate", "reward_judge"]
    assert nodes[-3:] == ["ttt_adapt", "generate", "reward_judge"]
    judged = [event["candidates"] for event in events if event["event"] == "candidates"]
    assert [c["arm"] for c in judged[-1]] == ["direct", "rag", "ttt"]
    assert [c["reward"] for c in judged[-1]] == [0.1, 0.2, 0.95]
    first = next(event for event in events if event["event"] == "ledger")
    assert events.index(first) > events.index({"event": "node", "node": "prepare"})
    refused = post(url, "/v1/chat/completions", {**asked, "rttc": {**asked["rttc"], "k": 0}})
    assert refused.status_code == 400  # what is known before the run keeps its status
    parts.policy_model.context = 2
    late = post(url, "/v1/chat/completions", {**asked, "rttc": {**asked["rttc"], "policy": "rag"}})
    assert late.status_code == 200
    assert "context" in events_of(late.text)[-1]["error"]["message"]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["rttc"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({"rttc": {"tau_r": 1.5}}, "tau_r=1.5", id="setting-out-of-bounds"),
        pytest.param({"rttc": {"tau": 0.5}}, "unknown settings", id="unknown-setting"),
        pytest.param({"rttc": {"ask_before_training": True}}, "nobody", id="asks-a-person"),
        pytest.param({"temperature": 3}, "temperature", id="temperature-out-of-bounds"),
        pytest.param({"top_p": 0}, "top_p", id="no-probability"),
        pytest.param({"stop": ["x"] * 17}, "stop_strings", id="too-many-stop-strings"),
        pytest.param({"domain": "x"}, '"rttc": {"domain": "x"}', id="domain-elsewhere"),
        pytest.param({"tau_r": 0.7}, 'write "rttc": {"tau_r": 0.7}', id="setting-elsewhere"),
        pytest.param({"n": 2}, "n=2", id="several-choices"),
        pytest.param({"logprobs": True}, "logprobs=true", id="logprobs"),
        pytest.param({"top_logprobs": 2}, "top_logprobs=2", id="top-logprobs"),
        pytest.param({"stop": "x" * 201}, "stop_strings", id="too-long-a-stop-string"),
        pytest.param({"n": 0}, "n=0", id="no-choice"),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format",
            id="a-schema",
        ),
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


@pytest.mark.parametrize(
    "body",
    [
        {"n": 1},
        {"logprobs": False},
        {"response_format": {"type": "text"}},
        {"top_p": 1},
        {"stop": "END"},
        {"stop": None, "n": None, "logprobs": None, "response_format": None, "top_p": None},
    ],
)
def test_what_asks_for_nothing_else_is_taken(url: str, body: Any) -> None:
    taken = post(url, "/v1/chat/completions", {"model": "rttc", "messages": HELLO, **body})
    assert taken.status_code == 200
    assert len(taken.json()["choices"]) == 1


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


TOO_MUCH: list[Any] = [
    pytest.param("x " * 900, {}, "model's context is 500: shorten", id="a-long-question"),
    pytest.param("hello", {"budget_tokens": 1}, "budget_tokens=1: raise it", id="a-small-budget"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("question", "ours", "words"), TOO_MUCH)
def test_what_no_model_can_answer_the_nearest_sample_may(
    question: str, ours: Any, words: str, stream: bool
) -> None:
    parts = Parts(arms=()).rewarding(**{"answer 1": 0.3})
    parts.policy_model.context = 500
    asked = {"messages": [{"role": "user", "content": question}], "model": "rttc", "rttc": ours}
    with served(create_app(ServedParts(parts=parts.parts()))) as url:
        sent = post(url, "/v1/chat/completions", {**asked, "stream": stream})
        assert sent.status_code == 200
        report = events_of(sent.text)[-1]["rttc"] if stream else sent.json()["rttc"]
        assert (report["arm"], report["accepted"]) == ("nearest", False)
        failed = str([e["detail"] for e in report["ledger"] if e["event"] == "failed"])
        assert words.partition(":")[0].partition("=")[0] in failed

        parts.knowledge_base.samples = []
        refused = post(url, "/v1/chat/completions", {**asked, "stream": stream})
        assert refused.status_code == 400
        assert words in refused.json()["error"]["message"]
    assert not parts.policy_model.requests


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


STREAMED: dict[str, Any] = {"model": "rttc", "stream": True}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({"messages": [{"role": "user", "content": "  "}]}, "empty", id="blank"),
        pytest.param(
            {"messages": [*HELLO, {"role": "assistant", "content": "One,"}]}, "human", id="last"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "x " * 60_000}]}, "characters", id="long"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "x " * 900}]}, "context", id="context"
        ),
        pytest.param({"messages": HELLO, "rttc": {"budget_tokens": 1}}, "budget", id="budget"),
        pytest.param({"messages": HELLO, "rttc": {"domain": "a\0b"}}, "surrogate", id="domain"),
        pytest.param({"messages": HELLO, "rttc": {"tenant": "a\0b"}}, "surrogate", id="tenant"),
        pytest.param({"messages": HELLO, "rttc": {"tau_r_of": "x"}}, "fingerprint", id="judge"),
    ],
)
@pytest.mark.parametrize("policy", ["direct", "cascade"])
def test_what_is_the_clients_mistake_has_one_status_streamed_or_not(
    url: str, parts: Parts, body: Any, words: str, policy: str
) -> None:
    parts.policy_model.context = 500
    given = {"model": "rttc", **body, "rttc": {"policy": policy, **body.get("rttc", {})}}
    for stream in (False, True):
        refused = post(url, "/v1/chat/completions", {**given, "stream": stream})
        assert refused.status_code == 400, refused.text
        assert words in refused.json()["error"]["message"]
    assert not parts.policy_model.requests


def test_what_fails_once_a_run_goes_on_is_an_event_of_the_stream(url: str, parts: Parts) -> None:
    parts.policy_model.fails["direct"] = PolicyModelError("out of memory")
    sent = post(
        url,
        "/v1/chat/completions",
        {**STREAMED, "messages": HELLO, "rttc": {"policy": "direct"}},
    )
    assert sent.status_code == 200
    assert "out of memory" in events_of(sent.text)[-1]["error"]["message"]


@pytest.mark.parametrize("more", [{}, {"progress": True}, {"policy": "nearest"}], ids=str)
def test_a_stream_begins_with_the_first_answer_and_goes_on_without_waiting(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setattr(admission, "StreamStart", partial(StreamStart, seconds=3600))
    with served(create_app(ServedParts(parts=parts.parts()))) as url:
        asked = {**STREAMED, "messages": HELLO, "rttc": more}
        sent = post(url, "/v1/chat/completions", asked)  # whose time is up long before
    assert sent.text.endswith("data: [DONE]\n\n")


def test_every_choice_of_every_chunk_has_a_finish_reason(url: str) -> None:
    asked = {**STREAMED, "messages": HELLO, "stream_options": {"include_usage": True}}
    for more in ({}, {"progress": True}):
        sent = post(url, "/v1/chat/completions", {**asked, "rttc": more})
        chunks = events_of(sent.text)
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        assert all("usage" in chunk for chunk in chunks)


TOOL_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "balance", "arguments": "{}"}}
    ],
}


@pytest.mark.parametrize(
    ("turns", "shown"),
    [
        pytest.param(
            [TOOL_CALL, {"role": "tool", "tool_call_id": "c", "content": "12"}], [], id="tool-call"
        ),
        pytest.param(
            [{key: TOOL_CALL[key] for key in ("role", "tool_calls")}], [], id="content-missing"
        ),
        pytest.param([{"role": "function", "name": "balance", "content": "12"}], [], id="function"),
        pytest.param(
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [("assistant", "No.")],
            id="refusal-part",
        ),
        pytest.param(
            [{"role": "assistant", "content": None, "refusal": "No."}],
            [("assistant", "No.")],
            id="refusal",
        ),
        pytest.param(
            [{"role": "user", "content": "cut \ud83d"}], [("user", "cut ?")], id="surrogate"
        ),
    ],
)
def test_a_history_is_taken_as_the_protocol_has_it(
    url: str, parts: Parts, turns: Any, shown: Any
) -> None:
    body = {"model": "rttc", "messages": [*turns, *HELLO], "rttc": {"policy": "direct"}}
    assert post(url, "/v1/chat/completions", body).status_code == 200
    prompt = [(t["role"], t["content"]) for t in parts.policy_model.requests[0].messages]
    assert prompt[1:-1] == shown


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ],
    ids=["image", "audio", "file"],
)
def test_a_part_that_is_no_text_is_refused_by_name(url: str, role: str, part: Any) -> None:
    turn = {"role": role, "content": [{"type": "text", "text": "What is this?"}, part]}
    for messages in ([turn, *HELLO], [turn]) if role == "user" else ([turn, *HELLO],):
        refused = post(url, "/v1/chat/completions", {"model": "rttc", "messages": messages})
        assert refused.status_code == 400
        assert part["type"] in refused.json()["error"]["message"]
        assert "messages[0]" in refused.json()["error"]["message"]


@pytest.mark.parametrize("content", [None, 5, [{"type": "text"}], [5], {"type": "text"}])
def test_a_message_of_a_user_needs_text(url: str, content: Any) -> None:
    body = {"model": "rttc", "messages": [{"role": "user", "content": content}]}
    assert post(url, "/v1/chat/completions", body).status_code == 400


@pytest.mark.parametrize(
    ("seed", "taken"),
    [(7, 7), (-1, 2**31 - 1), (2**53 - 1, 2**31 - 1), (2**63 - 1, 2**31 - 1), (-(2**63), 0)],
)
def test_seeds_have_64_bits_with_sign(url: str, parts: Parts, seed: int, taken: int) -> None:
    body = {"model": "rttc", "messages": HELLO, "seed": seed, "rttc": {"policy": "direct"}}
    assert post(url, "/v1/chat/completions", body).status_code == 200
    assert parts.policy_model.requests[0].seed == taken


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 1.5, "x"])
def test_other_seeds_are_refused(url: str, seed: Any) -> None:
    body = {"model": "rttc", "messages": HELLO, "seed": seed}
    assert post(url, "/v1/chat/completions", body).status_code == 400
