"""For tests of graphs and backends: parts in memory, and what every backend must do.

Subclass a suite in a backend's tests and define the fixtures that it asks for; only the suites
need pytest. Their assertions explain themselves after
`pytest.register_assert_rewrite(*rttc_graph.testing.REWRITTEN)` in a `conftest.py`.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.testing.inputs import at_angle, candidate, new_sample, trained_adapter
from rttc_graph.testing.memory_cache import MemoryQueryStateCache
from rttc_graph.testing.memory_parts import MemoryKnowledgeBase, MemoryLedgerStore

if TYPE_CHECKING:
    from rttc_graph.testing.adapter_trainer_contract import AdapterTrainerContract
    from rttc_graph.testing.api_key_store_contract import ApiKeyStoreContract
    from rttc_graph.testing.calibration_store_contract import CalibrationStoreContract
    from rttc_graph.testing.embedder_contract import EmbedderContract, MeasuringEmbedderContract
    from rttc_graph.testing.knowledge_base_contract import KnowledgeBaseContract
    from rttc_graph.testing.ledger_store_contract import LedgerStoreContract
    from rttc_graph.testing.managed_knowledge_base_contract import ManagedKnowledgeBaseContract
    from rttc_graph.testing.policy_model_contract import PolicyModelContract
    from rttc_graph.testing.query_state_cache_contract import QueryStateCacheContract
    from rttc_graph.testing.rating_store_contract import RatingStoreContract
    from rttc_graph.testing.reward_model_contract import (
        ProcessRewardModelContract,
        RewardModelContract,
    )

__all__ = (
    "REWRITTEN",
    "AdapterTrainerContract",
    "ApiKeyStoreContract",
    "CalibrationStoreContract",
    "EmbedderContract",
    "KnowledgeBaseContract",
    "LedgerStoreContract",
    "ManagedKnowledgeBaseContract",
    "MeasuringEmbedderContract",
    "MemoryKnowledgeBase",
    "MemoryLedgerStore",
    "MemoryQueryStateCache",
    "PolicyModelContract",
    "ProcessRewardModelContract",
    "QueryStateCacheContract",
    "RatingStoreContract",
    "RewardModelContract",
    "at_angle",
    "candidate",
    "new_sample",
    "trained_adapter",
)

_SUITES = {
    "AdapterTrainerContract": "rttc_graph.testing.adapter_trainer_contract",
    "ApiKeyStoreContract": "rttc_graph.testing.api_key_store_contract",
    "CalibrationStoreContract": "rttc_graph.testing.calibration_store_contract",
    "EmbedderContract": "rttc_graph.testing.embedder_contract",
    "KnowledgeBaseContract": "rttc_graph.testing.knowledge_base_contract",
    "LedgerStoreContract": "rttc_graph.testing.ledger_store_contract",
    "MeasuringEmbedderContract": "rttc_graph.testing.embedder_contract",
    "PolicyModelContract": "rttc_graph.testing.policy_model_contract",
    "ManagedKnowledgeBaseContract": "rttc_graph.testing.managed_knowledge_base_contract",
    "ProcessRewardModelContract": "rttc_graph.testing.reward_model_contract",
    "QueryStateCacheContract": "rttc_graph.testing.query_state_cache_contract",
    "RatingStoreContract": "rttc_graph.testing.rating_store_contract",
    "RewardModelContract": "rttc_graph.testing.reward_model_contract",
}

REWRITTEN = tuple(dict.fromkeys(_SUITES.values()))
"""Modules whose assertions pytest can explain."""


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for, since it needs pytest.

    Raises:
        ConfigurationError: pytest is not installed.
    """
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("pytest") is None:
        raise ConfigurationError(
            f"{__name__}.{name} needs 'pytest', which is not installed: pip install pytest "
            "pytest-asyncio"
        )
    return getattr(importlib.import_module(_SUITES[name]), name)
