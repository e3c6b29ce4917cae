"""A reward model behind HTTP as our `RewardModel`: vLLM's classify and score, TEI's predict.

The server writes the prompt (its model's chat template, or the pair) and runs the model. Calls are
made in threads of our own, so nothing blocks an event loop and no client is bound to one.
"""

from __future__ import annotations

import hashlib
import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.remote.json_posts import JsonPosts
from rttc_graph.integrations.rewards.reward_checks import checked_rewards
from rttc_graph.integrations.rewards.reward_settings import Route as Route
from rttc_graph.integrations.rewards.reward_settings import ServedSettings as ServedSettings
from rttc_graph.integrations.rewards.shorten import keep_ends
from rttc_graph.protocols import RewardModel, RewardRequest
from rttc_graph.state import Sample
from rttc_graph.support.identity import clean
from rttc_graph.support.logistic import sigmoid

Pair = tuple[str, str]


class ServedReward(RewardModel):
    """Scores answers with a reward model that a server holds.

    Args:
        url: Address of the server, for example `http://localhost:8000`; the route is added to it.
        settings: How it is called.
        name: For people and for calibrations; the served model's, else the URL, by default.

    Raises:
        ConfigurationError: Not a URL.
    """

    def __init__(
        self, url: str, *, settings: ServedSettings | None = None, name: str | None = None
    ) -> None:
        self._settings = settings or ServedSettings()
        self._url = f"{url.rstrip('/')}/{self._settings.route}"
        self._name = name or self._settings.model or url.rstrip("/")
        posts = JsonPosts(self._url, self._settings)
        self._finalizer = weakref.finalize(self, posts.close)
        caller = _Caller(posts, self._settings)
        self._queue = BatchQueue(
            caller.scores,
            name=f"rttc-reward-{self._name}",
            batch_size=1 if self._settings.route == "classify" else self._settings.batch_size,
            coalesce=False,
            threads=self._settings.concurrency,
        )

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of address, route, model, activation and the samples shown.

        What the server loads under that name cannot be seen: give a new version a new name.
        """
        known = [self._url, self._settings.model, self._settings.activation]
        if self.sees_evidence:
            known.append(f"{self._settings.most_samples} samples")
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]

    @property
    def sees_evidence(self) -> bool:
        """Whether the samples are in the prompt that is judged."""
        return self._settings.route == "classify" and self._settings.most_samples > 0

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        """Return the server's score of each candidate, in order.

        Raises:
            RewardModelError: The server cannot be reached, refused the call, or answered something
                that is no score.
        """
        limit = self._settings.max_characters
        asked = [self._asked(query, c.get("samples", ()))[-limit:] for c in candidates]
        said = [keep_ends(clean(c["answer"]), limit) for c in candidates]
        scores = await self._queue.submit(list(zip(asked, said, strict=True)))
        return checked_rewards(scores, expected=len(candidates), source=self._name)

    def _asked(self, query: str, samples: Sequence[Sample]) -> str:
        """Return the question, behind the samples where the judge sees them."""
        if not self.sees_evidence or not samples:
            return clean(query)
        nearest = samples[: self._settings.most_samples]
        room = self._settings.max_characters // (4 * len(nearest))
        shown = [
            f"Question: {keep_ends(clean(sample['question']), room)}\n"
            f"Answer: {keep_ends(clean(sample['answer']), room)}"
            for sample in nearest
        ]
        return "\n\n".join(["Solved examples:", *shown, "Now the question:", clean(query)])


class _Caller:
    """What makes the calls; lives in the lane's threads, which share its connections."""

    def __init__(self, posts: JsonPosts, settings: ServedSettings) -> None:
        self._posts = posts
        self._settings = settings
        self._route = _ROUTES[settings.route]

    def scores(self, pairs: list[Pair]) -> list[float]:
        """Return the scores of the pairs, in order."""
        body = self._route.body(pairs)
        if self._settings.model is not None:
            body["model"] = self._settings.model
        answer = self._posts.answer(body)
        try:
            raw = self._route.scores(answer, len(pairs))
        except (KeyError, TypeError, IndexError, ValueError) as exc:
            shown = json.dumps(answer)[:200]
            raise RewardModelError(
                f"{self._posts.url} gave no score for each of {len(pairs)} answers but {shown}: "
                "is it a model with one output, and the right route?"
            ) from exc
        return [sigmoid(x) for x in raw] if self._settings.activation == "sigmoid" else raw


@dataclass(frozen=True, slots=True)
class _Form:
    """Request and response format of one route."""

    body: Callable[[Sequence[Pair]], dict[str, Any]]
    scores: Callable[[Any, int], list[float]]


def _classify_body(pairs: Sequence[Pair]) -> dict[str, Any]:
    ((question, answer),) = pairs
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def _classify_scores(answer: Any, count: int) -> list[float]:
    return [_number(_only(row["probs"])) for row in _in_order(answer["data"], count)]


def _score_body(pairs: Sequence[Pair]) -> dict[str, Any]:
    return {"text_1": [q for q, _ in pairs], "text_2": [a for _, a in pairs]}


def _score_scores(answer: Any, count: int) -> list[float]:
    return [_number(row["score"]) for row in _in_order(answer["data"], count)]


def _predict_body(pairs: Sequence[Pair]) -> dict[str, Any]:
    inputs = [list(pair) for pair in pairs]
    return {"inputs": inputs, "truncate": True, "truncation_direction": "left"}


def _predict_scores(answer: Any, count: int) -> list[float]:
    rows = cast("list[Any]", answer)
    if len(rows) != count:
        raise ValueError(len(rows))
    return [_number(_only(row)["score"]) for row in rows]


def _in_order(rows: Any, count: int) -> list[Any]:
    """Return the rows by their index: a server may answer in the order in which it was done."""
    ordered = sorted(cast("list[Any]", rows), key=lambda row: int(row["index"]))
    if [int(row["index"]) for row in ordered] != list(range(count)):
        raise ValueError(len(ordered))
    return ordered


def _number(value: Any) -> float:
    """Return a score as it was sent; booleans, texts and infinite numbers are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(type(value).__name__)
    return float(value)


def _only(values: Any) -> Any:
    """Return the one value of a list; a model with more outputs is no reward model."""
    (value,) = values
    return value


_ROUTES: dict[Route, _Form] = {
    "classify": _Form(_classify_body, _classify_scores),
    "score": _Form(_score_body, _score_scores),
    "predict": _Form(_predict_body, _predict_scores),
}
