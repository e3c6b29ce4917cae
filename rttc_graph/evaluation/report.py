"""The report of an evaluation: a folder with Markdown, plots and the figures as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rttc_graph.arms import ARMS
from rttc_graph.evaluation.accuracy_plot import plot_accuracy, plot_reliability, plot_shares
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, GroupFigures, PolicyFigures
from rttc_graph.support.named_files import write_file

FIGURES = "figures.json"
REPORT = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Input of a report."""

    title: str
    groups: Sequence[GroupFigures]
    """All questions first."""
    questions: Sequence[EvaluatedQuestion]
    """Questions with the rewards that were used."""
    raw: Sequence[EvaluatedQuestion]
    """Questions with raw rewards; equal to `questions` where there is no calibration."""
    settings: Mapping[str, object]
    """Everything that the figures depend on, for the reader."""


def write_report(found: ReportInput, folder: Path) -> Path:
    """Write the report, its plots and `figures.json`, and return the path of the report.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {found.title}", "", *_settings(found.settings), ""]
    for number, group in enumerate(found.groups):
        name = group_name(group)
        lines += [f"## {name[0].upper()}{name[1:]}: {group['rows']} questions", "", *_table(group)]
        if group["data_set"] is None:
            picture = f"accuracy-{number}-{_slug(name)}.png"
            plot_accuracy(group["policies"], folder / picture, rows=group["rows"], title=name)
            lines += ["", f"![Accuracy against cost, {name}]({picture})"]
        lines += [""]
    lines += [*_reliability(found, folder), *_shares(found.groups, folder), _LEGEND]
    written = {"settings": dict(found.settings), "groups": list(found.groups)}
    text = json.dumps(written, indent=2, ensure_ascii=False, default=str)
    write_file(folder / FIGURES, text + "\n")
    write_file(folder / REPORT, "\n".join(lines))
    return folder / REPORT


def group_name(group: GroupFigures) -> str:
    """Return what a group is, in words."""
    parts = [part for part in (group["data_set"], group["model"]) if part is not None]
    return ", ".join(parts) or "all questions"


def cells(name: str, policy: PolicyFigures) -> tuple[str, ...]:
    """Return a policy's figures as the cells of a row under `COLUMNS`."""
    return (
        name,
        f"{policy['accuracy']:.1%}",
        _difference(policy["against_cascade"]),
        f"{policy['seconds_mean']:.2f}",
        f"{policy['prompt_tokens']:.0f}",
        f"{policy['completion_tokens']:.0f}",
        f"{policy['trained_tokens']:.0f}",
        ", ".join(f"{arm} {count:g}" for arm, count in policy["arms"].items()),
        _share(policy["false_accepts"]),
        _share(policy["false_rejects"]),
    )


COLUMNS = (
    "policy",
    "accuracy",
    "points against cascade (95 %)",
    "seconds",
    "prompt",
    "completion",
    "trained",
    "arms",
    "false accepts",
    "false rejects",
)

_NOTHING = "\u2013"

_LEGEND = """## How to read this

Every arm ran once for every question (greedy decoding, no query-state cache); policies, oracle and
random are computed from these rows, with the graph's own policy code. Seconds and tokens are means
per question and count all arms that the policy would have run, judging included. `oracle` takes the
cheapest right arm in hindsight, `random` draws an arm with the shares of cascade's answers; both
pay for that arm alone. The difference to cascade is in percentage points, with the 95 % interval of
the paired bootstrap over questions. A false accept is an answer that was judged at least τr and is
wrong, a false reject a right answer in hand that was judged below τr.
"""


def _settings(settings: Mapping[str, object]) -> list[str]:
    rows = [f"| {name} | {_escaped(value)} |" for name, value in settings.items()]
    return ["| setting | value |", "| --- | --- |", *rows]


def _table(group: GroupFigures) -> list[str]:
    rows = [cells(name, policy) for name, policy in group["policies"].items()]
    return [
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _reliability(found: ReportInput, folder: Path) -> list[str]:
    picture = "reliability.png"
    curves: dict[str, list[tuple[float, bool]]] = {"raw": _pairs(found.raw)}
    if found.questions is not found.raw:
        curves["calibrated"] = _pairs(found.questions)
    plot_reliability(curves, folder / picture, title="what a reward is worth")
    return ["## Reliability", "", f"![Share of right answers against the reward]({picture})", ""]


def _pairs(questions: Sequence[EvaluatedQuestion]) -> list[tuple[float, bool]]:
    return [
        (judged.reward, judged.row["right"])
        for question in questions
        for judged in question.arms.values()
        if judged.reward is not None
    ]


def _shares(groups: Sequence[GroupFigures], folder: Path) -> list[str]:
    sets = [g for g in groups if g["data_set"] is not None] or list(groups[:1])
    bars: dict[str, dict[str, float]] = {
        group_name(group): {arm: policy["arms"].get(arm, 0.0) for arm in ARMS}
        for group in sets
        if (policy := group["policies"].get("cascade")) is not None
    }
    if not bars:
        return []
    picture = "arm-shares.png"
    plot_shares(bars, folder / picture, title="which arm's answer cascade returned")
    return ["## Arm shares", "", f"![Arm shares per data set]({picture})", ""]


def _difference(value: Sequence[float] | None) -> str:
    if value is None:
        return _NOTHING
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * end for end in value))


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1%}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _escaped(value: object) -> str:
    return str(value).replace("|", "\\|")
