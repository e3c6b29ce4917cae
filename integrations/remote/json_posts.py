"""Calls of a server that judges: JSON there and back, once more after a passing failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import httpx

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.langchain.vendor_errors import RETRYABLE_STATUS, describe


class CallSettings(Protocol):
    """What settings of calls have."""

    @property
    def timeout_seconds(self) -> float:
        """Time limit of one call."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers of each call."""
        ...


class JsonPosts:
    """POST to one address; threads may share it, and so its connections.

    Args:
        url: Whole address of the route.
        settings: Time limit and headers of each call.

    Raises:
        ConfigurationError: Not a URL.
    """

    def __init__(self, url: str, settings: CallSettings) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url={url!r} must start with http:// or https://")
        self.url = url
        self._client = httpx.Client(
            timeout=settings.timeout_seconds, headers=dict(settings.headers), trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def answer(self, body: Mapping[str, Any]) -> Any:
        """Return what the server answers; it is asked once more where that may help.

        Raises:
            RewardModelError: It cannot be reached, refused the call, or answered no JSON.
        """
        try:
            return self._asked(body)
        except RewardModelError as exc:
            if not exc.retryable:
                raise
            return self._asked(body)

    def _asked(self, body: Mapping[str, Any]) -> Any:
        try:
            response = self._client.post(self.url, json=body)
        except httpx.HTTPError as exc:
            raise RewardModelError(
                f"could not reach {self.url}: {describe(exc)}", retryable=True
            ) from exc
        if response.status_code != 200:
            raise RewardModelError(
                f"{self.url} answered {response.status_code}: {response.text[:200]!r}",
                retryable=response.status_code in RETRYABLE_STATUS,
            )
        try:
            return response.json()
        except ValueError as exc:
            raise RewardModelError(
                f"{self.url} answered no JSON but {response.text[:80]!r}"
            ) from exc
