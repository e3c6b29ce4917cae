"""The policy model of a cluster: each call goes to a replica that holds its adapter."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from rttc_graph.errors import AdaptationError, PolicyModelError
from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls
from rttc_graph.integrations.ray_serve.model_replica import ModelFacts
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    OptionProbabilities,
    OptionsRequest,
)
from rttc_graph.state import ChatTurn

__all__ = ("RayPolicyModel", "RayWeighingPolicyModel", "ray_policy_model")

CAME = ("recall_resident", "recall_loaded", "answer_resident", "answer_loaded")
"""Names of the figures of calls that name an adapter."""


class _WithAdapter(Protocol):
    """A request that names its adapter."""

    @property
    def adapter(self) -> str | None: ...


RequestT = TypeVar("RequestT", bound=_WithAdapter)


class RayPolicyModel:
    """Implements `PolicyModel` by the handle of its replicas.

    Args:
        calls: The deployment.
        facts: What a replica says of the model.
        came: Counts how calls found their adapter; shared with the trainer.
    """

    def __init__(self, calls: HandleCalls, facts: ModelFacts, came: Counter[str]) -> None:
        self._calls = calls
        self._facts = facts
        self._came = came

    @property
    def name(self) -> str:
        """The model's name."""
        return self._facts.name

    @property
    def continues_answers(self) -> bool:
        """Whether it takes requests with an `answer_prefix`."""
        return self._facts.continues_answers

    @property
    def follows_schemas(self) -> bool:
        """Whether it takes requests with an `answer_schema`."""
        return self._facts.follows_schemas

    async def parameters(self) -> int | None:
        """Return how many weights each token is multiplied with; `None` if that is not known."""
        return self._facts.parameters

    async def context_tokens(self) -> int | None:
        """Return how many tokens prompt and answer may have together."""
        return self._facts.context_tokens

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of the prompt in tokens, chat template included.

        Raises:
            PolicyModelError: No replica answers.
        """
        found: int = await self._calls.call("count_tokens", list(messages))
        return found

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        Raises:
            PolicyModelError: The model failed, an adapter is not in the database, or no replica
                answers.
        """
        found: list[Generation] = await self._by_adapter("generate", requests, deadline)
        return found

    def call_figures(self) -> dict[str, float]:
        """Return how many calls came to a replica that held their adapter.

        Of the first calls of a recall (`recall_…`) and of those that answer (`answer_…`):
        `…_resident` where the replica held it, `…_loaded` where it came from the database.
        """
        return {name: self._came[name] for name in CAME}

    async def _by_adapter(
        self, method: str, requests: Sequence[RequestT], deadline: float | None
    ) -> list[Any]:
        """Call for each adapter the replica that holds it, and put the results in order."""
        groups: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.adapter, []).append(place)
        found: list[Any] = [None] * len(requests)

        async def one(key: str | None, places: Sequence[int]) -> None:
            asked = [requests[place] for place in places]
            results, was_there = await self._calls.call_within(deadline, method, asked, key=key)
            if key is not None:
                self._came["answer_resident" if was_there else "answer_loaded"] += 1
            for place, result in zip(places, results, strict=True):
                found[place] = result

        calls = [asyncio.ensure_future(one(key, places)) for key, places in groups.items()]
        try:
            await asyncio.gather(*calls)
        except AdaptationError as exc:
            raise PolicyModelError(
                f"could not answer with an adapter: {exc}", retryable=exc.retryable
            ) from exc
        finally:
            for call in calls:
                call.cancel()
        return found


class RayWeighingPolicyModel(RayPolicyModel):
    """A policy model of a cluster that tells how likely it finds given answers."""

    async def weigh(
        self, requests: Sequence[OptionsRequest], *, deadline: float | None = None
    ) -> list[OptionProbabilities]:
        """Return the probabilities of each request's options, in order.

        Raises:
            BudgetExceeded: The deadline is over.
            ConfigurationError: The options of a request cannot be told apart.
            PolicyModelError: The model failed, or no replica answers.
        """
        found: list[OptionProbabilities] = await self._by_adapter("weigh", requests, deadline)
        return found


def ray_policy_model(calls: HandleCalls, facts: ModelFacts, came: Counter[str]) -> RayPolicyModel:
    """Return a cluster's policy model, which weighs given answers if the replicas' model does."""
    return (RayWeighingPolicyModel if facts.weighs else RayPolicyModel)(calls, facts, came)
