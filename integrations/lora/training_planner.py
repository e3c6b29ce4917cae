"""What a training will need, found out before it holds anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.together.joint_batches import PassShape
from rttc_graph.integrations.lora.together.training_plans import TENSORS_OF_A_WEIGHT, TrainingPlan
from rttc_graph.integrations.lora.training_batches import StepLimits, encode_examples
from rttc_graph.integrations.lora.training_loop import epoch_steps
from rttc_graph.integrations.transformers.free_memory import free_on_all, recorded_bytes
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.precision import choose_training_dtype
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TrainingDtype, TttSettings

__all__ = ("TrainingPlanner",)

_PASS_BYTES = 2**30
"""Memory limit of a pass on the CPU, where larger passes are no faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlanner:
    """Makes plans within the memory that there is; in the lane."""

    training_bytes: Callable[[], int]
    """Returns the memory for weights, gradient and moments of a training."""
    max_pass_bytes: int | None
    """Memory of a pass; `None` takes 1 GiB, and on a GPU half of what is free."""
    training_dtype: TrainingDtype
    """Type in which trainings multiply by the base's weights."""
    recompute: bool | None
    """Whether an example beyond `max_pass_bytes` uses gradient checkpointing; `None` decides by
    what is free."""

    def plan(
        self,
        loaded: LoadedModel,
        model: AdaptedModel,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
    ) -> TrainingPlan:
        """Return the plan of a training.

        Raises:
            AdaptationError: It would need more memory than `max_training_bytes`, or there is no
                example, or one that does not fit into the context.
        """
        targets = model.layout.targets[model.layout.first_adapted(settings.layers) :]
        numbers = settings.rank * sum(each.in_features + each.out_features for each in targets)
        needed = numbers * torch.float32.itemsize
        self._check_memory(needed * TENSORS_OF_A_WEIGHT, settings)
        encoded = encode_examples(loaded, examples)
        self._choose_products(model)
        limits = self._limits(loaded, model)
        epoch = epoch_steps(model, encoded, limits, settings)
        return TrainingPlan(
            key=key,
            examples=encoded,
            epoch=epoch,
            works=[[limits.work(batch) for batch in step] for step in epoch],
            settings=settings,
            adapter_bytes=needed,
            limits=limits,
        )

    def fits(self, loaded: LoadedModel, model: AdaptedModel, shape: PassShape) -> bool:
        """Tell whether a pass of a shape may be recorded: a bucket is larger than what is in it.

        It uses the memory of those that are recorded already.
        """
        limits = self._limits(loaded, model)
        tokens = shape.members * shape.rows * shape.tokens
        needed = limits.bytes_for(tokens=tokens, answers=shape.answers)
        return needed <= max(limits.max_bytes, recorded_bytes(model.device))

    def _check_memory(self, needed: int, settings: TttSettings) -> None:
        if needed > (most := self.training_bytes()):
            raise AdaptationError(
                f"a training of rank {settings.rank} on {settings.layers:.0%} of the layers takes "
                f"{needed} bytes and max_training_bytes is {most}: lower "
                "ttt_rank or ttt_layers, or raise max_training_bytes"
            )

    def _choose_products(self, model: AdaptedModel) -> None:
        dtype = choose_training_dtype(self.training_dtype, model.dtype, model.device)
        if dtype == model.products:
            return
        fits = 2 * model.copied_bytes(dtype) <= free_on_all(model.devices)
        if fits or self.training_dtype != "auto":
            model.multiply_in(dtype)

    def _limits(self, loaded: LoadedModel, model: AdaptedModel) -> StepLimits:
        free = free_on_all(model.devices)
        default = free / 2 if model.device.type == "cuda" else _PASS_BYTES
        return StepLimits.from_layout(
            model.layout,
            vocabulary=loaded.vocabulary,
            max_bytes=default if self.max_pass_bytes is None else self.max_pass_bytes,
            free_bytes=free,
            recompute=self.recompute,
            # Weights that are fetched for a pass would stay until its backward pass.
            recompute_all=model.is_offloaded,
            device=model.device.type,
            dtype=model.dtype,
        )
