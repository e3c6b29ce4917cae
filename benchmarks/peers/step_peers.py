"""its-hub's beam search and particle filter over our engine, judged by our probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.libraries import peer
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    PolicyModel,
    ProcessRewardModel,
    StepCut,
    forward_flops,
    parameters_of,
)
from rttc_graph.run.prompts import direct_messages

_END = "<end of answer>"
"""Text that tells its-hub that an answer has ended; it takes it off again."""

CHILDREN = 4
"""Copies of each beam that is kept: what `search_children` is here."""


@dataclass(slots=True)
class Paid:
    """What the model did for one question."""

    flops: float = 0.0
    decoded: int = 0
    reused: int = 0
    steps: int = 0
    """Steps that were judged."""
    abstained: int = 0
    states: dict[str, Generation] = field(default_factory=dict[str, Generation])
    """Last step of each text, whose state the judge reads."""
    logprobs: dict[str, tuple[float | None, ...]] = field(
        default_factory=dict[str, tuple[float | None, ...]]
    )
    """Mean log-probability of each step of each text, which it reads too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPeers:
    """Searches of its-hub over one model and one judge.

    Args:
        policy: Writes the steps.
        judge: Gives the probability of a step.
        cut: Where a step ends.
        temperature: Of all draws.
        most_tokens: Longest answer.
    """

    policy: PolicyModel
    judge: ProcessRewardModel
    cut: StepCut
    temperature: float
    most_tokens: int

    async def ask(self, name: str, question: str, count: int, *, seed: int) -> tuple[str, Paid]:
        """Return the answer of a search, and what it cost.

        Args:
            name: `beam` or `particles`.
            question: What is asked.
            count: Answers that grow together.
            seed: Of the first draw; later ones count on from it.
        """
        library, algorithms = peer("its_hub.core.lms.step_generation"), peer("its_hub.algorithms")
        steps = library.StepGeneration(
            max_steps=self.most_tokens // self.cut.least_tokens,
            step_token=list(self.cut.marks),
            stop_token=_END,
            temperature=self.temperature,
            include_stop_str_in_output=True,
        )
        paid = Paid()
        judge = self._judge(question, paid)
        algorithm = (
            algorithms.BeamSearch(steps, judge, beam_width=max(1, count // CHILDREN))
            if name == "beam"
            else algorithms.ParticleFiltering(steps, judge)
        )
        model = self._model(question, paid, seed)
        kept = await algorithm.ainfer(model, question, count)
        return str(kept["content"]), paid

    def _model(self, question: str, paid: Paid, seed: int) -> Any:
        api, mine = peer("its_hub.api"), self
        drawn = iter(range(seed, 2**31))

        class Model(api.AbstractLanguageModel):  # type: ignore[misc,name-defined]
            """The model in its hub's words."""

            async def agenerate(self, messages: Any, stop: Any = None, **more: Any) -> Any:
                begun = [talk[-1].content if len(talk) > 1 else "" for talk in messages]
                made = await mine._steps(question, begun, [next(drawn) for _ in begun])
                return await mine._told(begun, made, paid)

            async def agenerate_single(self, messages: Any, stop: Any = None, **more: Any) -> Any:
                return (await self.agenerate([messages]))[0]

        return Model()

    def _judge(self, question: str, paid: Paid) -> Any:
        api, mine = peer("its_hub.api"), self

        class Judge(api.AbstractProcessRewardModel):  # type: ignore[misc,name-defined]
            """The judge in its hub's words: of each answer so far, by its last step."""

            def score(self, prompt: Any, steps: Any) -> Any:
                raise NotImplementedError

            async def ascore(self, prompt: Any, answers: list[str]) -> list[float]:
                return [await mine._share(question, answer, paid) for answer in answers]

        return Judge()

    async def _steps(
        self, question: str, begun: Sequence[str], seeds: Sequence[int]
    ) -> list[Generation]:
        messages = direct_messages(question)
        used = [
            await self.policy.count_tokens(({"role": "assistant", "content": text},))
            for text in begun
        ]
        requests = [
            GenerationRequest(
                messages=messages,
                answer_prefix=text,
                max_new_tokens=max(1, self.most_tokens - tokens),
                temperature=self.temperature,
                seed=seed,
                ends_loops=True,
                step=self.cut,
                tells_state=True,
            )
            for text, tokens, seed in zip(begun, used, seeds, strict=True)
        ]
        return await self.policy.generate(requests)

    async def _told(
        self, begun: Sequence[str], made: Sequence[Generation], paid: Paid
    ) -> list[dict[str, Any]]:
        parameters = await parameters_of(self.policy)
        answers: list[dict[str, Any]] = []
        for text, one in zip(begun, made, strict=True):
            computed = one.prompt_tokens - one.reused_tokens + one.completion_tokens
            paid.flops += forward_flops(parameters, computed) or 0.0
            paid.decoded += one.completion_tokens
            paid.reused += one.reused_tokens
            paid.states[one.text] = one
            paid.logprobs[one.text] = (*paid.logprobs.get(text, ()), one.mean_logprob)
            end = "" if one.finish_reason == "step" else _END
            answers.append({"role": "assistant", "content": one.text[len(text) :] + end})
        return answers

    async def _share(self, question: str, text: str, paid: Paid) -> float:
        state = paid.states[text].state
        answer = BegunAnswer(
            steps=(text,),
            known=0,
            is_finished=False,
            messages=direct_messages(question),
            state=state,
            logprobs=paid.logprobs[text],
        )
        (shares,) = await self.judge.score_steps(question, [answer])
        paid.steps += 1
        paid.abstained += shares[-1] is None
        return 0.5 if shares[-1] is None else shares[-1]
