"""Runs of the graph on behalf of a caller: its settings, its tenant, its conversation."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.graph import RttcParts, create_rttc_graph
from rttc_graph.serving.admission.authentication import Caller
from rttc_graph.serving.http_errors import HttpError
from rttc_graph.serving.metrics import Metrics
from rttc_graph.serving.redaction import without_places_in
from rttc_graph.settings import RttcSettings, unknown_settings
from rttc_graph.state import Candidate, LedgerEntry, RttcInput, RttcOutput

__all__ = ("Runner",)

_log = logging.getLogger(__name__)

EventSink = Callable[[dict[str, Any]], Awaitable[None]]


class Runner:
    """Answers questions for callers.

    Args:
        parts: What the graph is made of.
        metrics: Counts each run.
        threads: Conversations that are kept; used longest ago, first forgotten.
        checkpointer: Keeps the conversations; by default in memory. Nothing is forgotten in one
            that is given.
        callbacks: Handlers of LangChain's that hear of every run, as those of traces do.
    """

    def __init__(
        self,
        parts: RttcParts,
        metrics: Metrics,
        *,
        threads: int,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        callbacks: Sequence[BaseCallbackHandler] = (),
    ) -> None:
        self._metrics = metrics
        self._callbacks = callbacks
        self._defaults = parts.get("settings") or RttcSettings()
        self._graph = create_rttc_graph(**parts)
        self._saver: BaseCheckpointSaver[Any] = checkpointer or InMemorySaver()
        self._with_threads = create_rttc_graph(checkpointer=self._saver, **parts)
        self._most_threads = threads if checkpointer is None else None
        self._threads: OrderedDict[str, None] = OrderedDict()
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @property
    def defaults(self) -> RttcSettings:
        """What holds where a request says nothing."""
        return self._defaults

    def settings(self, said: Mapping[str, Any], caller: Caller) -> RttcSettings:
        """Return the settings of a run: the server's, with what the request says over them.

        Raises:
            ConfigurationError: A name is unknown, a value is out of its bounds, or a person is to
                be asked.
            HttpError: The request names a tenant that is not its key's.
        """
        if unknown := said.keys() - RttcSettings.model_fields.keys():
            raise unknown_settings(unknown)
        settings = RttcSettings.of(said, defaults=self._defaults)
        if settings.ask_before_training:
            raise ConfigurationError(
                "ask_before_training=True: nobody can be asked over HTTP; leave it out, or run the "
                "graph on a LangGraph server (docs/howto/studio.md)"
            )
        tenant = caller.tenant_for(said.get("tenant"), self._defaults.tenant)
        return settings.model_copy(update={"tenant": tenant})

    async def run(
        self,
        given: RttcInput,
        settings: RttcSettings,
        caller: Caller,
        *,
        thread: str | None = None,
        config: RunnableConfig | None = None,
        on_event: EventSink | None = None,
        live: bool = False,
    ) -> RttcOutput:
        """Run the graph once.

        Args:
            given: The question.
            settings: Settings from `settings`; the budget is limited to the request's remaining
                time.
            caller: Sender of the request.
            thread: Conversation that the run continues; runs of one conversation wait in turn.
            config: LangChain's, for tracing.
            on_event: Awaited with each ledger entry and training step.
            live: Whether it is awaited with each node that begins and each answer that is judged,
                too.

        Raises:
            RttcError: There is no answer.
        """

        async def note(event: dict[str, Any]) -> None:
            if event.get("event") == "ledger" and event["entry"]["event"] == "answered":
                caller.stream_start.allow()
            if on_event is not None:
                await on_event(event)

        try:
            deadline = caller.deadline + await _waited_as_long(settings, caller)
            async with self._turn(settings.tenant, thread):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HttpError(504, "no time is left for this run", kind="Timeout")
                seconds = min(settings.budget_seconds, left)
                settings = settings.model_copy(update={"budget_seconds": seconds})
                output = await self._run(given, settings, thread, config or {}, note, live=live)
        except RttcError as exc:
            caller.stream_start.fail(exc)
            self._metrics.count_unanswered(exc)
            raise
        caller.stream_start.allow()  # also where no arm had to answer
        self._metrics.count_run(output, policy=settings.policy)
        _log_run(output, settings)
        return output

    async def _run(
        self,
        given: RttcInput,
        settings: RttcSettings,
        thread: str | None,
        config: RunnableConfig,
        on_event: EventSink,
        *,
        live: bool,
    ) -> RttcOutput:
        graph, more = self._graph, dict[str, Any]()
        config = _unheard(config, self._callbacks)
        if thread is not None:
            graph, more = self._with_threads, {"durability": "exit"}
            key = _thread_key(settings.tenant, thread)
            config["configurable"] = {"thread_id": key}
            await self._remember(key)
        stream = cast("Any", graph).astream(
            given,
            config,
            context=settings,
            stream_mode=["custom", "values", *(["tasks"] if live else [])],
            **more,
        )
        return await _cancelled_once(_last_values(stream, on_event, live=live))

    def _turn(self, tenant: str, thread: str | None) -> AbstractAsyncContextManager[Any]:
        if thread is None:
            return nullcontext()
        return self._turns.setdefault(_thread_key(tenant, thread), asyncio.Lock())

    async def _remember(self, key: str) -> None:
        """Note that a conversation is used, and forget the ones used longest ago."""
        self._threads[key] = None
        self._threads.move_to_end(key)
        while self._most_threads is not None and len(self._threads) > self._most_threads:
            oldest, _ = self._threads.popitem(last=False)
            await self._saver.adelete_thread(oldest)


async def _last_values(stream: Any, on_event: EventSink, *, live: bool) -> RttcOutput:
    output: RttcOutput | None = None
    shown: list[Candidate] = []
    async with aclosing(stream) as parts:
        async for mode, event in parts:
            if mode == "values":
                output = event
                if live and (candidates := event.get("candidates", [])) != shown:
                    shown = candidates
                    await on_event({"event": "candidates", "candidates": candidates})
            elif mode == "tasks":
                if "input" in event:  # it begins; what ends has a result instead
                    await on_event({"event": "node", "node": event["name"]})
            else:
                await on_event(without_places_in(event))
    assert output is not None  # the stream of a run that did not raise ends with its values
    return {**output, "ledger": [_shown(entry) for entry in output["ledger"]]}


def _log_run(output: RttcOutput, settings: RttcSettings) -> None:
    """Write a line for a run that has ended: figures and ids, none of its texts."""
    names = ("run_id", "arm", "accepted", "declined", "reward", "tau_r", "seconds")
    told: dict[str, Any] = {name: output.get(name) for name in names}
    candidates = output["candidates"]
    told |= {
        "tenant": settings.tenant,
        "policy": settings.policy,
        "adapter": next((c["adapter"] for c in candidates if c["arm"] == output["arm"]), None),
        "tokens": sum(c["prompt_tokens"] + c["completion_tokens"] for c in candidates),
        "failures": sum(entry["event"] == "failed" for entry in output["ledger"]),
    }
    _log.info("run ended", extra={"told": told})


def _unheard(
    config: RunnableConfig, handlers: Sequence[BaseCallbackHandler] = ()
) -> RunnableConfig:
    """Return a configuration for the graph, whose own events are not streamed to the client.

    They hold its whole state, with failures in words that are not for others. Tracing goes on.

    Args:
        config: The caller's.
        handlers: The server's own, which are added.
    """
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in list(callbacks.handlers):
            if hasattr(handler, "tap_output_aiter"):  # what streams of events are made by
                callbacks.remove_handler(handler)
        for handler in handlers:
            callbacks.add_handler(handler)
    elif handlers:
        callbacks = [*(callbacks or ()), *handlers]
    return cast("RunnableConfig", {**config, "callbacks": callbacks, "configurable": {}})


def _shown(entry: LedgerEntry) -> LedgerEntry:
    return cast("LedgerEntry", without_places_in(entry))


async def _cancelled_once(work: Coroutine[Any, Any, RttcOutput]) -> RttcOutput:
    """Await a run of the graph so that it is cancelled once, however often the caller is.

    anyio, and with it every streamed response, cancels again and again until a task has ended. The
    second time would cancel LangGraph's own clean-up, and its nodes would run on.
    """
    context = contextvars.copy_context()
    context.run(var_child_runnable_config.set, None)  # the graph would take callbacks out of it
    task = asyncio.create_task(work, context=context)
    try:
        return await asyncio.shield(task)
    finally:
        task.cancel()
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, also where the caller was cancelled


def _thread_key(tenant: str, thread: str) -> str:
    """Return what a conversation is kept under: no tenant can name one of another's."""
    return hashlib.sha256(json.dumps([tenant, thread]).encode()).hexdigest()


async def _waited_as_long(settings: RttcSettings, caller: Caller) -> float:
    """Return the seconds for which a run that draws panels has waited for one of their places.

    Raises:
        HttpError: Too many wait, or it took too long; with status 429.
    """
    names = (settings.policy,) if settings.policy in ARMS.attempts else settings.arms
    records = [ARMS.attempts[name] for name in names if name in ARMS.attempts]
    draws_panels = settings.search.n > 1 and any(one.strategy is not None for one in records)
    if caller.place is None or not draws_panels:
        return 0.0
    began = time.monotonic()
    await caller.place.lengthen()
    return time.monotonic() - began
