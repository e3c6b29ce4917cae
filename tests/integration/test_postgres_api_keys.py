"""API keys in Postgres: only digests are kept, and what was revoked stays revoked."""

from __future__ import annotations

import psycopg
import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.postgres.api_key_store import PostgresApiKeyStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.protocols.api_keys import SCOPES, checked_scopes, new_key, parse_key


@pytest.fixture
def keys(database: Database) -> PostgresApiKeyStore:
    return PostgresApiKeyStore(database)


async def test_a_key_is_found_by_its_id_and_fits_itself_alone(keys: PostgresApiKeyStore) -> None:
    assert await keys.is_empty()
    key, made = new_key("acme", ["kb:read", "ask"], name="desk")
    await keys.add(made)
    key_id = parse_key(key)
    assert key_id is not None
    found = await keys.find(key_id)
    assert found is not None
    assert (found.tenant, found.scopes, found.name) == ("acme", ("ask", "kb:read"), "desk")
    assert found.fits(key)
    assert not found.fits(key[:-1] + ("A" if key[-1] != "A" else "B"))
    assert await keys.find("0" * 16) is None
    assert not await keys.is_empty()


async def test_a_revoked_key_fits_no_more_but_still_counts(keys: PostgresApiKeyStore) -> None:
    key, made = new_key("acme")
    await keys.add(made)
    first = await keys.revoke(made.id)
    again = await keys.revoke(made.id)
    assert first.revoked_at == again.revoked_at is not None
    assert not again.fits(key)
    assert [k.id for k in await keys.all()] == [made.id]
    assert not await keys.is_empty()
    with pytest.raises(ConfigurationError, match="no API key 'nobody'"):
        await keys.revoke("nobody")


@pytest.mark.blocking_allowed
async def test_the_database_never_holds_a_key(keys: PostgresApiKeyStore, postgres_dsn: str) -> None:
    key, made = new_key("acme", SCOPES)
    await keys.add(made)
    with psycopg.connect(postgres_dsn) as connection:
        row = connection.execute("select row_to_json(k)::text from rttc_api_key k").fetchone()
    assert row is not None
    secret = key.split("_", 2)[2]
    assert secret not in row[0]
    assert made.digest.hex() in row[0]


def test_scopes_and_names_are_checked() -> None:
    assert checked_scopes(["kb:write", "ask"]) == ("ask", "kb:write")
    for wrong in (["admin"], []):
        with pytest.raises(ConfigurationError, match="kb:read"):
            checked_scopes(wrong)
    with pytest.raises(ConfigurationError, match="tenant="):
        new_key("")
    assert parse_key("rttc_") is None
    assert new_key("a")[0] != new_key("a")[0]
