"""`nearest`: the nearest samples answer; no model is asked and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rttc_graph.errors import ConfigurationError
from rttc_graph.run.answering import AnswerUpdate, answered, failed_answer
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.budget import NOTHING_SPENT, added
from rttc_graph.run.prompts import solved
from rttc_graph.run.scope import RunScope
from rttc_graph.state import Candidate, RttcState, Sample
from rttc_graph.support.canonical import VOTE_SHARPNESS, canonical, vote_shares
from rttc_graph.support.thinking import answer_behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Answers with what the nearest solved questions say."""

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        """Add a candidate of arm `nearest`."""
        made = await survive(_vote(state, scope), deadline=scope.deadline)
        if isinstance(made, Failure):
            return failed_answer(made, state, scope, node="nearest", attempt="nearest")
        candidate: Candidate = {
            "arm": "nearest",
            "answer": _until(answer_behind(made.sample["answer"]), scope.settings.stop_strings),
            "reward": None,
            "seconds": added(NOTHING_SPENT, since=scope.started)["seconds"],
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "trained_tokens": 0,
            "flops": 0.0,
            "mean_logprob": None,
            "finish_reason": "stop",
            "adapter": None,
            "rests_on": [made.sample["id"]],
        }
        return answered(
            candidate,
            state,
            scope,
            node="nearest",
            attempt="nearest",
            sample=made.sample["id"],
            similarity=made.sample["similarity"],
            share=made.share,
        )


async def _vote(state: RttcState, scope: RunScope) -> Vote:
    return vote(state["samples"], voters=scope.settings.nearest_votes)


def _until(text: str, stop_strings: Sequence[str]) -> str:
    """Return a text up to the first of the strings, as a model's answer ends before it."""
    ends = [at for at in map(text.find, stop_strings) if at >= 0]
    return text[: min(ends)] if ends else text


class Vote(NamedTuple):
    """The outcome of a vote."""

    sample: Sample
    """The nearest of those whose answer won."""
    share: float
    """Weight of the votes for that answer, of all votes; 1 where all agree."""


def vote(samples: Sequence[Sample], *, voters: int, sharpness: float = VOTE_SHARPNESS) -> Vote:
    """Return what most of the nearest samples say.

    Answers are counted in one form (`canonical`), each with the weight
    `exp(sharpness * (similarity - highest similarity))`; of equals the nearest wins.

    Args:
        samples: At least one of them a solved question.
        voters: How many of the nearest vote; 1 takes the nearest sample's answer.
        sharpness: 0 gives every voter the same weight.

    Raises:
        ConfigurationError: There is no solved question, or `voters` is below 1.
    """
    if voters < 1:
        raise ConfigurationError(f"voters={voters!r} must be at least 1")
    nearest = sorted(solved(samples), key=lambda sample: -sample["similarity"])[:voters]
    if not nearest:
        raise ConfigurationError("no sample is a solved question: there is no answer to take")
    said = [answer_behind(sample["answer"]) for sample in nearest]
    shares = vote_shares(
        [(answer, sample["similarity"]) for answer, sample in zip(said, nearest, strict=True)],
        sharpness=sharpness,
    )
    won = max(shares, key=shares.__getitem__)
    place = [canonical(answer) for answer in said].index(won)
    return Vote(nearest[place], shares[won])
