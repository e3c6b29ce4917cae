"""Everything on this machine: local models, Postgres (embedded or by DSN), and the graph over them.

`open_local` is what the command line, the examples and the exported graph start from. Models load
and the database starts when they are first needed; `warm_up` does that ahead of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rttc_graph.arms import PLAIN
from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.graph import RttcGraph, RttcParts, create_rttc_graph
from rttc_graph.installation.ask_question import AskResult, ask
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import CalibratedReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import RewardModel, reward_requests
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate

_WARM_UP: Candidate = {
    "arm": PLAIN,
    "answer": "warm-up",
    "reward": None,
    "seconds": 0.0,
    "prompt_tokens": 0,
    "completion_tokens": 1,
    "trained_tokens": 0,
    "mean_logprob": 0.0,
    "finish_reason": "stop",
    "adapter": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRttc:
    """An installation that is open."""

    config: InstallationConfig
    knowledge: Knowledge
    engine: LocalEngine
    judge: RewardModel
    """The reward model with its raw scores."""
    parts: RttcParts
    """Parts of `graph`, for hosts that build it with other parts or a checkpointer."""
    graph: RttcGraph

    async def ask(
        self,
        question: str,
        *,
        domain: str | None = None,
        settings: RttcSettings | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> AskResult:
        """Answer a question; see `rttc_graph.installation.ask_question.ask`."""
        return await ask(self.graph, question, domain=domain, settings=settings, on_event=on_event)

    async def warm_up(self, *, needs_database: bool = True) -> None:
        """Load the models and start the database, so that no run's budget pays for it.

        Args:
            needs_database: Whether to fail without it. A run does not: it answers with what is
                left, and its ledger says what failed.

        Raises:
            RttcError: A model or the database is unavailable.
        """
        await asyncio.gather(
            self.engine.in_lane(lambda _: None),
            self.judge.score("warm-up", reward_requests([_WARM_UP])),
            self.knowledge.embedder.embed(["warm-up"]),
            self._warm_up_database(needs_database),
        )

    async def _warm_up_database(self, is_needed: bool) -> None:
        try:
            await self.knowledge.knowledge_base.stats(tenant=self.config.tenant)
        except (BackendError, ConfigurationError):
            if is_needed:
                raise


@contextmanager
def open_engine(
    config: InstallationConfig, *, keeps_prompts: bool = True
) -> Generator[LocalEngine]:
    """Open the policy model's engine as an installation has it.

    Args:
        config: Names the model and how it is loaded.
        keeps_prompts: Whether it keeps what recent prompts computed, as `prefix_cache_bytes` says.
    """
    engine = LocalEngine(
        config.model,
        cache_dir=config.home,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        prefix_cache_bytes=config.prefix_cache_bytes if keeps_prompts else 0,
        thinking=config.thinking,
    )
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def open_local(config: InstallationConfig | None = None) -> Generator[LocalRttc]:
    """Open an installation: by default the one that environment and `rttc.toml` describe."""
    config = config or load_config()
    with open_knowledge(config) as knowledge, open_engine(config) as engine:
        trainer = LoraTrainer(
            engine,
            training_dtype=config.training_dtype,
            max_resident_bytes=config.max_resident_bytes,
            max_training_bytes=config.max_training_bytes,
        )
        judge = open_reward_model(config, engine, trainer.base_fingerprint)
        parts: RttcParts = {
            "policy_model": TransformersPolicyModel(engine),
            "reward_model": CalibratedReward(judge, knowledge.calibrations, tenant=config.tenant),
            "embedder": knowledge.embedder,
            "knowledge_base": knowledge.knowledge_base,
            "cache": knowledge.cache,
            "trainer": trainer,
            "ledger_store": knowledge.ledger_store,
            "settings": config.run_settings(),
            "share_between_tenants": config.share_between_tenants,
        }
        yield LocalRttc(
            config=config,
            knowledge=knowledge,
            engine=engine,
            judge=judge,
            parts=parts,
            graph=create_rttc_graph(**parts),
        )
