"""A knowledge base on another machine: questions stay here, vectors go up, samples come down.

The embedding of a question is not its text, but it is not nothing either: who knows the embedder
can guess at it. Use TLS, and a server that you trust that far.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

try:
    import httpx
except ImportError as exc:
    raise ImportError("remote knowledge bases need the extra 'remote': rttc-graph[remote]") from exc

from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.concurrency.loop_thread import LoopThread
from rttc_graph.protocols import (
    DomainStats,
    Embedder,
    Ingested,
    NewSample,
    SearchResult,
    Vector,
)
from rttc_graph.protocols.managed_knowledge_base import SampleFilter, SamplePage, checked_page
from rttc_graph.samples.wire import (
    EMBEDDER_HEADER,
    PROTOCOL_VERSION,
    ChangeReply,
    CountReply,
    KnowledgeBaseInfo,
    ListReply,
    MissingReply,
    SearchReply,
    StatsReply,
)
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.identity import check_texts, checked_name

__all__ = ("RemoteKnowledgeBase",)

T = TypeVar("T", bound=BaseModel)

_AGAIN = frozenset({408, 425, 429, 502, 503, 504})
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0
_KEPT_CONNECTIONS = 8
_FLOAT32_DIGITS = 9
"""Decimal digits that tell any two numbers of single precision apart."""


@dataclass(frozen=True, slots=True)
class _Mine:
    name: str
    fingerprint: str
    dimension: int


class RemoteKnowledgeBase:
    """A `ManagedKnowledgeBase` that another process serves with `rttc serve --kb-only`.

    A search sends the vector, `k`, how to choose, the domain and the tenant, nothing else of the
    question. Calls that fail on their way are made again, which is safe: all of them may be made
    twice. Close it when it is not needed any more.

    Args:
        url: Address of the server, without `/kb`.
        embedder: Makes the vectors here. It must be the one that the server's samples were
            embedded with, which is checked before the first call and with each answer.
        api_key: Made by `rttc keys add` on the server, with the scope `kb:read`, and `kb:write`
            for `ingest`, `delete` and `delete_samples`.
        timeout_seconds: Longest wait for each answer.
        retries: How often a call is made again.
        verify: Whether, or by which file of certificates, the server's certificate is checked.
        sleep: Waits between two tries.
    """

    def __init__(
        self,
        url: str,
        embedder: Embedder,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        verify: bool | str = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url={url!r} must start with http:// or https://")
        if timeout_seconds <= 0 or retries < 0:
            raise ConfigurationError(
                f"timeout_seconds={timeout_seconds!r} must be above 0, "
                f"retries={retries!r} 0 or more"
            )
        self._url = url.rstrip("/")
        self._embedder = embedder
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._verify = verify
        self._sleep = sleep
        self._loop = LoopThread("rttc-remote-kb", workers=1)
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()  # of the loop above
        self._closed = threading.Event()
        self._mine: _Mine | None = None
        self._is_checked = False

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        """Return `k` samples for `vector`, nearest first; the server chooses."""
        if k < 1:
            raise ConfigurationError(f"k={k!r} must be at least 1")
        checked_name("tenant", tenant)
        if domain is not None:
            checked_name("domain", domain)
        await self._check_vectors([vector])
        body = {"vector": _rounded(vector), "k": k, "domain": domain, "tenant": tenant}
        if choice != "nearest":  # which a server from before there was a choice does not know
            body["choice"] = choice
        reply = await self._call("search the knowledge base", "search", body, SearchReply)
        return SearchResult(samples=reply.samples, revision=reply.revision)

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        """Tell for each sample whether `ingest` would change anything; the samples go up."""
        body = {"samples": _messages(samples), "tenant": checked_name("tenant", tenant)}
        return (await self._call("look for stored samples", "missing", body, MissingReply)).missing

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        """Store the samples in one transaction, in the place of others with their `external_id`.

        After an answer that was lost on its way the count may be too low, by samples that were
        stored all the same.
        """
        checked_name("tenant", tenant)
        if len(samples) != len(vectors):
            raise ConfigurationError(
                f"there are {len(samples)} samples and {len(vectors)} vectors; give one for each"
            )
        mine = await self._check_vectors(vectors)
        body = {
            "samples": _messages(samples),
            "vectors": [_rounded(vector) for vector in vectors],
            "embedder": mine.fingerprint,
            "tenant": tenant,
        }
        action = f"store {len(samples)} samples"
        done = await self._call(action, "ingest", body, ChangeReply)
        return Ingested(new=done.samples, updated=done.updated)

    async def delete(self, *, domain: str, tenant: str) -> int:
        """Delete a domain's samples and return how many there were."""
        body = {
            "domain": checked_name("domain", domain),
            "tenant": checked_name("tenant", tenant),
        }
        return (await self._call(f"delete domain {domain!r}", "delete", body, ChangeReply)).samples

    async def list_samples(
        self,
        which: SampleFilter,
        *,
        tenant: str,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> SamplePage:
        """Return a page of the samples that are meant, by domain and then by id."""
        checked_page(limit, after)
        body = {
            **_filter(which, tenant),
            "limit": limit,
            "after": after,
            "with_vectors": with_vectors,
        }
        return (await self._call("list samples", "list", body, ListReply)).to_page()

    async def count_samples(self, which: SampleFilter, *, tenant: str) -> dict[str, int]:
        """Return how many samples are meant, by domain."""
        body = _filter(which, tenant)
        return (await self._call("count samples", "count", body, CountReply)).domains

    async def delete_samples(self, which: SampleFilter, *, tenant: str) -> int:
        """Delete the samples that are meant, in one transaction, and return how many there were.

        After an answer that was lost on its way the count may be too low.
        """
        which.check_for_delete()
        body = _filter(which, tenant)
        return (await self._call("delete samples", "delete", body, ChangeReply)).samples

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        """Return the size of each domain, by name."""
        body = {"tenant": checked_name("tenant", tenant)}
        reply = await self._call("measure the knowledge base", "stats", body, StatsReply)
        return [domain.to_stats() for domain in reply.domains]

    async def info(self) -> KnowledgeBaseInfo:
        """Return what the server says of itself, whether it fits or not."""
        return await self._call("ask the knowledge base", "info", None, KnowledgeBaseInfo)

    async def aclose(self) -> None:
        """Close the connections; calls fail from now on."""
        self._closed.set()
        await self._loop.await_on_loop(self._disconnect())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _check_vectors(self, vectors: Sequence[Vector]) -> _Mine:
        """Compare vectors with this embedder, and, once, this embedder with the server's.

        Raises:
            KnowledgeBaseError: They do not fit.
        """
        if self._mine is None:
            embedder = self._embedder
            dimension = await embedder.dimension()
            self._mine = _Mine(embedder.name, await embedder.fingerprint(), dimension)
        mine = self._mine
        for vector in vectors:
            if len(vector) != mine.dimension:
                raise KnowledgeBaseError(
                    f"a vector has dimension {len(vector)}, those of {mine.name!r} have "
                    f"{mine.dimension}"
                )
            if not all(map(math.isfinite, vector)):
                raise ConfigurationError("a vector holds a number that is not finite")
        if not self._is_checked:
            self._check_server(mine, await self.info())
            self._is_checked = True
        return mine

    def _check_server(self, mine: _Mine, info: KnowledgeBaseInfo) -> None:
        if info.protocol != PROTOCOL_VERSION:
            raise KnowledgeBaseError(
                f"the knowledge base at {self._url!r} speaks version {info.protocol} of the "
                f"protocol (rttc-graph {info.server}), this program {PROTOCOL_VERSION}: "
                "install the same version of rttc-graph on both sides"
            )
        theirs = info.embedder
        if theirs.fingerprint != mine.fingerprint:
            raise self._other_embedder(mine, f"{theirs.name!r} (", theirs.fingerprint)

    def _other_embedder(self, mine: _Mine, name: str, fingerprint: str) -> KnowledgeBaseError:
        return KnowledgeBaseError(
            f"the knowledge base at {self._url!r} holds vectors of {name}fingerprint "
            f"{fingerprint!r}{')' if name else ''}, this program embeds with {mine.name!r} "
            f"(fingerprint {mine.fingerprint!r}); use the same embedder on both sides"
        )

    async def _call(
        self, action: str, route: str, asked: Mapping[str, Any] | None, kind: type[T]
    ) -> T:
        if self._closed.is_set():
            raise KnowledgeBaseError(f"could not {action}: the remote knowledge base was closed")
        response = await self._loop.await_on_loop(self._persist(action, route, asked))
        fingerprint, mine = response.headers.get(EMBEDDER_HEADER), self._mine
        if route == "search" and mine is not None and fingerprint not in (None, mine.fingerprint):
            self._is_checked = False
            raise self._other_embedder(mine, "", fingerprint)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as exc:
            raise KnowledgeBaseError(
                f"could not {action}: {self._url!r} answered something else than a knowledge base "
                f"of version {PROTOCOL_VERSION} would; check the address"
            ) from exc

    async def _persist(
        self, action: str, route: str, asked: Mapping[str, Any] | None
    ) -> httpx.Response:
        """Make a call, again while that can help; runs on the client's own loop."""
        body = None if asked is None else json.dumps(asked, allow_nan=False).encode()
        for attempt in range(self._retries + 1):
            failure, advice = await self._try(action, route, body)
            if isinstance(failure, httpx.Response):
                return failure
            if not failure.retryable or attempt == self._retries:
                raise failure
            backoff = _FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.0)
            await self._sleep(min(_LONGEST_WAIT_SECONDS, max(backoff, advice)))
        raise AssertionError("the loop returns or raises")

    async def _try(
        self, action: str, route: str, body: bytes | None
    ) -> tuple[httpx.Response | KnowledgeBaseError, float]:
        """Return the answer, or an error with the seconds that the server asks to wait."""
        url = f"{self._url}/kb/{route}"
        method, headers = ("GET", {}) if body is None else ("POST", _JSON)
        try:
            client = await self._connected()
            response = await client.request(method, url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            words = str(exc) or type(exc).__name__
            lasting = isinstance(exc, httpx.InvalidURL | httpx.UnsupportedProtocol)
            reason = f"could not {action} at {self._url!r}: {words}"
            return KnowledgeBaseError(reason, retryable=not lasting), 0.0
        if response.status_code == 200:
            return response, 0.0
        return _error_of(action, self._url, response), _advice(response)

    async def _connected(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:  # reads certificates, so on a thread
                self._client = await asyncio.to_thread(self._new_client)
            return self._client

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"user-agent": "rttc-graph", **self._headers},
            timeout=self._timeout_seconds,
            limits=httpx.Limits(max_keepalive_connections=_KEPT_CONNECTIONS),
            verify=self._verify,
        )

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


