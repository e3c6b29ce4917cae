"""Deploys parts of an installation on a cluster, or finds them there, and returns their callers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rttc_graph.errors import (
    AdaptationError,
    BackendError,
    ConfigurationError,
    EmbeddingError,
    PolicyModelError,
    RewardModelError,
)
from rttc_graph.integrations.concurrency.loop_thread import LoopThread
from rttc_graph.integrations.ray_serve.embedder_replica import EmbedderReplica
from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls, run_apart
from rttc_graph.integrations.ray_serve.model_replica import (
    AdapterStore,
    ModelFacts,
    ModelReplica,
    ReplicaModel,
)
from rttc_graph.integrations.ray_serve.ray_adapter_trainer import RayAdapterTrainer
from rttc_graph.integrations.ray_serve.ray_embedder import RayEmbedder
from rttc_graph.integrations.ray_serve.ray_library import ray_library, serve_library
from rttc_graph.integrations.ray_serve.ray_policy_model import RayPolicyModel, ray_policy_model
from rttc_graph.integrations.ray_serve.ray_reward_model import RayRewardModel
from rttc_graph.integrations.ray_serve.ray_settings import RaySettings
from rttc_graph.integrations.ray_serve.reward_replica import RewardReplica
from rttc_graph.protocols import MeasuringEmbedder, RewardModel

__all__ = ("DeployedParts", "PartFactories", "deploy")

_LOOK_AGAIN_SECONDS = 0.25
_FACTS_SECONDS = 60.0
_MAY_ANSWER = ("RUNNING", "DEPLOYING", "UNHEALTHY")
"""States of an application in which a replica may answer: `UNHEALTHY` is one that lost a replica,
`DEPLOYING` one whose replicas are being started, by another server perhaps."""

_LONGEST_MESSAGE = 600
"""Characters of Ray's own message that go into an error, from its end, where the reason stands."""

_STARTS = 3
"""Times that a replica is started before its part counts as one that does not start."""

