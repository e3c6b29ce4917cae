"""LangServe's routes, on a thin wrapper that cures what LangServe does not do for a graph.

LangServe itself is deprecated by its makers; see docs/decisions/0012. It hands a graph no settings,
drops threads, fails on typed output that is no pydantic model, and loses custom events. What it
serves here is therefore not the graph but a runnable that calls it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, RunnableLambda
from langserve import add_routes  # pyright: ignore[reportUnknownVariableType]  # untyped in parts
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.serving.admission.authentication import Caller, request_caller
from rttc_graph.serving.http_errors import HttpError
from rttc_graph.serving.routes.response_models import Answer, QuestionBody, given_to_graph
from rttc_graph.serving.runs import Runner
from rttc_graph.serving.stream_start import StreamStart
from rttc_graph.settings import RttcSettings, unknown_settings
from rttc_graph.support.identity import checked_name

__all__ = ("PATH", "langserve_router")

PATH = "/rttc"

_CALLER = "rttc_caller"
"""Key of the caller among the configurable values; clients cannot send it."""


class ServedGraph(RunnableLambda[Any, Answer]):
    """Runs the graph as LangServe wants a runnable to be.

    Args:
        runner: Runs it.
        batch: Most questions in one batch.
    """

    def __init__(self, runner: Runner, batch: int) -> None:
        self._runner = runner
        self._batch = batch
        super().__init__(self._answer, name="rttc")

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The settings and the thread, which the playground shows as a form."""
        thread = ConfigurableFieldSpec(
            id="thread_id",
            annotation=str,
            default="",
            name=_title("thread_id"),
            description="Conversation to continue; none if empty.",
        )
        defaults = self._runner.defaults
        return [*(_spec(name, defaults) for name in RttcSettings.model_fields), thread]

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Answer]:
        """Answer one question after the other: a request has one place in the queue."""
        if len(inputs) > self._batch:
            raise ConfigurationError(
                f"{len(inputs)} questions in one batch, the limit is {self._batch}: send several"
            )
        configs = config if isinstance(config, list) else [config or {}] * len(inputs)
        del return_exceptions  # LangServe never asks for it
        pairs = zip(inputs, configs, strict=True)
        return [await self.ainvoke(one, its, **kwargs) for one, its in pairs]

    async def _answer(self, question: Any, config: RunnableConfig) -> Answer:
        configurable: Mapping[str, Any] = config.get("configurable") or {}
        caller: Caller = configurable[_CALLER]
        settings = self._runner.settings(_said(configurable), caller)

        async def progress(event: dict[str, Any]) -> None:
            await adispatch_custom_event("progress", event, config=config)

        output = await self._runner.run(
            given_to_graph(question),
            settings,
            caller,
            thread=configurable.get("thread_id") or None,
            config=config,
            on_event=progress,
        )
        return Answer.from_output(output)


def langserve_router(runner: Runner, *, batch: int) -> APIRouter:
    """Return LangServe's routes under `/rttc`.

    They are on a router of their own because LangServe's use of FastAPI's events cannot be mixed
    with a lifespan on one application.
    """

    def prepare(config: dict[str, Any], request: Request) -> dict[str, Any]:
        """Check a request's settings before anything is streamed, and say whose request it is."""
        configurable = dict(config.get("configurable") or {})
        caller = request_caller(request.scope)
        runner.settings(_said(configurable), caller)
        if configurable.get("thread_id"):
            checked_name("thread_id", configurable["thread_id"])
        return {**config, "configurable": {**configurable, _CALLER: caller}}

    router = APIRouter(tags=["langserve"], route_class=_StreamRoute)
    served = ServedGraph(runner, batch).with_types(input_type=QuestionBody, output_type=Answer)
    add_routes(
        router,
        cast("Runnable[Any, Any]", served),
        path=PATH,
        per_req_config_modifier=prepare,
        # A hash in a path is unpacked on the event loop, 55 kB of it into gigabytes.
        disabled_endpoints=["config_hashes"],
        dependencies=[Depends(_check_body), Depends(_check_page)],
    )
    feedback = f"{PATH}/token_feedback"  # always there, and never of use without LangSmith
    router.routes[:] = [r for r in router.routes if getattr(r, "path", None) != feedback]
    return router


