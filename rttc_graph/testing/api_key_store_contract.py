"""What every store of API keys must do; subclass it and define `keys` and `add_key`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from rttc_graph.protocols.api_keys import ApiKey, ApiKeyStore, new_key


class ApiKeyStoreContract:
    """Subclass it in a backend's tests and define the fixtures `keys` and `add_key`."""

    @pytest.fixture
    def keys(self) -> ApiKeyStore:
        """Return an empty store; override it."""
        raise NotImplementedError("define the fixture `keys`")

    @pytest.fixture
    def add_key(self, keys: ApiKeyStore) -> Callable[[ApiKey], Awaitable[object]]:
        """Return what puts a key into the store; override it."""
        raise NotImplementedError("define the fixture `add_key`")

    async def test_a_key_is_found_by_its_id(
        self, keys: ApiKeyStore, add_key: Callable[[ApiKey], Awaitable[object]]
    ) -> None:
        """What comes back fits the bearer's key and no other."""
        assert await keys.is_empty()
        key, stored = new_key("tenant", ("kb:read", "ask"), name="Ada's laptop")
        other, _ = new_key("tenant")
        await add_key(stored)
        found = await keys.find(stored.id)
        assert found is not None
        assert found.fits(key)
        assert not found.fits(other)
        assert (found.tenant, found.scopes, found.name) == (
            "tenant",
            ("ask", "kb:read"),
            "Ada's laptop",
        )
        assert not await keys.is_empty()

    @pytest.mark.parametrize("key_id", ["", "0" * 16, "'; drop table rttc_api_key; --", "é🧮"])
    async def test_an_unknown_id_is_not_found(
        self,
        keys: ApiKeyStore,
        add_key: Callable[[ApiKey], Awaitable[object]],
        key_id: str,
    ) -> None:
        """Whatever is asked for, only an id that was stored finds a key."""
        await add_key(new_key("tenant")[1])
        assert await keys.find(key_id) is None
