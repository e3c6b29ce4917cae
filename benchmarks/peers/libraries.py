"""The libraries that we compare with, which nothing of ours needs."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any, cast

from transformers.utils import logging as untyped_logging

from rttc_graph.errors import ConfigurationError

BENCH = "pip install -c constraints.txt -e '.[postgres,local,cli,puzzles,bench]'"

INSTALL = {
    "langchain_postgres": f"{BENCH} && pip install --no-deps langchain-postgres==0.0.19",
}
"""How to install what the extra `bench` cannot name beside our own requirements.

langchain-postgres asks for pgvector < 0.4 and ours is newer. Its PGVectorStore takes nothing from
that package, its PGVector only the type of a column, which has not changed.
"""


def peer(module: str) -> Any:
    """Return a module of a peer.

    Raises:
        ConfigurationError: It is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.partition(".")[0]
        how = INSTALL.get(package, BENCH)
        raise ConfigurationError(f"the peer {package!r} cannot be imported ({exc}): {how}") from exc


def quiet_transformers() -> None:
    """Keep transformers' warnings and bars out of what a benchmark prints."""
    logging = cast("Any", untyped_logging)  # its functions lack `-> None`
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def named(distribution: str, how: str) -> str:
    """Return a peer's name with its version, and how it is set up."""
    return f"{distribution} {version(distribution)}, {how}"
