"""Put a model's files into their form: fill gaps, have GGUF converted by a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.weight_files.catalog import CatalogEntry

_CONVERTER = "rttc_graph.integrations.transformers.weight_files.conversion"
"""Imports torch, which nobody who only lists or finds models has to wait for."""


def convert_gguf(file: Path, target: Path, entry: CatalogEntry) -> None:
    """Write a GGUF model as a folder that transformers loads at once.

    A child process does it: the tokenizer's conversion is a minute of pure Python that would slow
    every thread here, and the memory (three times the model) goes back to the system.

    Raises:
        PolicyModelError: transformers cannot read the file.
    """
    command = [sys.executable, "-m", _CONVERTER, entry.name, str(file), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise PolicyModelError(f"could not convert {file.name!r}: {reason}")


def complete_embedding_model(folder: Path) -> None:
    """Add what sentence-transformers asks for and the wheel left out: folders without files."""
    modules = cast("list[dict[str, Any]]", json.loads((folder / "modules.json").read_text()))
    for module in modules:
        (folder / str(module["path"])).mkdir(parents=True, exist_ok=True)
