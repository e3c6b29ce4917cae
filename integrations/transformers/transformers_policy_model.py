"""The local engine as a policy model of the graph."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from rttc_graph.errors import BudgetExceeded
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.decoding.schema_mask import can_follow_schemas
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.scoring import option_probabilities
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.integrations.transformers.torch_errors import translated
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    OptionProbabilities,
    OptionsRequest,
)
from rttc_graph.state import ChatTurn


@dataclass(frozen=True, slots=True)
class _Prompt:
    loaded: LoadedModel
    turns: tuple[ChatTurn, ...]


class TransformersPolicyModel:
    """Implements `PolicyModel`; requests of all callers of one engine share its running batch.

    Args:
        engine: Stays the caller's, who closes it.
        load: Called with the key of each adapter that requests name, before they are answered:
            makes it resident, if it is stored, and does nothing if it is resident.
    """

    def __init__(
        self, engine: LocalEngine, *, load: Callable[[str], Awaitable[object]] | None = None
    ) -> None:
        self._engine = engine
        self._load = load
        # In a thread of its own, so that a long prompt keeps nobody waiting for the lane.
        self._counting: BatchQueue[_Prompt, int] = BatchQueue(
            _counted, name="rttc-tokenizer", batch_size=1
        )

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def continues_answers(self) -> bool:
        """True: the prompt is written here, so an answer may begin with any text."""
        return True

    @property
    def follows_schemas(self) -> bool:
        """Whether answers can be held to a JSON schema: whether the library is installed."""
        return can_follow_schemas()

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of the prompt in tokens, chat template included."""
        loaded = await self._engine.model()
        (found,) = await self._counting.submit([_Prompt(loaded, tuple(messages))])
        return found

    async def parameters(self) -> int | None:
        """Return how many weights each token is multiplied with; `None` for mixtures of experts."""
        return (await self._engine.model()).parameters

    async def context_tokens(self) -> int:
        """Return how many tokens prompt and answer may have together."""
        return (await self._engine.model()).context_tokens

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Return one generation for each request, in order.

        Raises:
            PolicyModelError: The model failed, a prompt leaves no room in the context, or an
                adapter is not resident; the other requests of the call are given up.
        """
        await self._load_adapters(requests)
        rows = [DecodeRequest(generation=request, deadline=deadline) for request in requests]
        return [_generation(row) for row in await gathered(self._engine.decode(rows))]

    async def weigh(
        self, requests: Sequence[OptionsRequest], *, deadline: float | None = None
    ) -> list[OptionProbabilities]:
        """Return the probabilities of each request's options, in order.

        Raises:
            BudgetExceeded: The deadline is over.
            ConfigurationError: Two options of a request begin with the same token.
            PolicyModelError: The model failed, a prompt is longer than the context, or an adapter
                is not resident.
        """
        if deadline is not None and time.monotonic() >= deadline:
            raise BudgetExceeded("no time is left to weigh options: raise budget_seconds")
        await self._load_adapters(requests)
        return await option_probabilities(self._engine, requests)

    async def _load_adapters(
        self, requests: Sequence[GenerationRequest] | Sequence[OptionsRequest]
    ) -> None:
        """Make the adapters resident that others have pushed out since they were loaded."""
        if self._load is not None:
            for key in dict.fromkeys(one.adapter for one in requests if one.adapter is not None):
                await self._load(key)


async def gathered(futures: Sequence[Future[Decoded]]) -> list[Decoded]:
    """Await all rows; when one fails or the caller is cancelled, the others stop too."""
    try:
        return [await asyncio.wrap_future(future) for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _counted(prompts: Sequence[_Prompt]) -> list[int]:
    with translated("read the prompt"):
        return [len(encode_prompt(one.loaded, one.turns)) for one in prompts]


def _generation(row: Decoded) -> Generation:
    return Generation(
        text=row.text,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=len(row.tokens),
        mean_logprob=row.mean_logprob,
        finish_reason=row.finish_reason,
        reused_tokens=row.reused_tokens,
        state=row.state,
        doubt_at=row.doubt_at,
    )
