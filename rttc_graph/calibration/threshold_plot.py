"""The picture of a proposal: accuracy, cost and arm shares over τr, with the chosen point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rttc_graph.arms import ARMS
from rttc_graph.calibration.aims import GatePoint
from rttc_graph.evaluation.accuracy_plot import finish, new_figure


def plot_sweep(
    points: Sequence[GatePoint], chosen: GatePoint, path: Path, *, title: str = ""
) -> None:
    """Write the plot.

    Args:
        points: In the order of τr; those with the chosen arms are shown.
        chosen: One of them, marked by a line.
        path: PNG file, replaced if it is there.
        title: Above the plot.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure()
    axes: Any = figure.add_subplot()
    points = [point for point in points if point.gate.arms == chosen.gate.arms]
    taus = [point.gate.tau_r for point in points]
    arms = [arm for arm in ARMS if any(point.shares.get(arm) for point in points)]
    shares = [[point.shares.get(arm, 0.0) for point in points] for arm in arms]
    axes.stackplot(taus, shares, labels=[f"share of {arm}" for arm in arms], alpha=0.25)
    axes.plot(taus, [point.accuracy for point in points], color="black", label="accuracy")
    tau_r = chosen.gate.tau_r
    axes.axvline(tau_r, color="black", linestyle=":", label=f"τr = {tau_r:g}")
    axes.set_xlabel("τr")
    axes.set_ylabel("accuracy, arm shares")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    cost: Any = axes.twinx()
    seconds = [point.seconds for point in points]
    (line,) = cost.plot(taus, seconds, color="tab:red", linestyle="--")
    line.set_label("seconds per question")
    cost.set_ylabel("seconds per question (dashed)", color="tab:red")
    cost.set_ylim(bottom=0)
    finish(figure, axes, path, title)
