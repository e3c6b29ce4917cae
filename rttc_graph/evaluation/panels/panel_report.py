"""Figures of recorded panels as lines of a report, and as plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rttc_graph.evaluation.accuracy_plot import finish, new_figure
from rttc_graph.evaluation.intervals import shown_difference, too_few
from rttc_graph.evaluation.panels.panel_figures import MixedPoint, PanelFigures, PanelPoint

COLUMNS = (
    "strategy",
    "drawn from",
    "most answers",
    "accuracy (95 %)",
    "any of them",
    "majority of as many tokens",
    "points against it (95 %)",
    "draws",
    "tokens",
    "TFLOP",
    "seconds",
)

MIXED_COLUMNS = (
    "strategy",
    "answers",
    "all sources",
    "best source",
    "points against it (95 %)",
    "any of them",
    "part of the way",
)

_NOTHING = "\u2013"

_LINES = ("-", "--", "-.")
"""Styles of the lines, one for each combination of sources; strategies differ by colour."""

LEGEND = """A panel was drawn once for each question; every strategy and every smaller size is
computed from it, with the graph's own strategies. `any of them` is the share of questions for which
one of the draws is right: no choice among them can be better. The majority beside each figure draws
from the same sources and takes as many tokens in the mean. Tokens are exact; floating-point
operations are those of the draws, a beginning that several prompts share once. Seconds are a share
of those of the whole panel, by tokens, though few draws in a batch take longer each than many.
Rewards were given with all draws in sight. Intervals are paired by question."""


def panel_lines(groups: Sequence[PanelFigures], folder: Path) -> list[str]:
    """Return the section of a report on panels, and write its plots into the report's folder.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    if not groups:
        return []
    lines = ["## Panels", "", LEGEND, ""]
    for number, group in enumerate(groups):
        lines += [f"### {panel_group_name(group)}: {group['rows']} questions", ""]
        rows = group["rows"]
        lines += _markdown(COLUMNS, [panel_cells(point, rows) for point in group["points"]])
        if group["mixed"]:
            mixed = [mixed_cells(one, rows) for one in group["mixed"]]
            lines += ["", *_markdown(MIXED_COLUMNS, mixed)]
        if (few := too_few(rows)) is not None:
            lines += ["", f"{few}."]
        known = all(point["flops"] is not None for point in group["points"])
        for what in ("flops" if known else "tokens", "seconds"):
            picture = f"panels-{number}-{what}.png"
            plot_panels(group, folder / picture, against=what)
            lines += ["", f"![Accuracy against {what}]({picture})"]
        lines += [""]
    return lines


def panel_group_name(group: PanelFigures) -> str:
    """Return what a group is, in words."""
    parts = [part for part in (group["data_set"], group["model"]) if part is not None]
    return ", ".join(parts) or "all questions"


def panel_cells(point: PanelPoint, questions: int) -> tuple[str, ...]:
    """Return a point of so many questions as the cells of a row under `COLUMNS`."""
    low, high = point["interval"]
    interval = "" if too_few(questions) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return (
        point["strategy"],
        "+".join(point["sources"]),
        str(point["n"]),
        f"{point['accuracy']:.1%}{interval}",
        f"{point['any']:.1%}",
        f"{point['majority']:.1%}",
        shown_difference(point["against_majority"], questions),
        f"{point['draws']:.2f}",
        f"{tokens_of(point):.0f}",
        _NOTHING if point["flops"] is None else f"{point['flops'] / 1e12:.2f}",
        f"{point['seconds']:.2f}",
    )


def mixed_cells(point: MixedPoint, questions: int) -> tuple[str, ...]:
    """Return a mixed panel on so many questions as the cells of a row under `MIXED_COLUMNS`."""
    way = point["share_of_the_way"]
    return (
        point["strategy"],
        str(point["n"]),
        f"{point['accuracy']:.1%}",
        f"{point['best']} {point['best_accuracy']:.1%}",
        shown_difference(point["difference"], questions),
        f"{point['any']:.1%}",
        _NOTHING if way is None else f"{way:.0%}",
    )


def tokens_of(point: PanelPoint) -> float:
    """Return the mean tokens of a point's draws, prompts included."""
    return point["prompt_tokens"] + point["completion_tokens"]


COSTS: Mapping[str, Callable[[PanelPoint], float | None]] = {
    "tokens": tokens_of,
    "flops": lambda point: point["flops"],
    "seconds": lambda point: point["seconds"],
}
"""Means per question that accuracy is drawn against."""


def plot_panels(group: PanelFigures, path: Path, *, against: str = "tokens") -> None:
    """Write a plot of accuracy against cost, a curve for each strategy and its sources.

    Args:
        group: Figures.
        path: PNG file, replaced if it is there.
        against: One of `COSTS`, known for all points.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    cost = COSTS[against]
    figure = new_figure()
    axes: Any = figure.add_subplot()
    curves: dict[tuple[str, str], list[PanelPoint]] = {}
    for point in group["points"]:
        curves.setdefault((point["strategy"], "+".join(point["sources"])), []).append(point)
    strategies = list(dict.fromkeys(strategy for strategy, _ in curves))
    drawn_from = list(dict.fromkeys(sources for _, sources in curves))
    ceilings: set[str] = set()
    for (strategy, sources), points in curves.items():
        costs = [cost(point) for point in points]
        axes.plot(
            costs,
            [100 * point["accuracy"] for point in points],
            color=f"C{strategies.index(strategy)}",
            linestyle=_LINES[drawn_from.index(sources) % len(_LINES)],
            marker="o",
            markersize=4,
            label=f"{strategy}, {sources}",
        )
        if sources not in ceilings and points[-1]["draws"] >= points[-1]["n"]:
            ceilings.add(sources)
            axes.plot(
                costs,
                [100 * point["any"] for point in points],
                linestyle=":",
                color="grey",
                label=f"any of them, {sources}",
            )
    unit = "floating-point operations" if against == "flops" else against
    axes.set_xlabel(f"{unit} per question (mean)")
    axes.set_ylabel(f"accuracy in % ({group['rows']} questions)")
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap
    axes.set_ylim(-3, 103)
    finish(figure, axes, path, panel_group_name(group), beside=True)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
