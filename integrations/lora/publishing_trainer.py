"""Adapters trained here and used by a server that serves the same base model.

The server's part is vLLM's: `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter` (it allows
them with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` and `--enable-lora`), adapters read from a folder
that both sides see, and a request that names the adapter as its model.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import OrderedDict
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx

from rttc_graph.errors import AdaptationError, ConfigurationError
from rttc_graph.integrations.lora.adapter_serialization import write_peft_folder
from rttc_graph.integrations.remote.handing_trainer import HandingTrainer
from rttc_graph.protocols import AdapterTrainer, TrainedAdapter

__all__ = ("PublishingTrainer",)

_LONGEST_ERROR = 300
"""Characters of a server's answer that go into an error."""

_NO_ROUTE = "Not Found"
"""Words of a server that has no such route; one that lacks an adapter says more."""


_WAY_OUT = (
    ": it takes no adapters while it runs: start vLLM with --enable-lora and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
)


class _RefusedError(AdaptationError):
    """The server answered, and refused."""

    def __init__(self, message: str, *, status: int) -> None:
        is_busy = status == HTTPStatus.TOO_MANY_REQUESTS
        super().__init__(message, retryable=is_busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
        self.status = status


class PublishingTrainer(HandingTrainer):
    """Trains with another trainer and hands each adapter to a server under its key.

    Use it with `ChatPolicyModel(..., adapter_option="model")` for the same server. The base model
    must be the same on both sides, which nobody can check from here.

    Args:
        trainer: Trains on this machine.
        url: Address of the server, without `/v1`.
        folder: Where adapters are written, one folder each, named by the adapter's key.
        server_folder: Path of `folder` on the server; `folder` by default.
        api_key: Sent as a bearer token.
        max_published: Adapters kept on the server, those of earlier processes with the same folder
            among them; the least recently used are unloaded and their folders deleted. No more
            than its `--max-cpu-loras`.
        timeout_seconds: Longest wait for an answer of the server; loading reads a file.

    Raises:
        ConfigurationError: `max_published` is below 1.
    """

    def __init__(
        self,
        trainer: AdapterTrainer,
        *,
        url: str,
        folder: Path,
        server_folder: str | None = None,
        api_key: str | None = None,
        max_published: int = 32,
        timeout_seconds: float = 60.0,
    ) -> None:
        if max_published < 1:
            raise ConfigurationError(f"max_published={max_published!r} must be at least 1")
        super().__init__(trainer)
        self._url = url.rstrip("/")
        self._folder = folder
        self._server_folder = server_folder
        self._max_published = max_published
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_seconds)
        self._published: OrderedDict[str, None] = OrderedDict()

    async def is_resident(self, key: str) -> bool:
        """Ask the server whether it has the adapter; it may have been started anew.

        Raises:
            AdaptationError: The server does not answer.
        """
        names = await self._served()
        if key in names:
            self._published[key] = None
            self._published.move_to_end(key)
        return key in names

    async def _served(self) -> Collection[str]:
        """Return the names that the server has, and take over what others have published there.

        Those count as used longest ago: a process that was started anew would else leave what the
        last one has published on the server, beside as many of its own.
        """
        answer = await self._call("GET", "/v1/models")
        names = [str(model.get("id")) for model in answer.json().get("data", [])]
        for key in list(self._published):
            if key not in names:  # the server was started anew, or another process unloaded it
                del self._published[key]
        unknown = [name for name in names if name not in self._published]
        for name in reversed(await asyncio.to_thread(self._written, unknown)):
            self._published[name] = None
            self._published.move_to_end(name, last=False)
        return names

    def _written(self, names: Collection[str]) -> list[str]:
        """Return the names that are adapters of our folder, and no models of the server's own."""
        return [name for name in names if name.isalnum() and (self._folder / name).is_dir()]

    async def load(self, adapter: TrainedAdapter) -> None:
        """Publish a stored adapter, unless the server has it.

        Raises:
            AdaptationError: It was made for another base, or the server did not take it.
        """
        base = await self._trainer.base_fingerprint()
        if adapter.base_fingerprint != base:
            raise AdaptationError(
                f"adapter {adapter.key!r} was made for the base {adapter.base_fingerprint!r}, "
                f"this one is {base!r}: train it again"
            )
        if await self.is_resident(adapter.key):
            return
        path = await asyncio.to_thread(self._write, adapter)
        given = {"lora_name": adapter.key, "lora_path": path}
        try:
            await self._call("POST", "/v1/load_lora_adapter", given)
        except AdaptationError:  # another process may have published it meanwhile
            if not await self.is_resident(adapter.key):
                raise
        self._published[adapter.key] = None
        await self._unload_oldest()

    def _write(self, adapter: TrainedAdapter) -> str:
        """Write an adapter's folder and return its path on the server."""
        if not adapter.key.isalnum():
            raise AdaptationError(
                f"adapter {adapter.key!r} cannot name a folder: letters and digits only"
            )
        folder = self._folder / adapter.key
        write_peft_folder(adapter, folder)
        if self._server_folder is None:
            return str(folder.resolve())
        return str(PurePosixPath(self._server_folder, adapter.key))

    async def _unload_oldest(self) -> None:
        while len(self._published) > self._max_published:
            oldest, _ = self._published.popitem(last=False)
            try:
                await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": oldest})
            except _RefusedError as exc:
                if exc.status != HTTPStatus.NOT_FOUND:  # else it is gone, which was the aim
                    raise
            await asyncio.to_thread(shutil.rmtree, self._folder / oldest, ignore_errors=True)

    def close(self) -> None:
        """Close the connections to the server; what is published stays there."""
        self._client.close()

    async def _call(
        self, method: str, path: str, given: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        # On a thread: a synchronous client is bound to no event loop.
        return await asyncio.to_thread(self._request, method, path, given)

    def _request(self, method: str, path: str, given: Mapping[str, Any] | None) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=given)
        except httpx.HTTPError as exc:
            raise AdaptationError(
                f"{self._url} did not answer {method} {path}: {type(exc).__name__} {exc}",
                retryable=True,
            ) from exc
        if not answer.is_success:
            said = _said(answer)
            way_out = _WAY_OUT if (said, method) == (_NO_ROUTE, "POST") else ""
            raise _RefusedError(
                f"{self._url} refused {method} {path} with {answer.status_code}: {said}{way_out}",
                status=answer.status_code,
            )
        return answer


def _said(answer: httpx.Response) -> str:
    """Return the message of an error; servers put it at one of three places."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text[:_LONGEST_ERROR]
    for name in ("error", "message", "detail"):
        if isinstance(found, Mapping):
            found = cast("Mapping[str, Any]", found).get(name, found)
    return str(found)[:_LONGEST_ERROR]
