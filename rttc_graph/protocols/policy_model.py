"""The seam to the model that answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from rttc_graph.errors import ConfigurationError
from rttc_graph.state import ChatTurn, FinishReason

reuse_scope: ContextVar[str] = ContextVar("rttc_reuse_scope", default="")
"""Scope within which computed prompts and answers are reused: an opaque name, the same for all
tenants that share. The graph sets it around each node; empty where no tenant is set, or all
share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCut:
    """How an answer is cut into steps: where a step ends while it is written.

    Raises:
        ConfigurationError: No length may be had, or a mark is empty.
    """

    marks: tuple[str, ...] = ("\n",)
    """Texts that end a step at or after its least length; the token with the mark belongs to it."""
    least_tokens: int = 8
    """Length below which no mark ends a step: without it a search fills with steps of one word."""
    most_tokens: int = 48
    """Length at which a step ends without a mark."""

    def __post_init__(self) -> None:
        if not 1 <= self.least_tokens <= self.most_tokens or not all(self.marks):
            raise ConfigurationError(
                f"a step of least_tokens={self.least_tokens!r} to most_tokens="
                f"{self.most_tokens!r} with marks={list(self.marks)!r} cannot be cut: take "
                "1 <= least_tokens <= most_tokens, and marks that are not empty"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Where a model is unsure of what it writes: tokens in a row that it found unlikely.

    Raises:
        ConfigurationError: There is no such window, or no such log-probability.
    """

    window: int = 8
    """Number of tokens in a row, at least 1. An answer that ends with fewer is one such window."""
    least_logprob: float = -1.0
    """Mean log-probability of them in nats, at most 0, below which the model is unsure."""
    halts: bool = False
    """Whether the answer is stopped there, with `finish_reason="step"`; else it goes on, and the
    place is only told."""

    def __post_init__(self) -> None:
        if self.window < 1 or not self.least_logprob <= 0:  # NaN is caught as well
            raise ConfigurationError(
                f"a doubt of window={self.window!r} and least_logprob={self.least_logprob!r} "
                "cannot be: take at least 1 token, and a log-probability of at most 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt for the policy model.

    Raises:
        ConfigurationError: A stop string stands in `answer_prefix`: the answer has ended there.
    """

    messages: tuple[ChatTurn, ...]
    max_new_tokens: int
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = 1.0
    seed: int | None = None
    """Seed that makes sampling repeatable for this request, whatever else is in the batch;
    up to the rounding of its logits, which shows in 16 bits."""
    stop: tuple[str, ...] = ()
    """Strings before the first of which generation ends; they are not part of the text."""
    adapter: str | None = None
    """Key of a resident adapter, or `None` for the base model."""
    drafts: tuple[str, ...] = ()
    """Texts that may be the answer, the likeliest first. Checking a draft is cheaper than writing
    it for a model that reads several tokens per pass; a greedy answer is the same with and without
    drafts, up to rounding."""
    reuse_scope: str = field(default_factory=reuse_scope.get)
    """Scope whose earlier prompts and answers may make this request faster."""
    answer_prefix: str = ""
    """Text that the answer begins with already. What is generated goes on from it, inside the same
    turn, and the generation's text is both together. Only a model that `can_continue` takes one."""
    ends_loops: bool = False
    """Whether an answer that repeats itself word by word is ended, with `finish_reason="loop"`, by
    a model that can tell; others go on to `max_new_tokens`."""
    step: StepCut | None = None
    """Where the answer is stopped after one step, with `finish_reason="step"`; a model that cannot
    cut goes on to its end. `None` for a whole answer."""
    tells_state: bool = False
    """Whether `Generation.state` is wanted, of a model that has one."""
    doubt: Doubt | None = None
    """Bound below which the model counts as unsure, where `Generation.doubt_at` is wanted; `None`
    where it is not."""

    answer_schema: str = ""
    """JSON schema, as text, that the answer is held to, of a model that `can_follow_schema`; its
    log-probabilities are then those among the tokens that may come. Empty for any text."""

    def __post_init__(self) -> None:
        for stop in self.stop:
            if stop and (at := self.answer_prefix.find(stop)) >= 0:
                raise ConfigurationError(
                    f"stop string {stop!r} stands in answer_prefix at character {at}, so that the "
                    "answer has ended there: cut the text before it, or leave out the stop string"
                )


def seeded_by_prompt(request: GenerationRequest) -> GenerationRequest:
    """Return a request whose random numbers are of its seed and its prompt.

    With the seed alone a draw takes the same place in the distribution of every question: with
    answers of one number, the first draw with samples was the likeliest one for 1 of 50 questions
    and 18 of 80, so that the errors of a whole set depended on each other. The beginning of an
    answer does not count: two that go on from one prompt, with and without something, stay a pair.
    """
    if request.seed is None or request.temperature <= 0:
        return request
    turns = [(turn["role"], turn["content"]) for turn in request.messages]
    return replace(request, seed=random.Random(f"{request.seed}:{turns}").getrandbits(31))


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer of the policy model."""

    text: str
    """The request's `answer_prefix`, if any, and what was generated behind it."""
    prompt_tokens: int
    """Tokens before the generated ones, those of an `answer_prefix` among them."""
    completion_tokens: int
    """Generated tokens."""
    mean_logprob: float | None
    """Mean log-probability in nats of the generated tokens under the model at temperature 1."""
    finish_reason: FinishReason
    """`stop`: end token or stop string; `length`: `max_new_tokens`; `loop`: it repeated itself;
    `budget`: the deadline; `step`: the end of a step."""
    reused_tokens: int = 0
    """Tokens of the prompt that were not computed for this answer, at most `prompt_tokens`: they
    were known from an earlier prompt, or were computed for another answer beside this one."""
    state: tuple[float, ...] | None = field(default=None, repr=False)
    """Hidden state from which the last token was chosen, where it was asked for and the model runs
    in this process: the outputs of a layer at two thirds of its depth and of the last one. It comes
    with the decoding pass. `None` for an answer of one token."""
    doubt_at: int | None = None
    """Number of characters of `text` before the first tokens that the model was unsure of, by the
    request's `doubt`; `None` where there are none, or the model does not tell."""


class PolicyModel(Protocol):
    """A model that answers batches of prompts."""

    @property
    def name(self) -> str:
        """Name for people: a hub id, a path, a served model's name."""
        ...

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of the prompt in tokens, chat template included."""
        ...

    async def context_tokens(self) -> int | None:
        """Return how many tokens prompt and answer may have together; `None` if unknown."""
        ...

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        At the deadline, what has been generated so far is returned with `finish_reason="budget"`.

        Raises:
            PolicyModelError: The model failed, or a prompt leaves no room in the context.
        """
        ...


@runtime_checkable
class ContinuingPolicyModel(PolicyModel, Protocol):
    """A policy model that says whether it can go on from text that its answer begins with."""

    @property
    def continues_answers(self) -> bool:
        """Whether it takes requests with an `answer_prefix`."""
        ...


def can_continue(model: object) -> bool:
    """Tell whether a policy model takes requests with an `answer_prefix`.

    One that does not say so cannot: chat servers begin an answer anew.
    """
    return isinstance(model, ContinuingPolicyModel) and model.continues_answers


@runtime_checkable
class SchemaPolicyModel(PolicyModel, Protocol):
    """A policy model that says whether it can hold an answer to a JSON schema."""

    @property
    def follows_schemas(self) -> bool:
        """Whether it takes requests with an `answer_schema`."""
        ...


def can_follow_schema(model: object) -> bool:
    """Tell whether a policy model takes an `answer_schema`; one that does not say so cannot."""
    return isinstance(model, SchemaPolicyModel) and model.follows_schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionsRequest:
    """A prompt with the few answers that are weighed.

    Raises:
        ConfigurationError: There are not at least two options, or one is there twice or empty.
    """

    messages: tuple[ChatTurn, ...]
    options: tuple[str, ...]
    """Answers that can be told apart by how they begin, as `0` to `9` or `A` and `B`."""
    adapter: str | None = None
    """Key of a resident adapter, or `None` for the base model."""

    def __post_init__(self) -> None:
        if len(set(self.options)) < max(2, len(self.options)) or not all(self.options):
            raise ConfigurationError(
                f"options={list(self.options)!r} must be at least two different texts"
            )


@dataclass(frozen=True, slots=True)
class OptionProbabilities:
    """How likely the model begins its answer with each option."""

    shares: tuple[float, ...]
    """Probabilities in the order of the options; their sum is at most 1."""
    prompt_tokens: int


@runtime_checkable
class WeighingPolicyModel(PolicyModel, Protocol):
    """A policy model that tells how likely it finds given answers."""

    async def weigh(
        self, requests: Sequence[OptionsRequest], *, deadline: float | None = None
    ) -> list[OptionProbabilities]:
        """Return the probabilities of each request's options, in order.

        Raises:
            BudgetExceeded: The deadline is over.
            ConfigurationError: The options of a request cannot be told apart.
            PolicyModelError: The model failed, or a prompt leaves no room in the context.
        """
        ...


def can_weigh(model: object) -> bool:
    """Tell whether a policy model takes `OptionsRequest`s; chat servers do not."""
    return isinstance(model, WeighingPolicyModel)
