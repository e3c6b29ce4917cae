"""The parts of an installation that compute, as replicas on a Ray cluster.

What is a client of another server (a hosted model, a judge behind a URL) stays in this process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_embedder import open_embedder
from rttc_graph.installation.configured_policy import OpenPolicy, open_policy
from rttc_graph.installation.configured_reward import computes_rewards, open_reward_model
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.langchain.hosted_models import hosted_name
from rttc_graph.integrations.ray_serve.cluster import HERE, open_cluster
from rttc_graph.integrations.ray_serve.deploying import DeployedParts, PartFactories, deploy
from rttc_graph.integrations.ray_serve.model_replica import AdapterStore, ReplicaModel
from rttc_graph.protocols import MeasuringEmbedder, RewardModel

__all__ = ("PartsOnRay", "open_on_ray")

Values = dict[str, Any]
"""Settings of an installation by name, as they travel to the replicas."""


@dataclass(frozen=True, slots=True)
class PartsOnRay:
    """Parts of an installation that run on a cluster."""

    _deployed: DeployedParts

    @property
    def embedder(self) -> MeasuringEmbedder | None:
        """The embedder; `None` where another server embeds."""
        return self._deployed.embedder

    @property
    def reward(self) -> RewardModel | None:
        """The reward model with its raw scores; `None` where nothing is computed for it."""
        return self._deployed.reward

    def policy(self, store: AdapterStore) -> OpenPolicy | None:
        """Return the policy model with its trainer; `None` where another server answers.

        Args:
            store: Store of adapters that the replicas read and write.
        """
        model, trainer_over = self._deployed.model, self._deployed.trainer
        if model is None or trainer_over is None:
            return None
        trainer = trainer_over(store)
        return OpenPolicy(
            model=model,
            fingerprint=trainer.base_fingerprint,
            trainer=trainer,
            adapter_calls=model.call_figures,
        )


@contextmanager
def open_on_ray(config: InstallationConfig, address: str) -> Generator[PartsOnRay]:
    """Start or join a cluster, and deploy what an installation computes.

    Args:
        config: Names models and database; it travels to the replicas, which open the same.
        address: Cluster to start or join, as `open_cluster` takes it.

    Raises:
        ConfigurationError: The cluster cannot be reached or has no room, or its replicas could not
            reach the database.
    """
    if address != HERE and config.database_url is None:
        raise ConfigurationError(
            "replicas on other machines cannot reach the embedded Postgres of this one: set "
            "database_url to a server that all nodes reach"
        )
    values = config.model_dump()
    factories = PartFactories(
        model=partial(_model, values) if hosted_name(config.model, "model") is None else None,
        reward=partial(_reward, values) if computes_rewards(config) else None,
        embedder=partial(_embedder, values)
        if hosted_name(config.embedder, "embedder") is None
        else None,
    )
    with (
        open_cluster(address),
        deploy(factories, config.ray, made_from=_digest(values)) as deployed,
    ):
        yield PartsOnRay(deployed)


def _digest(values: Values) -> str:
    """Return a digest of the settings and of this release."""
    text = json.dumps({**values, "release": version("rttc-graph")}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _model(values: Values) -> Generator[ReplicaModel]:
    config = InstallationConfig(**values)
    with open_knowledge(config) as knowledge, open_policy(config) as policy:
        if policy.trainer is None:
            raise ConfigurationError(f"model={config.model!r} is served elsewhere")
        yield ReplicaModel(
            model=policy.model,
            trainer=policy.trainer,
            store=knowledge.cache,
            resident=policy.resident,
        )


@contextmanager
def _reward(values: Values) -> Generator[RewardModel]:
    config = InstallationConfig(**values)
    with open_policy(config) as policy:
        yield open_reward_model(config, policy.engine, policy.fingerprint)


def _embedder(values: Values) -> MeasuringEmbedder:
    return open_embedder(InstallationConfig(**values))
