"""The reward model that an installation names."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import Template

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.needed_models import trained_folder
from rttc_graph.integrations.langchain.hosted_models import (
    hosted_name,
    open_chat_model,
    resolved,
)
from rttc_graph.integrations.rewards.chat_judge import ChatJudge
from rttc_graph.integrations.rewards.reward_settings import ClassifierSettings, ServedSettings
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.integrations.rewards.sequence_classifier_reward import SequenceClassifierReward
from rttc_graph.integrations.rewards.served_reward import ServedReward
from rttc_graph.integrations.rewards.trained.network_reward import (
    EncoderReward,
    PolicyBackboneReward,
)
from rttc_graph.integrations.rewards.trained.reward_spec import read_spec
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.protocols import RewardModel


def open_reward_model(
    config: InstallationConfig, engine: LocalEngine | None, policy: Callable[[], Awaitable[str]]
) -> RewardModel:
    """Return the reward model of the setting `reward`; nothing is loaded yet.

    Args:
        config: Names it: `minilm-judge` (the one that ships), `self-confidence`, a folder that
            `rttc reward train` made, the address of a server, a chat model that grades, or a
            sequence classifier.
        engine: The policy model's, for a reward model on its backbone; `None` where that model
            is served elsewhere.
        policy: Returns the policy model's fingerprint; self-confidence is that model's own.

    Raises:
        ConfigurationError: A folder is damaged, a header names a variable that is not set, or a
            key or a package is missing.
        BackendError: A server that is to say which model it has cannot be reached.
    """
    name = config.reward
    if name == "self-confidence":
        return SelfConfidence(policy)
    if (hosted := hosted_name(name, "reward")) is not None:
        hosted = resolved(hosted)
        return ChatJudge(open_chat_model(hosted), name=hosted.text)
    if name.startswith(("http://", "https://")):
        return ServedReward(name, settings=_served(config))
    folder = trained_folder(config)
    if folder is None:
        return SequenceClassifierReward(name, settings=_classifier(config))
    return _trained(folder, config, engine)


def computes_rewards(config: InstallationConfig) -> bool:
    """Tell whether the setting `reward` names a network that an installation computes itself."""
    name = config.reward
    is_elsewhere = hosted_name(name, "reward") is not None or name.startswith(
        ("http://", "https://")
    )
    return name != "self-confidence" and not is_elsewhere


def _served(config: InstallationConfig) -> ServedSettings:
    """Return how the server is called, with the key and with variables filled into the headers."""
    headers = filled_headers(config.reward_served.headers, table="reward_served")
    if config.reward_api_key is not None:
        headers["Authorization"] = f"Bearer {config.reward_api_key}"
    return replace(config.reward_served, headers=headers)


def filled_headers(headers: Mapping[str, str], *, table: str) -> dict[str, str]:
    """Return HTTP headers with the environment's variables filled into them.

    Args:
        headers: Headers by name; `$NAME` stands for a variable.
        table: Table of the settings file that they stand in, for the error.

    Raises:
        ConfigurationError: A variable is not set.
    """
    return {name: _filled(f"{table}.headers.{name}", text) for name, text in headers.items()}


def _filled(place: str, text: str) -> str:
    try:
        return Template(text).substitute(os.environ)
    except KeyError as exc:
        raise ConfigurationError(
            f"{place} names the environment variable {exc}, which is not "
            "set: set it, or write $$ for a dollar sign"
        ) from exc
    except ValueError as exc:
        raise ConfigurationError(
            f"{place} has a $ that names no variable: write $$ for a dollar sign"
        ) from exc


def _classifier(config: InstallationConfig) -> ClassifierSettings:
    """Return how the classifier is loaded: on the installation's device if it names no other."""
    settings = config.reward_classifier
    if settings.device is not None or config.device == "auto":
        return settings
    return replace(settings, device=config.device)


def _trained(folder: Path, config: InstallationConfig, engine: LocalEngine | None) -> RewardModel:
    spec = read_spec(folder)
    if spec.backbone != "causal":
        return EncoderReward(folder, partial(resolve, spec.base, cache_dir=config.home))
    if engine is None:
        raise ConfigurationError(
            f"reward={config.reward!r} judges on the backbone of a policy model in this process, "
            f"and model={config.model!r} is served elsewhere: name another reward model"
        )
    return PolicyBackboneReward(folder, engine)
