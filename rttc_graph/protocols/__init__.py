"""The seams between the graph and everything that computes, stores or judges.

Every method that computes or waits is a coroutine which never blocks the event loop, is bound to
no particular loop, and may be cancelled: a cancelled call stops at the next token, training step
or statement. A `deadline` is a reading of `time.monotonic()` in seconds; work stops there and
returns or raises as its docstring says. Implementations raise the errors of `rttc_graph.errors`
and translate everything a vendor raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rttc_graph.settings import SamplesChoice, TttSettings
from rttc_graph.state import Candidate, ChatTurn, FinishReason, LedgerEntry, Sample

Vector = Sequence[float]
"""A unit vector."""

reuse_scope: ContextVar[str] = ContextVar("rttc_reuse_scope", default="")
"""Among whose work something that was computed is used again: opaque, the same for all who may know
of each other. The graph sets it around each node; empty where no tenant is set, or all share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt for the policy model."""

    messages: tuple[ChatTurn, ...]
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    seed: int | None = None
    """Makes sampling repeatable for this request, whatever it is batched with."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings; they are not part of the text."""
    adapter: str | None = None
    """Key of a resident adapter, or `None` for the base model."""
    drafts: tuple[str, ...] = ()
    """Texts that the answer may well be, the likeliest first. To check one takes a model that reads
    several tokens at once less than to write it; a greedy answer is the same with and without them,
    up to rounding."""
    reuse_scope: str = field(default_factory=reuse_scope.get)
    """Whose earlier prompts and answers may make this one faster: those of the same scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer of the policy model."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float | None
    """Mean log-probability in nats of the generated tokens under the model at temperature 1."""
    finish_reason: FinishReason
    """`stop`: end token or stop string; `length`: `max_new_tokens`; `budget`: the deadline."""


class PolicyModel(Protocol):
    """Batches of prompts to answers."""

    @property
    def name(self) -> str:
        """Name for people: a hub id, a path, a served model's name."""
        ...

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of the prompt in tokens, chat template included."""
        ...

    async def context_tokens(self) -> int | None:
        """Return how many tokens prompt and answer may have together; `None` if unknown."""
        ...

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        At the deadline, what has been generated so far is returned with `finish_reason="budget"`.

        Raises:
            PolicyModelError: The model failed, or a prompt leaves no room in the context.
        """
        ...


class RewardModel(Protocol):
    """(Query, answer) pairs to rewards."""

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        ...

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same answer would get another score."""
        ...

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return one finite reward in [0, 1] for each candidate, in order.

        Raises:
            RewardModelError: The reward model failed.
        """
        ...


class ScopedRewardModel(RewardModel, Protocol):
    """A reward model whose scores depend on whose question it is, such as a calibrated one."""

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        """Return the reward model for the questions of a tenant in a domain."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCalibration:
    """How the raw scores of one domain become probabilities."""

    parameters: Mapping[str, Any]
    """JSON."""
    pairs: int
    """Judged answers that it was fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """The calibration of one reward model, known by its name and its fingerprint."""

    reward_model: str
    fingerprint: str
    """Of the reward model with its raw scores."""
    domains: Mapping[str, DomainCalibration]
    """By name; the empty name is for all domains that have none of their own."""
    tau_r: float | None = None
    """Proposed for the calibrated scores."""
    aim: str | None = None
    """What τr was chosen for, in words."""


class CalibrationStore(Protocol):
    """Keeps calibrations of reward models."""

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        """Store a calibration in the place of the one before it, domains included.

        Raises:
            BackendError: It was not stored; the one before it is still there.
        """
        ...

    async def load(
        self, reward_model: str, fingerprint: str, *, tenant: str
    ) -> StoredCalibration | None:
        """Return the calibration of a reward model; `None` if it has none.

        Raises:
            BackendError: The look-up failed.
        """
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str:
        """Name for people."""
        ...

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same text would get another vector."""
        ...

    async def dimension(self) -> int:
        """Return the length of the vectors."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one unit vector for each text, in order.

        Raises:
            EmbeddingError: The embedder failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A text's vector and what it leaves out."""

    vector: list[float]
    """Of unit length."""
    unread: int
    """Characters of the text that the vector says nothing of, because the text is too long."""


