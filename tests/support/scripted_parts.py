"""Scripted parts for tests of graphs: each does what a test wrote down and counts its calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from rttc_graph.graph import RttcParts
from rttc_graph.protocols import (
    AdapterLookup,
    DomainStats,
    Generation,
    GenerationRequest,
    Ingested,
    NewSample,
    QueryState,
    RecalledState,
    RecallRequest,
    RewardModel,
    RewardRequest,
    RunRecord,
    SearchResult,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
    Vector,
)
from rttc_graph.settings import RttcSettings, SamplesChoice, TttSettings
from rttc_graph.state import Arm, Candidate, ChatTurn, Plan, Sample


async def take(seconds: float) -> None:
    """Be busy for some time; a test may put another clock in its place."""
    await asyncio.sleep(seconds)


def sample(number: int, *, domain: str = "math") -> Sample:
    return {
        "id": f"{number:064x}",
        "question": f"question {number}",
        "answer": f"answer {number}",
        "domain": domain,
        "similarity": 0.9,
    }


def candidate(arm: Arm, reward: float | None = None, *, adapter: str | None = None) -> Candidate:
    return {
        "arm": arm,
        "answer": arm,
        "reward": reward,
        "seconds": 0.1,
        "prompt_tokens": 5,
        "completion_tokens": 1,
        "trained_tokens": 0,
        "mean_logprob": None,
        "finish_reason": "stop",
        "adapter": adapter,
    }


@dataclass
class ScriptedPolicyModel:
    """Answers `direct`, `rag` or `ttt`, by what the prompt looks like; one token a word.

    Samples and earlier turns look alike in a prompt, so an answer in a conversation is `rag` too.
    """

    fails: dict[str, Exception] = field(default_factory=dict[str, Exception])
    context: int | None = None
    seconds: float = 0.0
    requests: list[GenerationRequest] = field(default_factory=list[GenerationRequest])
    finish_reason: str = "stop"
    texts: dict[str, str] = field(default_factory=dict[str, str])
    cancelled: int = 0
    name: str = "scripted"

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        return sum(len(turn["content"].split()) for turn in messages)

    async def context_tokens(self) -> int | None:
        return self.context

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        del deadline
        self.requests.extend(requests)
        try:
            await take(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [await self._answer(request) for request in requests]

    async def _answer(self, request: GenerationRequest) -> Generation:
        arm = "ttt" if request.adapter else "direct"
        if any(turn["role"] == "assistant" for turn in request.messages):
            arm = "rag"
        if arm in self.fails:
            raise self.fails[arm]
        return Generation(
            text=self.texts.get(arm, arm),
            prompt_tokens=await self.count_tokens(request.messages),
            completion_tokens=1,
            mean_logprob=-0.1,
            finish_reason="stop" if self.finish_reason == "stop" else "budget",
        )


@dataclass
class ScriptedRewardModel(RewardModel):
    """Rewards by answer text; keeps what it was asked."""

    rewards: dict[str, float] = field(default_factory=dict[str, float])
    error: Exception | None = None
    seconds: float = 0.0
    scored: list[str] = field(default_factory=list[str])
    queries: list[str] = field(default_factory=list[str])
    requests: list[RewardRequest] = field(default_factory=list[RewardRequest])
    sees_evidence: bool = False  # pyright: ignore[reportIncompatibleMethodOverride]
    name: str = "scripted"  # pyright: ignore[reportIncompatibleMethodOverride]
    digest: str = "scripted"
    plan: Plan | Exception | None = None

    async def fingerprint(self) -> str:
        return self.digest

    async def chosen_plan(self) -> Plan | None:
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        self.queries.append(query)
        self.requests.extend(candidates)
        self.scored.extend(c["answer"] for c in candidates)
        await take(self.seconds)
        if self.error:
            raise self.error
        return [self.rewards.get(c["answer"], 0.0) for c in candidates]


@dataclass
class ScriptedEmbedder:
    error: Exception | None = None
    seconds: float = 0.0
    texts: list[str] = field(default_factory=list[str])
    name: str = "scripted"

    async def fingerprint(self) -> str:
        return "embedder"

    async def dimension(self) -> int:
        return 2

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts.extend(texts)
        await take(self.seconds)
        if self.error:
            raise self.error
        return [[math.cos(len(t)), math.sin(len(t))] for t in texts]


@dataclass
class ScriptedKnowledgeBase:
    samples: list[Sample] = field(default_factory=lambda: [sample(1), sample(2)])
    error: Exception | None = None
    seconds: float = 0.0
    searches: list[tuple[int, str | None, str]] = field(
        default_factory=list[tuple[int, str | None, str]]
    )

    choices: list[SamplesChoice] = field(default_factory=list[SamplesChoice])
    domains: tuple[str, ...] = ("math", "shop")
    asked_for_size: int = 0

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        del vector
        self.searches.append((k, domain, tenant))
        self.choices.append(choice)
        await take(self.seconds)
        if self.error:
            raise self.error
        return SearchResult(samples=self.samples[:k], revision=1)

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        raise AssertionError("the graph never writes to the knowledge base")

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        raise AssertionError("the graph never writes to the knowledge base")

    async def delete(self, *, domain: str, tenant: str) -> int:
        raise AssertionError("the graph never writes to the knowledge base")

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        del tenant
        self.asked_for_size += 1
        if self.error:
            raise self.error
        return [
            DomainStats(domain=name, samples=1, revision=1, bytes=1, index="exact")
            for name in self.domains
        ]


@dataclass
class ScriptedCache:
    """Remembers in memory; `fails` maps a method's name, or `store`, to what it raises."""

    recalled: RecalledState = field(default_factory=lambda: recalling())
    error: Exception | None = None
    fails: dict[str, Exception] = field(default_factory=dict[str, Exception])
    seconds: float = 0.0
    stored: dict[str, TrainedAdapter] = field(default_factory=dict[str, TrainedAdapter])
    states: list[QueryState] = field(default_factory=list[QueryState])
    discarded: list[str] = field(default_factory=list[str])
    requests: list[RecallRequest] = field(default_factory=list[RecallRequest])

    async def _call(self, method: str) -> None:
        await take(self.seconds)
        if error := self.error or self.fails.get(method):
            raise error

    async def recall(self, request: RecallRequest) -> RecalledState:
        self.requests.append(request)
        await self._call("recall")
        found = self.recalled
        if (found.adapter_similarity or 0.0) >= request.adapter_similarity:
            return found
        return replace(found, adapter=None, adapter_similarity=None)

    async def remember(self, state: QueryState) -> None:
        await self._call("remember")
        self.states.append(state)

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        del base_fingerprint
        await self._call("load_adapter")
        return self.stored.get(key)

    async def get_or_train(
        self,
        key: str,
        *,
        base_fingerprint: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None = None,
    ) -> AdapterLookup:
        del base_fingerprint, deadline
        await self._call("get_or_train")
        if key in self.stored:
            return AdapterLookup(adapter=self.stored[key], origin="cache")
        made = await train()
        await self._call("store")
        self.stored[key] = made
        return AdapterLookup(adapter=self.stored[key], origin="trained")

    async def discard_adapter(self, key: str) -> None:
        await self._call("discard_adapter")
        self.stored.pop(key, None)
        self.discarded.append(key)


