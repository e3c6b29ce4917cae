"""Everything this package raises on purpose, ordered by who has to act.

RttcError
├── ConfigurationError          the caller's mistake, found before any work (also a ValueError)
├── BadSampleError              a row of a data file cannot be used (also a ValueError)
├── BudgetExceeded              the run's seconds, tokens or arms are spent
├── NoAnswerError               every arm failed, so there is nothing to return
└── BackendError                something behind a protocol failed; `retryable` says what to do
    ├── PolicyModelError
    ├── RewardModelError
    ├── EmbeddingError
    ├── KnowledgeBaseError
    ├── QueryStateCacheError
    └── AdaptationError
        └── UnusableAdapterError    a stored adapter is damaged: train it again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

__all__ = (
    "AdaptationError",
    "BackendError",
    "BadSampleError",
    "BudgetExceeded",
    "ConfigurationError",
    "EmbeddingError",
    "KnowledgeBaseError",
    "NoAnswerError",
    "PolicyModelError",
    "QueryStateCacheError",
    "RewardModelError",
    "RttcError",
    "UnusableAdapterError",
)


class RttcError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(RttcError, ValueError):
    """A setting or an argument is wrong; nothing was done yet."""


class BadSampleError(RttcError, ValueError):
    """A row of a data file is not a usable sample.

    Args:
        message: What is wrong with the row.
        source: Path or name of the data set.
        line: 1-based line (JSONL, CSV) or row (Parquet, hub) number.
    """

    def __init__(self, message: str, *, source: str, line: int) -> None:
        super().__init__(message)
        self.source = source
        self.line = line

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.args[0]}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with the arguments that have no default."""
        return partial(type(self), source=self.source, line=self.line), self.args


class BudgetExceeded(RttcError):
    """The run's budget of seconds, tokens or arms does not allow the next piece of work."""


class NoAnswerError(RttcError):
    """No arm produced an answer.

    Args:
        message: What was tried and why it failed.
        ledger: The run's ledger, one entry for each event, in order.
    """

    def __init__(self, message: str, *, ledger: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.ledger = tuple(ledger)


class BackendError(RttcError):
    """A model, database or trainer behind one of our protocols failed.

    Args:
        message: What was being done, with which value, and what failed.
        retryable: Whether the same call may succeed when it is simply made again.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class PolicyModelError(BackendError):
    """The policy model could not generate."""


class RewardModelError(BackendError):
    """The reward model could not score."""


class EmbeddingError(BackendError):
    """The embedder could not embed."""


class KnowledgeBaseError(BackendError):
    """The knowledge base could not be searched, filled or changed."""


class QueryStateCacheError(BackendError):
    """The query-state cache could not recall or store."""


class AdaptationError(BackendError):
    """An adapter could not be trained or loaded; the base model is as it was."""


class UnusableAdapterError(AdaptationError):
    """A stored adapter is damaged or does not fit its base; only another training mends that."""
