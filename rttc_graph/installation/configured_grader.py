"""The chat model that judges for the scorer `chat-judge`, as a flag names it."""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.chat_grader import RUBRIC, ChatGrader
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.integrations.transformers.chat_transformers import ChatTransformers
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.support.encodings import open_text

_MOST_TOKENS = 512
"""Longest reply of a local model, thoughts included."""


@contextmanager
def open_grader(config: InstallationConfig, settings: GraderSettings) -> Generator[ChatGrader]:
    """Open the grader; the model itself is opened when it is first asked.

    Args:
        config: Where local models are, and how they are loaded.
        settings: Names the model.

    Raises:
        ConfigurationError: The rubric cannot be read or is empty.
    """
    rubric = RUBRIC if settings.rubric is None else _read(settings.rubric)
    provider, is_served, _ = settings.model.partition(":")
    if is_served and len(provider) > 1 and not Path(settings.model).exists():
        yield ChatGrader(partial(_served, settings.model), name=settings.model, rubric=rubric)
        return
    engine = LocalEngine(
        settings.model,
        cache_dir=config.home,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        thinking=config.thinking,
    )
    try:
        chat = ChatTransformers(engine=engine, max_tokens=_MOST_TOKENS)
        yield ChatGrader(chat, name=settings.model, rubric=rubric)
    finally:
        engine.close()


def _served(name: str) -> BaseChatModel:
    try:
        library: Any = importlib.import_module("langchain.chat_models")
        model: BaseChatModel = library.init_chat_model(name)
    except ImportError as exc:
        raise ConfigurationError(
            f"the chat model {name!r} needs langchain and the package of its provider: pip install "
            f"langchain langchain-{name.partition(':')[0]} ({exc})"
        ) from exc
    except Exception as exc:  # vendors' errors share no base class
        raise ConfigurationError(f"the chat model {name!r} cannot be opened: {exc}") from exc
    return model


def _read(path: Path) -> str:
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as exc:
        raise ConfigurationError(f"the rubric {str(path)!r} cannot be read: {exc}") from exc
