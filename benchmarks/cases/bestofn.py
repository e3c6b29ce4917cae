"""The best of n answers by a reward: one batch of ours against its-hub and DSPy.

All sample at temperature 1, which DSPy's BestOfN insists on, from the same weights with the same
prompt, and judge by the same function. The peers reach the model through transformers' pipeline:
their algorithms ask for one answer a call, and a pipeline in this process answers one at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.peers.hf_chat import HfChat
from benchmarks.peers.libraries import named, peer
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
    try:
        yield [
            Case(
                name=f"best of {ANSWERS}",
                ours=lambda: _ours(policy, next(questions), next(seeds), setup.tokens),
                peer=partial(_rate_of_next, chat, best, questions),
                peer_name=name,
                unit="tokens/s",
                more_is_better=True,
            )
            for name, best in (
                (named("its_hub", "BestOfN over pipeline"), _its_hub(chat)),
                (named("dspy", "BestOfN over pipeline"), _dspy(chat)),
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


Best = Callable[[str], list[str]]
"""A question to all answers that were judged."""


def _rate_of_next(chat: HfChat, best: Best, questions: Iterator[str]) -> float:
    return _rate(chat, best, next(questions))


def _rate(chat: HfChat, best: Best, question: str) -> float:
    began = time.perf_counter()
    answers = best(question)
    seconds = time.perf_counter() - began
    if len(answers) != ANSWERS:
        raise AssertionError(f"{len(answers)} answers instead of {ANSWERS}")
    return sum(chat.tokens(answer) for answer in answers) / seconds


def _its_hub(chat: HfChat) -> Best:
    library, api = peer("its_hub"), peer("its_hub.api")

    class Model(api.AbstractLanguageModel):  # type: ignore[misc,name-defined]
        """The model in its hub's words."""

        async def agenerate(self, messages: Any, stop: Any = None, **more: Any) -> Any:
            raise NotImplementedError

        async def agenerate_single(self, messages: Any, stop: Any = None, **more: Any) -> Any:
            del stop, more
            answer = chat.answer(messages[-1].content)
            return {"role": "assistant", "content": answer}

    class Reward(api.AbstractOutcomeRewardModel):  # type: ignore[misc,name-defined]
        """The reward in its hub's words."""

        def score(self, messages: Any, **more: Any) -> list[float]:
            return [reward(talk[-1].content) for talk in messages]

        async def ascore(self, messages: Any, orchestrator: Any = None, **more: Any) -> Any:
            return self.score(messages)

    algorithm = library.BestOfN(Reward())

    def best(question: str) -> list[str]:
        work = algorithm.ainfer(Model(), question, ANSWERS, return_response_only=False)
        return [response["content"] for response in asyncio.run(work).responses]

    return best


def _dspy(chat: HfChat) -> Best:
    dspy = peer("dspy")
    answers: list[str] = []

    class Model(dspy.BaseLM):  # type: ignore[misc,name-defined]
        """The model in DSPy's words."""

        def forward(self, prompt: Any = None, messages: Any = None, **more: Any) -> Any:
            del prompt, more
            answers.append(chat.answer(messages[-1]["content"]))
            choice = SimpleNamespace(message=SimpleNamespace(content=answers[-1]))
            return SimpleNamespace(choices=[choice], usage={}, model="local")

    class Plain(dspy.Adapter):  # type: ignore[misc,name-defined]
        """The question as it is: DSPy's own forms of prompt are longer, and too hard here."""

        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            return [{"role": "user", "content": inputs["question"]}]

        def parse(self, signature: Any, completion: str) -> dict[str, str]:
            return {"answer": completion}

    def judged(arguments: Any, prediction: Any) -> float:
        return reward(prediction.answer)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its new kind of model is for servers
        model = Model("local", cache=False)
        module = dspy.Predict("question -> answer")
        module.set_lm(model)
        algorithm = dspy.BestOfN(module, N=ANSWERS, reward_fn=judged, threshold=2.0)

    def best(question: str) -> list[str]:
        answers.clear()
        with warnings.catch_warnings(), dspy.context(adapter=Plain(), lm=model):
            warnings.simplefilter("ignore")
            algorithm(question=question)
        return list(answers)

    return best
