"""A calibrated reward model: whose map is used, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import pytest
from graph_runs import Face, ask
from scripted_parts import Parts, ScriptedRewardModel, candidate, sample

from rttc_graph.errors import BackendError, ConfigurationError, RewardModelError
from rttc_graph.graph import RttcParts
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    ARMS_KEY,
    OTHERS_KEY,
    PLAN_KEY,
    POOLED_KEY,
    REFRESH_SECONDS,
    STANDING_KEY,
    CalibratedReward,
    calibrated_fingerprint,
)
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.protocols import DomainCalibration, StoredCalibration, reward_requests
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Plan


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
        damaged = DomainCalibration(parameters={"method": "unknown"}, pairs=1)
        await store.save(replace(stored(), domains={"math": damaged}), tenant="default")
    with pytest.raises(RewardModelError, match="could not be loaded") as caught:
        await reward(CalibratedReward(raw, store))
    assert caught.value.retryable == (broken is not None)


def with_parameters(found: StoredCalibration, domain: str, **more: object) -> StoredCalibration:
    kept = found.domains[domain]
    changed = replace(kept, parameters={**kept.parameters, **more})
    return replace(found, domains={**found.domains, domain: changed})


OTHERS = {**flat(0.6).parameters, ARMS_KEY: ["rag"]}
PLAIN = with_parameters(stored(all=0.7), "", **{ARMS_KEY: ["nearest"]})


@pytest.mark.parametrize(
    ("calibration", "rewards", "calibrated", "arms"),
    [
        pytest.param(PLAIN, (0.7, 0.7), (True, False), ("nearest", "nearest"), id="of-before"),
        pytest.param(
            with_parameters(PLAIN, "", **{OTHERS_KEY: None}),
            (0.7, 0.4),
            (True, False),
            ("nearest", ""),
            id="others-stay-raw",
        ),
        pytest.param(
            with_parameters(PLAIN, "", **{OTHERS_KEY: OTHERS}),
            (0.7, 0.6),
            (True, False),
            ("nearest", "rag"),
            id="others-have-theirs",
        ),
        pytest.param(stored(math=0.9), (0.4, 0.9), (False, True), ("", ""), id="one-domain"),
        pytest.param(
            with_parameters(stored(math=0.9), "math", **{POOLED_KEY: True}),
            (0.4, 0.9),
            (False, False),
            ("", ""),
            id="too-few-answers-for-a-probability",
        ),
    ],
)
async def test_which_map_serves_which_domain(
    raw: ScriptedRewardModel,
    calibration: StoredCalibration,
    rewards: tuple[float, float],
    calibrated: tuple[bool, bool],
    arms: tuple[str, str],
) -> None:
    store = MemoryStore()
    await store.save(calibration, tenant="default")
    model = CalibratedReward(raw, store)
    judges = [model.within(tenant="default", domain=domain) for domain in (None, "math")]
    assert (await reward(model), await reward(model, domain="math")) == rewards
    assert tuple([await judge.is_calibrated() for judge in judges]) == calibrated
    assert tuple([",".join(await judge.chosen_arms()) for judge in judges]) == arms


async def test_a_map_of_others_has_its_own_fingerprint() -> None:
    others: list[dict[str, object]] = [{}, {OTHERS_KEY: None}, {OTHERS_KEY: OTHERS}]
    found = [calibrated_fingerprint(with_parameters(PLAIN, "", **more)) for more in others]
    assert len(set(found)) == 3
    assert found[0] == calibrated_fingerprint(stored(all=0.7))  # arms are none of it


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


@dataclass
class Standing:
    """Knows that `math` has an adapter of its own."""

    key: str | None = "new"

    async def standing_adapter(self, *, domain: str, tenant: str) -> str | None:
        return self.key if (domain, tenant) == ("math", "default") else None

    async def stored(self, key: str) -> None:
        raise AssertionError(key)


async def test_a_map_of_another_models_answers_is_not_used_for_its_domain(
    raw: ScriptedRewardModel,
) -> None:
    store, standing = MemoryStore(), Standing()
    kept = stored(all=0.7, math=0.9, law=0.8)
    await store.save(kept, tenant="default")
    model = CalibratedReward(raw, store, standing_adapters=standing)
    math = model.within(tenant="default", domain="math")
    assert await reward(model, domain="math") == 0.7  # as where the domain has none
    assert not await math.is_calibrated()
    assert await reward(model, domain="law") == 0.8
    anew = dict(kept.domains["math"].parameters) | {STANDING_KEY: "new"}
    domains = {**kept.domains, "math": DomainCalibration(parameters=anew, pairs=100)}
    await store.save(replace(kept, domains=domains), tenant="default")
    model = CalibratedReward(raw, store, standing_adapters=standing)
    assert await reward(model, domain="math") == 0.9
    standing.key = None  # and taken away again
    assert await reward(model, domain="math") == 0.7


async def test_a_plan_of_another_adapters_answers_is_told_as_such(
    raw: ScriptedRewardModel,
) -> None:
    plan: Plan = {"first": "nearest", "edges": [], "bins": [{"arms": [], "tau_r": 0.5}]}
    kept = stored(math=0.9, law=0.8)
    planned = {
        name: replace(one, parameters={**one.parameters, PLAN_KEY: plan})
        for name, one in kept.domains.items()
    }
    store = MemoryStore()
    await store.save(replace(kept, domains=planned), tenant="default")
    model = CalibratedReward(raw, store, standing_adapters=Standing())
    assert await model.within(tenant="default", domain="law").chosen_plan() == plan
    assert await model.within(tenant="default", domain="art").chosen_plan() is None
    with pytest.raises(RewardModelError, match="before the domain's adapter was changed: make it"):
        await model.within(tenant="default", domain="math").chosen_plan()
