"""its-hub and DSPy, which draw several answers and keep one, over any model and any reward."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from benchmarks.peers.libraries import peer

Say = Callable[[str], Awaitable[str]]
"""A question to one answer of the model."""

Judge = Callable[[str, str], Awaitable[float]]
"""A question and an answer to its reward."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What a peer has made of a question."""

    kept: str
    answers: list[str]
    """All answers that the peer waited for."""


Ask = Callable[[str], Panel]
"""A question to what a peer makes of it."""


def its_hub_best(say: Say, judge: Judge, count: int) -> Ask:
    """Return its-hub's BestOfN."""
    api = peer("its_hub.api")

    class Reward(api.AbstractOutcomeRewardModel):  # type: ignore[misc,name-defined]
        """The reward in its hub's words."""

        def score(self, messages: Any, **more: Any) -> list[float]:
            raise NotImplementedError

        async def ascore(self, messages: Any, orchestrator: Any = None, **more: Any) -> list[float]:
            return [await judge(talk[0].content, talk[-1].content) for talk in messages]

    return _its_hub(peer("its_hub").BestOfN(Reward()), say, count)


def its_hub_votes(say: Say, vote: Callable[[str], object], count: int) -> Ask:
    """Return its-hub's SelfConsistency."""
    return _its_hub(peer("its_hub").SelfConsistency(vote), say, count)


def its_hub_beta(
    say: Say, vote: Callable[[str], object], count: int, *, one_at_a_time: bool = False
) -> Ask:
    """Return its-hub's BetaSelfConsistency, which begins all answers at once, or one at a time."""
    api, library = peer("its_hub.api"), peer("its_hub")

    class OneAtATime(api.AbstractOrchestrator):  # type: ignore[misc,name-defined]
        """One call after the other; its own, limited to one, hangs after a panel ends early."""

        def __init__(self) -> None:
            self._turn = asyncio.Lock()

        async def agenerate(self, lm: Any, messages_lst: Any, *more: Any, **named: Any) -> Any:
            async with self._turn:
                return [await lm.agenerate_single(messages) for messages in messages_lst]

    def ask(question: str) -> Panel:
        orchestrator = OneAtATime() if one_at_a_time else None
        algorithm = library.BetaSelfConsistency(
            consistency_space_projection_func=vote, orchestrator=orchestrator
        )
        return _its_hub(algorithm, say, count)(question)

    return ask


def _its_hub(algorithm: Any, say: Say, count: int) -> Ask:
    api = peer("its_hub.api")

    class Model(api.AbstractLanguageModel):  # type: ignore[misc,name-defined]
        """The model in its hub's words."""

        async def agenerate(self, messages: Any, stop: Any = None, **more: Any) -> Any:
            raise NotImplementedError

        async def agenerate_single(self, messages: Any, stop: Any = None, **more: Any) -> Any:
            del stop, more
            return {"role": "assistant", "content": await say(messages[-1].content)}

    def ask(question: str) -> Panel:
        work = algorithm.ainfer(Model(), question, count, return_response_only=False)
        result = asyncio.run(work)
        answers = [response["content"] for response in result.responses]
        return Panel(str(result.the_one["content"]), answers)

    return ask


def dspy_best(say: Say, judge: Judge, count: int) -> Ask:
    """Return DSPy's BestOfN, without a threshold at which it would end early."""
    dspy = peer("dspy")
    answers: list[str] = []

    class Model(dspy.BaseLM):  # type: ignore[misc,name-defined]
        """The model in DSPy's words."""

        def forward(self, prompt: Any = None, messages: Any = None, **more: Any) -> Any:
            del prompt, more
            answers.append(asyncio.run(say_now(messages[-1]["content"])))
            choice = SimpleNamespace(message=SimpleNamespace(content=answers[-1]))
            return SimpleNamespace(choices=[choice], usage={}, model="local")

    class Plain(dspy.Adapter):  # type: ignore[misc,name-defined]
        """The question as it is: DSPy's own forms of prompt are longer, and too hard here."""

        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            return [{"role": "user", "content": inputs["question"]}]

        def parse(self, signature: Any, completion: str) -> dict[str, str]:
            return {"answer": completion}

    async def say_now(question: str) -> str:
        return await say(question)

    async def judge_now(question: str, answer: str) -> float:
        return await judge(question, answer)

    def judged(arguments: Any, prediction: Any) -> float:
        return asyncio.run(judge_now(arguments["question"], prediction.answer))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its new kind of model is for servers
        model = Model("local", cache=False)
        module = dspy.Predict("question -> answer")
        module.set_lm(model)
        algorithm = dspy.BestOfN(module, N=count, reward_fn=judged, threshold=2.0)

    def ask(question: str) -> Panel:
        answers.clear()
        with warnings.catch_warnings(), dspy.context(adapter=Plain(), lm=model):
            warnings.simplefilter("ignore")
            kept = algorithm(question=question)
        return Panel(str(kept.answer), list(answers))

    return ask
