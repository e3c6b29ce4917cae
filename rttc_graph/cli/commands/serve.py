"""`rttc serve` and `rttc ui`: the graph, the knowledge base and the page over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import AsJson, out, print_json, progress
from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.installation.calibration_in_force import told_calibrations
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge, corrections_of, open_knowledge
from rttc_graph.integrations.postgres.api_key_store import PostgresApiKeyStore
from rttc_graph.protocols import Embedder
from rttc_graph.protocols.api_keys import ApiKey
from rttc_graph.serving.serve_options import ServeOptions, is_loopback
from rttc_graph.support.extras import require

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler

    from rttc_graph.installation.configured_policy import OpenPolicy
    from rttc_graph.installation.local import LocalRttc
    from rttc_graph.serving.http_app import ServedParts
    from rttc_graph.serving.metrics import Reading


_LIMITS = ServeOptions()
"""Limits of a server that is given no flags."""


def serve(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8008,
    kb_only: Annotated[
        bool, typer.Option("--kb-only", help="Serve the knowledge base alone, without models.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Compute on replicas of a Ray cluster: started here, without ADDRESS; of the one "
            "whose head is HOST:PORT; or auto on a node of it (default: in this process).",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Runs at once.")] = _LIMITS.concurrency,
    queue: Annotated[
        int, typer.Option(help="Requests that may wait for a run to end.")
    ] = _LIMITS.queue,
    run_seconds: Annotated[
        float, typer.Option(help="Longest run, in seconds.")
    ] = _LIMITS.run_seconds,
    body_bytes: Annotated[
        int, typer.Option(help="Largest body of a request, in bytes.")
    ] = _LIMITS.body_bytes,
    connections: Annotated[
        int, typer.Option(help="Most connections; beyond it, the one idle longest is closed.")
    ] = _LIMITS.connections,
    address_connections: Annotated[
        int, typer.Option(help="Most connections from one address.")
    ] = _LIMITS.address_connections,
    address_requests: Annotated[
        float, typer.Option(help="Most requests per second from one address.")
    ] = _LIMITS.address_requests,
    head_seconds: Annotated[
        float, typer.Option(help="Longest wait for the head of a request, in seconds.")
    ] = _LIMITS.head_seconds,
    drain_seconds: Annotated[
        float,
        typer.Option(help="Seconds that running requests get to finish after SIGTERM or Ctrl-C."),
    ] = _LIMITS.drain_seconds,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print a line for each request.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may call (CORS); repeatable (default: none)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a page at /, OpenAI's routes at /v1, LangServe's at /rttc, samples at /kb.

    Prints its address once it accepts connections. SIGTERM and Ctrl-C let running requests end.

    Example: rttc serve --port 8008

    Example: rttc serve --ray 10.0.0.5:6379

    Example: rttc keys add --scopes kb:read && rttc serve --kb-only --host 0.0.0.0
    """
    require("fastapi", extra="serve", purpose="servers")
    require("langserve", extra="serve", purpose="servers")
    options = ServeOptions(
        concurrency=concurrency,
        queue=queue,
        run_seconds=run_seconds,
        body_bytes=body_bytes,
        connections=connections,
        address_connections=address_connections,
        address_requests=address_requests,
        head_seconds=head_seconds,
        drain_seconds=drain_seconds,
        access_log=access_log,
        cors_origins=tuple(cors_origin or ()),
    )
    if ray is not None and kb_only:
        raise ConfigurationError(
            "--kb-only serves no models, so there is nothing for --ray to compute: leave one out"
        )
    config = command_context(context).config()
    options = replace(options, log_format=config.log_format)
    if not is_loopback(host):  # before a minute of loading models
        with open_knowledge(config) as knowledge:
            _usable_keys(knowledge, host)
    with _served_parts(config, kb_only=kb_only, ray=ray) as (served, knowledge):
        _serve(served, knowledge, host, port, options, on_ready=partial(_announce, as_json=as_json))


