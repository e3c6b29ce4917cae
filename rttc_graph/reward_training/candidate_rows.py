"""Judged candidates as JSON lines: what a reward model is trained and measured on.

The file is what makes drawing resumable: a candidate's key says what it was made from, so a killed
job finds what it has and draws the rest, and a changed setting draws only what it changes. Between
the candidates stand the samples that were near each question, and what a grader said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, cast

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, PLAIN
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.verdicts import VerdictLine
from rttc_graph.protocols import NewSample
from rttc_graph.state import Arm, Candidate, FinishReason, Sample
from rttc_graph.support.json_lines import add_lines, load_lines
from rttc_graph.support.named_files import check_file

FreeSource = Literal["reference", "neighbour", "other", "echo", "empty", "injected"]
"""Sources of answers that need no generation: the row itself, a near sample with another answer, a
sample drawn at random, the question repeated (perhaps with a wrong answer after it), an empty
answer, an answer that speaks to the judge."""

Source = FreeSource | Arm
"""Source of an answer; an arm's name means the policy model."""


class NearSample(TypedDict):
    """A solved question near the one that is asked."""

    question: str
    answer: str


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
    undecided: NotRequired[bool]
    """Whether the grader abstained or was not asked yet; such an answer is not counted."""
    samples: NotRequired[list[NearSample]]
    """Samples near the question, nearest first, itself not among them; missing in candidates of
    earlier releases."""
    left_out: NotRequired[list[NearSample]]
    """The nearest samples that do not answer the question rightly, which would be found if the
    others were not there; missing in candidates of earlier releases."""


class SamplesLine(TypedDict):
    """The samples near one question; all its candidates share them."""

    kind: Literal["samples"]
    group: str
    samples: list[NearSample]
    left_out: NotRequired[list[NearSample]]


CandidateLine = CandidateRow | SamplesLine | VerdictLine

_LINES: dict[object, TypeAdapter[Any]] = {
    None: TypeAdapter(CandidateRow),
    "samples": TypeAdapter(SamplesLine),
    "verdict": TypeAdapter(VerdictLine),
}
"""Forms of a line by its `kind`; candidates have none."""


def evidence_of_row(row: CandidateRow) -> list[Sample]:
    """Return the samples of a candidate as the graph would show them to a reward model."""
    return [graph_sample(sample) for sample in near_samples(row)]


def near_samples(row: CandidateRow) -> list[NewSample]:
    """Return the samples near the question of a candidate, nearest first."""
    return _solved(row.get("samples", ()), row["domain"])


def left_out_samples(row: CandidateRow) -> list[NewSample]:
    """Return the nearest samples that do not answer the question of a candidate rightly."""
    return _solved(row.get("left_out", ()), row["domain"])


def _solved(near: Sequence[NearSample], domain: str) -> list[NewSample]:
    return [
        NewSample(question=one["question"], answer=one["answer"], domain=domain) for one in near
    ]


def graph_sample(row: NewSample, sample_id: str = "") -> Sample:
    """Return a sample as the graph would have it in hand, without a similarity."""
    return {
        "id": sample_id,
        "question": row.question,
        "answer": row.answer,
        "domain": row.domain,
        "similarity": 0.0,
    }


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
        self.verdicts: list[VerdictLine] = []
        """Verdicts of all graders, as far as `load` has seen."""
        self._samples: dict[str, SamplesLine] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def load(self) -> dict[str, CandidateRow]:
        """Return the candidates by key, the latest where a key is there twice.

        They come with the samples near their questions. A last line that a kill cut short is
        removed from the file.

        Raises:
            ConfigurationError: The file holds something else.
        """
        lines = load_lines(
            self.path,
            _line,
            what="judged candidates",
            way_out="name another file, or make one with 'rttc reward draw'",
        )
        rows: dict[str, CandidateRow] = {}
        self.verdicts = []
        for line in lines:
            kind = line.get("kind")
            if kind == "samples":
                near = cast("SamplesLine", line)
                self._samples[near["group"]] = near
            elif kind == "verdict":
                self.verdicts.append(cast("VerdictLine", line))
            else:
                row = cast("CandidateRow", line)
                rows[row["key"]] = row
        self._rows = {key: _bare(row) for key, row in rows.items()}
        for row in rows.values():
            if (found := self._samples.get(row["group"])) is not None:
                row["samples"] = found["samples"]
                if "left_out" in found:
                    row["left_out"] = found["left_out"]
        return rows

    def add(self, rows: Iterable[CandidateRow]) -> None:
        """Append what is new; once this returns, a kill of the process does not lose it.

        Candidates that the file has as they are now are not written again. The samples near a
        question are written once, before its first candidate.
        """
        lines: list[CandidateLine] = []
        for row in rows:
            near = _samples_line(row)
            if near is not None and self._samples.get(row["group"]) != near:
                self._samples[row["group"]] = near
                lines.append(near)
            bare = _bare(row)
            if self._rows.get(row["key"]) != bare:
                self._rows[row["key"]] = bare
                lines.append(cast("CandidateRow", bare))
        if lines:
            add_lines(self.path, lines)

    def add_verdicts(self, lines: Sequence[VerdictLine]) -> None:
        """Append what a grader said."""
        add_lines(self.path, lines)


def _bare(row: CandidateRow) -> dict[str, Any]:
    """Return a candidate as its line is written."""
    return {name: value for name, value in row.items() if name not in ("samples", "left_out")}


def _samples_line(row: CandidateRow) -> SamplesLine | None:
    """Return the samples of a candidate as their line is written; `None` without any."""
    if "samples" not in row:
        return None
    line: SamplesLine = {"kind": "samples", "group": row["group"], "samples": row["samples"]}
    if "left_out" in row:
        line["left_out"] = row["left_out"]
    return line


def _line(fields: dict[str, Any]) -> CandidateLine:
    """Return a line as what it says it is."""
    adapter = _LINES.get(fields.get("kind"), _LINES[None])
    line: CandidateLine = adapter.validate_python(fields)
    return line


def read_candidates(paths: Sequence[Path]) -> list[CandidateRow]:
    """Return the candidates of several files, each once; those that count.

    Raises:
        ConfigurationError: A file is missing, empty, or holds something else.
    """
    found: dict[str, CandidateRow] = {}
    for path in paths:
        check_file(path)
        found |= CandidateLog(path).load()
    if not found:
        raise ConfigurationError(f"no candidates in {', '.join(map(repr, map(str, paths)))}")
    return decided(found.values())


def decided(rows: Iterable[CandidateRow]) -> list[CandidateRow]:
    """Return the candidates on which no grader abstained."""
    return [row for row in rows if not row.get("undecided")]
