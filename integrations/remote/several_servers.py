"""Several servers of one model behind one name: where each request and each adapter goes.

An adapter goes to the servers that its key chooses (rendezvous hashing), so that a recalled one is
asked for where it is, and a server more or less moves few. A prompt without one goes to the server
with the least to do, all draws of it together, which then compute it once.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rttc_graph.errors import AdaptationError, BackendError, ConfigurationError
from rttc_graph.integrations.remote.handing_trainer import HandingTrainer
from rttc_graph.protocols import (
    AdapterTrainer,
    Generation,
    GenerationRequest,
    PolicyModel,
    TrainedAdapter,
    can_continue,
    can_follow_schema,
)
from rttc_graph.state import ChatTurn

__all__ = ("ServerOrder", "SeveralPolicyModels", "SeveralTrainers")

RETRY_SECONDS = 30.0
"""Time for which a server that failed comes last; a start of vLLM with a small model takes more."""

ResultT = TypeVar("ResultT")


class ServerOrder:
    """The order in which servers are tried; policy model and trainer share one.

    Args:
        names: Names of the servers, such as their addresses. An adapter's place follows from them:
            keep a server's name when it moves.
        retry_seconds: Time for which a server that failed comes last.
        clock: Reading of a monotonic clock in seconds.

    Raises:
        ConfigurationError: There is no name, or one twice.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        retry_seconds: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(
                f"servers={list(names)!r}: name at least one, and each of them once"
            )
        self.names = tuple(names)
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._failed_at: dict[str, float] = {}
        self._in_flight: Counter[str] = Counter()
        self._lock = threading.Lock()  # hosts have several event loops

    def of(self, adapter: str | None) -> list[str]:
        """Return the servers in the order in which they are tried for an adapter's key, or none."""
        with self._lock:
            now = self._clock()
            is_down = {
                name: now - self._failed_at.get(name, -self._retry_seconds) < self._retry_seconds
                for name in self.names
            }
            if adapter is None:
                return sorted(self.names, key=lambda name: (is_down[name], self._in_flight[name]))
        return sorted(self.names, key=lambda name: (is_down[name], _distance(name, adapter)))

    @contextmanager
    def asked(self, name: str) -> Generator[None]:
        """Count a call of a server while it runs, and note a failure that is the server's own."""
        with self._lock:
            self._in_flight[name] += 1
        try:
            yield
        except BackendError as exc:
            if exc.retryable:
                self._failed_at[name] = self._clock()
            raise
        else:
            self._failed_at.pop(name, None)
        finally:
            with self._lock:
                self._in_flight[name] -= 1

    async def first(self, adapter: str | None, ask: Callable[[str], Awaitable[ResultT]]) -> ResultT:
        """Return what the first server says that can be reached.

        Raises:
            BackendError: All failed, or one refused the call.
        """
        problem: BackendError | None = None
        for name in self.of(adapter):
            try:
                with self.asked(name):
                    return await ask(name)
            except BackendError as exc:
                if not exc.retryable:
                    raise
                problem = exc
        assert problem is not None  # there is at least one server
        raise problem


def _distance(name: str, adapter: str) -> bytes:
    return hashlib.sha256(f"{name} {adapter}".encode()).digest()


class SeveralPolicyModels:
    """One policy model, held by several servers.

    Args:
        models: A client of each server, by the name of the server.
        order: Shared with `SeveralTrainers` where adapters are used.
        name: For people; the first model's by default.

    Raises:
        ConfigurationError: The names are not those of the order.
    """

    def __init__(
        self, models: Mapping[str, PolicyModel], order: ServerOrder, *, name: str | None = None
    ) -> None:
        _check_names(models, order)
        self._models = dict(models)
        self._order = order
        self._name = name or self._first.name

    @property
    def _first(self) -> PolicyModel:
        return self._models[self._order.names[0]]

    @property
    def name(self) -> str:
        """Name for people."""
        return self._name

    @property
    def continues_answers(self) -> bool:
        """Whether every server goes on from text that an answer begins with."""
        return all(map(can_continue, self._models.values()))

    @property
    def follows_schemas(self) -> bool:
        """Whether every server takes requests with an `answer_schema`."""
        return all(map(can_follow_schema, self._models.values()))

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of the prompt in tokens, as the first server's model tells."""
        return await self._first.count_tokens(messages)

    async def context_tokens(self) -> int | None:
        """Return the smallest context of all servers; `None` if none is known."""
        told = [await model.context_tokens() for model in self._models.values()]
        return min((one for one in told if one is not None), default=None)

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        A server that cannot be reached is left out, and the next one is asked.

        Raises:
            PolicyModelError: All servers failed, or one refused a request.
        """
        groups: dict[tuple[str | None, tuple[tuple[str, str], ...]], list[int]] = {}
        for place, request in enumerate(requests):
            turns = tuple((turn["role"], turn["content"]) for turn in request.messages)
            groups.setdefault((request.adapter, turns), []).append(place)

        async def of_group(adapter: str | None, places: Sequence[int]) -> list[Generation]:
            asked = [requests[place] for place in places]
            return await self._order.first(
                adapter, lambda name: self._models[name].generate(asked, deadline=deadline)
            )

        made = await asyncio.gather(
            *(of_group(adapter, places) for (adapter, _), places in groups.items())
        )
        found = {
            place: one
            for places, group in zip(groups.values(), made, strict=True)
            for place, one in zip(places, group, strict=True)
        }
        return [found[place] for place in range(len(requests))]


class SeveralTrainers(HandingTrainer):
    """One trainer for several servers: an adapter is published where its key belongs.

    Args:
        trainer: Trains on this machine.
        publishers: A `PublishingTrainer` around it for each server, by the server's name, each with
            a folder of its own.
        order: That of `SeveralPolicyModels`.
        copies: Servers that get each adapter; with two, one may fail and no adapter is missed.

    Raises:
        ConfigurationError: The names are not those of the order, or `copies` is out of bounds.
    """

    def __init__(
        self,
        trainer: AdapterTrainer,
        publishers: Mapping[str, AdapterTrainer],
        order: ServerOrder,
        *,
        copies: int = 1,
    ) -> None:
        _check_names(publishers, order)
        if not 1 <= copies <= len(publishers):
            raise ConfigurationError(
                f"copies={copies!r} must be from 1 to the number of servers, {len(publishers)}"
            )
        super().__init__(trainer)
        self._publishers = dict(publishers)
        self._order = order
        self._copies = copies

    async def is_resident(self, key: str) -> bool:
        """Tell whether the server that is asked first for the adapter has it.

        Raises:
            AdaptationError: No server answers.
        """
        return await self._order.first(key, lambda name: self._publishers[name].is_resident(key))

    async def load(self, adapter: TrainedAdapter) -> None:
        """Publish a stored adapter on as many servers as wanted, unless they have it.

        Raises:
            AdaptationError: It was made for another base, or no server took it.
        """
        taken = 0
        problem: AdaptationError | None = None
        for name in self._order.of(adapter.key):
            if taken == self._copies:
                return
            try:
                with self._order.asked(name):
                    await self._publishers[name].load(adapter)
                taken += 1
            except AdaptationError as exc:
                if not exc.retryable:
                    raise
                problem = exc
        if not taken and problem is not None:
            raise problem


def _check_names(parts: Mapping[str, object], order: ServerOrder) -> None:
    if set(parts) != set(order.names):
        raise ConfigurationError(
            f"servers {sorted(parts)} are not those of the order, {sorted(order.names)}"
        )
