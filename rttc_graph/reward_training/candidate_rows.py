"""Judged candidates as JSON lines: what a reward model is trained and measured on.

The file is what makes drawing resumable: a candidate's key says what it was made from, so a killed
job finds what it has and draws the rest, and a changed setting draws only what it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, PLAIN
from rttc_graph.errors import ConfigurationError
from rttc_graph.state import Arm, Candidate, FinishReason
from rttc_graph.support.json_lines import add_lines, load_lines

FreeSource = Literal["reference", "neighbour", "other", "echo", "empty", "injected"]
"""Sources of answers that need no generation: the row itself, a near sample with another answer, a
sample drawn at random, the question repeated (perhaps with a wrong answer after it), an empty
answer, an answer that speaks to the judge."""

Source = FreeSource | Arm
"""Source of an answer; an arm's name means the policy model."""


class CandidateRow(TypedDict):
    """One answer to one question, and whether it is right."""

    key: str
    """Digest of everything the answer was made from."""
    group: str
    """Digest of the question with its reference answer; candidates of a group are compared."""
    domain: str
    question: str
    reference: str
    answer: str
    right: bool
    source: Source
    temperature: float
    mean_logprob: float | None
    completion_tokens: int
    finish_reason: FinishReason


_ROW = TypeAdapter(CandidateRow)


def graph_candidate(row: CandidateRow) -> Candidate:
    """Return the row as the graph would hand it to a reward model."""
    return {
        "arm": row["source"] if row["source"] in ARMS else PLAIN,
        "answer": row["answer"],
        "reward": None,
        "seconds": 0.0,
        "prompt_tokens": 0,
        "completion_tokens": row["completion_tokens"],
        "trained_tokens": 0,
        "mean_logprob": row["mean_logprob"],
        "finish_reason": row["finish_reason"],
        "adapter": None,
    }


def row_digest(*parts: object) -> str:
    """Return a digest of JSON-ready data, 16 hexadecimal characters."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class CandidateLog:
    """The file of candidates; every call blocks, so it belongs on a thread.

    Args:
        path: Created with its folder when the first row is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, CandidateRow]:
        """Return the candidates by key, the latest where a key is there twice.

        A last line that a kill cut short is removed from the file.

        Raises:
            ConfigurationError: The file holds something else.
        """
        rows = load_lines(
            self.path,
            _ROW.validate_python,
            what="judged candidates",
            way_out="name another file, or make one with 'rttc reward draw'",
        )
        return {row["key"]: row for row in rows}

    def add(self, rows: Iterable[CandidateRow]) -> None:
        """Append candidates; once this returns, a kill of the process does not lose them."""
        add_lines(self.path, rows)


def read_candidates(paths: Sequence[Path]) -> list[CandidateRow]:
    """Return the candidates of several files, each once.

    Raises:
        ConfigurationError: A file is missing, empty, or holds something else.
    """
    found: dict[str, CandidateRow] = {}
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(f"no such file: {str(path)!r}")
        found |= CandidateLog(path).load()
    if not found:
        raise ConfigurationError(f"no candidates in {', '.join(map(repr, map(str, paths)))}")
    return list(found.values())
