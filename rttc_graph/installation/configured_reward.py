"""The reward model that an installation names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.needed_models import trained_folder
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
    config: InstallationConfig, engine: LocalEngine, policy: Callable[[], Awaitable[str]]
) -> RewardModel:
    """Return the reward model of the setting `reward`; nothing is loaded yet.

    Args:
        config: Names it: `minilm-judge` (the one that ships), `self-confidence`, a folder that
            `rttc reward train` made, the address of a server, or a sequence classifier.
        engine: The policy model's, for a reward model on its backbone.
        policy: Returns the policy model's fingerprint; self-confidence is that model's own.

    Raises:
        ConfigurationError: A folder is damaged.
    """
    name = config.reward
    if name == "self-confidence":
        return SelfConfidence(policy)
    if name.startswith(("http://", "https://")):
        return ServedReward(name)
    folder = trained_folder(config)
    if folder is None:
        return SequenceClassifierReward(name)
    return _trained(folder, config, engine)


def _trained(folder: Path, config: InstallationConfig, engine: LocalEngine) -> RewardModel:
    spec = read_spec(folder)
    if spec.backbone == "causal":
        return PolicyBackboneReward(folder, engine)
    return EncoderReward(folder, partial(resolve, spec.base, cache_dir=config.home))
