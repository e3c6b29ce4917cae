"""Training of a reward network: groups of answers to one question, and a loss over each batch.

`pointwise` asks of every answer whether it is right (binary cross-entropy, right and wrong ones
weighing the same). `pairwise` asks of every right and wrong answer to the same question which is
better (Bradley-Terry). `both` adds them up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.rewards.pair_encoding import EncodedPair
from rttc_graph.integrations.rewards.trained.network import RewardNetwork

Loss = Literal["pointwise", "pairwise", "both"]

_WARM_UP = 0.06
"""Share of the steps over which the learning rate rises."""

_BLEND_WINDOW = 64
"""Groups within which lengths are sorted: less padding, and still another order each epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """Settings for training the network."""

    loss: Loss = "both"
    epochs: float = 3.0
    learning_rate: float = 1e-3
    groups_per_step: int = 8
    weight_decay: float = 0.01
    checks: int = 8
    """Number of times that the held-out loss is measured."""
    patience: int = 3
    """Looks without a better loss after which training stops."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigurationError: Says which setting is out of its bounds.
        """
        for name in ("groups_per_step", "checks", "patience"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least 1")
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be above 0")


@dataclass(frozen=True, slots=True)
class Example:
    """One answer."""

    pair: EncodedPair
    right: bool
    is_reference: bool = False
    """Whether it is the row's own answer, which other questions may borrow as a wrong one."""


Group = Sequence[Example]
"""The answers to one question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnProgress:
    """Sent after each step."""

    step: int
    steps: int
    loss: float
    held_out_loss: float | None
    """The latest one that was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Result of a training; the network has the weights with the best held-out loss."""

    steps: int
    best_step: int
    held_out_loss: float
    losses: tuple[float, ...]


def learn(
    network: RewardNetwork,
    groups: Sequence[Group],
    held_out: Sequence[Group],
    settings: LearnSettings,
    *,
    on_progress: Callable[[LearnProgress], None],
) -> Learned:
    """Train the network's own weights, and leave in it those of the best held-out loss.

    Raises:
        ConfigurationError: There is nothing to learn from: no group, or none held out.
        RewardModelError: The loss is not finite.
    """
    if not groups or not held_out:
        raise ConfigurationError(
            f"{len(groups)} questions to learn from and {len(held_out)} held out: "
            "give a file with more rows"
        )
    return _Learning(network, settings, on_progress).learn(groups, held_out)


def group_loss(logits: Tensor, right: Tensor, groups: Tensor, loss: Loss) -> Tensor:
    """Return the loss of a batch.

    Args:
        logits: [B].
        right: 1 for a right answer, else 0, [B].
        groups: Number of the question of each answer, [B].
        loss: Which.
    """
    total = logits.new_zeros(())
    if loss != "pairwise":
        total = total + _pointwise(logits, right)
    if loss != "pointwise":
        total = total + _pairwise(logits, right, groups)
    return total


def _pointwise(logits: Tensor, right: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(logits, right, reduction="none")
    sides = [each[right == side] for side in (1, 0)]
    return torch.stack([side.mean() for side in sides if side.numel()]).mean()


def _pairwise(logits: Tensor, right: Tensor, groups: Tensor) -> Tensor:
    same = groups[:, None] == groups[None, :]  # [B, B]
    better = same & (right[:, None] > right[None, :])
    if not bool(better.any()):
        return logits.sum() * 0
    gaps = (logits[:, None] - logits[None, :])[better]
    return -functional.logsigmoid(gaps).mean()


class _Learning:
    def __init__(
        self,
        network: RewardNetwork,
        settings: LearnSettings,
        on_progress: Callable[[LearnProgress], None],
    ) -> None:
        self._network = network
        self._settings = settings
        self._report = on_progress

    def learn(self, groups: Sequence[Group], held_out: Sequence[Group]) -> Learned:
        settings = self._settings
        per_epoch = math.ceil(len(groups) / settings.groups_per_step)
        steps = max(1, round(per_epoch * settings.epochs))
        own = [p for p in self._network.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            own, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: _rate(n, steps))
        every = max(1, steps // settings.checks)
        best, best_step, stale = math.inf, 0, 0
        kept = _copied(self._network)
        losses: list[float] = []
        latest: float | None = None
        for step, batch in enumerate(self._stream(groups, steps), start=1):
            losses.append(self._step(batch, own, optimiser))
            schedule.step()
            if step % every == 0 or step == steps:
                latest = self.held_out_loss(held_out)
                stale += 1
                if latest < best:
                    best, best_step, stale, kept = latest, step, 0, _copied(self._network)
            self._report(
                LearnProgress(step=step, steps=steps, loss=losses[-1], held_out_loss=latest)
            )
            if stale >= settings.patience:
                break
        self._network.restore(kept)
        return Learned(
            steps=len(losses), best_step=best_step, held_out_loss=best, losses=tuple(losses)
        )

    @torch.inference_mode()
    def held_out_loss(self, groups: Sequence[Group]) -> float:
        total = 0.0
        for first in range(0, len(groups), self._settings.groups_per_step):
            piece = groups[first : first + self._settings.groups_per_step]
            total += float(self._loss(piece)) * len(piece)
        return total / len(groups)

    def _stream(self, groups: Sequence[Group], steps: int) -> Sequence[list[Group]]:
        """Return the batches of all epochs."""
        chance = random.Random(self._settings.seed)
        size = self._settings.groups_per_step
        batches: list[list[Group]] = []
        while len(batches) < steps:
            order = list(groups)
            chance.shuffle(order)
            window = _BLEND_WINDOW // size * size or size
            epoch: list[list[Group]] = []
            for first in range(0, len(order), window):
                near = sorted(order[first : first + window], key=_longest)
                epoch += [near[i : i + size] for i in range(0, len(near), size)]
            chance.shuffle(epoch)
            batches += epoch
        return batches[:steps]

    def _step(
        self,
        batch: Sequence[Group],
        own: list[torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
    ) -> float:
        loss = self._loss(self._with_borrowed(batch))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RewardModelError(
                f"the loss became {value!r}: lower the learning rate "
                f"({self._settings.learning_rate!r})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        return value

    def _with_borrowed(self, batch: Sequence[Group]) -> list[Group]:
        """Give every question the reference answers of the others as wrong ones.

        Only for towers, which have read these answers anyway. An answer that is right for its own
        question may be right for another one: it is borrowed only where the text differs.
        """
        if self._network.backbone != "towers":
            return list(batch)
        shared = {_said(e): e for group in batch for e in group if e.is_reference}
        full: list[Group] = []
        for group in batch:
            own = {_said(example) for example in group}
            asked = _asked(group[0])
            lent = [said for said in shared if said not in own]
            full.append([*group, *(Example(_joined(asked, said), right=False) for said in lent)])
        return full

    def _loss(self, batch: Sequence[Group]) -> Tensor:
        logits = self._network([example.pair for group in batch for example in group])
        right = [float(example.right) for group in batch for example in group]
        groups = [number for number, group in enumerate(batch) for _ in group]
        device = logits.device
        return group_loss(
            logits,
            torch.tensor(right, device=device),
            torch.tensor(groups, device=device),
            self._settings.loss,
        )


def _asked(example: Example) -> tuple[int, ...]:
    return tuple(example.pair.ids[: example.pair.types.index(1)])


def _said(example: Example) -> tuple[int, ...]:
    return tuple(example.pair.ids[example.pair.types.index(1) :])


def _joined(asked: tuple[int, ...], said: tuple[int, ...]) -> EncodedPair:
    return EncodedPair([*asked, *said], [0] * len(asked) + [1] * len(said))


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: up over the first steps, then down to 0."""
    warm = max(1, round(steps * _WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, (steps - step) / max(1, steps - warm))


def _longest(group: Group) -> int:
    return max(len(example.pair.ids) for example in group)


def _copied(network: RewardNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.trained().items()}
