"""A LangChain cross encoder (a reranker) as our `RewardModel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from langchain_core.cross_encoders import BaseCrossEncoder

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe, is_retryable
from rttc_graph.integrations.rewards.reward_checks import checked_rewards, reward_fingerprint
from rttc_graph.protocols import RewardModel
from rttc_graph.state import Candidate
from rttc_graph.support.identity import clean
from rttc_graph.support.logistic import sigmoid

Activation = Literal["sigmoid", "identity"]
"""`sigmoid` for raw scores, `identity` for an encoder that returns [0, 1] itself."""


class CrossEncoderReward(RewardModel):
    """Scores (query, answer) pairs with a cross encoder, in a thread of its own.

    Most cross encoders were trained on relevance: they tell whether the answer belongs to the
    question, less whether it is right. How long inputs are cut is the encoder's own affair.

    Args:
        cross_encoder: The encoder; only ever called from one thread.
        activation: What makes its scores rewards. It is not guessed from the scores: raw scores
            of a few answers may well lie between 0 and 1.
        name: For people and for calibrations; the class of the encoder by default.
        batch_size: Pairs in one call at most.
    """

    def __init__(
        self,
        cross_encoder: BaseCrossEncoder,
        *,
        activation: Activation = "sigmoid",
        name: str | None = None,
        batch_size: int = 16,
    ) -> None:
        if activation not in ("sigmoid", "identity"):
            raise ConfigurationError(
                f"activation={activation!r}: use 'sigmoid' for raw scores, 'identity' for [0, 1]"
            )
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {batch_size!r}")
        self._name = name or type(cross_encoder).__name__
        self._made_from = (type(cross_encoder).__qualname__, activation)
        self._queue = BatchQueue(
            _scorer(cross_encoder, activation, self._name),
            name=f"rttc-reward-{self._name}",
            batch_size=batch_size,
        )

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of name, class and activation.

        LangChain's interface shows no weights: give another `name` with other weights.
        """
        return reward_fingerprint(self._name, *self._made_from)

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the squashed score of each candidate, in order.

        Raises:
            RewardModelError: The encoder failed, or with `identity` returned something outside
                [0, 1].
        """
        query = clean(query)
        pairs = [(query, clean(candidate["answer"])) for candidate in candidates]
        return await self._queue.submit(pairs)


def _scorer(
    cross_encoder: BaseCrossEncoder, activation: Activation, name: str
) -> Callable[[list[tuple[str, str]]], list[float]]:
    def scores(pairs: list[tuple[str, str]]) -> list[float]:
        try:
            raw = [float(score) for score in cross_encoder.score(pairs)]
        except Exception as exc:  # the encoder is the user's and may raise anything
            raise RewardModelError(
                f"cross encoder {name!r} could not score {len(pairs)} pairs: {describe(exc)}",
                retryable=is_retryable(exc),
            ) from exc
        rewards = [sigmoid(value) for value in raw] if activation == "sigmoid" else raw
        return checked_rewards(rewards, expected=len(pairs), source=name)

    return scores
