"""Our decoding against transformers' own: one answer, a drafted one, eight at once.

Every measurement has questions of its own, so neither side has seen the prompt. Both sides decode
greedily in float32 on one thread; equal answers are counted, since a faster wrong one is no gain.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from benchmarks.peers.libraries import named
from benchmarks.peers.transformers_decoding import LOOKUP_TOKENS, TransformersDecoding
from benchmarks.tools.benchmark_options import Setup, installed_engine, tell
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.prompts import prompts
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest
from rttc_graph.run.prompts import direct_messages, rag_messages
from rttc_graph.state import ChatTurn, Sample

AT_ONCE = 8

PRODUCTS = ("card", "phone", "laptop", "ticket", "parcel", "invoice", "contract", "password")
EVENTS = (
    ("was lost on the way", "lost {}"),
    ("has to be replaced", "{} replacement"),
    ("came in the wrong colour", "wrong {} delivered"),
    ("was charged twice", "{} charged twice"),
    ("is not accepted", "{} declined"),
    ("should be sent abroad", "{} sent abroad"),
)


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield the three cases, in seconds."""
    engine = installed_engine(setup)
    ours = _Ours(TransformersPolicyModel(engine), setup.tokens)
    peer = TransformersDecoding(setup.model, max_tokens=setup.tokens)
    plain, labelled = prompts(), itertools.cycle(_labelled(setup.k))

    def asked(count: int) -> list[tuple[ChatTurn, ...]]:
        return [direct_messages(question) for question in itertools.islice(plain, count)]

    batched, running = _Pairs(lambda: asked(AT_ONCE)), _Pairs(lambda: asked(AT_ONCE))
    single = _Pairs(lambda: asked(1))
    drafted = _Pairs(lambda: [next(labelled)])
    try:
        yield [
            Case(
                name=f"one answer of {setup.tokens} tokens",
                ours=lambda: _seconds(single, ours.answers),
                peer=lambda: _seconds(single, lambda them: [peer.generate(t) for t in them]),
                peer_name=named("transformers", "generate"),
                unit="s",
            ),
            Case(
                name="one answer that a sample has, drafted",
                ours=lambda: _seconds(drafted, lambda them: ours.answers(them, drafts=True)),
                peer=lambda: _seconds(
                    drafted, lambda them: [peer.generate(t, lookup=True) for t in them]
                ),
                peer_name=named("transformers", f"prompt lookup of {LOOKUP_TOKENS} tokens"),
                unit="s",
            ),
            Case(
                name=f"{AT_ONCE} answers of {setup.tokens} tokens, begun together",
                ours=lambda: _seconds(batched, ours.answers),
                peer=lambda: _seconds(batched, peer.padded),
                peer_name=named("transformers", "generate, padded"),
                unit="s",
            ),
            Case(
                name=f"{AT_ONCE} answers of {setup.tokens} tokens, by a running batch",
                ours=lambda: _seconds(running, ours.answers),
                peer=lambda: _seconds(running, peer.continuous),
                peer_name=named("transformers", "continuous batching"),
                unit="s",
            ),
        ]
    finally:
        engine.close()
        pairs = (single, drafted, batched, running)
        equal, compared = sum(p.equal for p in pairs), sum(p.compared for p in pairs)
        tell(f"decoding: {equal} of {compared} answers equal")


class _Ours:
    """The engine of an installation, as a function of prompts."""

    def __init__(self, policy: TransformersPolicyModel, tokens: int) -> None:
        self._policy, self._tokens = policy, tokens

    def answers(self, asked: Sequence[tuple[ChatTurn, ...]], *, drafts: bool = False) -> list[str]:
        requests = [
            GenerationRequest(
                messages=messages,
                max_new_tokens=self._tokens,
                drafts=_shown_answers(messages) if drafts else (),
            )
            for messages in asked
        ]
        return [one.text for one in asyncio.run(self._policy.generate(requests))]


class _Pairs:
    """Prompts that both sides answer once, and how many of the answers were equal."""

    def __init__(self, draw: Callable[[], list[tuple[ChatTurn, ...]]]) -> None:
        self._draw = draw
        self._open: tuple[list[tuple[ChatTurn, ...]], list[str]] | None = None
        self._next: list[tuple[ChatTurn, ...]] = []
        self.equal = self.compared = 0

    def prompts(self) -> list[tuple[ChatTurn, ...]]:
        """Return new prompts, or those that the other side has just answered."""
        if self._open is None:
            self._next = self._draw()
        return self._next

    def answered(self, answers: list[str]) -> None:
        """Take one side's answers."""
        if self._open is None:
            self._open = (self._next, answers)
            return
        self.compared += len(answers)
        self.equal += sum(a == b for a, b in zip(answers, self._open[1], strict=True))
        self._open = None


def _seconds(pairs: _Pairs, answer: Callable[[list[tuple[ChatTurn, ...]]], list[str]]) -> float:
    asked = pairs.prompts()
    began = time.perf_counter()
    answers = answer(asked)
    seconds = time.perf_counter() - began
    pairs.answered(answers)
    return seconds


def _labelled(k: int) -> list[tuple[ChatTurn, ...]]:
    """Return prompts with `k` solved turns whose answers are labels; one of them fits."""
    solved = [
        _sample(f"My {product} {event}, what now?", label.format(product))
        for product in PRODUCTS
        for event, label in EVENTS
    ]
    asked: list[tuple[ChatTurn, ...]] = []
    for start in range(0, len(solved) - k, 3):
        samples = solved[start : start + k]
        nearest = samples[0]["question"].removesuffix(", what now?")
        asked.append(rag_messages(f"{nearest}. Please help.", samples))
    return asked


def _sample(question: str, answer: str) -> Sample:
    return {
        "id": question,
        "question": question,
        "answer": answer,
        "domain": "made",
        "similarity": 0.9,
    }


def _shown_answers(messages: Sequence[ChatTurn]) -> tuple[str, ...]:
    """Return the samples' answers in a prompt, nearest first."""
    return tuple(turn["content"] for turn in reversed(messages) if turn["role"] == "assistant")