class _StreamRoute(APIRoute):
    """A route whose stream says how a run has failed, where LangServe says 500 to everything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await handle(request)
            if request.path_params.get("file_path") == "":
                response.body = _with_plain_form(bytes(response.body))
                response.headers["content-length"] = str(len(response.body))
            if isinstance(response, EventSourceResponse):
                events = cast("AsyncGenerator[Any]", response.body_iterator)
                start = request_caller(request.scope).stream_start
                response.body_iterator = _explained(events, start)
            return response

        return answer


_FORM: dict[str, Any] = {
    "title": "Question",
    "type": "object",
    "properties": {
        name: {"type": "string", "title": title, "description": field.description}
        for name, title in (("query", "Question"), ("domain", "Domain"))
        for field in [QuestionBody.model_fields[name]]
    },
    "required": ["query"],
}
"""Input that the playground makes a form of. It knows no field that may be null, and shows nothing
at all if there is one."""


def _with_plain_form(page: bytes) -> bytes:
    """Return the playground's page with the form's schema in the place of the routes' own."""
    own = json.dumps(QuestionBody.model_json_schema())
    return page.replace(own.encode(), json.dumps(_FORM).encode())


async def _explained(events: AsyncGenerator[Any], start: StreamStart) -> AsyncGenerator[Any]:
    try:
        async for event in events:
            if event.get("event") == "error" and start.error is not None:
                said = {"status_code": start.error.status, "message": start.error.message}
                yield {**event, "data": json.dumps(said)}
            else:
                yield event
    except RttcError as exc:  # which the client was told just now
        start.told(exc)
    finally:
        with suppress(RuntimeError):  # LangServe's generators yield once more when they are closed
            await events.aclose()


async def _check_body(request: Request) -> None:
    """Refuse what LangServe would let through: some bodies that are no JSON, unknown settings.

    The body is parsed once, whoever reads it after this.
    """
    if request.method != "POST":
        return
    try:
        body = await request.json()
    except (ValueError, RecursionError) as exc:
        raise HttpError(400, f"the body is not JSON that can be read: {exc}") from exc
    given = cast("Mapping[str, Any]", body).get("config") if isinstance(body, Mapping) else None
    for config in cast("list[object]", given) if isinstance(given, list) else [given]:
        _check_names(config)


_LANGGRAPHS = ("__", "checkpoint_", "langgraph_")
"""Beginnings of names that LangGraph puts among the configurable values of a node that calls us."""


def _check_names(config: Any) -> None:
    """Refuse a configuration with a setting that there is not; LangServe would leave it out."""
    if not isinstance(config, Mapping):
        return
    said = cast("Mapping[str, Any]", config).get("configurable")
    if not isinstance(said, Mapping):
        return
    names = {str(name) for name in cast("Mapping[object, Any]", said)}
    ours = {"thread_id", *RttcSettings.model_fields}
    if unknown := [name for name in names - ours if not name.startswith(_LANGGRAPHS)]:
        raise unknown_settings(unknown)


def _check_page(request: Request) -> None:
    """Let through names of files that the playground has; LangServe would open any."""
    if request.path_params.get("file_path", "") not in _PAGES:
        raise HttpError(404, "the playground has no such page", kind="HTTPException")


def _pages() -> frozenset[str]:
    """Return the names of the playground's files; the empty one is that of its first page."""
    folder = Path(str(files("langserve"))) / "playground" / "dist"
    found = (path for path in folder.rglob("*") if path.is_file())
    return frozenset({"", *(path.relative_to(folder).as_posix() for path in found)})


_PAGES = _pages()


def _said(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among the configurable values.

    An unset one may stand there as `None`, and the playground sends an empty tenant.
    """
    names = RttcSettings.model_fields
    said = {name: configurable[name] for name in names if configurable.get(name) is not None}
    if said.get("tenant") == "":
        del said["tenant"]
    return said


_TITLES = {
    "k": "Samples to retrieve",
    "thread_id": "Conversation",
    "search_n": "Panel size",
    "tau_r": "Threshold of the reward",
    "tau_r_of": "Threshold chosen for",
}
"""Titles that are not the name in words; the playground writes them in capitals, so without τ."""

_WORDS = {
    " ttt ": " Training: ",
    " search ": " Panel: ",
    " rag ": " RAG ",
    " flops ": " operations ",
}
"""Words of our settings' names, as people say them, with the spaces around them."""


def _title(name: str) -> str:
    """Return the title of a field of the playground's form: a setting's name in words."""
    words = f" {name.replace('_', ' ')} "
    for ours, theirs in _WORDS.items():
        words = words.replace(ours, theirs)
    words = words.strip()
    return _TITLES.get(name) or words[:1].upper() + words[1:]


def _spec(name: str, defaults: RttcSettings) -> ConfigurableFieldSpec:
    """Describe a setting; the tenant is empty here, since LangServe sends every default."""
    field = RttcSettings.model_fields[name]
    annotation: Any = field.annotation
    is_tenant = name == "tenant"
    for bound in [] if is_tenant else field.metadata:
        annotation = Annotated[annotation, bound]
    return ConfigurableFieldSpec(
        id=name,
        annotation=annotation,
        default="" if is_tenant else getattr(defaults, name),
        name=_title(name),
        description=field.description,
    )
