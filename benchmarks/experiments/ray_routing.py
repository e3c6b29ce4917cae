"""Which replica of a Ray cluster gets a call with a key: by multiplexing, by a hash, by load.

No models: a replica remembers the keys that it was asked with. 40 clients ask 300 times with keys
by Zipf's law; each ask is two calls with one key, as a recall is.

    python -m benchmarks.experiments.ray_routing
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import Any

from benchmarks.tools.ray_nodes import nodes
from rttc_graph.integrations.ray_serve.model_replica import announcing
from rttc_graph.integrations.ray_serve.ray_library import serve_library
from rttc_graph.support.extras import require

ASKS, CLIENTS, KEYS, REPLICAS = 300, 40, 40, 3
_WORK_SECONDS = 0.05
_HASH = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


class Held:
    """A replica that tells whether it was asked with a key before."""

    def __init__(self, *, tells_serve: bool) -> None:
        self._keys: set[str] = set()
        self._announce = announcing(1000) if tells_serve else None

    async def hold(self, key: str) -> bool:
        """Return whether the key is here, and keep it."""
        was_there = key in self._keys
        self._keys.add(key)
        if self._announce is not None:
            await self._announce(key)
        return was_there

    async def answer(self, key: str) -> bool:
        """Do the same, and take as long as a short answer."""
        was_there = await self.hold(key)
        await asyncio.sleep(_WORK_SECONDS)
        return was_there


async def _round(handle: Any, option: str, keys: list[str]) -> str:
    weights = [1 / rank for rank in range(1, 1 + len(keys))]
    waiting = iter(random.Random(1).choices(keys, weights, k=ASKS))
    came = {"hold": [0, 0], "answer": [0, 0]}
    seen: set[str] = set()
    taken: list[float] = []

    async def client() -> None:
        for key in waiting:
            is_known = key in seen
            for method, counts in came.items():
                began = time.perf_counter()
                to = handle.options(method_name=method, **{option: key})
                was_there = await to.remote(key)
                if method == "hold":
                    taken.append(time.perf_counter() - began)
                if is_known or method == "answer":
                    counts[was_there] += 1
            seen.add(key)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    shares = ", ".join(
        f"{name} {there / (there + not_):.1%}" for name, (not_, there) in came.items()
    )
    return f"found by {shares}; p50 {1000 * statistics.median(taken):.0f} ms"


def main() -> None:
    """Print the shares of calls that came to a replica with their key, twice for each way."""
    serve = serve_library()
    config = require("ray.serve.config", extra="ray", purpose="replicas on a cluster")
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("multiplexing", "multiplexed_model_id", {}),
        (
            "hash",
            "session_id",
            {"request_router_config": config.RequestRouterConfig(request_router_class=_HASH)},
        ),
        ("load", "session_id", {}),
    ]
    with nodes(3):
        serve.start(proxy_location="Disabled")
        for name, option, more in ways:
            made = serve.deployment(
                Held,
                name=name,
                num_replicas=REPLICAS,
                max_ongoing_requests=32,
                ray_actor_options={"num_cpus": 0.6},
                **more,
            )
            bound = made.bind(tells_serve=option == "multiplexed_model_id")
            handle = serve.run(bound, name=name, route_prefix=None)
            for number in (1, 2):
                told = asyncio.run(_round(handle, option, [f"key-{n}" for n in range(KEYS)]))
                print(f"{name}, round {number}: {told}")
            serve.delete(name)
        serve.shutdown()


if __name__ == "__main__":
    main()
