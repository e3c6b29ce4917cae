"""Recorded panels to figures: each strategy at each size, beside a majority of as many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from typing_extensions import TypedDict

from rttc_graph.arms import Attempt
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import paired_difference, wilson_interval
from rttc_graph.evaluation.panels.panel_replay import RecordedPanel, ReplayedPanel, replay_panel
from rttc_graph.evaluation.panels.panel_specs import MAX_SIZE, MIXED, PanelSpec


class PanelPoint(TypedDict):
    """Figures of one strategy at one size; draws, tokens and seconds are means per question."""

    strategy: str
    sources: list[Attempt]
    """Sources of the draws."""
    n: int
    """Most answers."""
    accuracy: float
    interval: list[float]
    """Low and high end of the 95 % Wilson score interval of the accuracy."""
    any: float
    """Share of questions for which one of the draws is right."""
    majority: float
    """Accuracy of the majority that takes as many tokens from the same sources."""
    against_majority: list[float]
    """Difference to it, low and high end of its 95 % paired bootstrap interval."""
    against_one: list[float]
    """Difference to a single draw of these sources, likewise."""
    draws: float
    prompt_tokens: float
    completion_tokens: float
    flops: float | None
    """Floating-point operations of the draws, without judging; `None` where some are not known."""
    seconds: float
    failed: int
    """Questions without any answer; they count as wrong."""


class MixedPoint(TypedDict):
    """A panel of all sources against the best source's panel of the same size."""

    strategy: str
    n: int
    best: Attempt
    """Source whose panel is right most often, in hindsight."""
    best_accuracy: float
    accuracy: float
    difference: list[float]
    """Difference to it, low and high end of its 95 % paired bootstrap interval."""
    any: float
    """Any-of-N of the mixed panel."""
    share_of_the_way: float | None
    """Part of the way from the best source to any-of-N; `None` where there is none to go."""


class PanelFigures(TypedDict):
    """Figures of all strategies on the panels of some questions."""

    data_set: str | None
    """`None` for all data sets together."""
    model: str | None
    """`None` for all models together."""
    rows: int
    sources: list[Attempt]
    points: list[PanelPoint]
    mixed: list[MixedPoint]


def grouped_panels(
    panels: Sequence[RecordedPanel], specs: Sequence[PanelSpec]
) -> list[PanelFigures]:
    """Return the figures of all questions, then of each data set and model where there are several.

    Raises:
        ConfigurationError: There are no panels, or a spec names what was not drawn from.
    """
    if not panels:
        raise ConfigurationError("no question has a recorded panel: collect some first")
    groups = [panel_figures(panels, specs)]
    parts = dict.fromkeys((one.data_set, one.model) for one in panels)
    if len(parts) > 1:
        for data_set, model in parts:
            some = [one for one in panels if (one.data_set, one.model) == (data_set, model)]
            groups.append(panel_figures(some, specs, data_set=data_set, model=model))
    return groups


def panel_figures(
    panels: Sequence[RecordedPanel],
    specs: Sequence[PanelSpec],
    *,
    data_set: str | None = None,
    model: str | None = None,
) -> PanelFigures:
    """Return the figures of strategies on panels, at least one.

    Raises:
        ConfigurationError: A spec names what was not drawn from.
    """
    sources = tuple(dict.fromkeys(name for panel in panels for name in panel.sources))
    curves = _Curves(panels)
    points: list[PanelPoint] = []
    for spec in specs:
        for drawn_from in _wanted_sources(spec, sources):
            most = curves.size_of(drawn_from)
            sizes = [n for n in spec.sizes() if n <= most] or [most]
            points += [curves.point(spec.strategy, drawn_from, n) for n in sizes]
    return {
        "data_set": data_set,
        "model": model,
        "rows": len(panels),
        "sources": list(sources),
        "points": points,
        "mixed": _mixed(points, curves, sources),
    }


def _wanted_sources(spec: PanelSpec, sources: tuple[Attempt, ...]) -> list[tuple[Attempt, ...]]:
    if missing := sorted(set(spec.sources) - set(sources)):
        raise ConfigurationError(
            f"{spec} draws from {', '.join(missing)}, but the panels have only draws from "
            f"{', '.join(sources) or 'nothing'}: collect them with another --from"
        )
    if spec.sources:
        return [spec.sources]
    alone = [(name,) for name in sources]
    together = [sources] if len(sources) > 1 or not sources else []
    return [sources] if spec.strategy == MIXED else [*alone, *together]


