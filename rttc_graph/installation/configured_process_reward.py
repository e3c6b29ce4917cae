"""The judge of steps that an installation names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_reward import filled_headers
from rttc_graph.integrations.langchain.hosted_models import (
    hosted_name,
    open_chat_model,
    resolved,
)
from rttc_graph.integrations.process_rewards.chat_step_judge import ChatStepJudge
from rttc_graph.integrations.process_rewards.probe_file import PROBE_FILE, read_probe
from rttc_graph.integrations.process_rewards.served_prm import ServedPrm
from rttc_graph.integrations.process_rewards.state_probe import StateProbe
from rttc_graph.integrations.process_rewards.transformers_prm import PrmSettings, TransformersPrm
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import ProcessRewardModel


def open_process_reward(
    config: InstallationConfig,
    engine: LocalEngine | None,
    policy: Callable[[], Awaitable[str]],
) -> ProcessRewardModel | None:
    """Return the judge of the setting `process_reward`; nothing is loaded yet.

    Args:
        config: Names it: a folder that `rttc reward train --process` made, a process reward model
            (hub name, folder, URL of its server), or a chat model that grades. Empty: none.
        engine: The policy model's, which a probe reads; `None` where it is served elsewhere.
        policy: Returns the policy model's fingerprint, which a probe was trained for.

    Raises:
        ConfigurationError: A folder is missing or damaged, a header names a variable that is not
            set, or the policy model is served elsewhere.
        BackendError: A server that is to say which model it has cannot be reached.
    """
    name = config.process_reward
    if not name:
        return None
    if (hosted := hosted_name(name, "reward")) is not None:
        hosted = resolved(hosted)
        return ChatStepJudge(open_chat_model(hosted), name=hosted.text)
    if name.startswith(("http://", "https://")):
        served = config.process_reward_served
        headers = filled_headers(served.headers, table="process_reward_served")
        return ServedPrm(name, settings=replace(served, headers=headers))
    folder = Path(name).expanduser()
    if not (folder / PROBE_FILE).is_file():
        _check_folder(folder, name)
        device = None if config.device == "auto" else config.device
        return TransformersPrm(name, settings=PrmSettings(device=device))
    if engine is None:
        raise ConfigurationError(
            f"process_reward={name!r} reads the hidden states of a policy model in this process, "
            f"and model={config.model!r} is served elsewhere: name another judge of steps"
        )
    return StateProbe(read_probe(folder), policy)


def _check_folder(folder: Path, name: str) -> None:
    """Do nothing for a folder with a process reward model, and for the name of one on the hub.

    Raises:
        ConfigurationError: The folder has no judge, or is not there.
    """
    is_place = folder.is_dir() or folder.is_absolute() or name.startswith((".", "~"))
    if is_place and not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"process_reward={name!r} holds no judge of steps: it has neither {PROBE_FILE} nor, as "
            "a process reward model has, config.json; make a probe there with 'rttc reward train "
            "QUESTIONS.jsonl --process --out FOLDER', or name another folder"
        )
