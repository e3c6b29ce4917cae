"""A crowd on one engine: many asks over many adapters, trainings beside them, some given up.

Every answer must be the one that its request gets alone, and afterwards nothing may be left over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from live_tensors import live_tensors

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.lora.adapter_layout import Adapter, AdapterLayout, adapter_layout
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, to_bytes
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest, TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.settings import TttSettings

T = TypeVar("T")

SCALE = 1
"""Raise it for a longer soak by hand; 1 takes some ten seconds."""
ASKS = 500 * SCALE
ADAPTERS = 50
TRAININGS = 8 * SCALE
CANCELLED = 0.1
"""Share of asks and trainings that are given up on the way."""
QUESTIONS = {"hi": 3, "what is the rain?": 12, "x" * 60: 5, "and then the hen": 9}
"""With the most tokens of their answers."""
SETTINGS = TttSettings(
    rank=4, alpha=8.0, learning_rate=1e-2, epochs=4, samples_per_step=8, stop_loss=0.0
)
EXAMPLES = tuple(
    TrainingExample(messages=({"role": "user", "content": text},), answer="the tin hen")
    for text in ("what is the capital of the rain?", "capital of rain", "where reigns the rain?")
)


@dataclass(frozen=True)
class Ask:
    question: str
    adapter: str | None
    given_up_after: float | None
    """Seconds."""


@dataclass(frozen=True)
class Crowded:
    """An engine with fifty adapters in store, of which `room` are resident at once."""

    trainer: LoraTrainer
    policy: TransformersPolicyModel
    store: dict[str, TrainedAdapter]

    async def answer(self, ask: Ask) -> str:
        """Ask as a run of the graph does, and again if the adapter was evicted meanwhile."""
        request = GenerationRequest(
            messages=({"role": "user", "content": ask.question},),
            max_new_tokens=QUESTIONS[ask.question],
            adapter=ask.adapter,
        )
        while True:
            if ask.adapter is not None and not await self.trainer.is_resident(ask.adapter):
                await self.trainer.load(self.store[ask.adapter])
            try:
                return (await self.policy.generate([request]))[0].text
            except PolicyModelError as exc:
                if not exc.retryable:
                    raise

    async def train(self, seed: int) -> bytes:
        settings = replace(SETTINGS, seed=seed)
        trained = await self.trainer.train(f"t{seed}", EXAMPLES, settings, on_step=_ignore)
        return trained.weights


def _ignore(step: TrainStep) -> None:
    del step


def _adapter(layout: AdapterLayout, seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    pairs = tuple(
        (0.3 * torch.randn(a, generator=random), 0.3 * torch.randn(b, generator=random))
        for a, b in (target.shapes(4) for target in layout.targets)
    )
    return Adapter(rank=4, alpha=8.0, pairs=pairs)


def _stored(loaded: LoadedModel) -> dict[str, TrainedAdapter]:
    layout = adapter_layout(loaded.model)
    return {
        f"a{seed}": TrainedAdapter(
            key=f"a{seed}",
            weights=to_bytes(_adapter(layout, seed), layout),
            base_fingerprint=loaded.fingerprint,
            trained_tokens=0,
            steps=0,
            losses=(),
            seconds=0.0,
            provenance={PEFT_CONFIG: layout.peft_config(rank=4, alpha=8.0)},
        )
        for seed in range(ADAPTERS)
    }


def _asks(count: int, seed: int) -> list[Ask]:
    draw = random.Random(seed)
    keys = [None, *(f"a{n}" for n in range(ADAPTERS))]
    return [
        Ask(
            question=draw.choice([*QUESTIONS]),
            adapter=draw.choice(keys),
            given_up_after=3 * draw.random() if draw.random() < CANCELLED else None,
        )
        for _ in range(count)
    ]


async def _given_up(work: Coroutine[Any, Any, T], after: float | None) -> T | None:
    """Return what `work` returns, or `None` if it was cancelled first."""
    try:
        return await asyncio.wait_for(work, after)
    except TimeoutError:
        return None


@dataclass(frozen=True)
class _Outcome:
    answers: list[str | None]
    weights: list[bytes | None]


async def _soak(crowd: Crowded, asks: Sequence[Ask], seeds: Sequence[int]) -> _Outcome:
    """Let everybody ask and train at once; `None` stands for what was given up."""
    draw = random.Random(len(asks))
    limits = [draw.random() if n % 4 == 3 else None for n in range(len(seeds))]
    trained = [_given_up(crowd.train(s), after) for s, after in zip(seeds, limits, strict=True)]
    answers = [_given_up(crowd.answer(ask), ask.given_up_after) for ask in asks]
    weights = asyncio.gather(*trained)
    return _Outcome(await asyncio.gather(*answers), await weights)


def _tensor_bytes() -> int:
    """Memory of all tensors that anybody holds, each storage once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in live_tensors()
    }
    return sum(storages.values())


def _resident_set() -> int:
    """Memory of this process in pages; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) if statm.exists() else 0


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(
        tiny_model_path,
        device="cpu",
        threads=1,
        max_batch=32,
        prefix_cache_bytes=20_000,  # some prompts of the tiny model, so that they come and go
    )
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("count", "room"),
    [
        pytest.param(ASKS, ADAPTERS + 2 * TRAININGS, id="room-for-all"),
        pytest.param(ASKS // 4, 20, id="more-adapters-than-room"),
    ],
)
async def test_a_crowd_gets_the_answers_of_solo_runs_and_leaves_nothing(
    engine: LocalEngine, count: int, room: int
) -> None:
    store = await engine.in_lane(_stored)
    one = await engine.in_lane(lambda loaded: _adapter(adapter_layout(loaded.model), 0).bytes)
    trainer = LoraTrainer(engine, max_resident_bytes=room * one)
    crowd = Crowded(trainer, TransformersPolicyModel(engine), store)

    seeds = range(TRAININGS)
    asks = _asks(count, seed=0)
    alone = {replace(ask, given_up_after=None) for ask in asks}
    expected = {ask: await crowd.answer(ask) for ask in sorted(alone, key=repr)}
    weights = [await crowd.train(seed) for seed in seeds]
    await _soak(crowd, _asks(count // 5, seed=1), seeds)  # allocators and caches are warm now
    tensors, memory = _tensor_bytes(), _resident_set()

    found = await _soak(crowd, asks, seeds)

    wrong = [
        (ask, answer)
        for ask, answer in zip(asks, found.answers, strict=True)
        if answer is not None and answer != expected[replace(ask, given_up_after=None)]
    ]
    assert wrong == []
    assert all(made in (None, alone) for made, alone in zip(found.weights, weights, strict=True))
    assert sum(answer is not None for answer in found.answers) > count * (1 - 2 * CANCELLED)
    assert _tensor_bytes() <= 1.05 * tensors
    assert _resident_set() <= 1.05 * memory
