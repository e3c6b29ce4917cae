"""One forward and backward pass for the trainings of several queries, plain or captured.

What a pass does is written once, over tensors that stay where they are. Plain, it runs as it is; on
a GPU a recording of it is replayed, which takes one launch instead of some thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch.nn import functional

from rttc_graph.integrations.lora.adapted_model import AdaptedModel, Below
from rttc_graph.integrations.lora.together.joint_batches import JointRows, PassShape
from rttc_graph.integrations.lora.together.joint_terms import AdapterStack
from rttc_graph.integrations.lora.training_batches import Batch
from rttc_graph.integrations.lora.training_loop import Pass
from rttc_graph.integrations.transformers.recorded.capture import Capture, recorded

__all__ = ("JointPass",)


class JointPass:
    """A pass of one shape.

    Args:
        model: The base with its targets.
        shape: Sizes.
        stack: Where the adapters of a pass are copied to; of `shape.members`.
        capture: Records the pass at its first run; `None` runs it as it is.
    """

    def __init__(
        self,
        model: AdaptedModel,
        shape: PassShape,
        stack: AdapterStack,
        capture: Capture | None = None,
    ) -> None:
        self._model = model
        self._shape = shape
        self._stack = stack
        self._capture = capture
        self._rows: JointRows | None = None
        self._batch: Batch | None = None
        self._losses = torch.zeros(shape.members, device=model.device)
        self._replay: Callable[[], None] | None = None

    def run(
        self,
        wanted: Sequence[Pass],
        *,
        below: Below | None = None,
        check: Callable[[], None] | None = None,
    ) -> list[float]:
        """Run the passes as one, add the gradients to the trainings', and return their losses.

        Where it fails, no gradient was changed.

        Args:
            wanted: Passes of trainings of one rank, alpha and first target.
            below: Kept output of the layers below the adapters, for just these passes.
            check: Called at each target and layer; raises to end the pass. Not in a captured one.
        """
        batches = [each.batch for each in wanted]
        weights = [each.weights for each in wanted]
        scales = [each.loss_scale for each in weights]
        wholes = [each.answers / scale for each, scale in zip(wanted, scales, strict=True)]
        self._take(JointRows.of(batches, wholes, self._shape))
        self._stack.load(weights)
        if self._capture is None:
            self._work(below, check)
        else:
            if self._replay is None:
                self._replay = recorded(
                    self._capture, self._work, (self._losses, self._stack.gradient)
                )
            else:
                self._replay()
        losses = cast("list[float]", self._losses.tolist())[: len(wanted)]
        self._stack.hand_out(weights)
        return [loss / scale for loss, scale in zip(losses, scales, strict=True)]

    def _take(self, rows: JointRows) -> None:
        """Put the rows where the pass reads them."""
        if self._rows is None:
            self._rows = rows.on(self._model.device)
            self._batch = self._as_batch(self._rows)
        else:
            self._rows.take(rows)

    def _as_batch(self, rows: JointRows) -> Batch:
        sees = places = None
        if self._capture is not None:
            # With a mask and positions at hand, the model's code looks at no content of a tensor,
            # which a capture does not allow.
            tokens, device = self._shape.tokens, self._model.device
            sees = torch.ones((tokens, tokens), dtype=torch.bool, device=device).tril()[None, None]
            places = torch.arange(tokens, device=device)[None]
        return Batch(
            prefix=torch.zeros((1, 0), dtype=torch.long),
            input_ids=rows.input_ids,
            rows=rows.rows,
            positions=rows.positions,
            targets=rows.targets,
            tokens=0,
            places=places,
            sees=sees,
        )

    def _work(self, below: Below | None = None, check: Callable[[], None] | None = None) -> None:
        """Compute losses and gradients of what lies in the tensors."""
        rows, batch = cast("JointRows", self._rows), cast("Batch", self._batch)
        with torch.enable_grad():
            logits = self._model.logits_at(self._stack, batch, below, check)  # [N, V]
            each = functional.cross_entropy(logits, rows.targets, reduction="none") * rows.shares
            losses = torch.zeros_like(self._losses).index_add(0, rows.owners, each)  # [M]
            found = torch.autograd.grad(losses.sum(), self._stack.halves, allow_unused=True)
        self._stack.keep(found)
        self._losses.copy_(losses.detach())
