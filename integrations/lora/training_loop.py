"""The training loop, as a generator that hands the lane back after every pass.

Gradients exist only inside a pass, for the adapter's tensors only; between two passes the model is
as every other request expects it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch.nn import functional

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.integrations.concurrency.worker_threads import shortest_turns
from rttc_graph.integrations.lora.adapted_model import AdaptedModel, Below
from rttc_graph.integrations.lora.adapter_layout import (
    Adapter,
    AdapterLayout,
    flat_adapter,
)
from rttc_graph.integrations.lora.seeded_noise import uniform
from rttc_graph.integrations.lora.training_batches import (
    Batch,
    EncodedExample,
    StepLimits,
    deal,
    pack,
)
from rttc_graph.integrations.lora.training_watch import TrainingWatch
from rttc_graph.integrations.lora.training_weights import TrainingWeights
from rttc_graph.protocols import TrainStep
from rttc_graph.settings import TttSettings

__all__ = (
    "Pass",
    "Trained",
    "epoch_steps",
    "fresh_adapter",
    "learning_rate_for",
    "least_steps",
    "run_alone",
    "training_passes",
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """A forward and backward pass that a training wants next."""

    weights: TrainingWeights
    batch: Batch
    answers: int
    """Answer tokens of the whole step, by which the loss is divided."""
    work: float
    """Work, as of `StepLimits.work`; 0 where it is not known."""
    below: Below
    watch: TrainingWatch
    begin: Callable[[], None]
    """Called before the pass; raises where the training may not go on."""

    @contextmanager
    def timed(self, work: float | None = None) -> Generator[None]:
        """Take in how long the pass takes, or one over so much work that this is a part of."""
        began = self.watch.clock()
        yield
        if done := self.work if work is None else work:
            self.watch.pace.note(done, self.watch.clock() - began)


_RATE_BY_SCALE = 4.25e-4
"""Learning rate over the base's `weight_scale`: the default that was found for SmolLM2-135M."""


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
    passes = training_passes(model, adapter, epoch, settings, watch, works)
    trained: Trained | None = None
    try:
        wanted = next(passes)
        while trained is None:
            wanted.begin()
            loss = run_alone(model, wanted)
            try:
                wanted = passes.send(loss)
            except StopIteration as end:
                trained = cast("Trained", end.value)
            yield
    finally:
        passes.close()
    return trained


def training_passes(
    model: AdaptedModel,
    adapter: Adapter,
    epoch: Sequence[Sequence[Batch]],
    settings: TttSettings,
    watch: TrainingWatch,
    works: Sequence[Sequence[float]] = (),
) -> Generator[Pass, float, Trained]:
    """Train an adapter in place; yield each pass that is wanted and take its part of the loss.

    Who runs the passes may run those of other trainings with them. Arguments and errors are those
    of `training_steps`.
    """
    training = _Training(model, adapter, epoch, settings, watch, works)
    trained = yield from training.train()
    if not bool(torch.isfinite(training.weights.flat).all()):
        raise AdaptationError(
            "the trained weights are not finite: lower the learning rate "
            f"({learning_rate_for(model, settings)!r}) or alpha / rank"
        )
    return trained


def run_alone(model: AdaptedModel, wanted: Pass) -> float:
    """Run one pass, add its gradient to the training's, and return its part of the loss.

    Raises:
        BudgetExceeded: The training may not go on, or could not end in time.
    """
    with wanted.timed(), torch.enable_grad(), shortest_turns():
        adapter, batch = wanted.weights.adapter, wanted.batch
        logits = model.logits_at(adapter, batch, wanted.below, wanted.watch.check)  # [N, V]
        part = functional.cross_entropy(logits, batch.targets, reduction="sum") / wanted.answers
        # Read behind the backward pass, so that a GPU need not wait between the two. Where it is no
        # number the gradient is none either, and the training ends.
        torch.autograd.backward(part * wanted.weights.loss_scale)
        return part.item()


def fresh_adapter(layout: AdapterLayout, settings: TttSettings, *, device: torch.device) -> Adapter:
    """Return an adapter that changes nothing yet: `A` random, `B` zero, as in peft.

    `A` is uniform in ±1/√in (Kaiming with a = √5). It depends on the seed alone, and is the same
    bits on every device.
    """
    adapter = flat_adapter(
        layout,
        rank=settings.rank,
        alpha=settings.alpha,
        first=layout.first_adapted(settings.layers),
        device=device,
    )
    sizes = [a.numel() for a, _ in adapter.pairs]
    noise = uniform(sum(sizes), seed=settings.seed, device=device)
    for (a, _), part in zip(adapter.pairs, torch.split(noise, sizes), strict=True):
        torch.mul(part.view_as(a), 1 / math.sqrt(a.shape[1]), out=a)
    return adapter


def begin_with(fresh: Adapter, start: Adapter) -> None:
    """Give a fresh adapter the term of another one; what it has beyond that adds nothing yet.

    Args:
        fresh: As of `fresh_adapter`, changed in place.
        start: Adapter of the same base, of the same rank or a lower one.

    Raises:
        AdaptationError: It has a higher rank, or adapts layers that `fresh` does not.
    """
    if start.rank > fresh.rank or start.first < fresh.first:
        raise AdaptationError(
            f"the adapter to go on from has rank {start.rank} and adapts "
            f"{len(start.pairs)} layers, this training has rank {fresh.rank} and "
            f"{len(fresh.pairs)} layers: set ttt_rank and ttt_layers at least as high as "
            "when it was trained, or take it away (rttc improve --undo DOMAIN)"
        )
    by = start.scale / fresh.scale
    with torch.no_grad():
        for place, (a, b) in enumerate(fresh.pairs, start=fresh.first):
            known = start.pair(place)
            if known is not None:
                a[: start.rank].copy_(known[0])
                b[:, : start.rank].copy_(known[1] * by)


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


