"""An installation with tiny random models and a real database, as a new process would find it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_checkpoints import sentence_folder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_embedder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny embedder; shared, so nobody may write into it."""
    return sentence_folder(tmp_path_factory.mktemp("embedder"))


@dataclass(frozen=True)
class Installation:
    """Where its parts are, as environment variables."""

    described: Mapping[str, str]

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of a process that uses the installation."""
        return {**os.environ, **self.described}


def described_installation(folder: Path, dsn: str, model: Path, embedder: Path) -> Installation:
    """Describe an installation whose answers and trainings are short."""
    described = {
        "HOME": folder / "home",
        "DATABASE_URL": dsn,
        "MODEL": model,
        "EMBEDDER": embedder,
        "REWARD": "self-confidence",
        "MAX_NEW_TOKENS": 4,
        "TTT_SAMPLES_PER_STEP": 64,  # all of them
        "TTT_MIN_STEPS": 2,
    }
    return Installation({f"RTTC_{name}": str(value) for name, value in described.items()})


@pytest.fixture
def installed(
    tmp_path: Path, postgres_dsn: str, tiny_model_path: Path, tiny_embedder_path: Path
) -> Installation:
    """An installation with a database of the test's own."""
    return described_installation(tmp_path, postgres_dsn, tiny_model_path, tiny_embedder_path)
