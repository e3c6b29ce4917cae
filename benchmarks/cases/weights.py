"""A model's weights in eight bits against float32 and bfloat16: tokens a second, memory, answers.

One engine for each type, all of one model on one thread; seconds are those of the CPU, on which
others weigh less. Answers are greedy and begun together, and their prompts are known, so that
tokens alone are timed. Prompts are timed by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice

from benchmarks.tools.benchmark_options import Setup, installed_engine, tell
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.prompts import prompts
from rttc_graph.integrations.transformers.int8_weights import int8_bytes
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest
from rttc_graph.run.prompts import direct_messages
from rttc_graph.samples.source import read_samples

AT_ONCE = (1, 8, 16)
PEERS = ("float32", "bfloat16")
PROMPT_QUESTIONS = 12
"""Questions in a prompt that is timed by itself: some 200 tokens."""


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield the cases: rates, a prompt, memory, and answers equal to float32's."""
    sides = {dtype: _Side(setup, dtype) for dtype in ("int8", *PEERS)}
    ours, asked = sides["int8"], _Questions(setup)
    try:
        yield [
            *(
                Case(
                    name=f"{count} answers at once" if count > 1 else "one answer",
                    ours=partial(ours.rate, count),
                    peer=partial(sides[peer].rate, count),
                    peer_name=peer,
                    unit="tokens/s",
                    more_is_better=True,
                )
                for count in AT_ONCE
                for peer in PEERS
            ),
            *(
                Case(
                    name="one prompt",
                    ours=partial(ours.prompt_seconds, asked),
                    peer=partial(sides[peer].prompt_seconds, asked),
                    peer_name=peer,
                    unit="s",
                )
                for peer in PEERS
            ),
            *(
                Case(
                    name="weights in memory",
                    ours=ours.megabytes,
                    peer=sides[peer].megabytes,
                    peer_name=peer,
                    unit="MB",
                    pairs=1,
                )
                for peer in PEERS
            ),
            Case(
                name=f"of {len(asked.all)} answers, equal to float32's",
                ours=lambda: ours.equal(sides["float32"], asked.all),
                peer=lambda: sides["bfloat16"].equal(sides["float32"], asked.all),
                peer_name="bfloat16",
                unit="share",
                more_is_better=True,
                pairs=1,
                warm_up=False,
            ),
        ]
    finally:
        for side in sides.values():
            side.close()


class _Questions:
    """Questions of the files that were given, or made ones."""

    def __init__(self, setup: Setup) -> None:
        files = [islice(read_samples(path), setup.questions) for path in setup.data]
        read = [sample.question for sample in chain.from_iterable(files)]
        self.all = read or list(islice(prompts(), setup.questions))
        self._fresh = prompts()

    def long(self) -> str:
        """Return a question that nobody was asked before, of some 200 tokens."""
        return " ".join(islice(self._fresh, PROMPT_QUESTIONS))


class _Side:
    """An engine with its weights in one type."""

    def __init__(self, setup: Setup, dtype: str) -> None:
        self._engine = installed_engine(setup, dtype=dtype)
        self._policy = TransformersPolicyModel(self._engine)
        self._tokens = setup.tokens
        self._answers: dict[str, str] = {}

    def rate(self, count: int) -> float:
        """Return tokens a second of so many answers begun together."""
        asked = list(islice(prompts(), count))
        self._generate(asked, tokens=1)  # so that the prompts are known
        began = time.process_time()
        return self._generate(asked, tokens=self._tokens) / (time.process_time() - began)

    def prompt_seconds(self, asked: _Questions) -> float:
        """Return the seconds until the first token of a prompt that is not known."""
        question = asked.long()
        began = time.process_time()
        self._generate([question], tokens=1)
        return time.process_time() - began

    def megabytes(self) -> float:
        """Return the memory of weights and scales; what is there twice counts once."""
        model = asyncio.run(self._engine.model()).model
        tensors = {
            tensor.data_ptr(): tensor.nbytes
            for tensor in chain(model.parameters(), model.buffers())
        }
        return (sum(tensors.values()) + int8_bytes(model)) / 1e6

    def equal(self, other: _Side, asked: Sequence[str]) -> float:
        """Return the share of answers that are the other's, letter by letter."""
        mine, theirs = self._all(asked), other._all(asked)
        return sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(asked)

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()

    def _all(self, asked: Sequence[str]) -> list[str]:
        new = [question for question in asked if question not in self._answers]
        if new:
            tell(f"weights: {len(new)} answers")
            self._generate(new, tokens=self._tokens)
        return [self._answers[question] for question in asked]

    def _generate(self, asked: Sequence[str], *, tokens: int) -> int:
        requests = [
            GenerationRequest(messages=direct_messages(question), max_new_tokens=tokens)
            for question in asked
        ]
        found = asyncio.run(self._policy.generate(requests))
        if tokens > 1:
            self._answers |= {q: one.text for q, one in zip(asked, found, strict=True)}
        return sum(one.completion_tokens for one in found)
