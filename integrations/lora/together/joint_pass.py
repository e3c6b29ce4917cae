"""One forward and backward pass for the trainings of several queries, plain or captured.

What a pass does is written once, over tensors that stay where they are. Plain, it runs as it is; on
a GPU a recording of it is replayed, which takes one launch instead of some thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch.nn import functional

from rttc_graph.integrations.lora.adapted_model import AdaptedModel, Below
from rttc_graph.integrations.lora.together.joint_batches import JointRows, PassShape
from rttc_graph.integrations.lora.together.joint_terms import AdapterStack
from rttc_graph.integrations.lora.training_batches import Batch
from rttc_graph.integrations.lora.training_loop import Pass

__all__ = ("Capture", "CudaGraphs", "JointPass", "capture_for")


_MOST_OFF = 0.05
"""Largest difference of a replay from the plain pass, as a share: in bfloat16 with sums in any
order a gradient is off by some thousandths."""


class Capture(Protocol):
    """Records work on tensors that stay where they are."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does the work again; the work may have been done by then."""
        ...


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
        self._take(JointRows.of(batches, [each.answers for each in wanted], self._shape))
        weights = [each.weights for each in wanted]
        self._stack.load(weights)
        if self._capture is None:
            self._work(below, check)
        else:
            if self._replay is None:
                self._replay = self._recorded(self._capture)
            else:
                self._replay()
        losses = cast("list[float]", self._losses.tolist())[: len(wanted)]
        self._stack.hand_out(weights)
        return losses

    def _recorded(self, capture: Capture) -> Callable[[], None]:
        """Return the replay of a recording that does what the plain pass does, and did it now.

        Raises:
            RuntimeError: It does something else.
        """
        self._work()
        plain = [tensor.clone().float() for tensor in (self._losses, self._stack.gradient)]
        replay = capture(self._work)
        for tensor in (self._losses, self._stack.gradient):
            tensor.fill_(math.nan)
        replay()
        for tensor, right in zip((self._losses, self._stack.gradient), plain, strict=True):
            off = float((tensor - right).square().sum().sqrt())
            size = float(right.square().sum().sqrt())
            # Numbers that are none have no difference: such a pass tells nothing.
            if math.isfinite(size) and not off <= _MOST_OFF * size:
                raise RuntimeError(f"the replay is off by {off:.2g}, from numbers of {size:.2g}")
        return replay

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


class CudaGraphs:
    """Records work on a GPU as CUDA graphs, which share one pool of memory.

    They may, as one is replayed after the other and nothing of one is read later but what lies
    outside of the pool. Recording takes some 0.6 s for a model of 8 billion parameters.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work, and return its replay.

        The work is done three times before, as torch asks for, so that what is allocated and
        chosen at first use is there.
        """
        stream = cast("Any", torch.cuda).Stream()  # torch has no types for it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay


def capture_for(device: torch.device) -> Capture | None:
    """Return what records passes on a device; `None` where there is nothing to record with."""
    return CudaGraphs() if device.type == "cuda" and torch.cuda.is_available() else None
