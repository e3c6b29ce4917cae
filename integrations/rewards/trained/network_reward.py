"""Trained reward models as our `RewardModel`: on an encoder of their own, or on the policy's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

try:
    import torch
except ImportError as exc:
    raise ImportError("trained reward models need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import ConfigurationError, RewardModelError, RttcError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.rewards.grounded.evidence import FEATURES
from rttc_graph.integrations.rewards.reward_checks import checked_rewards
from rttc_graph.integrations.rewards.trained.evidence_reader import EvidenceReader
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.read_work import ReadWork
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    encoder_base,
    load_network,
    load_speech,
    policy_base,
)
from rttc_graph.integrations.rewards.trained.reward_spec import (
    Backbone,
    RewardSpec,
    folder_fingerprint,
    read_spec,
)
from rttc_graph.integrations.rewards.trained.signals import probability
from rttc_graph.integrations.rewards.trained.token_pairs import RewardPairs
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.protocols import RewardModel, RewardRequest, note_work
from rttc_graph.state import Candidate

_LOGIT = list(FEATURES).index("logit")

_BATCH = 16
"""Pairs in one pass; answers to one question are few."""


class EncoderReward(RewardModel):
    """Scores with a reward model trained on a small encoder, in a thread of its own.

    The reward is the calibrated probability that the answer is right. It uses the answer's own
    mean log-probability where the candidate carries one.

    Args:
        folder: Folder written by `rttc reward train`.
        base: Folder of the encoder, or a function that finds or fetches it, which is called in
            the worker thread at the first answer.
        device: torch device; the CPU by default, where the model is fast enough.

    Raises:
        ConfigurationError: The folder holds no reward model of this kind.
    """

    def __init__(
        self, folder: Path, base: Path | Callable[[], Path], *, device: str | None = None
    ) -> None:
        self._folder = folder
        self._spec = _spec_of(folder, ("towers", "encoder"))
        self._queue = BatchQueue(
            _Encoder(folder, self._spec, base, device).scores,
            name=f"rttc-reward-{self._spec.name}",
            batch_size=_BATCH,
        )

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._spec.name

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same answer would get another score."""
        return await _fingerprint(self._folder)

    async def is_calibrated(self) -> bool:
        """Tell whether scores are P(right): a training ends with a map to it.

        A head for samples learned from other domains, so its scores are none before a domain has a
        map of its own.
        """
        return not self.sees_evidence

    @property
    def sees_evidence(self) -> bool:
        """Whether it has a head for samples; folders of earlier versions have none."""
        return self._spec.evidence is not None

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        """Return the probability that each candidate is right, in order.

        Candidates that come with samples are judged by what these say too, others by question and
        answer alone.

        Raises:
            ConfigurationError: The encoder is not the one it was trained on.
            RewardModelError: The encoder could not be loaded or run.
        """
        found = await self._queue.submit([(query, candidate) for candidate in candidates])
        note_work(round(sum(one.tokens for one in found)), sum(one.flops for one in found))
        scores = [one.score for one in found]
        return checked_rewards(scores, expected=len(candidates), source=self._spec.name)


class PolicyBackboneReward(RewardModel):
    """Scores with a LoRA adapter and a head on the policy model's own weights, in its lane.

    Args:
        folder: Folder written by `rttc reward train --backbone policy`.
        engine: The engine of the policy model that it was trained on; stays the caller's.

    Raises:
        ConfigurationError: The folder holds no reward model of this kind.
    """

    def __init__(self, folder: Path, engine: LocalEngine) -> None:
        self._folder = folder
        self._spec = _spec_of(folder, ("causal",))
        self._engine = engine
        self._ready: _Ready | None = None

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._spec.name

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same answer would get another score."""
        return await _fingerprint(self._folder)

    async def is_calibrated(self) -> bool:
        """Say that scores are P(right): its training ends with a map to it."""
        return True

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the probability that each candidate is right, in order.

        Raises:
            ConfigurationError: The policy model is not the one it was trained on.
            RewardModelError: It could not be run.
        """
        pairs = [(query, candidate["answer"]) for candidate in candidates]
        logits: list[float] = []
        for first in range(0, len(pairs), _BATCH):
            piece = pairs[first : first + _BATCH]
            logits += await self._engine.in_lane(partial(self._logits, pairs=piece))
        return _rewards(self._spec, logits, candidates)

    def _logits(self, loaded: LoadedModel, pairs: list[tuple[str, str]]) -> list[float]:
        if self._ready is None:
            base = policy_base(loaded)
            self._ready = _Ready(load_network(self._folder, self._spec, base), base, self._spec)
        return self._ready.logits(pairs)


