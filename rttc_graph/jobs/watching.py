"""Progress of a job, reported without knowing how it is shown."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from rttc_graph.support.progress import Advance


class Watcher(Protocol):
    """Shows the steps of a job: a terminal, a page, a log."""

    def step(self, what: str) -> AbstractContextManager[Advance]:
        """Return a step that lasts as long as the block; `what` is shown beside its progress."""
        ...

    def describe(self, text: str) -> None:
        """Show what the step in hand is doing now."""
        ...

    def tell(self, text: str) -> None:
        """Show a line that stays, such as the result of a step."""
        ...

    def warn(self, text: str) -> None:
        """Show a sentence that the user should read before believing the result."""
        ...
