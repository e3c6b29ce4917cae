"""Any function of query and answer as our `RewardModel`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.rewards.reward_checks import checked_rewards, reward_fingerprint
from rttc_graph.protocols import RewardModel
from rttc_graph.state import Candidate

ScoreFunction = Callable[[str, str], float] | Callable[[str, str], Awaitable[float]]
"""Query and answer to a reward in [0, 1]."""


class CallableReward(RewardModel):
    """Scores with a function of the caller's, such as a unit test or a format check.

    A synchronous function runs in a thread of its own, one call at a time, so it may block and
    need not be thread-safe. An asynchronous one runs on the caller's event loop, one candidate
    after the other, and must not block.

    Args:
        function: Query and answer to a reward in [0, 1].
        name: For people and for calibrations; the function's own name by default.
    """

    def __init__(self, function: ScoreFunction, name: str | None = None) -> None:
        self._function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))
        self._queue = BatchQueue(
            _one_by_one(function), name=f"rttc-reward-{self._name}", batch_size=1
        )

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of the function's name and code.

        What the function reads elsewhere is not seen: give it another `name` when that changes.
        """
        function = inspect.unwrap(self._function)
        code = getattr(function, "__code__", None)
        return reward_fingerprint(
            self._name,
            getattr(function, "__module__", None),
            getattr(function, "__qualname__", type(function).__qualname__),
            code.co_code.hex() if code is not None else None,
            [c for c in code.co_consts if not inspect.iscode(c)] if code is not None else None,
        )

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return what the function says about each candidate, in order.

        Raises:
            RewardModelError: The function raised, or returned no number in [0, 1].
        """
        try:
            scores = await self._scores([(query, candidate["answer"]) for candidate in candidates])
        except Exception as exc:  # the function is the user's and may raise anything
            raise RewardModelError(
                f"reward function {self._name!r} raised {type(exc).__name__}: {exc}"
            ) from exc
        return checked_rewards(scores, expected=len(candidates), source=self._name)

    async def _scores(self, pairs: list[tuple[str, str]]) -> list[object]:
        if not _is_async(self._function):
            return await self._queue.submit(pairs)
        function = cast(Callable[[str, str], Awaitable[object]], self._function)
        return [await function(query, answer) for query, answer in pairs]


def _one_by_one(function: ScoreFunction) -> Callable[[list[tuple[str, str]]], list[object]]:
    def scores(pairs: list[tuple[str, str]]) -> list[object]:
        return [function(query, answer) for query, answer in pairs]

    return scores


def _is_async(function: ScoreFunction) -> bool:
    """Tell whether calling it gives an awaitable; an object may have an asynchronous `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - looked at, not asked for
    )
