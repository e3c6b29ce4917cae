"""The models that an installation reads before it can answer; known without loading any."""

from __future__ import annotations

from pathlib import Path

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.hosted_models import Role, hosted_name
from rttc_graph.integrations.rewards.shipped import SHIPPED, shipped_folder
from rttc_graph.integrations.rewards.trained.reward_spec import is_reward_folder, read_spec


def needed_models(config: InstallationConfig) -> list[str]:
    """Return the names of policy model, embedder and the reward model's encoder, each once.

    Models that are served elsewhere are not among them.

    Raises:
        ConfigurationError: The reward model's folder is damaged.
    """
    named: list[tuple[str, Role]] = [(config.model, "model"), (config.embedder, "embedder")]
    names = [name for name, role in named if hosted_name(name, role) is None]
    folder = trained_folder(config)
    if folder is not None and read_spec(folder).backbone != "causal":
        names.append(read_spec(folder).base)
    return list(dict.fromkeys(names))


def trained_folder(config: InstallationConfig) -> Path | None:
    """Return the folder of the setting `reward`, if it names a reward model that was trained."""
    name = config.reward
    folder = shipped_folder() if name == SHIPPED else Path(name).expanduser()
    return folder if is_reward_folder(folder) else None
