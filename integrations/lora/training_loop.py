"""The training loop, as a generator that hands the lane back after every pass.

Gradients exist only inside a pass, for the adapter's tensors only; between two passes the model is
as every other request expects it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.integrations.lora.adapted_model import AdaptedModel, Below
from rttc_graph.integrations.lora.adapter_layout import Adapter, AdapterLayout
from rttc_graph.integrations.lora.training_batches import (
    Batch,
    EncodedExample,
    StepLimits,
    deal,
    pack,
)
from rttc_graph.protocols import TrainStep
from rttc_graph.settings import TttSettings

__all__ = (
    "Pace",
    "Trained",
    "TrainingWatch",
    "epoch_steps",
    "fresh_adapter",
    "learning_rate_for",
    "least_steps",
    "training_steps",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Result of a training."""

    adapter: Adapter
    losses: tuple[float, ...]
    """Loss of each step, before its update."""
    trained_tokens: int
    """Tokens of all steps, padding left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWatch:
    """Callbacks and limits of a running training."""

    on_step: Callable[[TrainStep], None]
    clock: Callable[[], float]
    """Seconds, of the same kind as `deadline`."""
    deadline: float | None
    pace: Pace = field(default_factory=lambda: Pace())
    """Measured speed of passes; shared by the trainings of a model."""
    is_stopped: Callable[[], bool] = lambda: False
    """Whether nobody wants the adapter any more, or the process ends; from any thread."""

    def check(self) -> None:
        """Do nothing while the training may go on; asked before and within passes.

        Raises:
            BudgetExceeded: It may not.
        """
        if self.is_stopped():
            raise BudgetExceeded("the training was stopped: no request waits for it any more")
        if self.deadline is not None and self.clock() >= self.deadline:
            raise BudgetExceeded(
                "the deadline passed within the training: raise budget_seconds, or lower k, "
                "ttt_epochs or ttt_min_steps"
            )


class Pace:
    """Seconds of a pass for each token of work, as measured; used in the lane, read anywhere.

    The fastest of the last passes counts: what cannot be done in time at that pace cannot be done.
    """

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=32)

    @property
    def is_known(self) -> bool:
        """Whether any pass was measured."""
        return bool(self._rates)

    def note(self, work: float, seconds: float) -> None:
        """Take a measured pass in."""
        self._rates.append(seconds / max(work, 1.0))

    def least_seconds(self, work: float) -> float:
        """Return how long so much work takes at least; 0 while nothing was measured."""
        return work * min(tuple(self._rates), default=0.0)


_RATE_BY_SCALE = 4.25e-4
"""Learning rate over the base's `weight_scale`: the default that was found for SmolLM2-135M."""

_FUSED = frozenset({"cpu", "cuda"})
"""Devices for which AdamW is one kernel instead of a dozen for each of hundreds of tensors."""


def training_steps(
    model: AdaptedModel,
    adapter: Adapter,
    epoch: Sequence[Sequence[Batch]],
    settings: TttSettings,
    watch: TrainingWatch,
    works: Sequence[Sequence[float]] = (),
) -> Generator[None, None, Trained]:
    """Train an adapter in place; yield after each forward and backward pass and each update.

    A step's loss is the mean over its answer tokens, in nats. AdamW without weight decay, at the
    one rate of `learning_rate_for`.

    Args:
        model: The base with its targets.
        adapter: Where training starts, for example a `fresh_adapter`.
        epoch: The steps of one epoch, as of `epoch_steps`; of each, one batch for each pass.
        settings: Steps, learning rate and early stop; rank, alpha and seed are the adapter's.
        watch: Observer, clock and deadline.
        works: Work of each batch of `epoch`, by which the end of the training is estimated.

    Raises:
        BudgetExceeded: The deadline passed, which is checked at each layer of a pass; or the
            training cannot end before it, at the pace of the passes so far.
        AdaptationError: A loss or a weight is not finite.
    """
    weights = [tensor.requires_grad_(True) for pair in adapter.pairs for tensor in pair]
    training = _Training(model, adapter, epoch, settings, watch, works)
    try:
        losses, tokens = yield from training.train(weights)
    finally:
        for tensor in weights:
            tensor.grad = None
            tensor.requires_grad_(False)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights):
        raise AdaptationError(
            "the trained weights are not finite: lower the learning rate "
            f"({learning_rate_for(model, settings)!r}) or alpha / rank"
        )
    return Trained(adapter=adapter, losses=tuple(losses), trained_tokens=tokens)


def fresh_adapter(layout: AdapterLayout, settings: TttSettings, *, device: torch.device) -> Adapter:
    """Return an adapter that changes nothing yet: `A` random, `B` zero, as in peft.

    `A` is uniform in ±1/√in (Kaiming with a = √5). It depends on the seed alone: the generator is
    our own, and the numbers are drawn on the CPU whatever the device.
    """
    random = torch.Generator().manual_seed(settings.seed)
    first = layout.first_adapted(settings.layers)
    pairs: list[tuple[Tensor, Tensor]] = []
    for target in layout.targets[first:]:
        shape_a, shape_b = target.shapes(settings.rank)
        bound = 1 / math.sqrt(target.in_features)
        a = torch.empty(shape_a).uniform_(-bound, bound, generator=random)
        pairs.append((a.to(device), torch.zeros(shape_b, device=device)))
    return Adapter(rank=settings.rank, alpha=settings.alpha, pairs=tuple(pairs), first=first)


