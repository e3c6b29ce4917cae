from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_fakes import FixedCrossEncoder, SyncChat
from tiny_checkpoints import classifier_folder, encoder_folder, trained_reward_folder

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.postgres.calibration_store import PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import CalibratedReward
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.rewards.chat_judge import ChatJudge
from rttc_graph.integrations.rewards.cross_encoder_reward import CrossEncoderReward
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.integrations.rewards.sequence_classifier_reward import (
    ClassifierSettings,
    SequenceClassifierReward,
)
from rttc_graph.integrations.rewards.trained.network_reward import (
    EncoderReward,
    PolicyBackboneReward,
)
from rttc_graph.integrations.rewards.trained.reward_folder import encoder_base, policy_base
from rttc_graph.integrations.rewards.trained.reward_spec import Backbone
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import DomainCalibration, RewardModel, StoredCalibration
from rttc_graph.testing import RewardModelContract
from rttc_graph.testing.inputs import TENANT


def share(text: str) -> float:
    """A number in [0, 1) that is the text's own."""
    return hashlib.sha256(text.encode(errors="replace")).digest()[0] / 256


def judge(messages: list[BaseMessage]) -> AIMessage:
    """Grade by the length of the prompt, so that answers differ."""
    return AIMessage(str(len(messages[-1].text) % 11))


class TestSelfConfidence(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        return SelfConfidence()


class TestSyncCallable(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        def score(query: str, answer: str) -> float:
            time.sleep(0)
            return share(answer)

        return CallableReward(score)


class TestAsyncCallable(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        async def score(query: str, answer: str) -> float:
            await asyncio.sleep(0)
            return share(answer)

        return CallableReward(score)


class TestRawCrossEncoder(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        encoder = FixedCrossEncoder(lambda query, answer: 2000 * share(answer) - 1000)
        return CrossEncoderReward(encoder, batch_size=2)


class TestFinishedCrossEncoder(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        encoder = FixedCrossEncoder(lambda query, answer: share(answer))
        return CrossEncoderReward(encoder, activation="identity")


class TestChatJudge(RewardModelContract):
    @pytest.fixture
    def reward_model(self) -> RewardModel:
        return ChatJudge(SyncChat(answer=judge))


@pytest.fixture
def calibrations(database: Database) -> PostgresCalibrationStore:
    return PostgresCalibrationStore(database)


class TestCalibratedWithoutMap(RewardModelContract):
    @pytest.fixture
    def reward_model(self, calibrations: PostgresCalibrationStore) -> RewardModel:
        return CalibratedReward(CallableReward(other_share), calibrations)


class TestCalibrated(RewardModelContract):
    @pytest.fixture
    def reward_model(self, calibrations: PostgresCalibrationStore) -> RewardModel:
        raw = CallableReward(other_share)
        found = CalibrationMap("platt", ((3.0, -1.0),))
        domain = DomainCalibration(parameters=found.to_json(), pairs=100)
        asyncio.run(save(calibrations, raw, {"": domain, "math": domain}))
        return CalibratedReward(raw, calibrations)

    async def test_a_map_makes_its_domain_calibrated(self, reward_model: RewardModel) -> None:
        assert await reward_model.is_calibrated()
        assert await reward_model.within(tenant=TENANT, domain="math").is_calibrated()
        assert not await reward_model.within(tenant=TENANT, domain="law").is_calibrated()


async def save(
    calibrations: PostgresCalibrationStore,
    raw: RewardModel,
    domains: dict[str, DomainCalibration],
) -> None:
    stored = StoredCalibration(
        reward_model=raw.name, fingerprint=await raw.fingerprint(), domains=domains
    )
    for tenant in ("default", TENANT):
        await calibrations.save(stored, tenant=tenant)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def folder_without_padding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("classifier"), pad_id=None)


class TestSequenceClassifier(RewardModelContract):
    @pytest.fixture
    def reward_model(self, folder: Path) -> RewardModel:
        return SequenceClassifierReward(folder, settings=ClassifierSettings(batch_size=4))


class TestSequenceClassifierWithoutPadding(RewardModelContract):
    @pytest.fixture
    def reward_model(self, folder_without_padding: Path) -> RewardModel:
        return SequenceClassifierReward(folder_without_padding)


@pytest.mark.parametrize("backbone", ["towers", "encoder"])
class TestTrainedOnAnEncoder(RewardModelContract):
    @pytest.fixture
    def reward_model(self, tmp_path: Path, backbone: Backbone) -> RewardModel:
        base = encoder_folder(tmp_path / "base")
        folder = trained_reward_folder(tmp_path / "reward", encoder_base(base), backbone)
        return EncoderReward(folder, base)


class TestTrainedOnThePolicyModel(RewardModelContract):
    @pytest.fixture
    def reward_model(self, tmp_path: Path, tiny_engine: LocalEngine) -> RewardModel:
        bases = asyncio.run(tiny_engine.in_lane(policy_base))
        folder = trained_reward_folder(tmp_path / "reward", bases, "causal")
        return PolicyBackboneReward(folder, tiny_engine)


def other_share(query: str, answer: str) -> float:
    return share(query) / 2 + share(answer) / 2


def other_name(query: str, answer: str) -> float:
    return share(answer)


async def test_other_code_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    async def whose() -> str:
        return "base"

    models: list[RewardModel] = [
        CallableReward(other_share, "f"),
        CallableReward(other_name, "f"),
        CallableReward(other_name, "g"),
        SelfConfidence(),
        SelfConfidence(whose),
        CrossEncoderReward(FixedCrossEncoder(lambda q, a: 0.5)),
        CrossEncoderReward(FixedCrossEncoder(lambda q, a: 0.5), activation="identity"),
        ChatJudge(SyncChat(answer=judge)),
        ChatJudge(SyncChat(answer=judge), max_characters=500),
        SequenceClassifierReward(folder),
        SequenceClassifierReward(folder, settings=ClassifierSettings(midpoint=1.0)),
        SequenceClassifierReward(classifier_folder(tmp_path, template=None)),
    ]
    found = [await model.fingerprint() for model in models]
    assert len(set(found)) == len(found)


async def test_a_classifier_that_is_not_there_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(RewardModelError, match="nowhere"):
        await SequenceClassifierReward(tmp_path / "nowhere").fingerprint()
