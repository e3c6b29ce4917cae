"""Finished questions of an evaluation, one JSON line each, so that a killed one goes on.

The digest in a record says which settings it belongs to: one file may hold several evaluations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from rttc_graph.settings import PolicyName
from rttc_graph.state import Arm
from rttc_graph.support.json_lines import add_lines, load_lines


class JudgedCandidate(TypedDict):
    """One candidate of a record: the judge's opinion beside the truth."""

    arm: Arm
    answer: str
    reward: float | None
    right: bool
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int


class _Always(TypedDict):
    digest: str
    """Of the settings under which it was asked."""
    row: str
    """Content hash of the row; `#2` and so on behind it where a row is there twice."""
    id: str | None
    policy: PolicyName
    right: bool
    answer: str | None
    """`None` when the run failed."""
    arm: Arm | None
    reward: float | None
    seconds: float
    """Wall time of the run."""
    candidates: list[JudgedCandidate]


class Record(_Always, total=False):
    """One question under one policy."""

    error: str
    """Why there is no answer; the row counts as wrong."""


def settings_digest(settings: Mapping[str, object]) -> str:
    """Return a digest of JSON-ready settings, 16 hexadecimal characters."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class RecordLog:
    """The file of records; every call blocks, so it belongs on a thread.

    Args:
        path: Created with its folder when the first record is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, digest: str) -> dict[tuple[str, PolicyName], Record]:
        """Return the records of one digest by row and policy, the latest where there are two.

        A last line that a kill cut short is removed from the file.

        Raises:
            ConfigurationError: The file holds something else.
        """
        records = load_lines(
            self._path,
            _accepted,
            what="evaluation records",
            way_out="name another file, or delete it to start anew",
        )
        return {(r["row"], r["policy"]): r for r in records if r["digest"] == digest}

    def add(self, record: Record) -> None:
        """Append a record; once this returns, a kill of the process does not lose it."""
        add_lines(self._path, [record])


def _accepted(fields: dict[str, Any]) -> Record | None:
    is_one = _Always.__required_keys__ <= fields.keys()
    return cast("Record", fields) if is_one else None
