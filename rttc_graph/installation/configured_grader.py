"""The chat model that judges for the scorer `chat-judge`, as a flag names it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from langchain_core.language_models import BaseChatModel

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.hosted_models import (
    HostedName,
    hosted_name,
    open_chat_model,
    resolved,
)
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
    if (name := hosted_name(settings.model, "scorer")) is not None:
        yield ChatGrader(partial(_served, name), name=settings.model, rubric=rubric)
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


def _served(name: HostedName) -> BaseChatModel:
    return open_chat_model(resolved(name))


def _read(path: Path) -> str:
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as exc:
        raise ConfigurationError(f"the rubric {str(path)!r} cannot be read: {exc}") from exc
