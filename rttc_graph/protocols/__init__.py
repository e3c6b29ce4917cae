"""The seams between the graph and everything that computes, stores or judges.

Every method that computes or waits is a coroutine which never blocks the event loop, is bound to
no particular loop, and may be cancelled: a cancelled call stops at the next token, training step
or statement. A `deadline` is a reading of `time.monotonic()` in seconds; work stops there and
returns or raises as its docstring says. Implementations raise the errors of `rttc_graph.errors`
and translate everything a vendor raises.
"""

from rttc_graph.protocols.adapter_trainer import (
    AdapterTrainer,
    ContinuingTrainer,
    StandingAdapter,
    StandingAdapters,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
)
from rttc_graph.protocols.api_keys import (
    ApiKey,
    ApiKeyStore,
)
from rttc_graph.protocols.calibrations import (
    CalibrationStore,
    DomainCalibration,
    StoredCalibration,
)
from rttc_graph.protocols.compute import (
    MeasuredModel,
    Work,
    forward_flops,
    measured_work,
    note_work,
    parameters_of,
    summed,
    training_flops,
)
from rttc_graph.protocols.embedder import (
    Embedded,
    Embedder,
    MeasuringEmbedder,
    Vector,
    as_measuring_embedder,
)
from rttc_graph.protocols.graph_parts import as_part, check_part
from rttc_graph.protocols.knowledge_base import (
    DomainStats,
    Ingested,
    KnowledgeBase,
    NewSample,
    SearchResult,
)
from rttc_graph.protocols.ledgers import (
    LedgerStore,
    RunRecord,
)
from rttc_graph.protocols.policy_model import (
    ContinuingPolicyModel,
    Doubt,
    Generation,
    GenerationRequest,
    OptionProbabilities,
    OptionsRequest,
    PolicyModel,
    StepCut,
    WeighingPolicyModel,
    can_continue,
    can_follow_schema,
    can_weigh,
    reuse_scope,
    seeded_by_prompt,
)
from rttc_graph.protocols.query_state_cache import (
    AdapterLookup,
    QueryState,
    QueryStateCache,
    RecalledState,
    RecallRequest,
)
from rttc_graph.protocols.ratings import (
    Correction,
    RatedRun,
    Rating,
    RatingStore,
)
from rttc_graph.protocols.reward_model import (
    BegunAnswer,
    OtherAnswer,
    PlainRewardModel,
    ProcessRewardModel,
    RewardModel,
    RewardRequest,
    StepScores,
    as_reward_model,
    checked_scores,
    checked_step_scores,
    reward_requests,
)

__all__ = (
    "AdapterLookup",
    "AdapterTrainer",
    "ApiKey",
    "ApiKeyStore",
    "BegunAnswer",
    "CalibrationStore",
    "ContinuingPolicyModel",
    "ContinuingTrainer",
    "Correction",
    "DomainCalibration",
    "DomainStats",
    "Doubt",
    "Embedded",
    "Embedder",
    "Generation",
    "GenerationRequest",
    "Ingested",
    "KnowledgeBase",
    "LedgerStore",
    "MeasuredModel",
    "MeasuringEmbedder",
    "NewSample",
    "OptionProbabilities",
    "OptionsRequest",
    "OtherAnswer",
    "PlainRewardModel",
    "PolicyModel",
    "ProcessRewardModel",
    "QueryState",
    "QueryStateCache",
    "RatedRun",
    "Rating",
    "RatingStore",
    "RecallRequest",
    "RecalledState",
    "RewardModel",
    "RewardRequest",
    "RunRecord",
    "SearchResult",
    "StandingAdapter",
    "StandingAdapters",
    "StepCut",
    "StepScores",
    "StoredCalibration",
    "TrainStep",
    "TrainedAdapter",
    "TrainingExample",
    "Vector",
    "WeighingPolicyModel",
    "Work",
    "as_measuring_embedder",
    "as_part",
    "as_reward_model",
    "can_continue",
    "can_follow_schema",
    "can_weigh",
    "check_part",
    "checked_scores",
    "checked_step_scores",
    "forward_flops",
    "measured_work",
    "note_work",
    "parameters_of",
    "reuse_scope",
    "reward_requests",
    "seeded_by_prompt",
    "summed",
    "training_flops",
)
