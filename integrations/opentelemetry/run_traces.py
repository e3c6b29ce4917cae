"""Spans of a graph's runs: one for each run, and below it one for each node that works.

They are made from LangChain's callbacks, so every host can have them and the graph knows nothing of
them: `graph.invoke(question, {"callbacks": [RunTraces(provider)]})`. What a span holds is what the
ledger says in numbers and in words of ours. Questions, answers, samples and words of errors are
somebody's texts, and are in no span unless they are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from opentelemetry.trace import (
    Span,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

__all__ = ("RunTraces",)

_VERSION = version("rttc-graph")

_WORDS = frozenset(
    {
        "adapter",
        "adapter_key",
        "arm",
        "arms",
        "attempt",
        "choice",
        "decision",
        "finish_reason",
        "key",
        "origin",
        "reward_model",
        "samples",
        "strategy",
    }
)
"""Details of the ledger that are words of ours or names of models; other words may be texts."""

_INPUT, _OUTPUT = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
"""Names of OpenTelemetry's conventions for generative models."""

_RUN_KEYS = ("run_id", "arm", "accepted", "declined", "reward", "tau_r", "calibrated")


@dataclass(slots=True)
class _OpenRun:
    """A run that has not ended."""

    span: Span
    question: str | None = None
    nodes: dict[UUID, tuple[Span, int]] = field(default_factory=dict[UUID, tuple[Span, int]])
    """Spans of nodes at work, with how many entries the ledger had when they began."""


class RunTraces(BaseCallbackHandler):
    """Callback handler that makes the spans; one serves any number of runs at once.

    Args:
        provider: Where spans go; by default the process's own provider.
        with_texts: Whether spans hold question, answer and words of errors too.
    """

    run_inline = True  # before the node's work, and in the caller's context

    def __init__(self, provider: TracerProvider | None = None, *, with_texts: bool = False) -> None:
        self._tracer = (provider or get_tracer_provider()).get_tracer("rttc-graph", _VERSION)
        self._with_texts = with_texts
        self._lock = threading.Lock()
        self._runs: dict[UUID, _OpenRun] = {}
        self._run_of: dict[UUID, UUID] = {}

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Begin the span of a node, and with the first one that of the run."""
        del serialized, tags
        known = metadata or {}
        name = more.get("name")
        # Nodes of ours say what they do; what runs inside of a node has another name.
        if parent_run_id is None or "does" not in known or known.get("langgraph_node") != name:
            return
        with self._lock:
            run = self._runs.get(parent_run_id)
            if run is None:
                run = self._runs[parent_run_id] = _OpenRun(self._tracer.start_span("rttc run"))
            within = set_span_in_context(run.span)
            span = self._tracer.start_span(f"rttc {name}", context=within)
            run.nodes[run_id] = (span, len(inputs.get("ledger") or ()))
            self._run_of[run_id] = parent_run_id
            task = inputs.get("task")
            if task is not None:
                run.question = task["query"]
        span.set_attribute("rttc.node", str(name))

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **more: Any) -> None:
        """End the span of a node or of a run."""
        del more
        found = self._taken(run_id)
        if isinstance(found, _OpenRun):
            self._end_run(found, outputs)
        elif found is not None:
            span, before = found
            ledger = cast("Sequence[Any]", outputs.get("ledger") or ())
            self._tell_entries(span, ledger[before:])
            span.end()

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        """End the span of what failed or was cancelled."""
        del more
        found = self._taken(run_id)
        if found is None:
            return
        span = found.span if isinstance(found, _OpenRun) else found[0]
        words = str(error) if self._with_texts else None
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, words))
        if isinstance(found, _OpenRun):
            self._end_left(found)
        span.end()

    def _taken(self, run_id: UUID) -> _OpenRun | tuple[Span, int] | None:
        """Return what is open under an id of LangChain's, and forget it."""
        with self._lock:
            run = self._runs.pop(run_id, None)
            if run is not None:
                for node in run.nodes:
                    self._run_of.pop(node, None)
                return run
            parent = self._run_of.pop(run_id, None)
            owner = None if parent is None else self._runs.get(parent)
            return None if owner is None else owner.nodes.pop(run_id, None)

    def _end_run(self, run: _OpenRun, output: object) -> None:
        self._end_left(run)
        if isinstance(output, Mapping):
            told = self._run_attributes(run, cast("Mapping[str, Any]", output))
            run.span.set_attributes(dict(told))
        run.span.end()

    def _end_left(self, run: _OpenRun) -> None:
        """End the spans of nodes that were cut off with their run."""
        for span, _ in run.nodes.values():
            span.end()

    def _run_attributes(
        self, run: _OpenRun, output: Mapping[str, Any]
    ) -> Iterator[tuple[str, AttributeValue]]:
        for name in _RUN_KEYS:
            if output.get(name) is not None:
                yield f"rttc.{name}", output[name]
        cache = cast("Mapping[str, str]", output.get("cache") or {})
        for what, had in cache.items():
            yield f"rttc.cache.{what}", had
        candidates = output.get("candidates") or ()
        yield "rttc.candidates", len(candidates)
        yield _INPUT, sum(one["prompt_tokens"] for one in candidates)
        yield _OUTPUT, sum(one["completion_tokens"] for one in candidates)
        yield "rttc.trained_tokens", sum(one["trained_tokens"] for one in candidates)
        if self._with_texts:
            yield "rttc.answer", str(output.get("answer", ""))
            if run.question is not None:
                yield "rttc.question", run.question

    def _tell_entries(self, span: Span, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write a step's entries as events, and what they sum up to as attributes of its span."""
        summed = {_INPUT: 0, _OUTPUT: 0, "rttc.trained_tokens": 0}
        for entry in entries:
            detail = cast("Mapping[str, Any]", entry["detail"])
            told = dict(self._told(detail)) | {"seconds": float(entry["seconds"])}
            span.add_event(str(entry["event"]), told)
            if (arm := detail.get("arm")) is not None:
                span.set_attribute("rttc.arm", str(arm))
            if (key := detail.get("adapter_key") or detail.get("key")) is not None:
                span.set_attribute("rttc.adapter_key", str(key))
            summed[_INPUT] += _count(detail, "prompt_tokens")
            summed[_OUTPUT] += _count(detail, "completion_tokens")
            if entry["event"] == "trained":
                summed["rttc.trained_tokens"] += _count(detail, "trained_tokens")
        span.set_attributes({name: tokens for name, tokens in summed.items() if tokens})

    def _told(self, detail: Mapping[str, Any]) -> Iterator[tuple[str, AttributeValue]]:
        """Return what may be told of an entry: numbers, words of ours, and texts if asked for."""
        for name, value in detail.items():
            is_text = isinstance(value, str)
            if isinstance(value, bool | int | float) or (
                is_text and (self._with_texts or name in _WORDS)
            ):
                yield name, value
            elif name in _WORDS and isinstance(value, list):
                yield name, [str(one) for one in cast("list[object]", value)]


def _count(detail: Mapping[str, Any], name: str) -> int:
    value = detail.get(name)
    return value if isinstance(value, int) else 0
