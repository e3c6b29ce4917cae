"""What a training will need, before it holds anything, and which may go on together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rttc_graph.integrations.lora.together.joint_batches import PassShape
from rttc_graph.integrations.lora.training_batches import Batch, EncodedExample, StepLimits
from rttc_graph.integrations.lora.training_loop import least_steps
from rttc_graph.settings import TttSettings

__all__ = ("TENSORS_OF_A_WEIGHT", "TrainingPlan", "fit_together", "most_together")

TENSORS_OF_A_WEIGHT = 4
"""Itself, its gradient and AdamW's two moments."""

_MOST = {"cuda": 8}
"""Trainings in one pass by kind of device, else one.

On a CPU the tokens of one training fill a core already: two, four and eight together took 1.14,
1.09 and 1.12 times what they take one after the other (docs/experiments.md, "Several queries'
trainings in one pass"). On a GPU a pass costs its launches and one reading of the weights,
whoever's rows are in it.
"""

_MOST_PADDING = 2.0
"""Largest ratio of the tokens of a joint pass, padding included, to those of its parts."""


@dataclass(slots=True, kw_only=True, eq=False)
class TrainingPlan:
    """A training in hand."""

    key: str
    examples: list[EncodedExample]
    epoch: list[list[Batch]]
    works: list[list[float]]
    """Work of each batch of `epoch`, as of `StepLimits.work`."""
    settings: TttSettings
    adapter_bytes: int
    """Memory of the adapter's weights alone."""
    limits: StepLimits
    is_trained: bool = False
    """Whether it only waits for room among the resident adapters."""

    @property
    def least_work(self) -> float:
        """Work until the training can end at the earliest."""
        steps = least_steps(self.settings, len(self.epoch))
        return sum(sum(self.works[step % len(self.works)]) for step in range(steps))

    @property
    def training_bytes(self) -> int:
        """Memory of weights, gradient and moments."""
        return self.adapter_bytes * TENSORS_OF_A_WEIGHT

    @property
    def shape(self) -> PassShape:
        """Sizes that hold each of its passes."""
        shapes = [PassShape.of([batch]) for step in self.epoch for batch in step]
        return PassShape(
            members=1,
            rows=max(shape.rows for shape in shapes),
            tokens=max(shape.tokens for shape in shapes),
            answers=max(shape.answers for shape in shapes),
        )

    @property
    def is_recomputed(self) -> bool:
        """Whether a pass is so large that its layers are computed twice."""
        return any(batch.recompute for step in self.epoch for batch in step)


def most_together(device: torch.device) -> int:
    """Return how many trainings may go on in one pass on a device."""
    return _MOST.get(device.type, 1)


def fit_together(plans: Sequence[TrainingPlan], *, max_training_bytes: float) -> bool:
    """Tell whether trainings may go on in one pass: alike, within memory, without much padding.

    Args:
        plans: Those that go on, then the one that waits; its limits are the latest.
        max_training_bytes: Memory for weights, gradients and moments of all.
    """
    kinds = {(p.settings.rank, p.settings.alpha, p.settings.layers) for p in plans}
    if len(kinds) > 1 or any(plan.is_recomputed for plan in plans):
        return False
    if sum(plan.training_bytes for plan in plans) > max_training_bytes:
        return False
    shapes = [plan.shape for plan in plans]
    rows, length = max(s.rows for s in shapes), max(s.tokens for s in shapes)
    tokens = len(plans) * rows * length
    if tokens > _MOST_PADDING * sum(shape.rows * shape.tokens for shape in shapes):
        return False
    limits = plans[-1].limits
    stacked = 2 * sum(plan.adapter_bytes for plan in plans)
    answers = sum(shape.answers for shape in shapes)
    return limits.bytes_for(tokens=tokens, answers=answers) + stacked <= limits.max_bytes