_JSON = {"content-type": "application/json"}


def _messages(samples: Sequence[NewSample]) -> list[dict[str, Any]]:
    for sample in samples:
        checked_name("domain", sample.domain)
        check_texts(sample.question, sample.answer, sample.metadata)
        try:
            json.dumps(sample.metadata, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            shown = sample.external_id or sample.question[:40]
            raise ConfigurationError(f"metadata of sample {shown!r} is not JSON: {exc}") from exc
    return [asdict(sample) for sample in samples]


def _filter(which: SampleFilter, tenant: str) -> dict[str, Any]:
    if which.domain is not None:
        checked_name("domain", which.domain)
    try:
        json.dumps(which.metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"metadata of the filter is not JSON: {exc}") from exc
    return {**asdict(which), "tenant": checked_name("tenant", tenant)}


def _rounded(vector: Vector) -> list[float]:
    """Return a vector with the digits that single precision has, half the bytes of double."""
    return [float(f"{value:.{_FLOAT32_DIGITS}g}") for value in vector]


def _error_of(action: str, url: str, response: httpx.Response) -> KnowledgeBaseError:
    """Return the server's refusal as ours.

    Raises:
        ConfigurationError: The server says that the call makes no sense.
    """
    try:
        problem: Any = response.json()
        detail, kind = str(problem["detail"]), str(problem["kind"])
    except (ValueError, TypeError, KeyError):
        detail, kind = f"HTTP {response.status_code}", ""
    status = response.status_code
    if status == 422 and kind == ConfigurationError.__name__:
        raise ConfigurationError(detail)
    if status == 409:
        return KnowledgeBaseError(detail)
    if status == 413:
        detail = f"{detail}; a smaller batch_size sends less at once"
    reason = f"could not {action} at {url!r}: {detail}"
    return KnowledgeBaseError(reason, retryable=status in _AGAIN)


def _advice(response: httpx.Response) -> float:
    told = response.headers.get("retry-after", "")
    return float(told) if told.isdecimal() else 0.0
