"""The τr rule: which candidate is the best one, and whether it is accepted."""

from __future__ import annotations

from rttc_graph.arms import ARMS
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate, RttcState
from rttc_graph.support.refusals import is_refusal


def is_accepted(reward: float | None, tau_r: float) -> bool:
    """Tell whether an answer is accepted: the τr rule, a reward of at least τr."""
    return reward is not None and reward >= tau_r


def best_candidate(candidates: list[Candidate]) -> Candidate | None:
    """Return the candidate with the highest reward; of equals the earliest, which is the cheapest.

    An unjudged one counts below every judged one: it wins only when nothing was judged. A model's
    "I do not know" counts below every answer that was made from samples.
    """
    judged = [c for c in candidates if c["reward"] is not None]
    if not judged:
        return candidates[0] if candidates else None
    if any(map(is_grounded, judged)):
        judged = [c for c in judged if not is_unanswered(c)]
    return max(judged, key=lambda c: c["reward"] or 0.0)


def is_unanswered(candidate: Candidate) -> bool:
    """Tell whether the model said that it does not know.

    What no model wrote, such as a sample's own answer, is the answer whatever it says.
    """
    return candidate["completion_tokens"] > 0 and is_refusal(candidate["answer"])


def is_grounded(candidate: Candidate) -> bool:
    """Tell whether an answer was made from samples and says something."""
    from_samples = ARMS[candidate["arm"]].retrieves or bool(candidate.get("rests_on"))
    return from_samples and not is_unanswered(candidate)


def has_near_sample(state: RttcState, settings: RttcSettings) -> bool:
    """Tell whether a sample is near enough, where the settings ask for one; before `retrieve`, yes.

    `retrieve` leaves no samples where none is near enough.
    """
    found = bool(state.get("samples")) or not state.get("retrieved", False)
    return found or settings.min_similarity == 0


def can_be_accepted(best: Candidate, state: RttcState, settings: RttcSettings) -> bool:
    """Tell whether a high reward would make an answer one to act on.

    It must be an answer, and a sample must be near enough to the question.
    """
    return not is_unanswered(best) and has_near_sample(state, settings)


def is_answer_accepted(best: Candidate, state: RttcState, settings: RttcSettings) -> bool:
    """Tell whether an answer can be acted on: it can be accepted, and its reward is at least τr."""
    return is_accepted(best["reward"], settings.tau_r) and can_be_accepted(best, state, settings)