def recalling(
    *, samples: list[Sample] | None = None, adapter: str | None = None, similarity: float = 0.95
) -> RecalledState:
    return RecalledState(
        samples=samples,
        samples_similarity=0.99 if samples else None,
        revision=1 if samples else None,
        adapter=adapter,
        adapter_similarity=similarity if adapter else None,
    )


def trained_adapter(key: str) -> TrainedAdapter:
    return TrainedAdapter(
        key=key,
        weights=b"weights",
        base_fingerprint="base",
        trained_tokens=40,
        steps=2,
        losses=(1.0, 0.5),
        seconds=0.1,
        provenance={},
    )


@dataclass
class ScriptedTrainer:
    error: Exception | None = None
    seconds: float = 0.0
    resident: set[str] = field(default_factory=set[str])
    trainings: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    learnt: list[tuple[TrainingExample, ...]] = field(
        default_factory=list[tuple[TrainingExample, ...]]
    )
    """Examples of each training."""
    cancelled: int = 0
    left_to_learn: float | Exception = math.inf
    losses: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])

    async def base_fingerprint(self) -> str:
        return "base"

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        del settings, deadline
        if self.error:
            raise self.error
        self.trainings.append((key, len(examples)))
        self.learnt.append(tuple(examples))
        try:
            await self._report(on_step)
            await take(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.resident.add(key)
        return trained_adapter(key)

    async def _report(self, on_step: Callable[[TrainStep], None]) -> None:
        """Report two steps from another thread, without our context variables, as a lane would."""
        loop = asyncio.get_running_loop()
        for step in (1, 2):
            done = TrainStep(step=step, steps=2, loss=1.0 / step)
            await loop.run_in_executor(None, on_step, done)

    async def is_resident(self, key: str) -> bool:
        return key in self.resident

    async def load(self, adapter: TrainedAdapter) -> None:
        if self.error:
            raise self.error
        self.resident.add(adapter.key)

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        self.losses.append((adapter.key, [example.answer for example in examples]))
        if isinstance(self.left_to_learn, Exception):
            raise self.left_to_learn
        return self.left_to_learn


@dataclass
class ScriptedLedgerStore:
    runs: list[RunRecord] = field(default_factory=list[RunRecord])
    error: Exception | None = None
    seconds: float = 0.0

    async def append(self, run: RunRecord) -> None:
        await take(self.seconds)
        if self.error:
            raise self.error
        self.runs.append(run)


@dataclass
class Parts:
    """One of each part; change what the test is about, then take `parts()`.

    Plans try all arms that ask the model, unless a test says otherwise, so that a test of a path
    has each of its steps; no `arms` leaves the choice to the graph.
    """

    policy_model: ScriptedPolicyModel = field(default_factory=ScriptedPolicyModel)
    reward_model: ScriptedRewardModel = field(default_factory=ScriptedRewardModel)
    embedder: ScriptedEmbedder = field(default_factory=ScriptedEmbedder)
    knowledge_base: ScriptedKnowledgeBase = field(default_factory=ScriptedKnowledgeBase)
    cache: ScriptedCache = field(default_factory=ScriptedCache)
    trainer: ScriptedTrainer = field(default_factory=ScriptedTrainer)
    ledger_store: ScriptedLedgerStore = field(default_factory=ScriptedLedgerStore)
    arms: tuple[Arm, ...] = ("direct", "rag", "ttt")

    def rewarding(self, **rewards: float) -> Parts:
        self.reward_model.rewards = rewards
        return self

    def parts(self) -> RttcParts:
        return {
            "policy_model": self.policy_model,
            "reward_model": self.reward_model,
            "embedder": self.embedder,
            "knowledge_base": self.knowledge_base,
            "cache": self.cache,
            "trainer": self.trainer,
            "ledger_store": self.ledger_store,
            "settings": RttcSettings(arms=self.arms),
        }
