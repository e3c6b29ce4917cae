"""Parts on a Ray cluster of three nodes: contracts, a node that is lost, what is told of failures.

Starting takes minutes on a small machine, so `make test` leaves it out: `make test-ray`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from postgres_fixtures import cloned
from tiny_checkpoints import classifier_folder

from benchmarks.tools.ray_nodes import (
    Nodes,
    ask_all,
    fill,
    in_turn,
    node_of,
    nodes,
    policy_replicas,
)
from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.ray_serve.deploying import PartFactories, deploy
from rttc_graph.integrations.ray_serve.ray_adapter_trainer import RayAdapterTrainer
from rttc_graph.integrations.ray_serve.ray_embedder import RayEmbedder
from rttc_graph.integrations.ray_serve.ray_library import ray_library, serve_library
from rttc_graph.integrations.ray_serve.ray_policy_model import RayPolicyModel
from rttc_graph.integrations.ray_serve.ray_reward_model import RayRewardModel
from rttc_graph.integrations.ray_serve.ray_settings import RaySettings
from rttc_graph.protocols import (
    AdapterTrainer,
    GenerationRequest,
    MeasuringEmbedder,
    PolicyModel,
    RewardModel,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
)
from rttc_graph.settings import TttSettings
from rttc_graph.testing import (
    AdapterTrainerContract,
    EmbedderContract,
    MeasuringEmbedderContract,
    PolicyModelContract,
    RewardModelContract,
)
from rttc_graph.testing.adapter_trainer_contract import EXAMPLES, SETTINGS

pytest.importorskip("ray", reason="needs Ray: pip install 'rttc-graph[ray]', then make test-ray")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, in this process
]

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes(3) as found:
        yield found


@pytest.fixture(scope="module")
def config(
    postgres_server: EmbeddedPostgres,
    postgres_template: str,
    tiny_model_path: Path,
    tiny_embedder_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InstallationConfig]:
    folder = tmp_path_factory.mktemp("ray")
    with cloned(postgres_server.dsn, postgres_template) as dsn:
        yield load_config(
            home=folder / "home",
            database_url=dsn,
            model=str(tiny_model_path),
            embedder=str(tiny_embedder_path),
            reward=str(classifier_folder(folder / "judge")),
            device="cpu",
            threads=1,
            ray={"min_replicas": 3, "cpus": 0.6, "start_seconds": 800},
        )


@pytest.fixture(scope="module")
def away(cluster: Nodes, config: InstallationConfig) -> Iterator[LocalRttc]:
    """The installation, computed on the cluster."""
    with open_local(config, ray="auto") as local:
        yield local


@pytest.fixture(scope="module")
def here(config: InstallationConfig) -> Iterator[LocalRttc]:
    """The same installation over the same database, computed in this process."""
    with open_local(config) as local:
        yield local


class TestRayPolicyModel(PolicyModelContract):
    @pytest.fixture
    def policy_model(self, away: LocalRttc) -> PolicyModel:
        assert isinstance(away.policy.model, RayPolicyModel)
        return away.policy.model


class TestRayRewardModel(RewardModelContract):
    @pytest.fixture
    def reward_model(self, away: LocalRttc) -> RewardModel:
        assert isinstance(away.judge, RayRewardModel)
        return away.judge


class TestRayEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, away: LocalRttc) -> MeasuringEmbedder:
        assert isinstance(away.knowledge.embedder, RayEmbedder)
        return away.knowledge.embedder


class TestRayEmbedderThatMeasures(MeasuringEmbedderContract):
    @pytest.fixture
    def embedder(self, away: LocalRttc) -> MeasuringEmbedder:
        return away.knowledge.embedder


class FreshKeys:
    """A trainer whose keys are those of one test, since all tests share a cluster."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self._trainer = trainer
        self._prefix = f"test-{next(_NUMBERS)}-"
        self.base_fingerprint = trainer.base_fingerprint

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        made = await self._trainer.train(
            self._prefix + key, examples, settings, on_step=on_step, deadline=deadline
        )
        return replace(made, key=key)

    async def is_resident(self, key: str) -> bool:
        return await self._trainer.is_resident(self._prefix + key)

    async def load(self, adapter: TrainedAdapter) -> None:
        await self._trainer.load(replace(adapter, key=self._prefix + adapter.key))

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        return await self._trainer.loss(replace(adapter, key=self._prefix + adapter.key), examples)


