"""Policy models, trainers and embedders do what every one of them must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_fakes import HashEmbeddings
from lora_server import lora_server

from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.publishing_trainer import PublishingTrainer
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import AdapterTrainer, Embedder, PolicyModel
from rttc_graph.testing import AdapterTrainerContract, EmbedderContract, PolicyModelContract


class TestTransformersPolicyModel(PolicyModelContract):
    @pytest.fixture
    def policy_model(self, tiny_engine: LocalEngine) -> PolicyModel:
        return TransformersPolicyModel(tiny_engine)


class TestLoraTrainer(AdapterTrainerContract):
    @pytest.fixture
    def trainer(self, tiny_engine: LocalEngine) -> AdapterTrainer:
        return LoraTrainer(tiny_engine)


class TestPublishingTrainer(AdapterTrainerContract):
    @pytest.fixture
    def trainer(
        self, tiny_engine: LocalEngine, tiny_model_path: Path, tmp_path: Path
    ) -> Iterator[AdapterTrainer]:
        with lora_server(tiny_model_path) as (url, _):
            found = PublishingTrainer(LoraTrainer(tiny_engine), url=url, folder=tmp_path)
            yield found
            found.close()


class TestLangChainEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return LangChainEmbedder(HashEmbeddings(), name="hash")


class TestLocalEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, tiny_embedder_path: Path) -> Embedder:
        return local_embedder(lambda: tiny_embedder_path, name="tiny")
