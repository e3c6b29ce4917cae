"""Adapters as rows: found, claimed for training, stored, released.

A row in state `training` is a lease. Its owner renews it while it trains; when the owner dies, the
lease runs out and the next who asks takes it over. No connection is held while training.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Literal

from rttc_graph.integrations.postgres.database_session import DatabaseSession, WorkStopped
from rttc_graph.integrations.postgres.json_values import cleaned_jsonb
from rttc_graph.protocols import TrainedAdapter

__all__ = ("Claim", "find", "find_or_claim", "release", "renew", "store")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One caller's wish to train one adapter."""

    key: str
    base_fingerprint: str
    owner: str
    """Owner of the lease; each call has its own."""
    lease_seconds: float


def find(session: DatabaseSession, key: str, base_fingerprint: str) -> TrainedAdapter | None:
    """Return a stored adapter of a base, which counts as used.

    One that is damaged is discarded, unless it stands for a domain.
    """
    row = session.row("stored_adapter", key=key, base_fingerprint=base_fingerprint)
    if row is None:
        return None
    weights = bytes(row["weights"])
    digest = hashlib.sha256(weights).digest()
    if row["sha256"] is None:  # stored before there were digests; the trainer checks what it reads
        session.execute("note_digest", key=key, sha256=digest)
    elif row["sha256"] != digest:
        _LOG.warning("adapter %s is damaged in the database, and not used", key)
        session.execute("discard_adapter", key=key)
        return None
    return TrainedAdapter(
        key=key,
        weights=weights,
        base_fingerprint=base_fingerprint,
        trained_tokens=row["trained_tokens"],
        steps=row["steps"],
        losses=tuple(row["losses"]),
        seconds=row["seconds"],
        provenance=row["provenance"],
    )


def find_or_claim(
    session: DatabaseSession, claim: Claim
) -> TrainedAdapter | Literal["claimed", "busy"]:
    """Return the adapter if it is stored; else try to become the one who trains it."""
    adapter = find(session, claim.key, claim.base_fingerprint)
    if adapter is not None:
        return adapter
    claimed = session.row(
        "claim_adapter",
        key=claim.key,
        owner=claim.owner,
        lease_seconds=claim.lease_seconds,
        base_fingerprint=claim.base_fingerprint,
    )
    if not claimed:
        return "busy"
    try:
        session.step()
    except WorkStopped:  # nobody would train it, and others would wait for the lease to run out
        session.resume()
        release(session, claim)
        raise
    return "claimed"


def renew(session: DatabaseSession, claim: Claim) -> bool:
    """Renew the lease; `False` if it is no longer the owner's."""
    parameters = {"key": claim.key, "owner": claim.owner, "lease_seconds": claim.lease_seconds}
    return session.row("renew_lease", **parameters) is not None


def release(session: DatabaseSession, claim: Claim) -> None:
    """Give the lease up without an adapter, and wake those who wait."""
    with session.connection.transaction():
        session.execute("release_lease", key=claim.key, owner=claim.owner)
        session.execute("tell_adapter", key=claim.key)


def store(session: DatabaseSession, claim: Claim, adapter: TrainedAdapter) -> None:
    """Store the adapter, which ends the lease, and wake those who wait."""
    with session.connection.transaction():
        session.execute(
            "store_adapter",
            key=claim.key,
            owner=claim.owner,
            base_fingerprint=claim.base_fingerprint,
            weights=adapter.weights,
            sha256=hashlib.sha256(adapter.weights).digest(),
            bytes=len(adapter.weights),
            trained_tokens=adapter.trained_tokens,
            steps=adapter.steps,
            losses=list(adapter.losses),
            seconds=adapter.seconds,
            provenance=cleaned_jsonb(adapter.provenance),
        )
        session.execute("tell_adapter", key=claim.key)
