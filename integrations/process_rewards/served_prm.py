"""A process reward model behind HTTP: vLLM's pooling route, with a pair of numbers a step.

The server has the tokenizer and its chat template, so texts are sent, with the model's mark behind
each step. vLLM pools at these marks (`STEP`) and answers a pair for each of them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.process_rewards.step_texts import (
    QWEN_SYSTEM,
    qwen_answer,
    shepherd_text,
)
from rttc_graph.integrations.remote.json_posts import JsonPosts
from rttc_graph.integrations.rewards.reward_checks import reward_fingerprint
from rttc_graph.integrations.rewards.reward_settings import ServedPrmKind, ServedPrmSettings
from rttc_graph.protocols import BegunAnswer, ProcessRewardModel, StepScores
from rttc_graph.support.identity import clean


class ServedPrm(ProcessRewardModel):
    """Scores steps with a process reward model that vLLM serves.

    Args:
        url: Address of the server, for example `http://localhost:8000`, without the route.
        settings: How it is called.
        name: For people; the served model's, else the address, by default.

    Raises:
        ConfigurationError: Not a URL.
    """

    def __init__(
        self, url: str, *, settings: ServedPrmSettings | None = None, name: str | None = None
    ) -> None:
        self._settings = settings or ServedPrmSettings()
        self._url = url.rstrip("/").removesuffix("/v1")
        self._name = name or self._settings.model or self._url
        self._posts = JsonPosts(f"{self._url}/pooling", self._settings)
        self._finalizer = weakref.finalize(self, self._posts.close)
        caller = _Caller(self._posts, self._settings)
        self._queue: BatchQueue[tuple[str, tuple[str, ...]], list[float]] = BatchQueue(
            caller.of_each,
            name=f"rttc-prm-{self._name}",
            batch_size=1,
            coalesce=False,
            threads=self._settings.concurrency,
        )

    @property
    def name(self) -> str:
        """Name for people."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of address, model and kind.

        What the server loads under that name cannot be seen: give a new version a new name.
        """
        return reward_fingerprint(self._url, self._settings.model, self._settings.kind)

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        """Return the probability of good against bad that the model gives behind each step.

        Raises:
            RewardModelError: The server cannot be reached, refused the call, or answered something
                else than a pair for each step.
        """
        asked = [(clean(query), tuple(map(clean, answer.steps))) for answer in answers]
        found = await self._queue.submit(asked)
        return [tuple(shares[one.known :]) for shares, one in zip(found, answers, strict=True)]


class _Caller:
    """What makes the calls; lives in the threads of a queue."""

    def __init__(self, posts: JsonPosts, settings: ServedPrmSettings) -> None:
        self._posts = posts
        self._form = _FORMS[settings.kind]
        self._named = {} if settings.model is None else {"model": settings.model}

    def of_each(self, asked: list[tuple[str, tuple[str, ...]]]) -> list[list[float]]:
        """Return the probabilities of the steps of each answer."""
        return [self._shares(query, steps) for query, steps in asked]

    def _shares(self, query: str, steps: Sequence[str]) -> list[float]:
        answer = self._posts.answer({**self._form.body(query, steps), **self._named})
        try:
            (row,) = answer["data"]
            pairs = cast("list[Any]", row["data"])
            shares = [_share(pair, self._form.good) for pair in pairs]
        except (KeyError, TypeError, ValueError) as exc:
            raise RewardModelError(
                f"{self._posts.url} gave no pair of numbers for each step but "
                f"{str(answer)[:200]}: is it a process reward model, pooled at its step ends?"
            ) from exc
        if len(shares) != len(steps):
            raise RewardModelError(
                f"{self._posts.url} gave {len(shares)} pairs for {len(steps)} steps: is the kind "
                "right, and does the server pool at the mark behind a step (step_tag_id)?"
            )
        return shares


def _share(pair: Any, good: int) -> float:
    """Return the probability of good; raw logits, which some releases send, are squashed."""
    first, second = (float(value) for value in pair)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(pair)
    chosen, other = (first, second) if good == 0 else (second, first)
    if min(pair) >= 0 and abs(first + second - 1) < 0.01:
        return min(1.0, max(0.0, chosen))
    return 1 / (1 + math.exp(min(700.0, other - chosen)))


@dataclass(frozen=True, slots=True)
class _Form:
    """What one kind of model is sent, and the place of good in a pair."""

    body: Callable[[str, Sequence[str]], dict[str, Any]]
    good: int


def _qwen_body(query: str, steps: Sequence[str]) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": query},
        {"role": "assistant", "content": qwen_answer(steps)},
    ]
    return {"messages": turns}


def _shepherd_body(query: str, steps: Sequence[str]) -> dict[str, Any]:
    return {"input": shepherd_text(query, steps)}


_FORMS: dict[ServedPrmKind, _Form] = {
    "qwen": _Form(_qwen_body, good=1),
    "math-shepherd": _Form(_shepherd_body, good=0),
}
