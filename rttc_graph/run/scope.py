"""What a node may know of the run around it, and the two faces, sync and async, of a node.

Nodes are coroutines that never block. Their sync face runs the same coroutine on one event loop in
a thread of our own, so that `invoke` works everywhere, also where a loop is already running.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, TypeVar, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.config import get_config
from langgraph.constants import CONFIG_KEY_CHECKPOINTER
from langgraph.graph.message import push_message
from langgraph.runtime import get_runtime

from rttc_graph.protocols import reuse_scope
from rttc_graph.protocols.ledgers import current_run_id
from rttc_graph.run.budget import Allowance
from rttc_graph.run.prompts import asked_domain
from rttc_graph.settings import DEFAULT_TENANT, RttcSettings
from rttc_graph.state import RttcState
from rttc_graph.support.identity import likely_name

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScope:
    """Settings, clock and event stream of one step of one run."""

    settings: RttcSettings
    allowance: Allowance
    """Rest of the budget when the step began."""
    started: float
    """Reading of `time.monotonic()` when the step began."""
    emit: Callable[[dict[str, Any]], None]
    """Send a custom event to the run's stream; may be called from any thread."""
    push: Callable[[AIMessage], None]
    """Send a message with an id to the stream mode `messages`, and not to the state."""
    tag: Callable[[Mapping[str, Any]], None]
    """Add metadata to this step and to its whole run, where somebody traces them."""
    can_wait: bool = True
    """Whether a run that stops for a person can go on: whether a checkpointer keeps it."""
    reuse_scope: str = ""
    """Among whose runs work is used again: `rttc_graph.protocols.reuse_scope`."""

    @property
    def deadline(self) -> float:
        """Reading of `time.monotonic()` at which the budget of seconds ends."""
        return self.started + self.allowance.seconds


class Node(Protocol):
    """A node of the machine."""

    async def __call__(self, state: RttcState, scope: RunScope) -> Any:
        """Return the update of the state."""
        ...


_LOG = logging.getLogger(__name__)

_NAMES = frozenset(RttcSettings.model_fields)

_MOST_SEEN = 1_000
"""Most names of a host that are remembered, so that each is looked at once."""


class SettingsOfRun:
    """The settings of a run, read once: its nodes are all given the same context.

    Args:
        defaults: What holds where a context says nothing.
        domains: What holds there for questions of a domain, by the domain's name.
        share_between_tenants: Whether tenants use each other's work again. Not one of the settings,
            since a run, which may be a stranger's, must not choose it.
    """

    def __init__(
        self,
        defaults: RttcSettings,
        *,
        domains: Mapping[str, RttcSettings] | None = None,
        share_between_tenants: bool = False,
    ) -> None:
        self._defaults = defaults
        self._domains = domains or {}
        self._share_between_tenants = share_between_tenants
        self._last: tuple[object, str, RttcSettings] | None = None
        self._seen: set[object] = set()

    def __call__(
        self, context: object, configurable: Mapping[str, Any] | None = None, domain: str = ""
    ) -> RttcSettings:
        """Return what `RttcSettings.of` says; that of our own type, which is frozen, is kept.

        Args:
            context: LangGraph's, of the run.
            configurable: LangChain's, of the run: what its names that are ours say holds where the
                context says nothing.
            domain: Domain of the question; empty for none.
        """
        here = self._domains.get(domain, self._defaults)
        for given in (configurable, context):
            self._warn_of_likely_mistakes(given)
        if configurable and not _NAMES.isdisjoint(configurable):
            defaults = RttcSettings.of(configurable, defaults=here)
            return RttcSettings.of(context, defaults=defaults)
        last = self._last
        if last is not None and last[0] is context and last[1] == domain:
            return last[2]
        settings = RttcSettings.of(context, defaults=here)
        if isinstance(context, RttcSettings):
            self._last = (context, domain, settings)
        return settings

    def domain_of(self, state: RttcState, context: object, configurable: Mapping[str, Any]) -> str:
        """Return the domain of a run that has just begun; empty for none.

        Raises:
            ConfigurationError: The input names something that is none.
        """
        if not self._domains:
            return ""
        return asked_domain(state, self(context, configurable).domain)

    def _warn_of_likely_mistakes(self, given: object) -> None:
        """Log, once, each name of a host's that is nearly one of ours: it may be meant for us.

        A host has names of its own there, so that none of them is an error.
        """
        if not isinstance(given, Mapping):
            return
        fresh = cast("Mapping[object, Any]", given).keys() - _NAMES - self._seen
        if len(self._seen) < _MOST_SEEN:
            self._seen |= fresh
        for name in fresh:
            if isinstance(name, str) and (meant := likely_name(name, _NAMES)):
                _LOG.warning(
                    "a run was given %r, which is no setting of rttc-graph: did you mean %r? "
                    "If it is the host's own, all is well.",
                    name,
                    meant,
                )

    def reuse_scope(self, settings: RttcSettings) -> str:
        """Return among whose runs the work of a run with these settings is used again."""
        if self._share_between_tenants or settings.tenant == DEFAULT_TENANT:
            return ""
        return settings.tenant