_REPLICA_VARIABLES = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""Environment of the replicas: what they do blocks no event loop, so it shares Serve's own, which
takes two milliseconds off a call (docs/experiments.md)."""

_SMALL_REQUESTS = 64
"""Requests in hand per replica of a reward model or an embedder: they batch what waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFactories:
    """Functions that open the parts, called in the replicas; pickled on their way there.

    `None` for a part that is not to be deployed.
    """

    model: Callable[[], AbstractContextManager[ReplicaModel]] | None = None
    reward: Callable[[], AbstractContextManager[RewardModel]] | None = None
    embedder: Callable[[], MeasuringEmbedder] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedParts:
    """Parts that run on the cluster, by handle; `None` for one that was not deployed."""

    model: RayPolicyModel | None
    reward: RayRewardModel | None
    embedder: RayEmbedder | None
    trainer: Callable[[AdapterStore], RayAdapterTrainer] | None
    """Returns the trainer over a store, which is that of the replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Application:
    """One deployment, which is an application of its own."""

    name: str
    what: str
    """Name of the part, for errors."""
    replica: type
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@contextmanager
def deploy(
    factories: PartFactories, settings: RaySettings, *, made_from: str
) -> Generator[DeployedParts]:
    """Deploy parts on the cluster that this process is connected to, and wait until they are ready.

    What is deployed already under the same name, from the same settings, is used as it is, also
    while Ray Serve replaces a replica that was lost; from others, Ray Serve replaces it replica by
    replica. Nothing is taken down at the end.

    Args:
        factories: Open the parts.
        settings: Numbers of replicas and what they take.
        made_from: Digest of all that the replicas are made from.

    Raises:
        ConfigurationError: A part does not start, or the cluster has no room for it.
    """
    loop = LoopThread("rttc-ray", workers=1)
    wanted = {one.what: one for one in _applications(factories, settings, made_from)}
    missing = [one for one in wanted.values() if not _is_there(one, made_from, loop)]
    _run(missing)
    _await_running(missing, settings)

    def calls(what: str, error: type[BackendError]) -> HandleCalls:
        handle = serve_library().get_app_handle(wanted[what].name)
        return HandleCalls(handle, what=f"the {what} on the cluster", error=error, loop=loop)

    yield _parts(factories, settings, calls)


def _parts(
    factories: PartFactories,
    settings: RaySettings,
    calls: Callable[[str, type[BackendError]], HandleCalls],
) -> DeployedParts:
    model = trainer = reward = embedder = None
    if factories.model is not None:
        policy = calls("policy model", PolicyModelError)
        facts: ModelFacts = run_apart(policy.call("describe"))
        came = Counter[str]()
        model = ray_policy_model(policy, facts, came)
        trained_by = "trainers" if settings.trainers else "policy model"
        trainer = partial(
            RayAdapterTrainer,
            calls(trained_by, AdaptationError),
            calls("policy model", AdaptationError),
            base_fingerprint=facts.base_fingerprint,
            came=came,
        )
    if factories.reward is not None:
        judge = calls("reward model", RewardModelError)
        reward = RayRewardModel(calls=judge, facts=run_apart(judge.call("describe")))
    if factories.embedder is not None:
        embedding = calls("embedder", EmbeddingError)
        embedder = RayEmbedder(calls=embedding, facts=run_apart(embedding.call("describe")))
    return DeployedParts(model=model, reward=reward, embedder=embedder, trainer=trainer)


def _applications(
    factories: PartFactories, settings: RaySettings, made_from: str
) -> list[_Application]:
    found: list[_Application] = []
    common = {"runtime_env": {"env_vars": _REPLICA_VARIABLES}}
    large = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, **common}
    small = {"num_cpus": settings.small_cpus, "num_gpus": settings.small_gpus, **common}

    def add(what: str, replica: type, arguments: tuple[Any, ...], **options: Any) -> None:
        name = f"{settings.name}-{what.replace(' ', '-')}"
        found.append(
            _Application(
                name=name, what=what, replica=replica, arguments=arguments, options=options
            )
        )

    if factories.model is not None:
        model = (factories.model, settings.adapters, made_from)
        add(
            *("policy model", ModelReplica, model),
            **_replicas(settings),
            max_ongoing_requests=settings.most_requests,
            ray_actor_options=large,
        )
        if settings.trainers:
            add(
                *("trainers", ModelReplica, model),
                num_replicas=settings.trainers,
                max_ongoing_requests=settings.most_trainings,
                max_queued_requests=settings.trainers * settings.most_trainings,
                ray_actor_options=large,
            )
    if factories.reward is not None:
        add(
            *("reward model", RewardReplica, (factories.reward, made_from)),
            num_replicas=settings.judges,
            max_ongoing_requests=_SMALL_REQUESTS,
            ray_actor_options=small,
        )
    if factories.embedder is not None:
        add(
            *("embedder", EmbedderReplica, (factories.embedder, made_from)),
            num_replicas=settings.embedders,
            max_ongoing_requests=_SMALL_REQUESTS,
            ray_actor_options=small,
        )
    return found


def _replicas(settings: RaySettings) -> dict[str, Any]:
    if settings.max_replicas <= settings.min_replicas:
        return {"num_replicas": settings.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_requests,
        }
    }


def _is_there(application: _Application, made_from: str, loop: LoopThread) -> bool:
    """Tell whether a replica answers that was made from the same settings.

    The application need not be whole. Deploying it again gives it a new version, for which Ray
    Serve would replace the replicas that are well, while one that was lost is being replaced.
    """
    serve = serve_library()
    found = serve.status().applications.get(application.name)
    if found is None or found.status not in _MAY_ANSWER:
        return False
    handle = serve.get_app_handle(application.name)
    calls = HandleCalls(handle, what=application.name, error=BackendError, loop=loop)
    deadline = time.monotonic() + _FACTS_SECONDS
    try:
        facts = run_apart(calls.call_until(deadline, "describe"))
    except BackendError:
        return False
    return bool(facts.made_from == made_from)


def _run(applications: Sequence[_Application]) -> None:
    if not applications:
        return
    serve = serve_library()
    targets = [
        serve.RunTarget(
            target=serve.deployment(
                one.replica,
                name=one.what.replace(" ", "-"),
                max_constructor_retry_count=_STARTS,
                **one.options,
            ).bind(*one.arguments),
            name=one.name,
            route_prefix=None,
        )
        for one in applications
    ]
    serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )


def _await_running(applications: Sequence[_Application], settings: RaySettings) -> None:
    end = time.monotonic() + settings.start_seconds
    while True:
        known = serve_library().status().applications
        waiting = [one for one in applications if _status(known, one) != "RUNNING"]
        if not waiting:
            return
        for one in waiting:
            if _status(known, one) == "DEPLOY_FAILED":
                raise ConfigurationError(
                    f"the {one.what} does not start on the cluster: {_message(known[one.name])}"
                )
        if time.monotonic() > end:
            raise ConfigurationError(_no_room(waiting, settings))
        time.sleep(_LOOK_AGAIN_SECONDS)


def _status(known: Any, application: _Application) -> str:
    found = known.get(application.name)
    return "NOT_STARTED" if found is None else str(found.status.value)


def _message(application: Any) -> str:
    said = [application.message, *(one.message for one in application.deployments.values())]
    return max((str(text).strip() for text in said), key=len)[-_LONGEST_MESSAGE:]


def _no_room(waiting: Sequence[_Application], settings: RaySettings) -> str:
    free = ray_library().available_resources()
    needed = "; ".join(
        f"{one.what}: {_taken(one.options['ray_actor_options'])} a replica" for one in waiting
    )
    return (
        f"not ready after ray.start_seconds={settings.start_seconds:g}: {needed}. The cluster has "
        f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free: add nodes, lower "
        "ray.cpus, ray.gpus or the numbers of replicas, or raise ray.start_seconds"
    )


def _taken(options: Mapping[str, Any]) -> str:
    return f"{options['num_cpus']:g} CPUs and {options['num_gpus']:g} GPUs"