class _Scored(NamedTuple):
    """A score, and its share of the work for all that were scored with it."""

    score: float
    tokens: float
    flops: float


class _Encoder:
    """The encoder; lives in the lane's thread."""

    def __init__(
        self,
        folder: Path,
        spec: RewardSpec,
        base: Path | Callable[[], Path],
        device: str | None,
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._base = base
        self._device = device
        self._ready: _Ready | None = None
        self._evidence: EvidenceReader | None = None
        self._work = ReadWork()

    def scores(self, asked: list[tuple[str, RewardRequest]]) -> list[_Scored]:
        """Return the score of each candidate, in order."""
        ready = self._loaded()
        tokens, flops = self._work.tokens, self._work.flops
        scores: dict[int, float] = {}
        if self._evidence is not None:
            scores |= self._grounded(self._evidence, asked)
        plain = [n for n in range(len(asked)) if n not in scores]
        logits = ready.logits([(asked[n][0], asked[n][1]["answer"]) for n in plain])
        rewards = _rewards(self._spec, logits, [asked[n][1] for n in plain])
        scores |= dict(zip(plain, rewards, strict=True))
        share = 1 / max(1, len(asked))
        tokens, flops = self._work.tokens - tokens, self._work.flops - flops
        return [_Scored(scores[n], share * tokens, share * flops) for n in range(len(asked))]

    def _grounded(
        self, reader: EvidenceReader, asked: Sequence[tuple[str, RewardRequest]]
    ) -> dict[int, float]:
        """Return the scores of the candidates that have evidence, by their place."""
        head = self._spec.evidence
        assert head is not None
        places = [n for n, (_, r) in enumerate(asked) if r.get("samples") and r["answer"].strip()]
        with _failures(self._spec.name):
            found = reader.features([asked[n] for n in places])
        return {
            n: head(features, _alone(self._spec, features, asked[n][1]))
            for n, features in zip(places, found, strict=True)
            if features is not None
        }

    def _loaded(self) -> _Ready:
        if self._ready is None:
            found = self._base() if callable(self._base) else self._base
            base = encoder_base(found, device=self._device)
            self._work.watch(base.model)
            network = load_network(self._folder, self._spec, base)
            network.merge()
            ready = _Ready(network, base, self._spec)
            if self._spec.evidence is not None:
                unchanged = encoder_base(found, device=self._device)
                self._work.watch(unchanged.model)
                speech = load_speech(self._folder)
                self._evidence = EvidenceReader(unchanged, speech, ready.logits)
            self._ready = ready
        return self._ready


@contextmanager
def _failures(name: str) -> Generator[None]:
    """Turn what torch raises into our error."""
    try:
        yield
    except RttcError:
        raise
    except (RuntimeError, ValueError, IndexError) as exc:
        raise RewardModelError(
            f"reward model {name!r} failed: {describe(exc)}",
            retryable=isinstance(exc, torch.OutOfMemoryError),
        ) from exc


class _Ready:
    """A loaded network."""

    def __init__(self, network: RewardNetwork, base: RewardBase, spec: RewardSpec) -> None:
        self._network = network
        self._pairs: RewardPairs = base.pairs(spec.max_tokens, spec.backbone)
        self._name = spec.name

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the logit of each pair, in order."""
        if not pairs:
            return []
        with _failures(self._name):
            rows = [self._pairs.encode(question, answer) for question, answer in pairs]
            return list(map(float, self._network(rows).tolist()))


def _spec_of(folder: Path, allowed: tuple[Backbone, ...]) -> RewardSpec:
    spec = read_spec(folder)
    if spec.backbone not in allowed:
        raise ConfigurationError(
            f"{str(folder)!r} holds a reward model of kind {spec.backbone!r}, not "
            + " or ".join(map(repr, allowed))
        )
    return spec


async def _fingerprint(folder: Path) -> str:
    try:
        return await asyncio.to_thread(folder_fingerprint, folder)
    except OSError as exc:
        raise RewardModelError(f"could not read {str(folder)!r}: {describe(exc)}") from exc


def _alone(spec: RewardSpec, features: Sequence[float], candidate: Candidate) -> float:
    """Return the score without evidence from the logit among the features."""
    return probability(features[_LOGIT], candidate, spec.with_signals, spec.without_signals)


def _rewards(
    spec: RewardSpec, logits: Sequence[float], candidates: Sequence[Candidate]
) -> list[float]:
    scores = [
        probability(logit, candidate, spec.with_signals, spec.without_signals)
        if candidate["answer"].strip()
        else 0.0
        for logit, candidate in zip(logits, candidates, strict=True)
    ]
    return checked_rewards(scores, expected=len(candidates), source=spec.name)
