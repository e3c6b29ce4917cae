"""The best of n answers by a reward: one batch of ours against its-hub and DSPy.

All sample at temperature 1, which DSPy's BestOfN insists on, from the same weights with the same
prompt, and judge by the same function. The peers reach the model through transformers' pipeline:
their algorithms ask for one answer a call, and a pipeline in this process answers one at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.peers.hf_chat import HfChat
from benchmarks.peers.libraries import named
from benchmarks.peers.panel_peers import Ask, dspy_best, its_hub_best
from benchmarks.tools.benchmark_options import Setup, installed_engine
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.prompts import prompts
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest
from rttc_graph.run.prompts import direct_messages

ANSWERS = 8


def reward(answer: str) -> float:
    """Return the share of different words, which costs nothing to compute."""
    words = answer.lower().split()
    return len(set(words)) / len(words) if words else 0.0


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield a case for each peer: tokens a second of all answers, judging included."""
    engine = installed_engine(setup)
    policy = TransformersPolicyModel(engine)
    chat = HfChat(setup.model, max_tokens=setup.tokens, temperature=1.0)
    questions, seeds = prompts(), itertools.count(0, ANSWERS)

    async def say(question: str) -> str:
        return chat.answer(question)

    async def judge(question: str, answer: str) -> float:
        del question
        return reward(answer)

    try:
        yield [
            Case(
                name=f"best of {ANSWERS}",
                ours=lambda: _ours(policy, next(questions), next(seeds), setup.tokens),
                peer=partial(_rate_of_next, chat, make(say, judge, ANSWERS), questions),
                peer_name=name,
                unit="tokens/s",
                more_is_better=True,
            )
            for name, make in (
                (named("its_hub", "BestOfN over pipeline"), its_hub_best),
                (named("dspy", "BestOfN over pipeline"), dspy_best),
            )
        ]
    finally:
        engine.close()


def _ours(policy: TransformersPolicyModel, question: str, seed: int, tokens: int) -> float:
    requests = [
        GenerationRequest(
            messages=direct_messages(question),
            max_new_tokens=tokens,
            temperature=1.0,
            seed=seed + number,
        )
        for number in range(ANSWERS)
    ]
    began = time.perf_counter()
    answers = asyncio.run(policy.generate(requests))
    max(answers, key=lambda answer: reward(answer.text))
    seconds = time.perf_counter() - began
    return sum(answer.completion_tokens for answer in answers) / seconds


def _rate_of_next(chat: HfChat, ask: Ask, questions: Iterator[str]) -> float:
    question = next(questions)
    began = time.perf_counter()
    answers = ask(question).answers
    seconds = time.perf_counter() - began
    if len(answers) != ANSWERS:
        raise AssertionError(f"{len(answers)} answers instead of {ANSWERS}")
    return sum(chat.tokens(answer) for answer in answers) / seconds
