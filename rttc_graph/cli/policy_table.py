"""The figures of policies as a table, for `rttc eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from rttc_graph.cli.screen import out, print_table
from rttc_graph.evaluation.policy_figures import GroupFigures
from rttc_graph.evaluation.report import group_name


def print_policies(policies: Mapping[str, Any]) -> None:
    """Print the figures of each policy as a table."""
    columns = ["policy", "accuracy", "95 %", "seconds", "prompt", "completion", "trained", "arms"]
    print_table(
        columns,
        [
            (
                policy,
                f"{summary['accuracy']:.1%}",
                "{:.1%} to {:.1%}".format(*summary["interval"]),
                f"{summary['seconds_mean']:.2f}",
                f"{summary['prompt_tokens']:.0f}",
                f"{summary['completion_tokens']:.0f}",
                f"{summary['trained_tokens']:.0f}",
                ", ".join(f"{arm} {count:.4g}" for arm, count in summary["arms"].items()),
            )
            for policy, summary in policies.items()
        ],
    )


def print_group(group: GroupFigures) -> None:
    """Print the figures of some of the questions under their name."""
    out.print(Text(group_name(group), style="bold"))
    print_policies(group["policies"])
    failed = sum(policy["failed"] for policy in group["policies"].values())
    out.print(f"{group['rows']} questions" + (f", {failed} answers missing" if failed else ""))
    out.print()
