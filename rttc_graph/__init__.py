"""Reward-guided test-time compute as a LangGraph component.

`create_rttc_graph` joins a policy model, a reward model, a knowledge base, a query-state cache and
an adapter trainer into one graph; `rttc_graph.installation.local` sets all of them up on
this machine.
"""

from rttc_graph import moved_modules
from rttc_graph.errors import (
    AdaptationError,
    BackendError,
    BadSampleError,
    BudgetExceeded,
    ConfigurationError,
    EmbeddingError,
    KnowledgeBaseError,
    NoAnswerError,
    PolicyModelError,
    QueryStateCacheError,
    RewardModelError,
    RttcError,
)
from rttc_graph.graph import RttcParts, build_rttc_graph, create_rttc_graph
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedder,
    KnowledgeBase,
    LedgerStore,
    PolicyModel,
    QueryStateCache,
    RewardModel,
)
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate, LedgerEntry, RttcInput, RttcOutput, RttcState, Sample

moved_modules.install()

__all__ = (
    "AdaptationError",
    "AdapterTrainer",
    "BackendError",
    "BadSampleError",
    "BudgetExceeded",
    "Candidate",
    "ConfigurationError",
    "Embedder",
    "EmbeddingError",
    "KnowledgeBase",
    "KnowledgeBaseError",
    "LedgerEntry",
    "LedgerStore",
    "NoAnswerError",
    "PolicyModel",
    "PolicyModelError",
    "QueryStateCache",
    "QueryStateCacheError",
    "RewardModel",
    "RewardModelError",
    "RttcError",
    "RttcInput",
    "RttcOutput",
    "RttcParts",
    "RttcSettings",
    "RttcState",
    "Sample",
    "build_rttc_graph",
    "create_rttc_graph",
)
