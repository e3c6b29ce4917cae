"""The figures of policies as a table, for `rttc eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from rttc_graph.cli.screen import out, print_prose, print_table
from rttc_graph.evaluation.baselines import BASELINES
from rttc_graph.evaluation.intervals import too_few
from rttc_graph.evaluation.panels.panel_figures import PanelFigures
from rttc_graph.evaluation.panels.panel_report import (
    COLUMNS,
    MIXED_COLUMNS,
    mixed_cells,
    panel_cells,
    panel_group_name,
)
from rttc_graph.evaluation.policy_figures import GroupFigures
from rttc_graph.evaluation.report import counted, group_name, left_out_lines


def print_policies(policies: Mapping[str, Any], questions: int) -> None:
    """Print the figures of each policy on so many questions as a table."""
    columns = ["policy", "accuracy", "95 %", "seconds", "prompt", "completion", "trained", "arms"]
    few = too_few(questions)
    print_table(
        columns,
        [
            (
                policy,
                f"{summary['accuracy']:.1%}",
                None if few else "{:.1%} to {:.1%}".format(*summary["interval"]),
                f"{summary['seconds_mean']:.2f}",
                f"{summary['prompt_tokens']:.0f}",
                f"{summary['completion_tokens']:.0f}",
                f"{summary['trained_tokens']:.0f}",
                ", ".join(f"{arm} {count:.4g}" for arm, count in summary["arms"].items()),
            )
            for policy, summary in policies.items()
        ],
    )
    if few is not None:
        print_prose(few)


def print_group(group: GroupFigures) -> None:
    """Print the figures of some of the questions under their name."""
    out.print(Text(group_name(group), style="bold"))
    print_policies(group["policies"], group["rows"])
    failed = sum(
        policy["failed"] for name, policy in group["policies"].items() if name not in BASELINES
    )
    out.print(counted(group) + (f", {failed} answers missing" if failed else ""))
    if lines := left_out_lines(group):
        out.print(Text("\n".join(lines)))
    out.print()


def print_panels(group: PanelFigures) -> None:
    """Print the figures of strategies on recorded panels, all sizes of each."""
    name = panel_group_name(group)
    out.print(Text(f"panels, {name}: {group['rows']} questions", style="bold"))
    rows = group["rows"]
    print_table(list(COLUMNS), [panel_cells(point, rows) for point in group["points"]])
    if group["mixed"]:
        out.print(Text("\nall sources together against the best of them alone"))
        print_table(list(MIXED_COLUMNS), [mixed_cells(one, rows) for one in group["mixed"]])
    if (few := too_few(rows)) is not None:
        print_prose(few)
    out.print()


def print_verdicts(groups: Sequence[GroupFigures]) -> None:
    """Print what the figures come to, one line for each part and one for all, which is last."""
    first, *others = groups
    for group in (*others, first):
        out.print(Text(group["verdict"]["text"], style="bold" if group is first else ""))
