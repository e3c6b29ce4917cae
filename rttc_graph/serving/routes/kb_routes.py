"""`/kb`: the knowledge base alone, for clients that do everything else themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.protocols import Embedder
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase
from rttc_graph.samples.corrections import correct_sample
from rttc_graph.samples.ingest import ingest
from rttc_graph.samples.wire import (
    EMBEDDER_HEADER,
    PROTOCOL_VERSION,
    ChangeReply,
    CorrectReply,
    CorrectRequest,
    CountReply,
    CountRequest,
    DeleteRequest,
    DomainMessage,
    EmbedderInfo,
    IngestRequest,
    KnowledgeBaseInfo,
    ListReply,
    ListRequest,
    MissingReply,
    MissingRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from rttc_graph.serving.admission.authentication import request_caller
from rttc_graph.serving.http_errors import HttpError, Problem

__all__ = ("knowledge_base_router",)

_VERSION = version("rttc-graph")  # read from a file, so not while a request waits
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 504)


def knowledge_base_router(
    knowledge_base: ManagedKnowledgeBase, embedder: Embedder, *, default_tenant: str
) -> APIRouter:
    """Return the routes under `/kb`.

    Args:
        knowledge_base: What they lead to.
        embedder: Made the vectors; asked for its identity, and to embed the text of a search
            that has no vector.
        default_tenant: For callers that name none and have no key that does.
    """
    router = APIRouter(
        prefix="/kb",
        tags=["knowledge base"],
        responses={status: {"model": Problem} for status in _STATUSES},
    )
    routes = _Routes(knowledge_base, embedder, default_tenant)
    router.get("/info")(routes.tell_about)
    posts: dict[str, Callable[..., Any]] = {
        "/search": routes.search,
        "/missing": routes.tell_missing,
        "/ingest": routes.ingest,
        "/correct": routes.correct,
        "/delete": routes.delete,
        "/list": routes.show_samples,
        "/count": routes.count,
        "/stats": routes.measure,
    }
    for path, route in posts.items():
        router.add_api_route(path, route, methods=["POST"])
    return router


class _Routes:
    """Handlers of the knowledge base's routes."""

    def __init__(
        self, knowledge_base: ManagedKnowledgeBase, embedder: Embedder, default_tenant: str
    ) -> None:
        self._knowledge_base = knowledge_base
        self._embedder = embedder
        self._default_tenant = default_tenant

    async def tell_about(self, response: Response) -> KnowledgeBaseInfo:
        """Tell the version of the protocol and the embedder."""
        dimension = await self._embedder.dimension()
        fingerprint = await self._name_embedder(response)
        return KnowledgeBaseInfo(
            protocol=PROTOCOL_VERSION,
            server=_VERSION,
            embedder=EmbedderInfo(
                name=self._embedder.name, fingerprint=fingerprint, dimension=dimension
            ),
        )

    async def search(
        self, body: SearchRequest, request: Request, response: Response
    ) -> SearchReply:
        """Return samples for a vector or a text, nearest first."""
        tenant = self._tenant(request, body.tenant)
        vector = body.vector or (await self._embedder.embed([body.text or ""]))[0]
        await self._check_length([vector])
        await self._name_embedder(response)
        result = await self._knowledge_base.search(
            vector, k=body.k, domain=body.domain, tenant=tenant, choice=body.choice
        )
        return SearchReply(samples=result.samples, revision=result.revision)

    async def tell_missing(self, body: MissingRequest, request: Request) -> MissingReply:
        """Tell which samples are not stored yet."""
        tenant = self._tenant(request, body.tenant)
        samples = [sample.to_sample() for sample in body.samples]
        return MissingReply(missing=await self._knowledge_base.missing(samples, tenant=tenant))

    async def ingest(self, body: IngestRequest, request: Request) -> ChangeReply:
        """Store samples, all or none; those without vectors are embedded here."""
        tenant = self._tenant(request, body.tenant)
        samples = [sample.to_sample() for sample in body.samples]
        if body.vectors is None:
            stored = await ingest(samples, self._knowledge_base, self._embedder, tenant=tenant)
            return ChangeReply(samples=stored.stored, updated=stored.updated)
        mine = await self._embedder.fingerprint()
        if body.embedder != mine:
            raise _conflict(
                f"the vectors are of an embedder with fingerprint {body.embedder!r}, the knowledge "
                f"base holds those of {self._embedder.name!r} with {mine!r}; use that one"
            )
        await self._check_length(body.vectors)
        done = await self._knowledge_base.ingest(samples, body.vectors, tenant=tenant)
        return ChangeReply(samples=done.new, updated=done.updated)

    async def correct(self, body: CorrectRequest, request: Request) -> CorrectReply:
        """Give a sample another question or answer; its other fields stay."""
        done = await correct_sample(
            body.id,
            self._knowledge_base,
            self._embedder,
            question=body.question,
            answer=body.answer,
            tenant=self._tenant(request, body.tenant),
        )
        if done is None:
            raise HttpError(404, f"there is no sample {body.id!r} of this tenant")
        return CorrectReply(id=done, changed=done != body.id)

    async def delete(self, body: DeleteRequest, request: Request) -> ChangeReply:
        """Delete a domain, or the samples that a filter means."""
        tenant = self._tenant(request, body.tenant)
        deleted = await self._knowledge_base.delete_samples(body.to_filter(), tenant=tenant)
        return ChangeReply(samples=deleted)

    async def show_samples(self, body: ListRequest, request: Request) -> ListReply:
        """Return a page of samples, by domain and id."""
        page = await self._knowledge_base.list_samples(
            body.to_filter(),
            tenant=self._tenant(request, body.tenant),
            limit=body.limit,
            after=body.after,
            with_vectors=body.with_vectors,
        )
        return ListReply.of(page)

    async def count(self, body: CountRequest, request: Request) -> CountReply:
        """Return how many samples a filter means, by domain."""
        tenant = self._tenant(request, body.tenant)
        which = body.to_filter()
        return CountReply(domains=await self._knowledge_base.count_samples(which, tenant=tenant))

    async def measure(self, body: StatsRequest, request: Request) -> StatsReply:
        """Return the size of each domain."""
        domains = await self._knowledge_base.stats(tenant=self._tenant(request, body.tenant))
        return StatsReply(domains=[DomainMessage(**asdict(domain)) for domain in domains])

    def _tenant(self, request: Request, asked: str | None) -> str:
        return request_caller(request.scope).tenant_for(asked, self._default_tenant)

    async def _name_embedder(self, response: Response) -> str:
        fingerprint = await self._embedder.fingerprint()
        response.headers[EMBEDDER_HEADER] = fingerprint
        return fingerprint

    async def _check_length(self, vectors: list[list[float]]) -> None:
        dimension = await self._embedder.dimension()
        for vector in vectors:
            if len(vector) != dimension:
                raise _conflict(
                    f"a vector has dimension {len(vector)}, those of {self._embedder.name!r} have "
                    f"{dimension}"
                )


def _conflict(message: str) -> HttpError:
    """Return the refusal of vectors that cannot be compared with those that are stored."""
    return HttpError(409, message, kind=KnowledgeBaseError.__name__)
