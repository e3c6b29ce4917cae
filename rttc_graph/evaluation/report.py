"""The report of an evaluation: a folder with Markdown, plots and the figures as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rttc_graph.arms import ARMS
from rttc_graph.evaluation.accuracy_plot import (
    plot_accuracy,
    plot_reliability,
    plot_selective,
    plot_shares,
)
from rttc_graph.evaluation.comparison import DEFAULT_POLICY
from rttc_graph.evaluation.intervals import shown_difference, too_few
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, GroupFigures, PolicyFigures
from rttc_graph.evaluation.selective import SelectiveFigures, answered_at
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
    sections: Sequence[str] = ()
    """Lines of further sections, in Markdown."""
    further: Mapping[str, object] = field(default_factory=dict[str, object])
    """Their figures, for the JSON file."""


def write_report(found: ReportInput, folder: Path) -> Path:
    """Write the report, its plots and `figures.json`, and return the path of the report.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {found.title}", "", *_settings(found.settings), ""]
    if found.groups:
        lines += [*_verdicts(found.groups), ""]
    for number, group in enumerate(found.groups):
        name = group_name(group)
        lines += [f"## {name[0].upper()}{name[1:]}: {counted(group)}", "", *_table(group)]
        lines += [*(f"\n{line}" for line in left_out_lines(group)), *_against_arms(group)]
        if group["data_set"] is None:
            picture = f"accuracy-{number}-{_slug(name)}.png"
            plot_accuracy(group["policies"], folder / picture, rows=group["rows"], title=name)
            lines += ["", f"![Accuracy against cost, {name}]({picture})"]
        lines += [""]
    if found.groups:
        lines += [*_selective(found.groups, folder)]
        lines += [*_reliability(found, folder), *_shares(found.groups, folder)]
    lines += [*found.sections, *([_LEGEND] if found.groups else [])]
    written = {
        "settings": dict(found.settings),
        "groups": list(found.groups),
        **found.further,
    }
    text = json.dumps(written, indent=2, ensure_ascii=False, default=str)
    write_file(folder / FIGURES, text + "\n")
    write_file(folder / REPORT, "\n".join(lines))
    return folder / REPORT


def counted(group: GroupFigures) -> str:
    """Return how many questions a group has, and how many of them have no answer."""
    hard = group["unanswerable"]
    return f"{group['rows']} questions" + (f", {hard} of them without an answer" if hard else "")


def group_name(group: GroupFigures) -> str:
    """Return what a group is, in words."""
    parts = [part for part in (group["data_set"], group["model"]) if part is not None]
    return ", ".join(parts) or "all questions"


def left_out_lines(group: GroupFigures) -> list[str]:
    """Return why baselines are not among the figures, a line for each reason."""
    reasons: dict[int, list[str]] = {}
    for name, count in group["left_out"].items():
        reasons.setdefault(count, []).append(name)
    return [
        f"left out: {', '.join(names)}; the rows of {count} of {group['rows']} questions lack the "
        "samples for it, as those of earlier releases: collect them into a new file"
        for count, names in reasons.items()
    ]


