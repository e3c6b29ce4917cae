"""Eight answers with eight adapters in one batch, against one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from benchmarks.peers.peft_adapters import with_adapters
from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.paired_runs import Case
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest

ADAPTERS = 8
NEW_TOKENS = 24


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield the one case: seconds for eight answers of 24 tokens, or until they end."""
    made = with_adapters(setup.model, ADAPTERS).adapters

    def attach(loaded: LoadedModel) -> ResidentAdapters:
        resident = ResidentAdapters(loaded.model, max_bytes=64 * 2**30)
        for key, adapter in made.items():
            resident.put(key, adapter)
        return resident

    engine = LocalEngine(setup.model, device="cpu", threads=1)
    engine.attach_adapters(attach)
    policy = TransformersPolicyModel(engine)
    requests = [
        GenerationRequest(
            messages=({"role": "user", "content": f"Name {number} rivers of Europe."},),
            max_new_tokens=NEW_TOKENS,
            adapter=key,
        )
        for number, key in enumerate(made, start=2)
    ]

    async def answer(batches: Sequence[Sequence[GenerationRequest]]) -> None:
        for batch in batches:
            await policy.generate(batch)

    def seconds(batches: Sequence[Sequence[GenerationRequest]]) -> float:
        began = time.perf_counter()
        asyncio.run(answer(batches))
        return time.perf_counter() - began

    try:
        yield [
            Case(
                name=f"{ADAPTERS} answers with {ADAPTERS} adapters",
                ours=lambda: seconds([requests]),
                peer=lambda: seconds([[request] for request in requests]),
                peer_name="the same engine, one by one, one thread",
                unit="s",
                least_ratio=3,
            )
        ]
    finally:
        engine.close()
