"""The plots of an evaluation, as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS
from rttc_graph.evaluation.intervals import too_few
from rttc_graph.evaluation.reliability import reliability
from rttc_graph.evaluation.selective import SelectiveFigures
from rttc_graph.support.extras import require
from rttc_graph.support.named_files import naming_file

_INCHES = (7.0, 4.5)
_DPI = 150
_TITLE_CHARACTERS = 60
"""Longest line of a title; a plot of seven inches has room for some 70."""
_MARKERS = "osD^vPX*"


class AccuracyPoint(TypedDict):
    """Data of one policy for a plot of accuracy against cost."""

    accuracy: float
    interval: list[float]
    seconds_mean: float


def plot_accuracy(
    policies: Mapping[str, AccuracyPoint], path: Path, *, rows: int, title: str = ""
) -> None:
    """Write a plot of accuracy (with its interval) against mean seconds per question.

    Args:
        policies: At least one, by name.
        path: PNG file, replaced if it is there.
        rows: Questions behind each point.
        title: Above the plot, for example the names of data and model.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure()
    axes: Any = figure.add_subplot()
    few = too_few(rows) is not None
    for number, (policy, summary) in enumerate(policies.items()):
        low, high = summary["interval"]
        accuracy = summary["accuracy"]
        axes.errorbar(
            summary["seconds_mean"],
            100 * accuracy,
            yerr=None
            if few
            else [[100 * max(0.0, accuracy - low)], [100 * max(0.0, high - accuracy)]],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=8,
            capsize=4,
            linestyle="none",
            label=f"{policy} ({100 * accuracy:.1f} %, {summary['seconds_mean']:.2f} s)",
        )
    axes.set_xlabel("seconds per question (mean)")
    axes.set_ylabel(f"accuracy in % ({rows} questions{'' if few else ', 95 % interval'})")
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.margins(x=0.15)
    finish(figure, axes, path, title)


def plot_reliability(
    curves: Mapping[str, Sequence[tuple[float, bool]]], path: Path, *, title: str = ""
) -> None:
    """Write how often answers were right against the reward they got, in ten bins.

    Args:
        curves: Pairs of reward and right, by the name of the reward model; empty ones are left out.
        path: PNG file, replaced if it is there.
        title: Above the plot.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure()
    axes: Any = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as said")
    for number, (name, pairs) in enumerate(curves.items()):
        bins = reliability([reward for reward, _ in pairs], [right for _, right in pairs])
        said, found = [b.said for b in bins], [b.found for b in bins]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(said, found, marker=marker, label=f"{name} ({len(pairs)} answers)")
        for b in bins:
            axes.annotate(str(b.answers), (b.said, b.found), fontsize=6)
    axes.set_xlabel("reward (mean of the bin)")
    axes.set_ylabel("share of right answers")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    finish(figure, axes, path, title)


def plot_selective(curves: Mapping[str, SelectiveFigures], path: Path, *, title: str = "") -> None:
    """Write the accuracy of the given answers against the share of questions that get one.

    Args:
        curves: At least one, by policy.
        path: PNG file, replaced if it is there.
        title: Above the plot.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure()
    axes: Any = figure.add_subplot()
    for name, found in curves.items():
        answered = [100 * point["answered"] for point in found["points"]]
        right = [100 * point["accuracy"] for point in found["points"]]
        axes.plot(answered, right, label=f"{name} (area {100 * found['area']:.1f} %)")
    axes.set_xlabel("questions that are answered in %, surest first")
    axes.set_ylabel("right ones among these in %")
    axes.set_xlim(0, 102)
    axes.set_ylim(-3, 103)
    finish(figure, axes, path, title)


def plot_shares(bars: Mapping[str, Mapping[str, float]], path: Path, *, title: str = "") -> None:
    """Write a bar for each data set, made of the shares of the arms.

    Args:
        bars: Arms with their weights, by data set; a bar is as long as its weights are together 1.
        path: PNG file, replaced if it is there.
        title: Above the plot.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure()
    axes: Any = figure.add_subplot()
    names = list(bars)
    left = [0.0] * len(names)
    for arm in (arm for arm in ARMS if any(bar.get(arm) for bar in bars.values())):
        widths = [bars[name].get(arm, 0.0) / max(1e-9, sum(bars[name].values())) for name in names]
        axes.barh(names, widths, left=left, label=arm)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("share of the answers that cascade returned")
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    finish(figure, axes, path, title)


def new_figure() -> Any:
    """Return an empty figure.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    # Figure instead of pyplot: no global state, no display, and usable on any thread.
    module = require("matplotlib.figure", extra="eval", purpose="plots")
    return module.Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")


def finish(figure: Any, axes: Any, path: Path, title: str, *, beside: bool = False) -> None:
    """Give a figure its grid, legend (inside or beside it) and title, and write it."""
    axes.grid(visible=True, alpha=0.3)
    if beside:
        figure.legend(loc="outside right upper", fontsize="small")
    else:
        axes.legend(loc="best", fontsize="small")
    if title:
        axes.set_title(textwrap.fill(title, _TITLE_CHARACTERS))
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path):
        figure.savefig(str(path), format="png")