def learning_rate_for(model: AdaptedModel, settings: TttSettings) -> float:
    """Return the settings' learning rate or, if it is 0, one for this base, to two digits.

    Whatever the gradient, AdamW moves each number of an adapter by about the learning rate, and so
    the adapter's part of an output: the larger the base weights, the smaller the adapter's relative
    effect. So the rate grows with the base's weights: 2e-3 for SmolLM2-135M, 4.3e-4 for
    Gemma-3-270M, where 2e-3 overshoots (docs/experiments.md, "A learning rate for each base").
    """
    if settings.learning_rate > 0:
        return settings.learning_rate
    return float(f"{_RATE_BY_SCALE * model.weight_scale:.1e}")


def epoch_steps(
    model: AdaptedModel,
    examples: Sequence[EncodedExample],
    limits: StepLimits,
    settings: TttSettings,
) -> list[list[Batch]]:
    """Return the batches of each step of one epoch, packed as the model allows."""
    return [
        pack(
            part,
            limits,
            device=model.device,
            share_prefix=model.can_share_prefix,
            tree_tokens=model.tree_tokens,
        )
        for part in deal(examples, settings)
    ]


@dataclass(frozen=True, slots=True)
class _Training:
    model: AdaptedModel
    adapter: Adapter
    epoch: Sequence[Sequence[Batch]]
    settings: TttSettings
    watch: TrainingWatch
    works: Sequence[Sequence[float]] = ()
    below: dict[int, Below] = field(default_factory=dict[int, Below])
    """Kept output of the layers below the adapter, by `id` of the batch."""

    @property
    def steps(self) -> int:
        """Most steps of the training."""
        return self.settings.steps(len(self.epoch))

    def train(self, weights: list[Tensor]) -> Generator[None, None, tuple[list[float], int]]:
        """Train, yielding between passes; return the loss of each step and the tokens of all."""
        device_type = self.model.device.type
        rate = learning_rate_for(self.model, self.settings)
        optimizer = torch.optim.AdamW(weights, rate, weight_decay=0.0, fused=device_type in _FUSED)
        losses: list[float] = []
        tokens = 0
        for step in range(1, self.steps + 1):
            batches = self.epoch[(step - 1) % len(self.epoch)]
            loss = yield from self._accumulate(step, batches)
            losses.append(loss)
            self.watch.on_step(TrainStep(step=step, steps=self.steps, loss=loss))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += sum(batch.tokens for batch in batches)
            yield
            if self._is_enough(step, loss):
                break
        return losses, tokens

    def _is_enough(self, step: int, loss: float) -> bool:
        """Tell whether an epoch is below the loss limit; its last step has the nearest samples."""
        is_whole = step % len(self.epoch) == 0 and step >= self.settings.min_steps
        return is_whole and loss < self.settings.stop_loss

    def _accumulate(self, step: int, batches: Sequence[Batch]) -> Generator[None, None, float]:
        """Accumulate the gradient of one step in the adapter and return the step's loss."""
        answers = sum(batch.targets.numel() for batch in batches)
        works = self.works[(step - 1) % len(self.epoch)] if self.works else [0.0] * len(batches)
        loss = 0.0
        for number, (batch, work) in enumerate(zip(batches, works, strict=True), start=1):
            if number > 1:
                yield
            self._check_deadline(step, of_step=sum(works[number - 1 :]))
            began = self.watch.clock()
            loss += self._pass(batch, answers=answers)
            if work:
                self.watch.pace.note(work, self.watch.clock() - began)
            if not math.isfinite(loss):
                raise AdaptationError(
                    f"the loss of step {step} is {loss!r}: lower the learning rate "
                    f"({learning_rate_for(self.model, self.settings)!r}) or alpha / rank"
                )
        return loss

    def _pass(self, batch: Batch, *, answers: int) -> float:
        """Run one batch forward and backward, and return its part of the loss."""
        with torch.enable_grad():
            below = self.below.setdefault(id(batch), self.model.below(self.adapter))
            logits = self.model.logits_at(self.adapter, batch, below, self.watch.check)  # [N, V]
            part = functional.cross_entropy(logits, batch.targets, reduction="sum") / answers
            value = part.item()
            if math.isfinite(value):
                torch.autograd.backward(part)
        return value

    def _check_deadline(self, step: int, *, of_step: float) -> None:
        """Raise if the deadline has passed, or will have passed before the training can end.

        Args:
            step: Step to compute.
            of_step: Work left in that step.
        """
        if self.watch.is_stopped():
            self.watch.check()
        if self.watch.deadline is None:
            return
        left = self.watch.deadline - self.watch.clock()
        later = range(step, least_steps(self.settings, len(self.epoch)))
        work = of_step + sum(sum(self.works[at % len(self.works)]) for at in later if self.works)
        needed = self.watch.pace.least_seconds(work)
        if left <= 0 or needed > left:
            raise BudgetExceeded(
                f"the deadline passed before step {step} of {self.steps} of the "
                "training: raise budget_seconds, or lower k, ttt_epochs or ttt_min_steps"
                if left <= 0
                else f"the training would take {needed:.1f} s more at least, from step {step} of "
                f"{self.steps}, and {left:.1f} s are left: raise budget_seconds, or lower k, "
                "ttt_epochs or ttt_min_steps"
            )


def least_steps(settings: TttSettings, steps_of_epoch: int) -> int:
    """Return the fewest steps that a training takes."""
    most = settings.steps(steps_of_epoch)
    if settings.stop_loss <= 0:
        return most
    epochs = max(1, math.ceil(settings.min_steps / steps_of_epoch))
    return min(most, epochs * steps_of_epoch)