def open_scope(state: RttcState, settings_of: SettingsOfRun, *, begins: bool = False) -> RunScope:
    """Read the settings from LangGraph's runtime; called in the context of a node.

    Args:
        state: State of the run.
        settings_of: Settings by context and domain.
        begins: Whether the node is the first one: on a thread, the state is then that of an
            earlier run, and the domain stands in the input.
    """
    runtime = get_runtime()
    config = get_config()
    configurable = config.get("configurable") or {}
    context = cast("object", runtime.context)
    if begins:
        domain = settings_of.domain_of(state, context, configurable)
    else:
        domain = state["task"]["domain"] or ""
    settings = settings_of(context, configurable, domain)
    spent = state.get("spent") or {"seconds": 0.0, "tokens": 0, "arms": 0}
    return RunScope(
        settings=settings,
        allowance=Allowance.from_spent(spent, settings),
        started=time.monotonic(),
        emit=partial(_emit, contextvars.copy_context(), runtime.stream_writer),
        push=partial(_push, contextvars.copy_context()),
        tag=partial(_tag, config),
        can_wait=CONFIG_KEY_CHECKPOINTER not in configurable
        or configurable[CONFIG_KEY_CHECKPOINTER] is not None,
        reuse_scope=settings_of.reuse_scope(settings),
    )


def _emit(
    context: contextvars.Context, write: Callable[[dict[str, Any]], None], event: dict[str, Any]
) -> None:
    """Write an event as the node would: LangGraph's writer reads the caller's context variables.

    Each call enters a copy, since a context cannot be entered by two threads at once.
    """
    context.copy().run(write, event)


def _push(context: contextvars.Context, message: AIMessage) -> None:
    """Write a message as the node would; LangGraph finds its handlers in the context variables."""
    context.copy().run(push_message, message, state_key=None)


def _tag(config: RunnableConfig, metadata: Mapping[str, Any]) -> None:
    """Add metadata to the runs of a trace, which a tracer sends when they end.

    LangChain's tracers, LangSmith's among them, keep the runs that are not over in `run_map`.
    Metadata given in a run's config are sent when it begins, and what is told here is not known
    then.
    """
    callbacks = cast("Any", config.get("callbacks"))
    for handler in getattr(callbacks, "handlers", ()):
        runs: Mapping[str, Any] = getattr(handler, "run_map", {})
        step = runs.get(str(callbacks.parent_run_id))
        whole = runs.get(str(step.parent_run_id)) if step is not None else None
        for run in (step, whole):
            if run is not None:
                run.extra = {**(run.extra or {})}
                run.extra["metadata"] = {**(run.extra.get("metadata") or {}), **metadata}


class TwoFaced(Runnable[RttcState, Any]):
    """Something that works under `invoke` and under `ainvoke`, as LangGraph calls it.

    LangChain's `RunnableLambda` does this too, at three times the cost of everything else that
    the graph does for a step: it reads signatures and makes callbacks of its own at each call.
    LangGraph traces a node by itself and sets its context before it calls.
    """

    def __init__(
        self,
        name: str,
        sync: Callable[[RttcState], Any],
        awaited: Callable[[RttcState], Coroutine[Any, Any, Any]],
    ) -> None:
        self.name = name
        self._sync = sync
        self._awaited = awaited

    def invoke(self, input: RttcState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return what the sync face returns."""
        del config, kwargs
        return self._sync(input)

    async def ainvoke(
        self, input: RttcState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return what the async face returns."""
        del config, kwargs
        return await self._awaited(input)


def two_faced(
    name: str, node: Node, settings_of: SettingsOfRun, *, begins: bool = False
) -> TwoFaced:
    """Return a node with both faces; the sync one runs the coroutine on a loop of our own.

    Args:
        name: Id of the node.
        node: What it does.
        settings_of: Settings by context and domain.
        begins: Whether it is the first node of a run.
    """

    def run_sync(state: RttcState) -> Any:
        scope = open_scope(state, settings_of, begins=begins)
        return run_blocking(_call(node, state, scope, None if begins else state.get("run_id")))

    async def run_async(state: RttcState) -> Any:
        scope = open_scope(state, settings_of, begins=begins)
        return await _call(node, state, scope, None if begins else state.get("run_id"))

    return TwoFaced(name, run_sync, run_async)


async def _call(node: Node, state: RttcState, scope: RunScope, run_id: str | None) -> Any:
    """Run a node within its scope of reuse, which judges and models behind it read too.

    Logs of its work have the run's id; the first step has none yet.
    """
    scope_before, id_before = reuse_scope.set(scope.reuse_scope), current_run_id.set(run_id)
    try:
        return await node(state, scope)
    finally:
        current_run_id.reset(id_before)
        reuse_scope.reset(scope_before)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code, in the caller's context variables.

    An interrupt of the waiting thread cancels the coroutine.

    Raises:
        RuntimeError: Called from the loop that would have to do the work.
    """
    loop = _own_loop(os.getpid())
    if threading.current_thread().name == _THREAD_NAME:
        work.close()
        raise RuntimeError("the graph's synchronous face was called inside its own loop; await it")
    future = asyncio.run_coroutine_threadsafe(_within(contextvars.copy_context(), work), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


_THREAD_NAME = "rttc-sync"


async def _within(context: contextvars.Context, work: Coroutine[Any, Any, T]) -> T:
    return await asyncio.get_running_loop().create_task(work, context=context)


@cache
def _own_loop(process: int) -> asyncio.AbstractEventLoop:
    """Start the loop behind every synchronous face, once per process, at the first use.

    A forked process has a copy of the loop of its parent but no thread that runs it, hence the id.
    """
    del process
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=_THREAD_NAME, daemon=True).start()
    return loop
