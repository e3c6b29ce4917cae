"""Policy models and embedders do what every one of them must do."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_fakes import HashEmbeddings

from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import Embedder, PolicyModel
from rttc_graph.testing import EmbedderContract, PolicyModelContract


class TestTransformersPolicyModel(PolicyModelContract):
    @pytest.fixture
    def policy_model(self, tiny_engine: LocalEngine) -> PolicyModel:
        return TransformersPolicyModel(tiny_engine)


class TestLangChainEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return LangChainEmbedder(HashEmbeddings(), name="hash")


class TestLocalEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, tiny_embedder_path: Path) -> Embedder:
        return local_embedder(lambda: tiny_embedder_path, name="tiny")
