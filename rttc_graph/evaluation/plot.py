"""Accuracy against cost, one point for each policy, as a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rttc_graph.evaluation.summary import EvaluationResult
from rttc_graph.extras import require

_INCHES = (7.0, 4.5)
_DPI = 150
_MARKERS = "osD^vPX*"


def plot_accuracy(result: EvaluationResult, path: Path, *, title: str = "") -> None:
    """Write a plot of accuracy (with its interval) against mean seconds per question.

    Args:
        result: Figures with at least one policy.
        path: PNG file, replaced if it is there.
        title: Above the plot, for example the names of data and model.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    # Figure instead of pyplot: no global state, no display, and usable on any thread.
    figure_module = require("matplotlib.figure", extra="eval", purpose="plots")
    figure: Any = figure_module.Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes: Any = figure.add_subplot()
    for number, (policy, summary) in enumerate(result["policies"].items()):
        low, high = summary["interval"]
        accuracy = summary["accuracy"]
        axes.errorbar(
            summary["seconds_mean"],
            100 * accuracy,
            yerr=[[100 * (accuracy - low)], [100 * (high - accuracy)]],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=8,
            capsize=4,
            linestyle="none",
            label=f"{policy} ({100 * accuracy:.0f} %, {summary['seconds_mean']:.2f} s)",
        )
    _label(axes, result["rows"], title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(path), format="png")


def _label(axes: Any, rows: int, title: str) -> None:
    axes.set_xlabel("seconds per question (mean)")
    axes.set_ylabel(f"accuracy in % ({rows} questions, 95 % interval)")
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.margins(x=0.15)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    if title:
        axes.set_title(title)
