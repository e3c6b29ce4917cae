"""Maps that go by more than the reward: what they read, when they are used, how they are kept."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import pytest
from scripted_parts import ScriptedRewardModel, candidate, sample

from rttc_graph.calibration.map_fitting import FittedCalibration, Labelled, calibrate
from rttc_graph.calibration.merging import merged_maps
from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.calibrated.answer_features import (
    FEATURES,
    FeatureMap,
    answer_features,
)
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    FEATURES_KEY,
    CalibratedReward,
    calibrated_fingerprint,
    probability_map,
)
from rttc_graph.jobs.measure_policies import EvaluationWanted
from rttc_graph.protocols import DomainCalibration, StoredCalibration, reward_requests
from rttc_graph.state import Candidate, Sample

SAMPLES: list[Sample] = [
    {**sample(1), "answer": "card arrival", "similarity": 0.9},
    {**sample(2), "answer": "Card Arrival", "similarity": 0.9},
    {**sample(3), "answer": "lost card", "similarity": 0.9},
    {**sample(4), "answer": "lost card", "similarity": 0.95, "metadata": {"kind": "passage"}},
]


@pytest.mark.parametrize(
    ("answer", "logprob", "samples", "expected"),
    [
        ("Card-arrival.", -0.5, SAMPLES, (-0.5, 1.0, 2 / 3, 0.95, math.log(2))),
        ("lost card", None, SAMPLES, (0.0, 0.0, 1 / 3, 0.95, math.log(3))),
        ("another thing", -99.0, SAMPLES, (-4.0, 1.0, 0.0, 0.95, math.log(3))),
        ("yes", math.nan, [], (0.0, 0.0, 0.0, 0.0, math.log(2))),
        ("", 0.1, [], (0.0, 1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_features_are_what_the_answer_and_the_samples_say(
    answer: str, logprob: float | None, samples: list[Sample], expected: tuple[float, ...]
) -> None:
    assert answer_features(answer, logprob, samples) == pytest.approx(expected)


def answers(count: int, *, telling: bool) -> list[Labelled]:
    """Answers that the samples' share tells right from wrong, or does not, and the score never."""
    draw = random.Random(4)
    found: list[Labelled] = []
    for number in range(count):
        right = draw.random() < 0.5
        share = (0.8 if right else 0.2) if telling else draw.random()
        features = (0.0, 1.0, share + draw.gauss(0, 0.2), 0.7, 1.0)
        found.append(Labelled(draw.uniform(0.1, 0.9), right, str(number), features))
    return found


def test_features_are_used_where_they_tell_more_and_only_when_asked() -> None:
    telling, noise = answers(200, telling=True), answers(200, telling=False)
    found = calibrate({"a": telling, "b": noise}, by_features=True)
    by = found.domains["a"].by_features
    assert by is not None
    assert by.slopes[FEATURES.index("share")] > 1
    assert found.domains["a"].features_loss is not None
    assert found.domains["a"].features_loss < min(found.domains["a"].losses.values())
    assert found.domains["b"].by_features is None
    assert found.reward(0.5, "b", noise[0].features) == found.domains["b"].map(0.5)
    assert found.reward(0.5, "a", (0.0, 1.0, 0.9, 0.7, 1.0)) > 0.8
    assert found.reward(0.5, "a") == found.domains["a"].map(0.5)
    plain = calibrate({"a": telling})
    assert (plain.pooled.by_features, plain.pooled.features_loss) == (None, None)


def test_answers_of_rows_without_samples_have_no_map_by_features() -> None:
    known = answers(100, telling=True)
    found = calibrate({"a": [*known, known[0]._replace(features=None)]}, by_features=True)
    assert found.pooled.features_loss is None
    assert found.pooled.by_features is None


@dataclass
class OneCalibration:
    """A store that keeps one calibration."""

    kept: StoredCalibration

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        del tenant
        self.kept = calibration

    async def load(self, reward_model: str, fingerprint: str, *, tenant: str) -> StoredCalibration:
        del reward_model, fingerprint, tenant
        return self.kept


@pytest.fixture(scope="module")
def fitted() -> FittedCalibration:
    return calibrate({"a": answers(200, telling=True)}, by_features=True)


def kept(fitted: FittedCalibration) -> StoredCalibration:
    domains = merged_maps(fitted, {"a"}, {"": {}}, before=None, all_domains=True)
    return StoredCalibration(reward_model="scripted", fingerprint="scripted", domains=domains)


async def test_a_run_is_judged_by_the_features_that_its_judge_is_shown(
    fitted: FittedCalibration,
) -> None:
    raw = ScriptedRewardModel(rewards={"card arrival": 0.5, "something else": 0.5})
    model = CalibratedReward(raw, OneCalibration(kept(fitted)))
    judge = model.within(tenant="default", domain="a")
    rewards: dict[str, float] = {}
    for answer in ("card arrival", "something else"):
        shown: Candidate = {**candidate("rag"), "answer": answer}
        requests = reward_requests([shown], samples=SAMPLES)
        [rewards[answer]] = await judge.score("q", requests)
        features = answer_features(answer, requests[0]["mean_logprob"], SAMPLES)
        assert rewards[answer] == fitted.domains["a"](0.5, features)
    assert rewards["card arrival"] > rewards["something else"]


def test_a_stored_map_by_features_comes_back_and_makes_another_fingerprint(
    fitted: FittedCalibration,
) -> None:
    stored = kept(fitted)
    features = (-0.1, 1.0, 0.9, 0.7, 1.0)
    assert probability_map(stored)(0.5, "a", features) == fitted.domains["a"](0.5, features)
    without = {
        name: replace(
            one, parameters={k: v for k, v in one.parameters.items() if k != FEATURES_KEY}
        )
        for name, one in stored.domains.items()
    }
    plain = replace(stored, domains=without)
    assert probability_map(plain)(0.5, "a", features) == fitted.domains["a"].map(0.5)
    assert calibrated_fingerprint(plain) != calibrated_fingerprint(stored)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"version": 1, "offset": 0.0, "slopes": {"logit": 1.0}}, id="one-missing"),
        pytest.param(
            {"version": 1, "offset": math.inf, "slopes": dict.fromkeys(FEATURES, 1.0)}, id="inf"
        ),
        pytest.param({"version": 1, "offset": "x", "slopes": {}}, id="text"),
        pytest.param([1], id="no-object"),
    ],
)
def test_a_broken_map_by_features_is_refused(broken: object, fitted: FittedCalibration) -> None:
    parameters = {**fitted.pooled.map.to_json(), FEATURES_KEY: broken}
    stored = replace(kept(fitted), domains={"": DomainCalibration(parameters=parameters, pairs=9)})
    with pytest.raises(ConfigurationError, match="run rttc calibrate again"):
        probability_map(stored)


def test_a_map_of_another_version_is_left_alone(fitted: FittedCalibration) -> None:
    by = fitted.pooled.by_features
    assert by is not None
    assert FeatureMap.from_json(by.to_json()) == by
    assert FeatureMap.from_json({**by.to_json(), "version": 2}) is None


def test_features_without_cross_fitting_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--features needs --cross-fit"):
        EvaluationWanted(policies=("cascade",), paths=["q.jsonl"], by_features=True)
