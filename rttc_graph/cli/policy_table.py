"""The figures of policies as a table, for `rttc eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rttc_graph.cli.screen import out, print_table
from rttc_graph.evaluation.summary import EvaluationResult


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


def print_result(result: EvaluationResult) -> None:
    """Print the figures of an evaluation."""
    print_policies(result["policies"])
    failed = sum(summary["failed"] for summary in result["policies"].values())
    out.print(f"{result['rows']} questions" + (f", {failed} runs failed" if failed else ""))
