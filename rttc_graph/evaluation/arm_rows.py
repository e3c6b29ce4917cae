"""What each arm answered to each question, one JSON line each, and what reward models said of it.

Arms do not depend on the policy that runs them, so one row for each question and arm is enough to
work out what any policy at any τr would have answered and paid (`rttc_graph.evaluation.replay`).
Judgements are lines of their own: another reward model adds its own to rows that are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from typing_extensions import TypedDict

from rttc_graph.arms import checked_arm
from rttc_graph.state import Arm, Candidate, Sample
from rttc_graph.support.json_lines import add_lines, load_lines


class RowKey(NamedTuple):
    """Key of one answer in the file."""

    digest: str
    """Digest of the settings that the answer was made with."""
    data_set: str
    model: str
    """Name of the policy model."""
    row: str
    """Content hash of the question's row."""
    arm: Arm


PartSeconds = dict[str, float]
"""Wall time of one arm's run by part, without the judging: `generation`, `retrieval` (embedding,
search and what the graph itself takes; 0 for arms that do not retrieve), `training`, and whatever
other parts the arms' records name."""


class AnsweredRow(TypedDict):
    """One question answered by one arm; every row has these fields."""

    kind: Literal["answer"]
    digest: str
    data_set: str
    model: str
    row: str
    arm: Arm
    id: str | None
    domain: str | None
    """Domain that was searched for samples; `None` for all."""
    question: str
    reference: str
    metadata: dict[str, Any]
    """Metadata of the row, for scorers that need more than the reference answer."""
    candidate: Candidate | None
    """Candidate as the graph made it, without a reward; `None` when the arm gave no answer."""
    right: bool
    seconds: PartSeconds
    error: str | None
    """Why there is no answer."""


class ArmAnswer(AnsweredRow, total=False):
    """A row with what its judge was shown."""

    samples: list[Sample]
    """Samples that the judge of the run was shown, nearest first; empty where the run returned
    none, missing in files of earlier releases."""


class Judgement(TypedDict):
    """Reward that one reward model gave to one answer."""

    kind: Literal["judgement"]
    digest: str
    data_set: str
    model: str
    row: str
    arm: Arm
    reward_model: str
    fingerprint: str
    """Fingerprint of the reward model."""
    reward: float
    """Raw, whatever calibrations there are."""
    seconds: float


class SettingsLine(TypedDict):
    """Settings behind a digest, for people who read the file later."""

    kind: Literal["settings"]
    digest: str
    settings: dict[str, Any]


Line = ArmAnswer | Judgement | SettingsLine


@dataclass(slots=True)
class ArmRows:
    """The content of a file of rows."""

    answers: dict[RowKey, ArmAnswer] = field(default_factory=dict[RowKey, ArmAnswer])
    """The latest where there are two."""
    judgements: dict[tuple[RowKey, str], Judgement] = field(
        default_factory=dict[tuple[RowKey, str], Judgement]
    )
    """Judgements by row and fingerprint of the reward model."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Settings by digest."""

    def add(self, line: Line) -> None:
        """Take in one line."""
        if line["kind"] == "answer":
            self.answers[row_key(line)] = line
        elif line["kind"] == "settings":
            self.settings[line["digest"]] = line["settings"]
        else:
            self.judgements[row_key(line), line["fingerprint"]] = line


def row_key(line: ArmAnswer | Judgement) -> RowKey:
    """Return what a line is about."""
    return RowKey(line["digest"], line["data_set"], line["model"], line["row"], line["arm"])


class ArmLog:
    """The file of rows; every call blocks, so it belongs on a thread.

    Args:
        path: Created with its folder when the first row is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> ArmRows:
        """Return what the file holds.

        A last line that a kill cut short is removed from the file.

        Raises:
            ConfigurationError: The file holds something else, or rows of an unknown arm.
        """
        lines: list[Line] = load_lines(
            self.path,
            _accepted,
            what="arm rows",
            way_out="name another file, or delete it to start anew",
        )
        rows = ArmRows()
        for line in lines:
            if line["kind"] != "settings":
                checked_arm(line["arm"], where=f"a row in {str(self.path)!r}")
            rows.add(line)
        return rows

    def add(self, lines: Iterable[Line]) -> None:
        """Append lines; once this returns, a kill of the process does not lose them."""
        add_lines(self.path, lines)


def _accepted(fields: dict[str, Any]) -> Line | None:
    shape = _SHAPES.get(fields.get("kind"))
    return cast("Line", fields) if shape is not None and shape <= fields.keys() else None


_SHAPES: dict[object, frozenset[str]] = {
    "answer": ArmAnswer.__required_keys__,
    "judgement": Judgement.__required_keys__,
    "settings": SettingsLine.__required_keys__,
}
