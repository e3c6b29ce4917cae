"""GPTCache over the same Postgres: what it does to find the answer of a near question."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.peers.libraries import named, peer
from benchmarks.peers.stores import Timed, sqlalchemy_url
from benchmarks.tools.synthetic import Rows

LISTS = 10
"""Of its ivfflat index; pgvector's advice is rows / 1,000, and no fewer than some."""


def _install_nothing(package: str) -> None:
    """Stand in for what runs pip."""


class GptCacheStore:
    """Its data manager: a table of questions and answers, and a table of vectors.

    pgvector is the only vector store it shares with us. It knows ivfflat and the Euclidean
    distance, by which unit vectors have the same order as by cosine. All lists are probed, so that
    it finds what an exact search finds, as ours does.
    """

    def __init__(self, dsn: str, dimension: int) -> None:
        # It would install psycopg2 by itself, with whatever pip is found; the URL names psycopg 3.
        peer("gptcache.utils").prompt_install = _install_nothing
        manager = peer("gptcache.manager")
        url = sqlalchemy_url(dsn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses SQLAlchemy's ways of old
            self._manager: Any = manager.get_data_manager(
                manager.CacheBase("postgresql", sql_url=url),
                manager.VectorBase(
                    "pgvector",
                    url=url,
                    dimension=dimension,
                    index_params={
                        "index_type": "L2",
                        "params": {"lists": LISTS, "probes": LISTS},
                    },
                ),
                max_size=1_000_000,
            )

    @property
    def name(self) -> str:
        """With its version."""
        return named("gptcache", "Postgres and pgvector, vector and answer looked up")

    def add(self, rows: Rows) -> None:
        """Store questions with answers."""
        questions = [sample.question for sample in rows.samples]
        answers = [sample.answer for sample in rows.samples]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._manager.import_data(
                questions, answers, list(rows.vectors), [None] * len(questions)
            )

    def search(self, vectors: Iterable[list[float]]) -> Timed:
        """Look up one after the other, as its adapters do on a hit."""
        timed = Timed()
        for vector in vectors:
            given = np.array(vector, dtype=np.float32)
            began = time.perf_counter()
            (nearest, *_) = self._manager.search(given, top_k=1)
            found = self._manager.get_scalar_data(nearest)
            self._manager.hit_cache_callback(nearest)
            timed.add(began, time.perf_counter(), found.question)
        return timed

    def close(self) -> None:
        """Close its connections."""
        self._manager.v._engine.dispose()  # it has no other way
        self._manager.s._engine.dispose()
