"""The answer's own likelihood as its reward: free, and weak."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.rewards.checks import checked_rewards
from rttc_graph.state import Candidate


class SelfConfidence:
    """Scores an answer by how likely its model found it: `exp(mean log-probability per token)`.

    It costs nothing, because the log-probabilities come with the answer, and it is the stand-in
    for when there is no reward model. Know what it is not:

    - It is confidence, not correctness. A model that is wrong in a fluent way scores high.
    - Scores are comparable for one model at one temperature only. A longer answer and a more
      talkative model score otherwise for reasons that have nothing to do with being right.
    - An adapter that was trained hard is confident in anything, and samples in the prompt make
      the model confident in their form: comparing arms by it favours the arm that saw most.
    """

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return "self-confidence"

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the confidence of each candidate, in order; 0 for an empty answer.

        Raises:
            RewardModelError: A candidate has no log-probabilities.
        """
        scores = [_confidence(candidate) for candidate in candidates]
        return checked_rewards(scores, expected=len(candidates), source=self.name)


def _confidence(candidate: Candidate) -> float:
    if not candidate["answer"].strip():
        return 0.0
    mean_logprob = candidate["mean_logprob"]
    if mean_logprob is None:
        raise RewardModelError(
            f"the {candidate['arm']!r} candidate has no log-probabilities, so it has no "
            "self-confidence: switch them on in the policy model (logprobs=True), or use another "
            "reward model: SequenceClassifierReward, CrossEncoderReward, ChatJudge, CallableReward"
        )
    return math.exp(min(mean_logprob, 0.0))
