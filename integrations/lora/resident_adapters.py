"""Adapters in memory: bounded in bytes, least recently used ones go first, those in use stay."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel

from rttc_graph.errors import AdaptationError, ConfigurationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import Adapter

__all__ = ("ResidentAdapters",)


class ResidentAdapters:
    """Adapters by key, and forward passes that use them row by row.

    `rows` and `adapted` belong to the model's lane; everything else may be called from any thread.

    Args:
        model: The base model, already in evaluation mode.
        max_bytes: Memory for the tensors of all adapters together.
        first_use_seconds: How long an adapter waits for its first use without being dropped for
            another one. Else many callers that load at once throw out each other's adapters
            before anybody has generated with them.
        clock: Seconds, monotonic.

    Raises:
        ConfigurationError: `max_bytes` is not positive.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_bytes: int,
        first_use_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes <= 0:
            raise ConfigurationError(f"max_bytes must be above 0, got {max_bytes!r}")
        self._model = model
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._first_use_seconds = first_use_seconds
        self._clock = clock
        self._unused: dict[str, float] = {}
        """Until when an adapter is kept for its first use."""
        self._versions: dict[str, int] = {}
        self._puts = 0
        self._bytes = 0

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The model with LoRA terms, made at first use."""
        return AdaptedModel(self._model)

    @property
    def bytes(self) -> int:
        """Memory of all adapters."""
        return self._bytes

    @property
    def count(self) -> int:
        """Number of adapters."""
        return len(self._adapters)

    def has(self, key: str) -> bool:
        """Tell whether `key` is resident; if so it counts as just used."""
        with self._lock:
            if key not in self._adapters:
                return False
            self._adapters.move_to_end(key)
            return True

    def version(self, key: str) -> int:
        """Return how many adapters were made resident before this one; -1 if it is not."""
        with self._lock:
            return self._versions.get(key, -1)

    def put(self, key: str, adapter: Adapter) -> None:
        """Keep an adapter, dropping the least recently used ones that are not in use.

        It is kept in the type of the base, so that a row's terms need no conversion.

        Raises:
            AdaptationError: It does not fit beside the adapters in use.
        """
        adapter = adapter.in_type(self._model.dtype)
        with self._lock:
            self._evict(self._max_bytes - adapter.bytes, replaced=key)
            self._remove(key)
            self._adapters[key] = adapter
            self._versions[key] = self._puts
            self._puts += 1
            self._bytes += adapter.bytes
            if self._first_use_seconds:
                self._unused[key] = self._clock() + self._first_use_seconds

    def drop(self, key: str) -> bool:
        """Forget an adapter and tell whether it was there.

        A forward pass that has it already goes on with it.
        """
        with self._lock:
            return self._remove(key)

    @contextmanager
    def rows(self, keys: Sequence[str | None]) -> Generator[Callable[..., Any]]:
        """Yield a forward pass that applies to batch row i the adapter `keys[i]`, `None` for base.

        The adapters are pinned until the context is left. Without any adapter this is the base
        model's own forward pass.

        Raises:
            AdaptationError: A key is not resident.
        """
        with self._pinned(keys) as adapters:
            if any(adapters):
                yield self.adapted.forward_rows(adapters)
            else:
                yield self._model.forward

    @contextmanager
    def staying_rows(self, keys: Sequence[str | None]) -> Generator[Callable[..., Any]]:
        """Yield what `rows` does, over memory that stays, where the adapters are of one shape.

        Raises:
            AdaptationError: A key is not resident.
        """
        with self._pinned(keys) as adapters:
            staying = self.adapted.staying_rows(adapters)
            yield staying or self.adapted.forward_rows(adapters)

    @contextmanager
    def _pinned(self, keys: Sequence[str | None]) -> Generator[list[Adapter | None]]:
        """Yield the adapters of rows, which stay resident until the context is left."""
        named = {key for key in keys if key is not None}
        held = self._pin(named)
        try:
            yield [None if key is None else held[key] for key in keys]
        finally:
            self._release(named)

    def hold(self, key: str) -> Callable[[], None]:
        """Keep an adapter until what is returned is called; do nothing if it is not resident."""
        with self._lock:
            if key not in self._adapters:
                return _nothing
            self._use({key})
        return lambda: self._release({key})

    def _pin(self, keys: set[str]) -> dict[str, Adapter]:
        with self._lock:
            missing = sorted(keys - self._adapters.keys())
            if missing:
                raise AdaptationError(f"adapter {missing[0]!r} is not resident: load it first")
            self._use(keys)
            return {key: self._adapters[key] for key in keys}

    def _use(self, keys: set[str]) -> None:
        self._pins.update(keys)
        for key in sorted(keys):
            self._adapters.move_to_end(key)
            self._unused.pop(key, None)

    def _release(self, keys: set[str]) -> None:
        with self._lock:
            self._pins.subtract(keys)
            self._pins += Counter()  # forget keys whose count is 0

    def _is_kept(self, key: str) -> bool:
        return key in self._pins or self._unused.get(key, -math.inf) > self._clock()

    def _evict(self, room: int, *, replaced: str) -> None:
        """Drop adapters until all but `replaced` take `room` bytes at most."""
        old = self._adapters.get(replaced)
        excess = self._bytes - (old.bytes if old else 0) - room
        victims: list[str] = []
        for key, adapter in self._adapters.items():
            if excess <= 0:
                break
            if key != replaced and not self._is_kept(key):
                victims.append(key)
                excess -= adapter.bytes
        if excess > 0:
            kept = sum(map(self._is_kept, self._adapters))
            raise AdaptationError(
                f"adapter {replaced!r} needs {excess} bytes more than the {self._max_bytes} that "
                f"adapters may take with {kept} in use: raise max_resident_bytes or lower the rank",
                retryable=kept > 0 and room >= 0,
            )
        for key in victims:
            self._remove(key)

    def _remove(self, key: str) -> bool:
        adapter = self._adapters.pop(key, None)
        self._unused.pop(key, None)
        self._versions.pop(key, None)
        if adapter is not None:
            self._bytes -= adapter.bytes
            if "adapted" in self.__dict__:  # it was used
                self.adapted.forget_rows()
        return adapter is not None


def _nothing() -> None:
    """Release nothing."""
