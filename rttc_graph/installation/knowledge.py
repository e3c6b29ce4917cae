"""The part of an installation that needs no policy model: database, knowledge base and cache.

Nothing happens before the first use: then the embedded server starts and is migrated. Commands
that only look at the database open this and never wait for torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_embedder import open_embedder
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.calibration_store import PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.migrate import migrate
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.samples.read_replica import ReadReplica
from rttc_graph.integrations.postgres.standing_store import PostgresStandingStore
from rttc_graph.protocols import MeasuringEmbedder
from rttc_graph.samples.corrections import Corrections

if TYPE_CHECKING:
    from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres

_LOG = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0

_REPLICA_SECONDS = 2.0
"""Longest wait for a connection to a replica, since the primary can be asked instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """Contents of the database, and the embedder that makes its vectors."""

    embedder: MeasuringEmbedder
    database: Database
    knowledge_base: PostgresKnowledgeBase
    cache: PostgresQueryStateCache
    ledger_store: PostgresLedgerStore
    calibrations: PostgresCalibrationStore
    ratings: PostgresRatingStore
    standing: PostgresStandingStore


@contextmanager
def open_knowledge(
    config: InstallationConfig, *, embedder: MeasuringEmbedder | None = None
) -> Generator[Knowledge]:
    """Open the database of an installation, and close what was opened.

    Args:
        config: Names the database and the embedder.
        embedder: Embedder that is open already; by default the one that is named.
    """
    _check_addresses(config)
    with _data_source(config) as source, ExitStack() as stack:
        database = Database(
            source, pooler=config.database_pooler_url, private=config.database_url is None
        )
        stack.callback(database.close)
        replica = _open_replica(config, stack)
        embedder = embedder or open_embedder(config)
        yield Knowledge(
            embedder=embedder,
            database=database,
            knowledge_base=PostgresKnowledgeBase(database, embedder, replica=replica),
            cache=PostgresQueryStateCache(
                database,
                max_bytes=config.cache_max_bytes,
                max_age_seconds=config.cache_max_age_days * _DAY_SECONDS,
            ),
            ledger_store=PostgresLedgerStore(database, max_age_days=config.runs_max_age_days),
            calibrations=PostgresCalibrationStore(database),
            ratings=PostgresRatingStore(database),
            standing=PostgresStandingStore(database),
        )


def corrections_of(config: InstallationConfig, knowledge: Knowledge) -> Corrections:
    """Return what takes ratings, over an open database and by the installation's settings."""
    return Corrections(
        ratings=knowledge.ratings,
        knowledge_base=knowledge.knowledge_base,
        embedder=knowledge.embedder,
        policy=config.corrections,
    )


def _check_addresses(config: InstallationConfig) -> None:
    for name in ("database_pooler_url", "database_read_url"):
        if getattr(config, name) is not None and config.database_url is None:
            raise ConfigurationError(
                f"{name} is set without database_url: say there which server is meant, since the "
                "embedded one has no pooler and no replica"
            )


def _open_replica(config: InstallationConfig, stack: ExitStack) -> ReadReplica | None:
    """Open the replica, in a way that a pooler before it may be in transaction mode."""
    address = config.database_read_url
    if address is None:
        return None
    database = Database(address, pooler=address, connect_timeout_seconds=_REPLICA_SECONDS)
    stack.callback(database.close)
    return ReadReplica(database, most_lag_seconds=config.database_read_lag_seconds)


def embedded_server(config: InstallationConfig) -> EmbeddedPostgres:
    """Return the embedded server of an installation, not started.

    Raises:
        ConfigurationError: It cannot run here.
    """
    # Late: it stands on POSIX locks and accounts, which an installation with a DSN never needs.
    from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import (  # noqa: PLC0415
        EmbeddedPostgres,
    )

    return EmbeddedPostgres(config.home / "postgres")


@contextmanager
def _data_source(config: InstallationConfig) -> Generator[Callable[[], str] | str]:
    """Yield the DSN, or what starts the embedded server and returns its DSN."""
    if config.database_url is not None:
        yield config.database_url
        return
    started: list[EmbeddedPostgres] = []

    def start() -> str:  # a folder that cannot be used fails whoever needs it, and nobody else
        if not started:
            started.append(embedded_server(config))
        dsn = started[0].start().dsn
        migrate(dsn, private=True)
        return dsn

    try:
        yield start
    finally:
        for server in started:
            _leave(server)


def _leave(server: EmbeddedPostgres) -> None:
    """Leave the server; to fail here must not lose what was done with it."""
    try:
        server.release()
    except RttcError as exc:
        _LOG.warning("the embedded server was not left in order: %s", exc)
