"""A calibrated reward model: whose map is used, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
from graph_runs import Face, ask
from scripted_parts import Parts, ScriptedRewardModel, candidate, sample

from rttc_graph.errors import BackendError, ConfigurationError, RewardModelError
from rttc_graph.graph import RttcParts
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    REFRESH_SECONDS,
    CalibratedReward,
    calibrated_fingerprint,
)
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.protocols import DomainCalibration, StoredCalibration, reward_requests
from rttc_graph.settings import RttcSettings


def flat(level: float) -> DomainCalibration:
    found = CalibrationMap("isotonic", ((0.0, level),))
    return DomainCalibration(parameters=found.to_json(), pairs=100)


def stored(fingerprint: str = "scripted", **levels: float) -> StoredCalibration:
    domains = {name.removeprefix("all"): flat(level) for name, level in levels.items()}
    return StoredCalibration(reward_model="scripted", fingerprint=fingerprint, domains=domains)


@dataclass
class MemoryStore:
    kept: dict[tuple[str, str, str], StoredCalibration] = field(
        default_factory=dict[tuple[str, str, str], StoredCalibration]
    )
    error: Exception | None = None
    loads: int = 0

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        self.kept[calibration.reward_model, calibration.fingerprint, tenant] = calibration

    async def load(
        self, reward_model: str, fingerprint: str, *, tenant: str
    ) -> StoredCalibration | None:
        self.loads += 1
        if self.error:
            raise self.error
        return self.kept.get((reward_model, fingerprint, tenant))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def reward(
    model: CalibratedReward, tenant: str = "default", domain: str | None = None
) -> float:
    judge = model.within(tenant=tenant, domain=domain)
    [found] = await judge.score("q", reward_requests([candidate("rag")]))
    return found


@pytest.fixture
def raw() -> ScriptedRewardModel:
    return ScriptedRewardModel(rewards={"rag": 0.4})


async def test_the_domains_map_counts_before_that_of_all(raw: ScriptedRewardModel) -> None:
    store = MemoryStore()
    await store.save(stored(all=0.7, math=0.9), tenant="default")
    await store.save(stored(all=0.1), tenant="other")
    model = CalibratedReward(raw, store)
    assert await reward(model) == 0.7
    assert await reward(model, domain="math") == 0.9
    assert await reward(model, domain="law") == 0.7
    assert await reward(model, tenant="other", domain="math") == 0.1
    assert await model.score("q", reward_requests([candidate("rag")])) == [0.7]
    assert store.loads == 2


async def test_the_judge_behind_the_map_sees_the_evidence(raw: ScriptedRewardModel) -> None:
    store = MemoryStore()
    await store.save(stored(all=0.7), tenant="default")
    run = [candidate("direct", 0.1), candidate("rag")]
    requests = reward_requests(run[1:], of_run=run, samples=[sample(1)])
    model = CalibratedReward(raw, store)
    for judge in (model, model.within(tenant="default", domain="math")):
        assert await judge.score("q", requests) == [0.7]
    assert raw.requests == [*requests, *requests]


async def test_a_calibrated_judge_knows_whether_it_is(
    raw: ScriptedRewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "is_calibrated", True, raising=False)  # on what it learnt from
    store = MemoryStore()
    await store.save(stored(all=0.7, math=0.9), tenant="known")
    model = CalibratedReward(raw, store)
    assert await model.within(tenant="known", domain="math").is_calibrated()
    assert await model.within(tenant="known", domain=None).is_calibrated()
    assert not await model.within(tenant="known", domain="law").is_calibrated()
    assert not await model.within(tenant="another", domain="math").is_calibrated()
    assert not await model.is_calibrated()
    assert await CalibratedReward(raw, store, tenant="known").is_calibrated()


async def test_other_weights_never_get_anothers_map(raw: ScriptedRewardModel) -> None:
    store = MemoryStore()
    await store.save(stored(all=0.7), tenant="default")
    raw.digest = "other weights"
    model = CalibratedReward(raw, store)
    assert await reward(model) == 0.4
    assert await model.fingerprint() == "other weights"


async def test_no_calibration_is_said_once(
    raw: ScriptedRewardModel, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    model = CalibratedReward(raw, MemoryStore(), clock=clock)
    with caplog.at_level(logging.INFO):
        assert await reward(model) == 0.4
        clock.now += 2 * REFRESH_SECONDS
        assert await reward(model, tenant="other") == 0.4
    assert len(caplog.records) == 1


async def test_nothing_is_said_of_a_reward_model_of_probabilities(
    raw: ScriptedRewardModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "is_calibrated", True, raising=False)
    with caplog.at_level(logging.INFO):
        assert await reward(CalibratedReward(raw, MemoryStore())) == 0.4
    assert not caplog.records


async def test_a_new_calibration_is_used_within_a_minute(raw: ScriptedRewardModel) -> None:
    store, clock = MemoryStore(), Clock()
    model = CalibratedReward(raw, store, clock=clock)
    assert await reward(model) == 0.4
    await store.save(stored(all=0.7), tenant="default")
    assert await reward(model) == 0.4
    clock.now += REFRESH_SECONDS
    assert await reward(model) == 0.7
    store.error = BackendError("gone")
    clock.now += REFRESH_SECONDS
    assert await reward(model) == 0.7


@pytest.mark.parametrize("broken", [BackendError("gone", retryable=True), None])
async def test_a_calibration_that_cannot_be_had_is_the_judges_failure(
    raw: ScriptedRewardModel, broken: Exception | None
) -> None:
    store = MemoryStore(error=broken)
    if broken is None:
        await store.save(stored(math=0.5), tenant="default")  # none for all domains
    with pytest.raises(RewardModelError, match="could not be loaded") as caught:
        await reward(CalibratedReward(raw, store))
    assert caught.value.retryable == (broken is not None)


async def test_another_map_has_another_fingerprint(raw: ScriptedRewardModel) -> None:
    found = set[str]()
    for calibration in (stored(all=0.7), stored(all=0.8), stored(all=0.7, math=0.7)):
        store = MemoryStore()
        await store.save(calibration, tenant="default")
        found.add(await CalibratedReward(raw, store).fingerprint())
        expected = calibrated_fingerprint(calibration)
        assert await CalibratedReward(raw, store).fingerprint() == expected
    assert len(found | {await raw.fingerprint()}) == 4


async def test_the_graph_judges_by_the_map_of_the_questions_domain(face: Face) -> None:
    parts = Parts().rewarding(direct=0.3, rag=0.3)
    store = MemoryStore()
    await store.save(stored(all=0.2, math=0.95), tenant="default")
    model = CalibratedReward(parts.reward_model, store)
    calibrated: RttcParts = {**parts.parts(), "reward_model": model}
    output = await ask(calibrated, face, domain="math")
    assert (output["arm"], output["reward"]) == ("direct", 0.95)
    assert (await ask(calibrated, face))["reward"] == 0.2


async def test_a_threshold_of_another_reward_model_is_refused(face: Face) -> None:
    parts = Parts().rewarding(direct=0.9)
    fits = RttcSettings(tau_r=0.8, tau_r_of="scripted")
    assert (await ask(parts.parts(), face, settings=fits))["arm"] == "direct"
    other = RttcSettings(tau_r=0.8, tau_r_of="another")
    parts.policy_model.requests.clear()
    with pytest.raises(ConfigurationError, match=r"tau_r=0\.8 was chosen.*rttc calibrate"):
        await ask(parts.parts(), face, settings=other)
    assert parts.policy_model.requests == []


async def test_a_judge_that_cannot_say_who_it_is_costs_no_answer(face: Face) -> None:
    parts = Parts().rewarding(direct=0.9)

    async def fail() -> str:
        raise RewardModelError("gone")

    parts.reward_model.fingerprint = fail  # type: ignore[method-assign]
    output = await ask(parts.parts(), face, tau_r_of="scripted")
    assert output["answer"] == "direct"
    assert any(entry["event"] == "failed" for entry in output["ledger"])