def show_page(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8008,
    kb_only: Annotated[
        bool, typer.Option("--kb-only", help="Show the knowledge base alone, without models.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Serve on this machine, as `rttc serve` does, and open the page in a browser.

    Prints the address too, for where there is no browser.

    Example: rttc ui

    Example: rttc ui --port 0 --no-browser
    """
    require("fastapi", extra="serve", purpose="the page")
    require("langserve", extra="serve", purpose="the page")
    config = command_context(context).config()
    with _served_parts(config, kb_only=kb_only) as (served, knowledge):
        _serve(
            served,
            knowledge,
            "127.0.0.1",
            port,
            _LIMITS,
            on_ready=partial(_show_page, in_browser=browser),
        )


def _show_page(listening: socket.socket, *, in_browser: bool) -> None:
    _announce(listening, as_json=False)
    if in_browser and not webbrowser.open(_url(listening)):
        out.print("no browser was found here: open the address in one")
        sys.stdout.flush()


def serve_mcp(context: typer.Context) -> None:
    """Offer ask, search, ingest and rate to an agent, as MCP tools over stdin and stdout.

    Models load at the first question.

    Example: rttc mcp
    """
    require("mcp", extra="mcp", purpose="tools for agents")
    from rttc_graph.installation.local import open_local
    from rttc_graph.serving.agent_tools import AgentTools, mcp_server

    config = command_context(context).config()
    with open_local(config) as local:
        knowledge = local.knowledge
        tools = AgentTools(
            graph=local.graph,
            knowledge_base=knowledge.knowledge_base,
            embedder=knowledge.embedder,
            corrections=corrections_of(config, knowledge),
            settings=config.run_settings(),
        )
        mcp_server(tools).run()


@contextmanager
def _served_parts(
    config: InstallationConfig, *, kb_only: bool, ray: str | None = None
) -> Generator[tuple[ServedParts, Knowledge]]:
    """Open what is served, with models and database ready."""
    from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import (
        PostgresKnowledgeBase,
    )
    from rttc_graph.integrations.postgres.samples.stored_embedder import StoredEmbedder
    from rttc_graph.serving.http_app import ServedParts

    if kb_only:
        with open_knowledge(config) as knowledge:
            embedder = StoredEmbedder(knowledge.database, knowledge.embedder)
            with progress("starting the database"):
                asyncio.run(_identify(embedder))
            hosted = PostgresKnowledgeBase(knowledge.database, embedder)
            yield (
                ServedParts(
                    knowledge_base=hosted,
                    embedder=embedder,
                    default_tenant=config.tenant,
                    readings=readings_of(knowledge),
                ),
                knowledge,
            )
        return
    from rttc_graph.installation.local import open_local

    with ExitStack() as stack:
        with progress("loading the models" if ray is None else "starting the replicas"):
            local = stack.enter_context(open_local(config, ray=ray))
            asyncio.run(local.warm_up())
        callbacks: list[BaseCallbackHandler] = []
        if config.traces:
            callbacks.append(stack.enter_context(_traces(config)))
        yield replace(everything_of(local), callbacks=callbacks), local.knowledge


def _traces(config: InstallationConfig) -> AbstractContextManager[BaseCallbackHandler]:
    """Open what makes spans of runs and sends them."""
    require("opentelemetry.sdk", extra="otel", purpose="traces")
    require("opentelemetry.exporter.otlp.proto.http", extra="otel", purpose="traces")
    from rttc_graph.integrations.opentelemetry.span_export import exported_traces

    return exported_traces(with_texts=config.traces_with_texts)


def everything_of(local: LocalRttc) -> ServedParts:
    """Return all parts of an installation that is open, as they are served."""
    from rttc_graph.serving.http_app import ServedParts

    config, knowledge = local.config, local.knowledge
    return ServedParts(
        parts=local.parts,
        knowledge_base=knowledge.knowledge_base,
        embedder=knowledge.embedder,
        corrections=corrections_of(config, knowledge),
        history=knowledge.ledger_store,
        calibrations=partial(_told_calibrations, config, knowledge),
        default_tenant=config.tenant,
        readings=readings_of(knowledge, local.policy),
    )


def readings_of(knowledge: Knowledge, policy: OpenPolicy | None = None) -> list[Reading]:
    """Return the figures of database and model for `/metrics`."""
    from rttc_graph.serving.metrics import Reading

    found = [
        Reading(
            name="rttc_database_connections",
            help="Connections of the pool by state, and work that waits for one.",
            label="state",
            read=knowledge.database.figures,
        )
    ]
    if policy is not None and policy.resident is not None:
        found.append(
            Reading(
                name="rttc_resident",
                help="Adapters in memory: their number and their bytes.",
                label="what",
                read=policy.resident,
            )
        )
    if policy is not None and policy.adapter_calls is not None:
        found.append(
            Reading(
                name="rttc_adapter_calls",
                help="Calls of replicas that found their adapter resident, or had to load it.",
                label="adapter",
                read=policy.adapter_calls,
            )
        )
    return found


async def _told_calibrations(
    config: InstallationConfig, knowledge: Knowledge, tenant: str
) -> list[dict[str, Any]]:
    return await told_calibrations(config, knowledge, tenant=tenant, with_curves=True)


async def _identify(embedder: Embedder) -> None:
    await embedder.dimension()
    await embedder.fingerprint()


def _serve(
    served: ServedParts,
    knowledge: Knowledge,
    host: str,
    port: int,
    options: ServeOptions,
    *,
    on_ready: Callable[[socket.socket], None],
) -> None:
    from rttc_graph.serving.http_app import create_app
    from rttc_graph.serving.server import listen, run_until_stopped

    usable = _usable_keys(knowledge, host)
    app = create_app(
        served,
        options=options,
        keys=PostgresApiKeyStore(knowledge.database),
        keys_required=not is_loopback(host),
        hosts=[] if usable else ["localhost", "127.0.0.1", "[::1]", host],
        check=_check(knowledge),
    )
    if served.callbacks:
        from rttc_graph.integrations.opentelemetry.span_export import TraceParents

        app.add_middleware(cast("Any", TraceParents))  # the outermost
    with listen(host, port) as listening:
        run_until_stopped(
            app,
            listening,
            drain_seconds=options.drain_seconds,
            options=options,
            on_ready=lambda: on_ready(listening),
        )


def _usable_keys(knowledge: Knowledge, host: str) -> list[ApiKey]:
    """Return the API keys that are not revoked.

    Raises:
        ConfigurationError: There are none, and other machines can reach the server.
    """
    keys = PostgresApiKeyStore(knowledge.database)
    usable = [key for key in asyncio.run(keys.all()) if key.revoked_at is None]
    if not usable and not is_loopback(host):
        raise ConfigurationError(
            f"--host {host} is reachable from other machines, and there is no API key: "
            "make one with `rttc keys add`, or leave --host out"
        )
    return usable


def _check(knowledge: Knowledge) -> Callable[[], Awaitable[None]]:
    """Return what raises when the database does not answer."""

    async def check() -> None:
        await knowledge.database.execute_work(
            "ask the database", lambda s: s.row("server_answers"), error=BackendError
        )

    return check


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(listening: socket.socket, *, as_json: bool) -> None:
    url = _url(listening)
    if as_json:
        print_json({"url": url, "pid": os.getpid()})
    else:
        out.print(f"serving on {url}, to stop: Ctrl-C or SIGTERM")
    sys.stdout.flush()
