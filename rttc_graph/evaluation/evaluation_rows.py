"""Rows of an evaluation, one JSON line each: one question under one policy, and who judged it.

An arm's name is a policy too, and an arm's answer does not depend on the policy that asks for it.
So rows of the arms alone are enough to work out what any policy at any τr would have answered and
paid (`rttc_graph.evaluation.replay`). Judgements of these rows are lines of their own: another
reward model adds its own to rows that are there. So are the verdicts of a grader on what is right.
Rows of runs for real hold the rewards that decided them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, cast

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.arms import checked_arm
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.verdicts import VerdictLine
from rttc_graph.protocols import NewSample
from rttc_graph.state import Candidate, Drawn, Sample
from rttc_graph.support.json_lines import add_lines, load_lines


class RowKey(NamedTuple):
    """Key of one row in the file."""

    digest: str
    """Digest of the settings under which it was made, without the seed."""
    data_set: str
    model: str
    """Name of the policy model."""
    row: str
    """Content hash of the question's row; `#2` and so on behind it where a row is there twice."""
    policy: str
    """Policy that was run; an arm's name in rows that are replayed."""
    seed: int = 0
    """Seed of sampling and training; draws of one arm differ by it."""


PartSeconds = dict[str, float]
"""Wall time of a run by part: `generation`, `retrieval` (embedding, search and what the graph
itself takes; 0 for arms that do not retrieve), `training`, and whatever other parts the arms'
records name. `judging` is among them in runs for real; the other rows have it in judgements."""


class KeyFields(TypedDict):
    """Fields of a `RowKey`, which rows and judgements begin with."""

    digest: str
    data_set: str
    model: str
    row: str
    policy: str
    seed: int


class EvaluationRow(KeyFields):
    """One question under one policy."""

    kind: Literal["answer", "run"]
    """`answer` for one arm alone, which is judged and replayed later; `run` for a policy that was
    run for real, with its own rewards, budget and cache."""
    id: str | None
    domain: str | None
    """Domain in which samples were looked for; `None` for all."""
    question: str
    reference: str
    metadata: dict[str, Any]
    """Metadata of the question, for scorers that need more than the reference answer."""
    candidates: list[Candidate]
    """Candidates in the order of the run. An `answer` has at most the one of its arm, without a
    reward; none of either means that there was no answer."""
    right: bool
    """Whether the answer that was returned is right."""
    seconds: PartSeconds
    error: str | None
    """Why there is no answer."""
    samples: NotRequired[list[Sample]]
    """Samples in hand at the end of the run, nearest first; empty where the run returned none,
    missing where it failed and in files of earlier releases."""
    majority: NotRequired[str | None]
    """Most common answer of the domain's samples; `None` where there are none, missing in files of
    earlier releases."""


PANEL = "panel"
"""Name that the key of a recorded panel has in the place of a policy."""


class PanelRow(KeyFields):
    """Panel that was drawn once for a question, with all texts; strategies are replayed on it."""

    kind: Literal["panel"]
    id: str | None
    domain: str | None
    question: str
    reference: str
    metadata: dict[str, Any]
    size: int
    """Answers that were asked for."""
    drawn: list[Drawn]
    """Answers in the order of their draws, whole and without rewards; none if the run failed."""
    seeds: list[int]
    """Seed of each draw, before its prompt is mixed in."""
    samples: list[Sample]
    """Samples in hand, nearest first."""
    seconds: PartSeconds
    """Wall time of all draws together: `generation` and `retrieval`."""
    error: str | None
    """Why there are no draws."""


class PanelJudgement(KeyFields):
    """Rewards that one reward model gave to the draws of one panel."""

    kind: Literal["panel_judgement"]
    reward_model: str
    fingerprint: str
    rewards: list[float | None]
    """Raw score of each draw; `None` where it gave none, or there was no text."""
    seconds: float


class Judgement(KeyFields):
    """Reward that one reward model gave to the answer of one row."""

    kind: Literal["judgement"]
    reward_model: str
    fingerprint: str
    """Fingerprint of the reward model."""
    reward: float
    """Raw score, whatever calibrations there are."""
    seconds: float


class SettingsLine(TypedDict):
    """Settings behind a digest, for people who read the file later."""

    kind: Literal["settings"]
    digest: str
    settings: dict[str, Any]


Line = EvaluationRow | PanelRow | PanelJudgement | Judgement | SettingsLine | VerdictLine

