"""Runs what trainings want next: one pass as it is, several as one where they may."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from rttc_graph.errors import RttcError
from rttc_graph.integrations.concurrency.worker_threads import shortest_turns
from rttc_graph.integrations.lora.adapted_model import AdaptedModel, Below
from rttc_graph.integrations.lora.together.joint_batches import PassShape
from rttc_graph.integrations.lora.together.joint_pass import JointPass
from rttc_graph.integrations.lora.together.joint_terms import AdapterStack
from rttc_graph.integrations.lora.training_loop import Pass, run_alone
from rttc_graph.integrations.transformers.recorded.capture import Capture
from rttc_graph.integrations.transformers.torch_errors import let_go

__all__ = ("PassRunner",)

_log = logging.getLogger(__name__)

_KEPT = 16
"""Captured passes that are kept; they share one pool of memory."""


class PassRunner:
    """Runs the passes of a model's trainings, each turn those of all that are in hand.

    Args:
        model: The base with its targets.
        capture: Records passes, in buckets of sizes; `None` runs all as they are.
        fits: Whether there is memory to record a pass; `None` records all.
    """

    def __init__(
        self,
        model: AdaptedModel,
        *,
        capture: Capture | None = None,
        fits: Callable[[PassShape], bool] | None = None,
    ) -> None:
        self._model = model
        self._capture = capture
        self._fits = fits
        self._stacks: dict[tuple[object, ...], AdapterStack] = {}
        self._captured: OrderedDict[tuple[object, ...], JointPass] = OrderedDict()
        self._below: dict[tuple[int, ...], Below] = {}
        """Kept output of the layers below the adapters, by the batches of a pass."""
        self._company: list[int] = []

    def run(self, wanted: Sequence[Pass]) -> list[float | Exception]:
        """Run passes of trainings that may be together; what fails fails by itself.

        Returns:
            For each its part of the loss, or why it has none.
        """
        found: list[float | Exception] = [_begun(each) for each in wanted]
        ready = [at for at, outcome in enumerate(found) if not isinstance(outcome, Exception)]
        for at, outcome in zip(ready, self._run_ready([wanted[at] for at in ready]), strict=True):
            found[at] = outcome
        return found

    def rest(self) -> None:
        """Let go of what no captured pass needs, as no training is in hand."""
        self._below.clear()
        self._company.clear()
        if not self._captured:
            self._stacks.clear()

    def _run_ready(self, wanted: Sequence[Pass]) -> list[float | Exception]:
        captured = self._captured_pass(wanted) if wanted and self._capture else None
        if len(wanted) < 2 and captured is None:
            return [self._alone(each) for each in wanted]
        try:
            return list(self._joint(wanted, captured))
        except Exception as exc:  # noqa: BLE001  # whose fault it is shows as each runs by itself
            let_go(exc)
            if captured is not None:
                self._give_up_capturing(exc)
            elif not isinstance(exc, RttcError):
                _log.warning("a pass of %d trainings failed, each runs alone: %s", len(wanted), exc)
        return [self._alone(each) for each in wanted]

    def _joint(self, wanted: Sequence[Pass], captured: JointPass | None) -> list[float]:
        def check() -> None:
            """Let the pass go on while any of its trainings may."""
            for each in wanted[:-1]:
                try:
                    return each.watch.check()
                except RttcError:
                    continue
            wanted[-1].watch.check()

        work = sum(each.work for each in wanted)
        with wanted[0].timed(work=work), shortest_turns():
            if captured is not None:
                return captured.run(wanted)
            shape = PassShape.of([each.batch for each in wanted])
            joint = JointPass(self._model, shape, self._stack(wanted[0], shape.members))
            return joint.run(wanted, below=self._below_of(wanted), check=check)

    def _alone(self, wanted: Pass) -> float | Exception:
        try:
            return run_alone(self._model, wanted)
        except Exception as exc:  # noqa: BLE001  # its training is told
            return _without_frames(exc)

    def _captured_pass(self, wanted: Sequence[Pass]) -> JointPass | None:
        """Return the captured pass of these sizes; `None` where they are captured in none."""
        shape = PassShape.of([each.batch for each in wanted]).in_bucket
        if shape is None or shape.tokens > self._model.tree_tokens:
            return None
        if any(each.batch.recompute for each in wanted):
            return None
        key = (shape, *_signature(wanted[0]))
        if key not in self._captured:
            if self._fits is not None and not self._fits(shape):
                return None
            stack = self._stack(wanted[0], shape.members)
            self._captured[key] = JointPass(self._model, shape, stack, self._capture)
        self._captured.move_to_end(key)
        if len(self._captured) > _KEPT:
            self._captured.popitem(last=False)
        return self._captured[key]

    def _give_up_capturing(self, exc: Exception) -> None:
        _log.warning("passes of this model are not captured any more: %s", exc)
        self._capture = None
        self._captured.clear()

    def _stack(self, wanted: Pass, members: int) -> AdapterStack:
        key = (members, *_signature(wanted))
        if key not in self._stacks:
            adapter, dtype = wanted.weights.adapter, wanted.weights.used.dtype
            self._stacks[key] = AdapterStack(adapter, members=members, dtype=dtype)
        return self._stacks[key]

    def _below_of(self, wanted: Sequence[Pass]) -> Below:
        company = [id(each.weights) for each in wanted]
        if company != self._company:
            self._below.clear()
            self._company = company
        key = tuple(id(each.batch) for each in wanted)
        if key not in self._below:
            self._below[key] = self._model.below(wanted[0].weights.adapter)
        return self._below[key]


def _begun(wanted: Pass) -> float | Exception:
    try:
        wanted.begin()
    except Exception as exc:  # noqa: BLE001  # its training is told
        return _without_frames(exc)
    return 0.0


def _without_frames(exc: Exception) -> Exception:
    """Return an error alone: its frames, and those that called them, hold a pass's tensors."""
    _log.debug("a pass of a training failed", exc_info=exc)
    let_go(exc)
    return exc.with_traceback(None)


def _signature(wanted: Pass) -> tuple[object, ...]:
    adapter = wanted.weights.adapter
    return adapter.rank, adapter.alpha, adapter.first, wanted.weights.used.dtype
