"""The embedder that an installation names; nothing is loaded or asked before the first text."""

from __future__ import annotations

from functools import partial

from langchain_core.embeddings import Embeddings

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.hosted_models import (
    HostedName,
    hosted_name,
    open_embeddings,
    resolved,
)
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.transformers.weight_files.resolve import resolve

__all__ = ("open_embedder",)


def open_embedder(config: InstallationConfig) -> LangChainEmbedder:
    """Return the embedder of the setting `embedder`.

    Raises:
        ConfigurationError: The name is an address that cannot be one of an embedder.
    """
    name = hosted_name(config.embedder, "embedder")
    if name is not None:
        return LangChainEmbedder(partial(_opened, name), name=name.text, is_local=False)
    return local_embedder(
        partial(resolve, config.embedder, cache_dir=config.home, kind="embedding"),
        name=config.embedder,
        device=None if config.device == "auto" else config.device,
    )


def _opened(name: HostedName) -> Embeddings:
    return open_embeddings(resolved(name))
