"""Panels of 16: ours against its-hub and DSPy, by answers a second, what is right, and draws.

All ask one engine with weights of eight bits in this process, in turns question by question, each
with a part of the prompt cache of its own, and all are judged by the reward model that ships. So
what is compared is how the answers are asked for; its-hub over transformers' pipeline, which
answers one at a time in float32, is what its user has without a server.

Every answer is sampled at the same temperature, ours too, and ends by itself after a few tokens.
Seconds are those of the CPU, since everything computes on one thread and the machine may be shared.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.experiments.panel_curves import ORDER, SEED, word_problems
from benchmarks.peers.hf_chat import HfChat
from benchmarks.peers.libraries import named
from benchmarks.peers.panel_peers import (
    Ask,
    Say,
    dspy_best,
    its_hub_best,
    its_hub_beta,
    its_hub_votes,
)
from benchmarks.tools.benchmark_options import Setup, installed_engine, tell
from benchmarks.tools.paired_runs import Case, row_of
from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest, RewardModel, reward_requests
from rttc_graph.run.prompts import direct_messages
from rttc_graph.search.answer_votes import read_vote
from rttc_graph.state import Candidate
from rttc_graph.support.numbers import last_number

ANSWERS = 16
TEMPERATURE = 0.7
PIPELINE_QUESTIONS = 2
"""Asked through the pipeline, which takes ten times as long."""

LEAST_RATIO = 5.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one side made of one question."""

    draws: int
    """Answers begun."""
    is_right: bool
    seconds: float

    @property
    def rate(self) -> float:
        """Answers of the panel a second."""
        return self.draws / self.seconds


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[dict[str, Any]]]:
    """Yield a row of each figure against each peer."""
    sides = _Sides(setup)
    try:
        yield sides.rows()
    finally:
        sides.close()


def shipped_judge(setup: Setup) -> RewardModel:
    """Return the reward model that ships, on the embedder of the installation."""

    async def no_policy() -> str:
        raise NotImplementedError("it does not judge by the policy model")

    return open_reward_model(InstallationConfig(home=setup.home), None, no_policy)


