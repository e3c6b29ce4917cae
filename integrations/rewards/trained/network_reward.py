"""Trained reward models as our `RewardModel`: on an encoder of their own, or on the policy's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

try:
    import torch
except ImportError as exc:
    raise ImportError("trained reward models need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import ConfigurationError, RewardModelError, RttcError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.rewards.reward_checks import checked_rewards
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    encoder_base,
    load_network,
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
from rttc_graph.protocols import RewardModel
from rttc_graph.state import Candidate

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
            _Encoder(folder, self._spec, base, device).logits,
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
        """Say that scores are P(right): its training ends with a map to it."""
        return True

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the probability that each candidate is right, in order.

        Raises:
            ConfigurationError: The encoder is not the one it was trained on.
            RewardModelError: The encoder could not be loaded or run.
        """
        pairs = [(query, candidate["answer"]) for candidate in candidates]
        return _rewards(self._spec, await self._queue.submit(pairs), candidates)


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

    def logits(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Return the logit of each pair, in order."""
        if self._ready is None:
            found = self._base() if callable(self._base) else self._base
            base = encoder_base(found, device=self._device)
            network = load_network(self._folder, self._spec, base)
            network.merge()
            self._ready = _Ready(network, base, self._spec)
        return self._ready.logits(pairs)


class _Ready:
    """A loaded network."""

    def __init__(self, network: RewardNetwork, base: RewardBase, spec: RewardSpec) -> None:
        self._network = network
        self._pairs: RewardPairs = base.pairs(spec.max_tokens, spec.backbone)
        self._name = spec.name

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the logit of each pair, in order."""
        try:
            rows = [self._pairs.encode(question, answer) for question, answer in pairs]
            return list(map(float, self._network(rows).tolist()))
        except RttcError:
            raise
        except (RuntimeError, ValueError, IndexError) as exc:
            raise RewardModelError(
                f"reward model {self._name!r} failed: {describe(exc)}",
                retryable=isinstance(exc, torch.OutOfMemoryError),
            ) from exc


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