def trainer_of(local: LocalRttc) -> AdapterTrainer:
    assert local.policy.trainer is not None
    return local.policy.trainer


class TestRayAdapterTrainer(AdapterTrainerContract):
    @pytest.fixture
    def trainer(self, away: LocalRttc) -> AdapterTrainer:
        assert isinstance(trainer_of(away), RayAdapterTrainer)
        return FreshKeys(trainer_of(away))


def request_for(text: str, **more: object) -> GenerationRequest:
    given = GenerationRequest(messages=({"role": "user", "content": text},), max_new_tokens=6)
    return replace(given, **more)  # type: ignore[arg-type]


async def test_answers_with_adapters_are_those_of_the_local_engine(
    away: LocalRttc, here: LocalRttc
) -> None:
    """In one call with several adapters and none, as a panel makes it."""
    keys = [f"panel-{number}" for number in range(3)]
    for number, key in enumerate(keys):
        made = await trainer_of(away).train(
            key, EXAMPLES, replace(SETTINGS, seed=number), on_step=lambda _: None
        )
        await trainer_of(here).load(made)
    asked = [request_for("a b c", adapter=key) for key in [keys[1], None, keys[0], keys[2], None]]
    found = await away.policy.model.generate(asked)
    solo = [(await here.policy.model.generate([one]))[0] for one in asked]
    assert [one.text for one in found] == [one.text for one in solo]
    assert len({one.text for one in found}) > 2


async def test_an_adapter_that_is_nowhere_is_an_error(away: LocalRttc) -> None:
    with pytest.raises(PolicyModelError, match="'nowhere' is not in the database"):
        await away.policy.model.generate([request_for("a", adapter="nowhere")])


async def test_a_deadline_crosses_the_handle(away: LocalRttc) -> None:
    """The replica stops where the local engine would, and says so."""
    began = time.monotonic()
    [found] = await away.policy.model.generate(
        [request_for("a b", max_new_tokens=450)], deadline=began + 0.05
    )
    assert found.finish_reason == "budget"
    assert 0 < found.completion_tokens < 450


async def test_cancelling_crosses_the_handle(away: LocalRttc) -> None:
    """A training that nobody waits for ends, and the trainers take the next ones."""
    trainer, began = trainer_of(away), asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(_: TrainStep) -> None:
        loop.call_soon_threadsafe(began.set)

    long = replace(SETTINGS, min_steps=100_000, epochs=50_000)
    for number in range(3 * 4):  # more than trainers take at once
        began.clear()
        task = asyncio.ensure_future(
            trainer.train(
                f"long-{number}",
                EXAMPLES,
                long,
                on_step=note,
            )
        )
        await asyncio.wait_for(began.wait(), 30)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    made = await trainer.train("short", EXAMPLES, SETTINGS, on_step=lambda _: None)
    assert made.steps >= 4


def state_of(application: str) -> str:
    return str(serve_library().status().applications[application].status.value)


def await_state(application: str, *states: str) -> None:
    end = time.monotonic() + 300
    while state_of(application) not in states:
        assert time.monotonic() < end, f"{application} is {state_of(application)}"
        time.sleep(0.1)


def test_what_runs_already_is_used_as_it_is(away: LocalRttc, config: InstallationConfig) -> None:
    """A second server of the same installation deploys nothing, also when a replica was lost."""
    await_state("rttc-policy-model", "RUNNING")
    before = policy_replicas()
    ray = ray_library()
    ray.kill(ray.get_actor(before[0]["Name"], namespace="serve"), no_restart=True)
    await_state("rttc-policy-model", "UNHEALTHY", "DEPLOYING")
    with open_local(config, ray="auto") as other:
        theirs = asyncio.run(trainer_of(other).base_fingerprint())
        assert theirs == asyncio.run(trainer_of(away).base_fingerprint())
    await_state("rttc-policy-model", "RUNNING")
    after = {str(one["ActorID"]) for one in policy_replicas()}
    assert len(after) == len(before)
    assert after > {str(one["ActorID"]) for one in before[1:]}


