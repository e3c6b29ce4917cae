"""What the encoders behind a reward model have read: tokens, and operations by their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel


class ReadWork:
    """Counter of passes; belongs to the thread of the encoders."""

    def __init__(self) -> None:
        self.tokens = 0
        self.flops = 0.0

    def watch(self, model: PreTrainedModel) -> None:
        """Count what a model reads from now on; padding is not counted."""
        weights = int(model.num_parameters(exclude_embeddings=True))

        def count(module: object, args: object, given: Mapping[str, Any]) -> None:
            del module, args
            tokens = int(cast("Tensor", given["attention_mask"]).sum())
            self.tokens += tokens
            self.flops += 2.0 * weights * tokens

        model.register_forward_pre_hook(count, with_kwargs=True)