class MeasuringEmbedder(Embedder, Protocol):
    """An embedder that tells where a text was too long for it."""

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return what `embed` does, with what each vector leaves out.

        Raises:
            EmbeddingError: The embedder failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSample:
    """A sample on its way into the knowledge base."""

    question: str
    answer: str
    domain: str
    external_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a knowledge base did with samples; the others were there already."""

    new: int
    updated: int = 0
    """Samples that took the place of others of the domain with their `external_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Samples nearest first, and the revision of the domain they were read from."""

    samples: list[Sample]
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStats:
    """Size of one domain of the knowledge base."""

    domain: str
    samples: int
    revision: int
    bytes: int
    """Size of the tenant's rows on disk, indexes not included."""
    index: Literal["exact", "hnsw"]


class KnowledgeBase(Protocol):
    """Solved questions, searchable by meaning."""

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        """Return `k` samples for `vector`, nearest first, all domains if `domain` is `None`.

        They are the nearest by cosine, or those that `rttc_graph.samples.selection.sift` chooses
        of the nearest `preselected(choice, k)`; fewer than `k` only where there are fewer.

        The revision is the domain's, or the sum over the tenant's domains; every change raises it.

        Raises:
            KnowledgeBaseError: The search failed.
        """
        ...

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        """Tell for each sample whether `ingest` would change anything, so that it is embedded."""
        ...

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        """Store the samples in one transaction.

        Samples that are there already (same question, answer, domain, tenant) are left alone. One
        whose `external_id` is that of stored samples of the domain and tenant with another question
        or answer takes their place.

        Raises:
            ConfigurationError: Two of the samples have one id in one domain, and other content.
            KnowledgeBaseError: Nothing of this call was stored.
        """
        ...

    async def delete(self, *, domain: str, tenant: str) -> int:
        """Delete a domain's samples and return how many there were."""
        ...

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        """Return the size of each domain, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRequest:
    """What `retrieve` asks the query-state cache."""

    vector: Vector
    domain: str | None
    tenant: str
    k: int
    """Recalled samples are used only if they were retrieved for the same `k`."""
    choice: SamplesChoice = "nearest"
    """Likewise."""
    samples_similarity: float
    """Lowest cosine similarity at which another query's samples are used."""
    adapter_similarity: float
    """Lowest cosine similarity at which another query's adapter is used."""
    base_fingerprint: str | None
    """Fingerprint of the base model that an adapter must fit; `None` for no adapter."""
    training_fingerprint: str
    """What an adapter must have been made with: `RttcSettings.training_fingerprint`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledState:
    """What the query-state cache knows about a near enough earlier query."""

    samples: list[Sample] | None
    """`None` on a miss; `similarity` of each is to the earlier query."""
    samples_similarity: float | None
    revision: int | None
    adapter: str | None
    adapter_similarity: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryState:
    """What is remembered of a query."""

    query: str
    vector: Vector
    domain: str | None
    tenant: str
    k: int
    choice: SamplesChoice = "nearest"
    samples: list[Sample]
    revision: int
    adapter: str | None
    training_fingerprint: str
    reward: float | None
    """Reward of the answer that the adapter gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAdapter:
    """A LoRA adapter as bytes, with what it cost."""

    key: str
    weights: bytes
    """safetensors; keys and metadata as peft saves them."""
    base_fingerprint: str
    trained_tokens: int
    steps: int
    losses: tuple[float, ...]
    """Mean loss of each step in nats per answer token."""
    seconds: float
    provenance: dict[str, Any]
    """Sample ids, training settings, seed, name of the base model, peft's configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLookup:
    """An adapter from the cache, and where it came from."""

    adapter: TrainedAdapter
    origin: Literal["cache", "near", "trained", "waited"]
    """Already stored; stored for a near query; trained by this call; trained by another request
    meanwhile."""


class QueryStateCache(Protocol):
    """Vectors to what was retrieved and trained for them."""

    async def recall(self, request: RecallRequest) -> RecalledState:
        """Return the nearest usable samples and adapter; both `None` on a miss.

        States of an older revision of the domain are never returned.

        Raises:
            QueryStateCacheError: The look-up failed.
        """
        ...

    async def remember(self, state: QueryState) -> None:
        """Store a query's state, replacing what was stored for the same query, then evict.

        A state without an adapter leaves the adapter of an earlier one at the same revision.
        """
        ...

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        ...

    async def get_or_train(
        self,
        key: str,
        *,
        base_fingerprint: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None = None,
    ) -> AdapterLookup:
        """Return the adapter `key`, training it once however many requests and processes ask.

        Raises:
            BudgetExceeded: The deadline passed while another request was training it.
            QueryStateCacheError: The cache failed; what `train` raises is passed on as it is.
        """
        ...

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter that did not raise the reward; no query state refers to it afterwards."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """A prompt and the answer to learn; the loss counts the answer's tokens only."""

    messages: tuple[ChatTurn, ...]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """Progress of a training."""

    step: int
    """1-based."""
    steps: int
    """Upper bound; an early stop may come first."""
    loss: float
    """Nats per answer token."""


class AdapterTrainer(Protocol):
    """Examples to a LoRA adapter for the policy model beside it."""

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model's weights and configuration."""
        ...

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        """Train an adapter, make it resident under `key` and return it.

        The base model and every other request's output stay as they are, on success, error and
        cancellation alike. `on_step` is called from another thread.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed, for example out of memory or with a loss that is
                not finite.
        """
        ...

    async def is_resident(self, key: str) -> bool:
        """Tell whether `generate` can use the adapter `key` right away."""
        ...

    async def load(self, adapter: TrainedAdapter) -> None:
        """Make a stored adapter resident.

        Raises:
            AdaptationError: It was made for another base, or its bytes are damaged.
        """
        ...

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return what a stored adapter has left to learn of examples.

        Returns:
            Mean over the examples of the negative log-likelihood of their answers' tokens, end
            token included, in nats per token.

        Raises:
            AdaptationError: It was made for another base, its bytes are damaged, or the model
                failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One finished run, for statistics."""

    run_id: str
    tenant: str
    domain: str | None
    query: str
    policy: str
    tau_r: float
    arm: str
    reward: float | None
    accepted: bool
    """Whether the reward reached τr."""
    seconds: float
    tokens: int
    """Prompt, completion and trained tokens of all arms."""
    entries: list[LedgerEntry]


class LedgerStore(Protocol):
    """Keeps the ledgers of finished runs."""

    async def append(self, run: RunRecord) -> None:
        """Store one finished run.

        Raises:
            BackendError: It was not stored.
        """
        ...