async def test_a_lost_node_loses_no_ask(cluster: Nodes, away: LocalRttc, here: LocalRttc) -> None:
    """Every ask is answered, with its own adapter, as it is alone; and soon as fast as before."""
    questions = await fill(away, 12)
    trained, _ = await ask_all(away, questions, clients=2)
    assert [one.error for one in trained if one.answer is None] == []
    solo, _ = await ask_all(here, questions, clients=1)
    expected = {one.question: (one.answer, one.adapter) for one in solo}
    assert len({adapter for _, adapter in expected.values()}) == len(questions)
    assert len({answer for answer, _ in expected.values()}) > len(questions) / 2
    assert len({node_of(one) for one in policy_replicas()}) > 1

    figures = away.policy.adapter_calls
    assert figures is not None
    before = figures()
    asked, lost_at = await ask_all(
        away, in_turn(questions, 120), clients=16, after=60, ring=cluster.lose
    )
    cluster.add()
    for part in ("policy-model", "trainers", "reward-model", "embedder"):
        await asyncio.to_thread(await_state, f"rttc-{part}", "RUNNING")  # for the next test

    assert lost_at is not None
    assert [one.error for one in asked if one.answer is None] == []
    wrong = [one for one in asked if (one.answer, one.adapter) != expected[one.question]]
    assert wrong == []
    came = {name: number - before[name] for name, number in figures().items()}
    assert came["recall_resident"] >= 0.9 * (came["recall_resident"] + came["recall_loaded"]), came


def replica_figures() -> list[str]:
    """Return the lines of our figures that the nodes export."""
    found: list[str] = []
    for node in ray_library().nodes():
        if node["Alive"]:
            url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
            text = urllib.request.urlopen(url, timeout=10).read().decode()
            found += re.findall(r"^ray_rttc_replica_.*", text, re.MULTILINE)
    return found


async def test_nodes_export_the_figures_of_their_replicas(away: LocalRttc) -> None:
    made = await trainer_of(away).train("counted", EXAMPLES, SETTINGS, on_step=lambda _: None)
    await away.policy.model.generate([request_for("a b", adapter=made.key)])
    wanted = (
        'tokens_total{.*application="rttc-policy-model".*kind="completion".*replica="',
        'tokens_total{.*application="rttc-trainers".*kind="trained"',
        'adapter_calls_total{.*adapter="resident".*application="rttc-policy-model"',
        'resident{.*application="rttc-policy-model".*what="adapters"',
        'training_seconds_count{.*application="rttc-trainers"',
    )
    end = time.monotonic() + 60  # Ray exports them every ten seconds
    missing: list[str] = [*wanted]
    while missing:
        assert time.monotonic() < end, missing
        await asyncio.sleep(1)
        text = "\n".join(await asyncio.to_thread(replica_figures))
        missing = [
            one
            for one in wanted
            if re.search(f"^ray_rttc_replica_{one}", text, re.MULTILINE) is None
        ]


def test_a_handle_costs_little(away: LocalRttc, here: LocalRttc) -> None:
    """The fastest call counts and the bound is a loose one: the machine may be busy."""
    turns = request_for("a b c").messages

    async def fastest(model: PolicyModel) -> float:
        taken: list[float] = []
        for _ in range(50):
            began = time.perf_counter()
            await model.count_tokens(turns)
            taken.append(time.perf_counter() - began)
        return min(taken)

    assert asyncio.run(fastest(away.policy.model)) - asyncio.run(fastest(here.policy.model)) < 0.05


@pytest.mark.usefixtures("cluster")
def test_a_part_that_does_not_start_says_why() -> None:
    read_nothing = partial(Path.read_text, Path("/nowhere/at-all"))
    factories = PartFactories(embedder=cast("Callable[[], MeasuringEmbedder]", read_nothing))
    serve = serve_library()
    serve.start(proxy_location="Disabled")
    try:
        with (
            pytest.raises(
                ConfigurationError, match=r"embedder does not start(?s:.*)nowhere/at-all"
            ),
            deploy(factories, RaySettings(name="other"), made_from="test"),
        ):
            pass
    finally:
        serve.delete("other-embedder")