class _Training:
    """A training from its first step to its last.

    Args:
        model: The base with its targets.
        adapter: Adapter in one buffer, trained in place.
        epoch: Batches of each step of an epoch.
        settings: Settings of the training.
        watch: Observer, clock and deadline.
        works: Work of each batch of `epoch`; nothing is estimated without it.
    """

    def __init__(
        self,
        model: AdaptedModel,
        adapter: Adapter,
        epoch: Sequence[Sequence[Batch]],
        settings: TttSettings,
        watch: TrainingWatch,
        works: Sequence[Sequence[float]],
    ) -> None:
        self._model = model
        self._trained = adapter
        self._epoch = epoch
        self._settings = settings
        self._watch = watch
        self._works = works
        self._rate = learning_rate_for(model, settings)
        self.weights = TrainingWeights(
            adapter, model.term_dtype, self._rate, loss_scale=model.loss_scale
        )
        self._below: dict[int, Below] = {}
        """Kept output of the layers below the adapter, by `id` of the batch."""
        self._later = _work_after(works, least_steps(settings, len(epoch)))

    @property
    def steps(self) -> int:
        """Most steps of the training."""
        return self._settings.steps(len(self._epoch))

    def train(self) -> Generator[Pass, float, Trained]:
        """Train, yielding the passes."""
        try:
            losses, tokens = yield from self._all_steps()
        finally:
            self.weights.close()
        return Trained(adapter=self._trained, losses=tuple(losses), trained_tokens=tokens)

    def _all_steps(self) -> Generator[Pass, float, tuple[list[float], int]]:
        losses: list[float] = []
        tokens = 0
        for step in range(1, self.steps + 1):
            batches = self._epoch[(step - 1) % len(self._epoch)]
            loss = yield from self._accumulate(step, batches)
            while not self.weights.is_finite:
                self.weights.begin_again()
                loss = yield from self._accumulate(step, batches)
            losses.append(loss)
            self._watch.on_step(TrainStep(step=step, steps=self.steps, loss=loss))
            self.weights.update()
            tokens += sum(batch.tokens for batch in batches)
            if self._is_enough(step, loss):
                break
        return losses, tokens

    def _is_enough(self, step: int, loss: float) -> bool:
        """Tell whether an epoch is below the loss limit; its last step has the nearest samples."""
        is_whole = step % len(self._epoch) == 0 and step >= self._settings.min_steps
        return is_whole and loss < self._settings.stop_loss

    def _accumulate(self, step: int, batches: Sequence[Batch]) -> Generator[Pass, float, float]:
        """Accumulate the gradient of one step in the adapter and return the step's loss."""
        answers = sum(batch.targets.numel() for batch in batches)
        works = self._works[(step - 1) % len(self._epoch)] if self._works else [0.0] * len(batches)
        loss = 0.0
        for number, (batch, work) in enumerate(zip(batches, works, strict=True)):
            loss += yield Pass(
                weights=self.weights,
                batch=batch,
                answers=answers,
                work=work,
                below=self._below_of(batch),
                watch=self._watch,
                begin=partial(self._check_deadline, step, of_step=sum(works[number:])),
            )
            if not math.isfinite(loss):
                raise AdaptationError(
                    f"the loss of step {step} is {loss!r}: lower the learning rate "
                    f"({self._rate!r}) or alpha / rank"
                )
        return loss

    def _below_of(self, batch: Batch) -> Below:
        kept = self._below.get(id(batch))
        if kept is None:
            kept = self._below[id(batch)] = self._model.below(self.weights.adapter)
        return kept

    def _check_deadline(self, step: int, *, of_step: float) -> None:
        """Raise if the deadline has passed, or will have passed before the training can end.

        Args:
            step: Step to compute.
            of_step: Work left in that step.
        """
        if self._watch.is_stopped():
            self._watch.check()
        if self._watch.deadline is None:
            return
        left = self._watch.deadline - self._watch.clock()
        later = self._later[step] if step < len(self._later) else 0.0
        needed = self._watch.pace.least_seconds(of_step + later)
        if left <= 0 or needed > left:
            raise BudgetExceeded(
                f"the deadline passed before step {step} of {self.steps} of the "
                "training: raise budget_seconds, or lower k, ttt_epochs or ttt_min_steps"
                if left <= 0
                else f"the training would take {needed:.1f} s more at least, from step {step} of "
                f"{self.steps}, and {left:.1f} s are left: raise budget_seconds, or lower k, "
                "ttt_epochs or ttt_min_steps"
            )


def _work_after(works: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Return the work that is left behind each of so many steps; nothing where none is known.

    The first item is the work of all steps, the second that behind the first step.
    """
    if not works:
        return []
    each = [sum(works[at % len(works)]) for at in range(steps)]
    return list(itertools.accumulate(reversed(each), initial=0.0))[::-1]


def least_steps(settings: TttSettings, steps_of_epoch: int) -> int:
    """Return the fewest steps that a training takes."""
    most = settings.steps(steps_of_epoch)
    if settings.stop_loss <= 0:
        return most
    epochs = max(1, math.ceil(settings.min_steps / steps_of_epoch))
    return min(most, epochs * steps_of_epoch)
