"""Spans of runs: one a node below one a run, with ids and figures, and texts only if asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from http_servers import post, served
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted_parts import Parts

from rttc_graph.errors import NoAnswerError
from rttc_graph.graph import create_rttc_graph
from rttc_graph.integrations.opentelemetry.run_traces import RunTraces
from rttc_graph.integrations.opentelemetry.span_export import TraceParents
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.serve_options import ServeOptions

QUESTION = "is my secret safe?"


class Traces:
    """A handler and what it has made."""

    def __init__(self, *, with_texts: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.handler = RunTraces(provider, with_texts=with_texts)

    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def texts(self) -> str:
        return " ".join(span.to_json() for span in self.spans())


@pytest.mark.parametrize("awaited", [True, False])
def test_each_node_has_a_span_below_that_of_its_run(awaited: bool) -> None:
    traces = Traces()
    graph = create_rttc_graph(**Parts().parts())
    config: Any = {"callbacks": [traces.handler]}
    given: Any = {"query": QUESTION}
    output = asyncio.run(graph.ainvoke(given, config)) if awaited else graph.invoke(given, config)
    *nodes, run = traces.spans()
    assert [span.name for span in nodes] == [
        "rttc prepare",
        "rttc generate",
        "rttc reward_judge",
        "rttc retrieve",
        "rttc rag_generate",
        "rttc reward_judge",
        "rttc ttt_adapt",
        "rttc generate",
        "rttc reward_judge",
    ]
    assert {span.parent.span_id for span in nodes} == {run.context.span_id}
    assert (run.name, run.parent) == ("rttc run", None)
    assert run.attributes["rttc.run_id"] == output["run_id"]
    assert run.attributes["rttc.trained_tokens"] == 40
    trained, answered = nodes[6], nodes[7]
    keys = [entry["detail"]["key"] for entry in output["ledger"] if entry["event"] == "trained"]
    assert [trained.attributes["rttc.adapter_key"]] == keys
    assert answered.attributes["rttc.arm"] == "ttt"
    assert answered.attributes["gen_ai.usage.input_tokens"] == 7
    assert [event.name for event in nodes[2].events] == ["judged", "decided"]


@pytest.mark.parametrize("with_texts", [False, True])
def test_texts_are_in_spans_only_if_they_are_asked_for(with_texts: bool) -> None:
    traces = Traces(with_texts=with_texts)
    parts = Parts()
    parts.policy_model.fails["rag"] = RuntimeError("somebody's words")
    graph = create_rttc_graph(**parts.parts())
    asyncio.run(graph.ainvoke({"query": QUESTION}, {"callbacks": [traces.handler]}))
    found = traces.texts()
    for text in (QUESTION, "somebody's words"):
        assert (text in found) is with_texts, text


def test_a_run_that_fails_ends_its_spans_with_the_error_and_not_its_words() -> None:
    traces, parts = Traces(), Parts()
    for arm in ("direct", "rag", "ttt"):
        parts.policy_model.fails[arm] = RuntimeError("somebody's words")
    graph = create_rttc_graph(**parts.parts())
    with pytest.raises(NoAnswerError):
        asyncio.run(graph.ainvoke({"query": QUESTION}, {"callbacks": [traces.handler]}))
    assert traces.spans()[-1].name == "rttc run"
    assert traces.spans()[-1].attributes["error.type"] == "NoAnswerError"
    assert not traces.spans()[-1].status.is_ok
    assert "somebody" not in traces.texts()


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # LangServe's
def test_runs_of_a_server_belong_to_their_callers_trace() -> None:
    traces = Traces()
    app = create_app(ServedParts(parts=Parts().parts(), callbacks=[traces.handler]))
    app.add_middleware(TraceParents)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "content-type": "application/json"}
    body = {"model": "rttc", "messages": [{"role": "user", "content": QUESTION}]}
    with served(app, ServeOptions(drain_seconds=5)) as url:
        for path, asked in (
            ("/v1/chat/completions", body),
            ("/rttc/invoke", {"input": {"query": QUESTION}}),
        ):
            assert httpx.post(url + path, json=asked, headers=headers).status_code == 200
        assert post(url, "/v1/chat/completions", body).status_code == 200
    runs = [span for span in traces.spans() if span.name == "rttc run"]
    assert [f"{run.context.trace_id:032x}" == trace for run in runs] == [True, True, False]
    assert [run.parent and f"{run.parent.span_id:016x}" for run in runs] == [parent, parent, None]