class _Sides:
    """Ours and the peers', over one engine and one judge."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._engine = installed_engine(setup, dtype="int8")
        self._policy = TransformersPolicyModel(self._engine)
        self._judge = shipped_judge(setup)
        self._graph = create_rttc_graph(policy_model=self._policy, reward_model=self._judge)
        self._begun = 0
        self._seeds = itertools.count()
        self._figures = 0
        """Figures so far; the prompt cache of each begins empty."""
        made = word_problems(10 * setup.questions, SEED)
        self._questions = [
            (question + ORDER, answer) for question, answer in islice(made, setup.questions)
        ]

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, peer by peer."""
        vote = partial(read_vote, finish_reason="stop")
        for name, make in (("its_hub", its_hub_best), ("dspy", dspy_best)):
            ask = make(self._say, self._score, ANSWERS)
            yield from self._against("best_of_n", ask, named(name, "BestOfN, same engine"))
        ask = its_hub_votes(self._say, vote, ANSWERS)
        peer_name = named("its_hub", "SelfConsistency, same engine")
        yield from self._against("majority", ask, peer_name)
        for one_at_a_time in (False, True):
            ask = its_hub_beta(self._say, vote, ANSWERS, one_at_a_time=one_at_a_time)
            how = "one at a time" if one_at_a_time else "all at once"
            peer_name = named("its_hub", f"BetaSelfConsistency, {how}")
            yield from self._against("adaptive", ask, peer_name)
        ask = its_hub_best(self._piped(), self._score, ANSWERS)
        peer_name = named("its_hub", "BestOfN over pipeline, float32")
        yield from self._against("best_of_n", ask, peer_name, most=PIPELINE_QUESTIONS)

    def _against(
        self, policy: str, ask: Ask, peer_name: str, *, most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of one policy against one peer."""
        self._figures += 1
        tell(f"panels: {policy} against {peer_name}")
        warm, *asked = [("How many legs has a cat?", "4"), *self._questions[:most]]
        self._ours(policy, *warm)
        self._theirs(ask, *warm)
        found: list[tuple[_Asked, _Asked]] = []
        for number, one in enumerate(asked):
            if number % 2:
                theirs, ours = self._theirs(ask, *one), self._ours(policy, *one)
            else:
                ours, theirs = self._ours(policy, *one), self._theirs(ask, *one)
            found.append((ours, theirs))
        settles = policy != "adaptive"  # else both stop early, each when it likes
        yield row_of(
            Case(
                name=f"{policy} of {ANSWERS}" if settles else f"{policy}, questions",
                ours=_never,
                peer=_never,
                peer_name=peer_name,
                unit="answers/s" if settles else "1/s",
                more_is_better=True,
                least_ratio=LEAST_RATIO if policy == "best_of_n" else None,
            ),
            [
                (ours.rate, theirs.rate) if settles else (1 / ours.seconds, 1 / theirs.seconds)
                for ours, theirs in found
            ],
        )
        yield _mean_row(f"{policy}, right", found, peer_name, "share", lambda one: one.is_right)
        if not settles:
            yield _mean_row(f"{policy}, answers begun", found, peer_name, "", lambda one: one.draws)

    def _ours(self, policy: str, question: str, answer: str) -> _Asked:
        settings = RttcSettings(
            policy=policy,
            search_n=ANSWERS,
            search_from=("direct",),
            temperature=TEMPERATURE,
            search_temperature=TEMPERATURE,
            max_new_tokens=self._setup.tokens,
            budget_seconds=3_600,
            budget_tokens=1_000_000,
            tenant=f"ours {self._figures}",
        )
        began = time.process_time()
        output = asyncio.run(self._graph.ainvoke({"query": question}, context=settings))
        seconds = time.process_time() - began
        (stopped,) = (one for one in output["ledger"] if one["event"] == "stopped")
        draws = sum(stopped["detail"]["draws"].values())
        is_right = _is_right(output["answer"], answer)
        return _Asked(draws=draws, is_right=is_right, seconds=seconds)

    def _theirs(self, ask: Ask, question: str, answer: str) -> _Asked:
        self._begun = 0
        began = time.process_time()
        made = ask(question)
        seconds = time.process_time() - began
        return _Asked(draws=self._begun, is_right=_is_right(made.kept, answer), seconds=seconds)

    async def _say(self, question: str) -> str:
        """Return an answer of the engine, for a peer."""
        self._begun += 1
        (found,) = await self._policy.generate(
            [
                GenerationRequest(
                    messages=direct_messages(question),
                    max_new_tokens=self._setup.tokens,
                    temperature=TEMPERATURE,
                    seed=next(self._seeds),
                    reuse_scope=f"peer {self._figures}",
                )
            ]
        )
        return found.text

    def _piped(self) -> Say:
        chat = HfChat(self._setup.model, max_tokens=self._setup.tokens, temperature=TEMPERATURE)

        async def say(question: str) -> str:
            self._begun += 1
            return chat.answer(question)

        return say

    async def _score(self, question: str, answer: str) -> float:
        """Return the judge's reward, for a peer."""
        (found,) = await self._judge.score(question, reward_requests([_candidate(answer)]))
        return found


def _candidate(answer: str) -> Candidate:
    return {
        "arm": "direct",
        "answer": answer,
        "reward": None,
        "seconds": 0.0,
        "prompt_tokens": 0,
        "completion_tokens": 1,
        "trained_tokens": 0,
        "mean_logprob": None,
        "finish_reason": "stop",
        "adapter": None,
    }


def _is_right(said: str, answer: str) -> bool:
    return last_number(said) == last_number(answer)


def _never() -> float:
    raise NotImplementedError("measured question by question")


def _mean_row(
    name: str,
    found: Sequence[tuple[_Asked, _Asked]],
    peer_name: str,
    unit: str,
    value: Callable[[_Asked], float],
) -> dict[str, Any]:
    """Return the row of two means; of answers begun, ours should be no more than the peer's."""
    ours, theirs = (statistics.fmean(value(pair[side]) for pair in found) for side in (0, 1))
    counts = unit != "share"
    better = theirs / ours if counts else (ours / theirs if theirs else 1.0)
    return {
        "case": name,
        "ours": ours,
        "peer": theirs,
        "peer_name": peer_name,
        "unit": unit or "answers",
        "ratio": better,
        "spread": [better, better],
        "target": "no more answers" if counts else "",
        "met": not counts or ours <= theirs,
    }
