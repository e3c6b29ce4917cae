"""Policy models, trainers and embedders do what every one of them must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import langchain_openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_fakes import HashEmbeddings, SyncChat
from lora_server import lora_server
from pydantic import SecretStr

from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.publishing_trainer import PublishingTrainer
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.stored_embedder import StoredEmbedder
from rttc_graph.integrations.remote.several_servers import (
    ServerOrder,
    SeveralPolicyModels,
    SeveralTrainers,
)
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedder,
    MeasuringEmbedder,
    PolicyModel,
    as_measuring_embedder,
)
from rttc_graph.testing import (
    AdapterTrainerContract,
    EmbedderContract,
    MeasuringEmbedderContract,
    PolicyModelContract,
)


def last_word(messages: list[BaseMessage]) -> AIMessage:
    """Answer with the last word that was said."""
    return AIMessage(messages[-1].text.split()[-1])


class TestTransformersPolicyModel(PolicyModelContract):
    @pytest.fixture
    def policy_model(self, tiny_engine: LocalEngine) -> PolicyModel:
        return TransformersPolicyModel(tiny_engine)


@pytest.fixture
def int8_engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tiny_model_path, device="cpu", dtype="int8", threads=1)
    yield engine
    engine.close()


class TestTransformersPolicyModelOfEightBits(PolicyModelContract):
    @pytest.fixture
    def policy_model(self, int8_engine: LocalEngine) -> PolicyModel:
        return TransformersPolicyModel(int8_engine)


class TestChatPolicyModel(PolicyModelContract):
    @pytest.fixture
    def policy_model(self) -> PolicyModel:
        return ChatPolicyModel(SyncChat(answer=last_word))


class TestChatPolicyModelOfAServerThatContinues(PolicyModelContract):
    """As vLLM does: chat completions that go on from the last turn."""

    @pytest.fixture
    def policy_model(self, tiny_model_path: Path) -> Iterator[PolicyModel]:
        with lora_server(tiny_model_path) as (url, _):
            client = langchain_openai.ChatOpenAI(
                model="base", base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0
            )
            yield ChatPolicyModel(client, context_tokens=512, continues_answers=True)


class TestSeveralPolicyModels(PolicyModelContract):
    @pytest.fixture
    def policy_model(self) -> PolicyModel:
        servers = {name: ChatPolicyModel(SyncChat(answer=last_word)) for name in ("a", "b")}
        return SeveralPolicyModels(servers, ServerOrder(list(servers)))


class TestLoraTrainer(AdapterTrainerContract):
    @pytest.fixture
    def trainer(self, tiny_engine: LocalEngine) -> AdapterTrainer:
        return LoraTrainer(tiny_engine)


class TestLoraTrainerOnEightBits(AdapterTrainerContract):
    @pytest.fixture
    def trainer(self, int8_engine: LocalEngine) -> AdapterTrainer:
        return LoraTrainer(int8_engine)


class TestSeveralTrainers(AdapterTrainerContract):
    @pytest.fixture
    def trainer(
        self, tiny_engine: LocalEngine, tiny_model_path: Path, tmp_path: Path
    ) -> Iterator[AdapterTrainer]:
        local = LoraTrainer(tiny_engine)
        with lora_server(tiny_model_path) as (a, _), lora_server(tiny_model_path) as (b, _):
            publishers = {
                url: PublishingTrainer(local, url=url, folder=tmp_path / str(number))
                for number, url in enumerate((a, b))
            }
            yield SeveralTrainers(local, publishers, ServerOrder([a, b]), copies=2)
            for one in publishers.values():
                one.close()


class TestPublishingTrainer(AdapterTrainerContract):
    @pytest.fixture
    def trainer(
        self, tiny_engine: LocalEngine, tiny_model_path: Path, tmp_path: Path
    ) -> Iterator[AdapterTrainer]:
        with lora_server(tiny_model_path) as (url, _):
            found = PublishingTrainer(LoraTrainer(tiny_engine), url=url, folder=tmp_path)
            yield found
            found.close()


class PlainEmbedder:
    """Has what `Embedder` asks for and no more."""

    name = "plain"

    def __init__(self, behind: Embedder) -> None:
        self.fingerprint = behind.fingerprint
        self.dimension = behind.dimension
        self.embed = behind.embed


class TestLangChainEmbedder(MeasuringEmbedderContract):
    @pytest.fixture
    def embedder(self) -> MeasuringEmbedder:
        return LangChainEmbedder(HashEmbeddings(), name="hash")


class TestLocalEmbedder(MeasuringEmbedderContract):
    @pytest.fixture
    def embedder(self, tiny_embedder_path: Path) -> MeasuringEmbedder:
        return local_embedder(lambda: tiny_embedder_path, name="tiny")


class TestEmbedderThatMeasuresNothing(MeasuringEmbedderContract):
    """As a user writes it: the graph takes it to read every text whole."""

    @pytest.fixture
    def embedder(self) -> MeasuringEmbedder:
        plain = PlainEmbedder(LangChainEmbedder(HashEmbeddings(), name="hash"))
        assert not isinstance(plain, MeasuringEmbedder)
        return as_measuring_embedder(plain)


class TestStoredEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, database: Database) -> Embedder:
        return StoredEmbedder(database, LangChainEmbedder(HashEmbeddings(), name="hash"))
