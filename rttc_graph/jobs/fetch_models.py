"""Weights brought to this machine: fetched, checked, and converted once to safetensors."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.needed_models import needed_models
from rttc_graph.jobs.watching import Watcher


def fetch_missing(config: InstallationConfig, watcher: Watcher) -> str:
    """Fetch the needed models that are not on this machine, and return what a run does first.

    Args:
        config: Names the models, and the folder that they go to.
        watcher: Is told what is fetched, before it is.

    Raises:
        ConfigurationError: A model cannot be used.
        BackendError: The network or a hub failed.
    """
    from rttc_graph.integrations.transformers.weight_files.resolve import is_here

    needed = needed_models(config)
    missing = [name for name in needed if not is_here(name, cache_dir=config.home)]
    if missing:
        watcher.tell(f"fetching {', '.join(missing)}: once, into {config.home}")
        fetch_models(config, watcher, missing)
    return f"loading {', '.join(needed)}" if needed else "answering"


def fetch_models(
    config: InstallationConfig, watcher: Watcher, names: Sequence[str] = ()
) -> dict[str, str]:
    """Return the folder of each model, fetching those that are not here yet.

    Args:
        config: Names the models, and the folder that they go to.
        watcher: Is shown what is fetched, and told each model's licence.
        names: Models by short name or hub name; by default those that the configuration needs.

    Raises:
        ConfigurationError: A name is unknown, or a model cannot be used.
        BackendError: The network or a hub failed.
    """
    from rttc_graph.integrations.transformers.weight_files.resolve import entry_for, resolve

    began = time.monotonic()
    folders: dict[str, str] = {}
    with watcher.step("models"):
        for name in names or needed_models(config):
            if entry := entry_for(name):
                watcher.tell(entry.terms)
            folder = resolve(name, cache_dir=config.home, progress=watcher.describe)
            folders[name] = str(folder)
    watcher.tell(f"models are ready ({time.monotonic() - began:.0f} s)")
    return folders
