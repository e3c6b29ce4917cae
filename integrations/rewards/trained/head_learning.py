"""The head alone, trained to the end on what the backbone makes of each pair, computed once.

A step over stored features takes a millisecond, so the head can see everything many times, where
the backbone saw it once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.network_learning import (
    Group,
    LearnProgress,
    Loss,
    group_loss,
)

__all__ = ("HeadLearned", "HeadSettings", "learn_head")

_READ_AT_ONCE = 32
"""Groups whose features are computed together."""

_WARM_UP_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """Settings for training the head.

    10 epochs at 1e-3 were the best of four settings tried on the reward model that ships.
    """

    loss: Loss = "both"
    epochs: int = 10
    """0 leaves the head as it is."""
    learning_rate: float = 1e-3
    groups_per_step: int = 64
    weight_decay: float = 0.01
    most_pairs: int = 50_000
    """Pairs whose features are kept in memory, 6 KB each on MiniLM; of more, whole groups are
    left out at random."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigurationError: Says which setting is out of its bounds.
        """
        if self.epochs < 0:
            raise ConfigurationError(f"epochs={self.epochs!r} must be at least 0")
        for name in ("groups_per_step", "most_pairs"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLearned:
    """Result of training the head; the network has the head with the best held-out loss."""

    steps: int
    pairs: int
    held_out_before: float
    held_out_loss: float


@dataclass(frozen=True, slots=True)
class _Features:
    """Groups as the head sees them."""

    seen: list[Tensor]
    """Features of each group's A answers, [A, F]."""
    right: list[Tensor]
    """Whether each group's A answers are right, [A]."""

    def __len__(self) -> int:
        return len(self.seen)

    def loss(self, head: nn.Module, picked: Sequence[int], loss: Loss) -> Tensor:
        logits: Tensor = head(torch.cat([self.seen[i] for i in picked]))[:, 0]
        right = torch.cat([self.right[i] for i in picked])
        sizes = torch.tensor([len(self.right[i]) for i in picked], device=logits.device)
        numbers = torch.arange(len(picked), device=logits.device).repeat_interleave(sizes)
        return group_loss(logits, right, numbers, loss)


def learn_head(
    network: RewardNetwork,
    groups: Sequence[Group],
    held_out: Sequence[Group],
    settings: HeadSettings,
    *,
    on_progress: Callable[[LearnProgress], None],
) -> HeadLearned:
    """Train the network's head and leave in it the best one by the held-out loss.

    Args:
        network: In evaluation mode; its backbone stays as it is.
        groups: What is learned from, at least one.
        held_out: What decides which epoch's head is kept, at least one.
        settings: How.
        on_progress: Called after each epoch.
    """
    chance = random.Random(settings.seed)
    known = _features(network, _some(groups, settings.most_pairs, chance))
    judged = _features(network, held_out)
    head = network.head
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    per_epoch = math.ceil(len(known) / settings.groups_per_step)
    steps = per_epoch * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: _rate(n, steps))
    before = best = _held_out_loss(head, judged, settings)
    kept = _copied(head)
    order = list(range(len(known)))
    for epoch in range(1, settings.epochs + 1):
        chance.shuffle(order)
        value = 0.0
        for first in range(0, len(order), settings.groups_per_step):
            picked = order[first : first + settings.groups_per_step]
            loss = known.loss(head, picked, settings.loss)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimiser.step()
            schedule.step()
            value = float(loss.detach())
        latest = _held_out_loss(head, judged, settings)
        if latest < best:
            best, kept = latest, _copied(head)
        done = epoch * per_epoch
        on_progress(LearnProgress(step=done, steps=steps, loss=value, held_out_loss=latest))
    head.load_state_dict(kept)
    pairs = sum(map(len, known.right))
    return HeadLearned(steps=steps, pairs=pairs, held_out_before=before, held_out_loss=best)


def _some(groups: Sequence[Group], most_pairs: int, chance: random.Random) -> list[Group]:
    """Return groups in random order until there are enough pairs; always one."""
    order = list(groups)
    chance.shuffle(order)
    found: list[Group] = []
    pairs = 0
    for group in order:
        pairs += len(group)
        if found and pairs > most_pairs:
            break
        found.append(group)
    return found


@torch.no_grad()
def _features(network: RewardNetwork, groups: Sequence[Group]) -> _Features:
    features = _Features([], [])
    for first in range(0, len(groups), _READ_AT_ONCE):
        piece = groups[first : first + _READ_AT_ONCE]
        seen = network.pooled([example.pair for group in piece for example in group])
        for group in piece:
            features.seen.append(seen[: len(group)])
            seen = seen[len(group) :]
            right = [float(example.right) for example in group]
            features.right.append(torch.tensor(right, device=seen.device))
    return features


@torch.no_grad()
def _held_out_loss(head: nn.Module, judged: _Features, settings: HeadSettings) -> float:
    return float(judged.loss(head, range(len(judged)), settings.loss))


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: up over the first steps, then down by a cosine."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps)))


def _copied(head: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}
