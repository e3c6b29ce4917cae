"""Everything on this machine: local models, Postgres (embedded or by DSN), and the graph over them.

`open_local` is what the command line, the examples and the exported graph start from. Models load
and the database starts when they are first needed; `warm_up` does that ahead of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from rttc_graph.arms import PLAIN
from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.graph import RttcGraph, RttcParts, create_rttc_graph
from rttc_graph.improvement.domain_adapters import DomainAdapters
from rttc_graph.installation.ask_question import AskResult, ask
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.installation.configured_policy import OpenPolicy, open_policy
from rttc_graph.installation.configured_process_reward import open_process_reward
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.installation.on_ray import open_on_ray
from rttc_graph.integrations.langchain.hosted_models import hosted_name
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import CalibratedReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import RewardModel, reward_requests
from rttc_graph.run.known_domains import KnownDomains
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate, ChatTurn

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
    policy: OpenPolicy
    judge: RewardModel
    """The reward model with its raw scores."""
    parts: RttcParts
    """Parts of `graph`, for hosts that build it with other parts or a checkpointer."""
    graph: RttcGraph

    @property
    def engine(self) -> LocalEngine:
        """Engine of the policy model in this process.

        Raises:
            ConfigurationError: The policy model is served elsewhere.
        """
        if self.policy.engine is None:
            raise ConfigurationError(
                f"model={self.config.model!r} is served elsewhere: there is no engine here"
            )
        return self.policy.engine

    async def ask(
        self,
        question: str,
        *,
        domain: str | None = None,
        settings: RttcSettings | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        history: Sequence[ChatTurn] = (),
    ) -> AskResult:
        """Answer a question; see `rttc_graph.installation.ask_question.ask`."""
        return await ask(
            self.graph,
            question,
            domain=domain,
            settings=settings,
            on_event=on_event,
            history=history,
        )

    async def check_domain(self, domain: str | None) -> None:
        """Refuse a domain without samples as a run would, before any model is loaded.

        A database that is down cannot be asked: the run says so.

        Args:
            domain: What a run is to be given; a blank one means that of the settings.

        Raises:
            ConfigurationError: It has no samples.
        """
        name = domain if domain and domain.strip() else self.config.domain
        if not name:
            return
        known = KnownDomains(self.knowledge.knowledge_base)
        try:
            problem = await known.problem(name, tenant=self.config.tenant)
        except BackendError:
            return
        if problem is not None:
            raise problem

    async def warm_up(self, *, needs_database: bool = True) -> None:
        """Load the models and start the database, so that no run's budget pays for it.

        Args:
            needs_database: Whether to fail without it. A run does not: it answers with what is
                left, and its ledger says what failed.

        Raises:
            RttcError: A model or the database is unavailable.
        """
        await asyncio.gather(
            self._warm_up_policy(),
            self._warm_up_judge(),
            self.knowledge.embedder.embed(["warm-up"]),
            self._warm_up_database(needs_database),
        )

    async def _warm_up_policy(self) -> None:
        if self.policy.engine is not None:
            await self.policy.engine.in_lane(lambda _: None)

    async def _warm_up_judge(self) -> None:
        if hosted_name(self.config.reward, "reward") is None:  # else it is a call that costs
            await self.judge.score("warm-up", reward_requests([_WARM_UP]))

    async def _warm_up_database(self, is_needed: bool) -> None:
        try:
            await self.knowledge.knowledge_base.stats(tenant=self.config.tenant)
        except (BackendError, ConfigurationError):
            if is_needed:
                raise


@contextmanager
def open_local(
    config: InstallationConfig | None = None, *, ray: str | None = None
) -> Generator[LocalRttc]:
    """Open an installation: by default the one that environment and `rttc.toml` describe.

    Args:
        config: Settings.
        ray: Address of a Ray cluster whose replicas compute, as `open_cluster` takes it: `here` to
            start one; `None` to compute in this process.

    Raises:
        ConfigurationError: A setting or an address is wrong, or an extra is missing.
        BackendError: A server that is to say which model it has cannot be reached.
    """
    config = config or load_config()
    with ExitStack() as stack:
        away = None if ray is None else stack.enter_context(open_on_ray(config, ray))
        knowledge = stack.enter_context(
            open_knowledge(config, embedder=None if away is None else away.embedder)
        )
        policy = None if away is None else away.policy(knowledge.cache)
        if policy is None:
            policy = stack.enter_context(open_policy(config, adapters=knowledge.cache))
        judge = None if away is None else away.reward
        if judge is None:
            judge = open_reward_model(config, policy.engine, policy.fingerprint)
        standing = _standing_adapters(knowledge, policy)
        parts: RttcParts = {
            "policy_model": policy.model,
            "reward_model": CalibratedReward(
                judge, knowledge.calibrations, tenant=config.tenant, standing_adapters=standing
            ),
            "process_reward_model": open_process_reward(config, policy.engine, policy.fingerprint),
            "embedder": knowledge.embedder,
            "knowledge_base": knowledge.knowledge_base,
            "cache": knowledge.cache,
            "trainer": policy.trainer,
            "standing_adapters": standing,
            "closed_arms": policy.closed_arms,
            "ledger_store": knowledge.ledger_store,
            "settings": config.run_settings(),
            "domains": config.domains,
            "share_between_tenants": config.share_between_tenants,
        }
        yield LocalRttc(
            config=config,
            knowledge=knowledge,
            policy=policy,
            judge=judge,
            parts=parts,
            graph=create_rttc_graph(**parts),
        )


def _standing_adapters(knowledge: Knowledge, policy: OpenPolicy) -> DomainAdapters | None:
    """Return what knows the adapters of domains; `None` for a model that can have none."""
    if policy.trainer is None:
        return None
    return DomainAdapters(knowledge.standing, knowledge.cache, policy.trainer.base_fingerprint)
