"""The answer's own likelihood as its reward: free, and weak."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from rttc_graph.arms import ARMS
from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.rewards.reward_checks import checked_rewards, reward_fingerprint
from rttc_graph.protocols import RewardModel, note_work
from rttc_graph.state import Candidate


class SelfConfidence(RewardModel):
    """Scores an answer by how likely its model found it: `exp(mean log-probability per token)`.

    It costs nothing, because the log-probabilities come with the answer, and it is the stand-in
    for when there is no reward model. Know what it is not:

    - It is confidence, not correctness. A model that is wrong in a fluent way scores high.
    - Scores are comparable for one model at one temperature only. Length matters too: an end token
      that is nearly certain lifts a one-word answer more than a long one.
    - An adapter that was trained hard is confident in anything, and samples in the prompt make
      the model confident in their form: comparing arms by it favours the arm that saw most.

    Measured with SmolLM2-135M-Instruct, greedy (`benchmarks/experiments/self_confidence.py`):
    where the answer is one of many labels that the samples show (banking77, clinc150; 60 questions
    each), a right answer scored above a wrong one in 93 and 92 of 100 pairs of answers with
    samples, and answers
    with samples accepted from 0.85 on were right in 96 and 97 of 100. Those sets have no right
    plain answer, so nothing is known there about right against wrong without samples. On pubmedqa,
    yes or no, it told nothing apart: 54 of 100, though of 16 answers only.

    Args:
        policy_fingerprint: Returns a digest of the model that answers, whose confidence this is;
            without it the scores of all models count as one reward model's.
    """

    def __init__(self, policy_fingerprint: Callable[[], Awaitable[str]] | None = None) -> None:
        self._policy_fingerprint = policy_fingerprint

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return "self-confidence"

    async def fingerprint(self) -> str:
        """Return a digest of the model whose confidence this is, as far as it is known."""
        whose = await self._policy_fingerprint() if self._policy_fingerprint else None
        return reward_fingerprint(self.name, whose)

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the confidence of each candidate, in order.

        An empty answer has none, and neither has one that no model wrote, such as that of the
        nearest sample: both get 0.

        Raises:
            RewardModelError: A candidate has no log-probabilities.
        """
        scores = [_confidence(candidate) for candidate in candidates]
        note_work(0, 0.0)
        return checked_rewards(scores, expected=len(candidates), source=self.name)


def _is_from_model(candidate: Candidate) -> bool:
    arm = ARMS.get(candidate["arm"])
    return arm is None or arm.own.asks_model


def _confidence(candidate: Candidate) -> float:
    if not candidate["answer"].strip():
        return 0.0
    mean_logprob = candidate["mean_logprob"]
    if mean_logprob is None and not _is_from_model(candidate):
        return 0.0
    if mean_logprob is None:
        raise RewardModelError(
            f"the {candidate['arm']!r} candidate has no log-probabilities, so it has no "
            "self-confidence: switch them on in the policy model (logprobs=True), or use another "
            "reward model: SequenceClassifierReward, CrossEncoderReward, ChatJudge, CallableReward"
        )
    return math.exp(min(mean_logprob, 0.0))
