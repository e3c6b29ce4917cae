"""An installation with tiny random models and a real database, as a new process would find it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_checkpoints import sentence_folder

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_embedder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny embedder; shared, so nobody may write into it."""
    return sentence_folder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def installation_env(
    tmp_path: Path, postgres_dsn: str, tiny_model_path: Path, tiny_embedder_path: Path
) -> dict[str, str]:
    """The variables that describe the installation."""
    described = {
        "HOME": tmp_path / "home",
        "DATABASE_URL": postgres_dsn,
        "MODEL": tiny_model_path,
        "EMBEDDER": tiny_embedder_path,
        "MAX_NEW_TOKENS": 4,
        "TTT_EPOCHS": 2,
    }
    return {f"RTTC_{name}": str(value) for name, value in described.items()}


@pytest.fixture
def process_env(installation_env: dict[str, str]) -> dict[str, str]:
    """The whole environment of a process that uses the installation."""
    return {**os.environ, **installation_env}