_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def settings_digest(settings: Mapping[str, object]) -> str:
    """Return a digest of JSON-ready settings without their seed, 16 hexadecimal characters."""
    # The seed has a place of its own in a row's key. Digests of earlier releases had it among the
    # settings; with 0, which is the default, they are the same as today's.
    text = json.dumps({**settings, "seed": 0}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class EvaluationRows:
    """The content of a file of rows."""

    rows: dict[RowKey, EvaluationRow] = field(default_factory=dict[RowKey, EvaluationRow])
    """Rows by key, the latest where there are two."""
    judgements: dict[tuple[RowKey, str], Judgement] = field(
        default_factory=dict[tuple[RowKey, str], Judgement]
    )
    """Judgements by row and fingerprint of the reward model."""
    panels: dict[RowKey, PanelRow] = field(default_factory=dict[RowKey, PanelRow])
    """Recorded panels by key, the latest where there are two."""
    panel_judgements: dict[tuple[RowKey, str], PanelJudgement] = field(
        default_factory=dict[tuple[RowKey, str], PanelJudgement]
    )
    """Rewards of panels by key and fingerprint of the reward model."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Settings by digest."""
    verdicts: list[VerdictLine] = field(default_factory=list[VerdictLine])
    """Verdicts of all graders."""

    def add(self, line: Line) -> None:
        """Take in one line."""
        if line["kind"] == "settings":
            self.settings[line["digest"]] = line["settings"]
        elif line["kind"] == "judgement":
            self.judgements[row_key(line), line["fingerprint"]] = line
        elif line["kind"] == "verdict":
            self.verdicts.append(line)
        elif line["kind"] == "panel":
            self.panels[row_key(line)] = line
        elif line["kind"] == "panel_judgement":
            self.panel_judgements[row_key(line), line["fingerprint"]] = line
        else:
            self.rows[row_key(line)] = line

    def replayable(self) -> list[RowKey]:
        """Return the keys of the rows of arms alone, in the order of the file."""
        return [key for key, row in self.rows.items() if row["kind"] == "answer"]


def key_fields(key: RowKey) -> KeyFields:
    """Return the fields of a key."""
    return {
        "digest": key.digest,
        "data_set": key.data_set,
        "model": key.model,
        "row": key.row,
        "policy": key.policy,
        "seed": key.seed,
    }


def row_key(line: KeyFields) -> RowKey:
    """Return what a line is about."""
    return RowKey(
        line["digest"], line["data_set"], line["model"], line["row"], line["policy"], line["seed"]
    )


def sample_of(row: EvaluationRow | PanelRow) -> NewSample:
    """Return the solved question of a row, as scorers take it."""
    return NewSample(
        question=row["question"],
        answer=row["reference"],
        domain=row["domain"] or "",
        external_id=row["id"],
        metadata=row["metadata"],
    )


class RowLog:
    """The file of rows; every call blocks, so it belongs on a thread.

    Args:
        path: Created with its folder when the first row is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> EvaluationRows:
        """Return what the file holds, lines of earlier releases included.

        A last line that a kill cut short is removed from the file.

        Raises:
            ConfigurationError: The file holds something else, rows of an unknown arm, or the
                records that `rttc eval --real` of an earlier release kept.
        """
        reader = _Reader(self.path)
        lines = load_lines(
            self.path,
            reader.parse,
            what="evaluation rows",
            way_out="name another file, or delete it to start anew",
        )
        rows = EvaluationRows()
        for line in lines:
            rows.add(line)
        return rows

    def add(self, lines: Iterable[Line]) -> None:
        """Append lines; once this returns, a kill of the process does not lose them."""
        add_lines(self.path, lines)


_OLD_RECORD = frozenset({"digest", "row", "policy", "right", "candidates"})
"""Keys of a record that `rttc eval --real` kept in 0.1; it had no `kind`."""


@dataclass(slots=True)
class _Reader:
    """Reads the lines of one file in order."""

    path: Path
    old: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Today's digest and the seed, by the digest of an earlier release that held the seed."""

    def parse(self, fields: dict[str, Any]) -> Line:
        """Return a line as it is written today.

        Raises:
            ValidationError: It is something else.
            ConfigurationError: Its arm is unknown, or it is a record of an earlier release.
        """
        if "kind" not in fields and fields.keys() >= _OLD_RECORD:
            raise ConfigurationError(
                f"{str(self.path)!r} was written by rttc eval --real of an earlier release, whose "
                "lines do not hold the questions: name another file; the questions are asked again"
            )
        line = _LINE.validate_python(self._today(fields))
        if line["kind"] == "answer" or line["kind"] == "judgement":
            checked_arm(line["policy"], where=f"a row in {str(self.path)!r}")
        return line

    def _today(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a line under today's names.

        In 0.1 a row was of an `arm`, had one `candidate`, and its seed was among the settings.
        """
        digest = fields.get("digest")
        if fields.get("kind") == "settings":
            settings = fields.get("settings")
            if not isinstance(settings, dict) or not isinstance(settings.get("seed"), int):
                return fields
            named = cast("dict[str, Any]", settings)
            today = settings_digest(named) if named["seed"] else str(digest)
            self.old[str(digest)] = (today, named["seed"])
            return {
                **fields,
                "digest": today,
                "settings": {name: value for name, value in named.items() if name != "seed"},
            }
        if "arm" not in fields:
            return fields
        current, seed = self.old.get(str(digest), (digest, 0))
        candidate = fields.get("candidate")
        return {
            "policy": fields["arm"],
            "seed": seed,
            "candidates": [] if candidate is None else [candidate],
            **fields,
            "digest": current,
        }