class _Curves:
    """Replays of panels, each made once."""

    def __init__(self, panels: Sequence[RecordedPanel]) -> None:
        self._panels = panels
        self._runs: dict[tuple[str, tuple[Attempt, ...], int], list[ReplayedPanel]] = {}

    def runs(self, strategy: str, sources: tuple[Attempt, ...], n: int) -> list[ReplayedPanel]:
        """Return what a strategy made of each panel."""
        key = strategy, sources, n
        if key not in self._runs:
            self._runs[key] = [replay_panel(one, strategy, sources, n) for one in self._panels]
        return self._runs[key]

    def size_of(self, sources: tuple[Attempt, ...]) -> int:
        """Return the largest panel of some sources that the records can tell."""
        each = [
            min(
                sum(one["proposer"] == name for one in panel.drawn)
                for name in sources
                if name in panel.sources
            )
            * sum(name in panel.sources for name in sources)
            for panel in self._panels
            if set(sources) & set(panel.sources)
        ]
        return max(1, min([MAX_SIZE, *each]))

    def point(self, strategy: str, sources: tuple[Attempt, ...], n: int) -> PanelPoint:
        """Return the figures of a strategy at a size."""
        runs = self.runs(strategy, sources, n)
        right = [run.right for run in runs]
        same = self._majority_of_tokens(sources, fmean(run.tokens for run in runs))
        one = [run.right for run in self.runs("majority", sources, 1)]
        return {
            "strategy": strategy,
            "sources": list(sources),
            "n": n,
            "accuracy": fmean(right),
            "interval": list(wilson_interval(round(sum(right)), len(right))),
            "any": fmean(run.any for run in runs),
            "majority": fmean(same),
            "against_majority": list(paired_difference(right, same)),
            "against_one": list(paired_difference(right, one)),
            "draws": fmean(run.draws for run in runs),
            "prompt_tokens": fmean(run.prompt_tokens for run in runs),
            "completion_tokens": fmean(run.completion_tokens for run in runs),
            "flops": _mean_of_known([run.flops for run in runs]),
            "seconds": fmean(run.seconds for run in runs),
            "failed": sum(not run.answered for run in runs),
        }

    def _majority_of_tokens(self, sources: tuple[Attempt, ...], tokens: float) -> list[float]:
        """Return how often a majority that takes so many tokens in the mean is right, by question.

        Between two sizes it is their mixture that takes exactly as many.
        """
        below, spent_below = self.runs("majority", sources, 1), 0.0
        for n in range(1, self.size_of(sources) + 1):
            runs = self.runs("majority", sources, n)
            spent = fmean(run.tokens for run in runs)
            if spent >= tokens:
                room = spent - spent_below
                share = 1.0 if n == 1 or not room else (tokens - spent_below) / room
                return [
                    share * high.right + (1 - share) * low.right
                    for low, high in zip(below, runs, strict=True)
                ]
            below, spent_below = runs, spent
        return [run.right for run in below]


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _mixed(
    points: Sequence[PanelPoint], curves: _Curves, sources: tuple[Attempt, ...]
) -> list[MixedPoint]:
    """Return each mixed panel against the best single source's of the same size and strategy."""
    found: list[MixedPoint] = []
    for point in points:
        drawn_from, n = tuple(point["sources"]), point["n"]
        alone = [name for name in drawn_from if curves.size_of((name,)) >= n]
        if len(drawn_from) < 2 or not alone:
            continue
        strategy = point["strategy"]
        singles = {name: curves.runs(strategy, (name,), n) for name in alone}
        accuracy = {name: fmean(run.right for run in runs) for name, runs in singles.items()}
        best = max(alone, key=accuracy.__getitem__)
        mine = [run.right for run in curves.runs(strategy, drawn_from, n)]
        theirs = [run.right for run in singles[best]]
        way = point["any"] - accuracy[best]
        found.append(
            {
                "strategy": strategy,
                "n": n,
                "best": best,
                "best_accuracy": accuracy[best],
                "accuracy": point["accuracy"],
                "difference": list(paired_difference(mine, theirs)),
                "any": point["any"],
                "share_of_the_way": (point["accuracy"] - accuracy[best]) / way if way else None,
            }
        )
    return found
