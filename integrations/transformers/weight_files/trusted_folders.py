"""Model folders hold data: whether loading one would run code that came with it.

sentence-transformers imports the classes that a local folder's `modules.json` names, and runs the
Python files beside it, without being asked to. So these files are read before anything is loaded.
Pickled weights are read by torch with `weights_only`, which takes tensors and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from rttc_graph.errors import ConfigurationError

__all__ = ("NO_CODE", "refuse_code")

NO_CODE: Final = {"trust_remote_code": False}
"""Option for every `from_pretrained`: without it transformers asks at the terminal."""

_LIBRARY = "sentence_transformers."
_NAMING_FILES: Final = ("modules.json", "router_config.json", "config.json")
"""Files that name classes, in the folder itself and in those of its modules."""


def refuse_code(folder: Path) -> None:
    """Do nothing if sentence-transformers reads the folder with its own classes alone.

    Raises:
        ConfigurationError: It names a class of another package, or of a file of its own.
    """
    for name in _NAMING_FILES:
        for path in sorted(folder.rglob(name)):
            for found in _classes(path):
                if not found.startswith(_LIBRARY):
                    raise ConfigurationError(
                        f"{str(path)!r} wants the class {found!r}, which is not part of "
                        "sentence-transformers: loading this model would run code that came with "
                        "it. Take a model without code of its own, or, if you trust it, load it "
                        "yourself and give it to LangChainEmbedder"
                    )


def _classes(path: Path) -> Iterator[str]:
    """Yield the classes that a file names for the modules of a model."""
    try:
        content = cast("object", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"cannot read {str(path)!r}: {exc}") from exc
    if isinstance(content, list):
        for one in cast("list[object]", content):
            if isinstance(one, Mapping):
                yield str(cast("Mapping[str, object]", one).get("type", ""))
    elif isinstance(content, Mapping):
        types = cast("Mapping[str, object]", content).get("types")
        if isinstance(types, Mapping):
            yield from map(str, cast("Mapping[str, object]", types).values())
