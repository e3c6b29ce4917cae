"""Tokens a second for 1, 4 and 16 direct asks at once, against one by one by LangChain's model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.cases.overhead import Canned
from benchmarks.peers.hf_chat import HfChat
from benchmarks.peers.libraries import named
from benchmarks.tools.benchmark_options import Setup, installed_engine
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.prompts import prompts
from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.testing import MemoryKnowledgeBase

AT_ONCE = (1, 4, 16)
PEER_ASKS = 2
"""Asked one by one in a measurement; its rate does not depend on how many wait."""


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield a case for each number of asks."""
    engine = installed_engine(setup)
    graph = create_rttc_graph(
        policy_model=TransformersPolicyModel(engine),
        reward_model=CallableReward(lambda query, answer: 1.0, name="one"),
        embedder=Canned(),
        knowledge_base=MemoryKnowledgeBase(),
    )
    settings = RttcSettings(policy="direct", max_new_tokens=setup.tokens)
    chat, questions = HfChat(setup.model, max_tokens=setup.tokens), prompts()
    try:
        yield [
            Case(
                name=f"{count} direct asks at once",
                ours=partial(_rate_of_graph, graph, settings, questions, count),
                peer=partial(_rate_of_chat, chat, questions, min(count, PEER_ASKS)),
                peer_name=named("langchain-huggingface", "ChatHuggingFace and pipeline, in turns"),
                unit="tokens/s",
                more_is_better=True,
                least_ratio=5 if count == AT_ONCE[-1] else None,
            )
            for count in AT_ONCE
        ]
    finally:
        engine.close()


def _rate_of_graph(
    graph: Any, settings: RttcSettings, questions: Iterator[str], count: int
) -> float:
    asked = list(islice(questions, count))

    async def work() -> list[dict[str, Any]]:
        asks = (graph.ainvoke({"query": question}, context=settings) for question in asked)
        return list(await asyncio.gather(*asks))

    began = time.perf_counter()
    outputs = asyncio.run(work())
    seconds = time.perf_counter() - began
    tokens = [int(output["candidates"][0]["completion_tokens"]) for output in outputs]
    return sum(tokens) / seconds


def _rate_of_chat(chat: HfChat, questions: Iterator[str], count: int) -> float:
    asked = list(islice(questions, count))
    began = time.perf_counter()
    answers = [chat.answer(question) for question in asked]
    seconds = time.perf_counter() - began
    return sum(chat.tokens(answer) for answer in answers) / seconds
