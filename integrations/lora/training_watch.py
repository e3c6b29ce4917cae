"""Who looks at a running training: its observer, its deadline, and how fast passes are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rttc_graph.errors import BudgetExceeded
from rttc_graph.protocols import TrainStep

__all__ = ("Pace", "TrainingWatch")


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