def cells(name: str, policy: PolicyFigures, questions: int) -> tuple[str, ...]:
    """Return a policy's figures on so many questions as the cells of a row under `COLUMNS`."""
    return (
        name,
        f"{policy['accuracy']:.1%}",
        _difference(policy["against_cascade"], questions),
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

_ARM_COLUMNS = (
    "arm",
    "accuracy",
    "seconds",
    "default policy against it, points (95 %)",
    "so it is",
)

_WANTED = 0.9
"""Accuracy for which the report says how many questions can be answered."""

_SELECTIVE_COLUMNS = (
    "questions",
    "policy",
    "area",
    "best possible area",
    "accuracy if all are answered",
    f"answered with {_WANTED:.0%} right",
    "from the reward",
    "unanswerable ones declined there",
)

_NOTHING = "\u2013"

_LEGEND = """## How to read this

Every arm ran once for every question (greedy decoding, no query-state cache); policies, oracle and
random are computed from these rows, with the graph's own policy code. Seconds and tokens are means
per question and count all arms that the policy would have run, judging included. Three baselines
ask no model and no judge: `majority answer` always gives the most common answer of the domain's
samples, `nearest sample` that of the one nearest sample, `vote of samples` what all samples that
were retrieved say, weighted by similarity. `oracle` takes the cheapest right arm in hindsight,
`random` draws an arm with the shares of cascade's answers; both pay for that arm alone, and stand
where two arms and cascade were measured. The difference to cascade is in percentage points, with
the 95 % interval of the paired bootstrap over questions. A false accept is an answer that was
judged at least τr and is wrong, a false reject a right answer in hand that was judged below τr.

Selective answering gives an answer only from some reward on, with the answers of the gate in force.
The area is the mean accuracy over all shares of answered questions, the surest first; the best
possible one has all right answers before all wrong ones. An answer to a question without an answer
is wrong, to decline it is right, and an "I do not know" is never given. `nearest sample` is as sure
as it is similar, `vote of samples` as the share of votes that agree.

A verdict compares question by question, on the same interval. One is as good as another if the
interval leaves the other less than 5 points ahead, and is better if the interval is above 0.
Something is cheaper if it takes less than 1/1.2 of the seconds. The default policy is `cascade`,
with the τr and the arms of the settings above.
"""


def _settings(settings: Mapping[str, object]) -> list[str]:
    rows = [f"| {name} | {_escaped(value)} |" for name, value in settings.items()]
    return ["| setting | value |", "| --- | --- |", *rows]


def _table(group: GroupFigures) -> list[str]:
    found = group["policies"].items()
    few = too_few(group["rows"])
    table = _markdown(COLUMNS, [cells(name, policy, group["rows"]) for name, policy in found])
    return [*table, *([] if few is None else ["", f"{few}."])]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _verdicts(groups: Sequence[GroupFigures]) -> list[str]:
    """Return the verdict on all questions, then those on each model and data set."""
    first, *others = (group["verdict"]["text"] for group in groups)
    return [f"**{first}**", *(["", *(f"- {text}" for text in others)] if others else [])]


def _against_arms(group: GroupFigures) -> list[str]:
    """Return the table of the default policy against each arm alone."""
    found = group["against_arms"]
    if found is None:
        return []
    rows = [
        (
            arm,
            f"{group['policies'][arm]['accuracy']:.1%}",
            f"{group['policies'][arm]['seconds_mean']:.2f}",
            _difference(difference, group["rows"]),
            _told_apart(difference, group["rows"]),
        )
        for arm, difference in found["arms"].items()
    ]
    ratio = found["cost_ratio"]
    costs = "does take time, unlike" if ratio is None else f"takes {ratio:.2f} times the seconds of"
    return [
        "",
        f"Default policy (`{DEFAULT_POLICY}`, τr and arms as in the settings) against each arm:",
        "",
        *_markdown(_ARM_COLUMNS, rows),
        "",
        f"It {costs} `{found['cheapest_good']}`, the cheapest arm within one standard error of the "
        "most accurate one.",
    ]


def _selective(groups: Sequence[GroupFigures], folder: Path) -> list[str]:
    """Return the plot of all questions, and a table of all groups."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        for name, policy in group["policies"].items():
            if policy["selective"] is not None:
                rows.append((group_name(group), name, *_selective_cells(policy["selective"])))
    if not rows:
        return []
    picture, first = "selective.png", groups[0]
    curves = {name: p["selective"] for name, p in first["policies"].items() if p["selective"]}
    plot_selective(curves, folder / picture, title=group_name(first))
    return [
        "## Selective answering",
        "",
        f"![Accuracy against share answered]({picture})",
        "",
        *_markdown(_SELECTIVE_COLUMNS, rows),
        "",
    ]


def _selective_cells(found: SelectiveFigures) -> tuple[str, ...]:
    point = answered_at(found, _WANTED)
    declined = None if point is None else point["declined"]
    return (
        f"{found['area']:.1%}",
        f"{found['best_area']:.1%}",
        f"{found['points'][-1]['accuracy']:.1%}",
        _share(0.0 if point is None else point["answered"]),
        _NOTHING if point is None else f"{point['tau_r']:.3f}",
        _share(declined),
    )


def _told_apart(difference: Sequence[float], questions: int) -> str:
    if too_few(questions):
        return "not told apart"
    if difference[1] > 0:
        return "better"
    return "worse" if difference[2] < 0 else "not told apart"


def _reliability(found: ReportInput, folder: Path) -> list[str]:
    picture = "reliability.png"
    curves: dict[str, list[tuple[float, bool]]] = {"raw": _pairs(found.raw)}
    if found.questions is not found.raw:
        curves["calibrated"] = _pairs(found.questions)
    plot_reliability(curves, folder / picture, title="what a reward is worth")
    return ["## Reliability", "", f"![Share of right answers against the reward]({picture})", ""]


def _pairs(questions: Sequence[EvaluatedQuestion]) -> list[tuple[float, bool]]:
    return [
        (judged.reward, judged.stands)
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


def _difference(value: Sequence[float] | None, questions: int) -> str:
    return _NOTHING if value is None else shown_difference(value, questions)


def _share(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1%}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _escaped(value: object) -> str:
    return str(value).replace("|", "\\|")
