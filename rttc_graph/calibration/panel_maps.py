"""Rewards of recorded panels as P(right), by maps that have not seen the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rttc_graph.calibration.map_fitting import (
    FittedCalibration,
    Labelled,
    calibrate,
    fold_number,
)
from rttc_graph.evaluation.panels.panel_replay import RecordedPanel
from rttc_graph.state import Drawn


def cross_fitted_panels(panels: Sequence[RecordedPanel]) -> list[RecordedPanel]:
    """Return the panels with calibrated rewards; those of a fold by the maps of all other folds.

    Args:
        panels: Panels of one policy model, with raw rewards.

    Raises:
        ConfigurationError: There are too few right or wrong draws to calibrate on.
    """
    folds = [fold_number(_group_of(panel)) for panel in panels]
    maps = {
        fold: _fitted([panel for panel, f in zip(panels, folds, strict=True) if f != fold])
        for fold in sorted(set(folds))
    }
    return [_rewarded(panel, maps[fold]) for panel, fold in zip(panels, folds, strict=True)]


def _fitted(panels: Sequence[RecordedPanel]) -> FittedCalibration:
    pairs: dict[str, list[Labelled]] = {}
    for panel in panels:
        pairs.setdefault(panel.domain or "", []).extend(
            Labelled(one["reward"], right, _group_of(panel))
            for one, right in zip(panel.drawn, panel.right, strict=True)
            if one["reward"] is not None
        )
    return calibrate(pairs)


def _group_of(panel: RecordedPanel) -> str:
    return f"{panel.data_set}/{panel.row}"


def _rewarded(panel: RecordedPanel, calibration: FittedCalibration) -> RecordedPanel:
    drawn = tuple(_with_reward(one, panel.domain, calibration) for one in panel.drawn)
    return replace(panel, drawn=drawn, calibrated=True)


def _with_reward(one: Drawn, domain: str | None, calibration: FittedCalibration) -> Drawn:
    if one["reward"] is None:
        return one
    return {**one, "reward": calibration.reward(one["reward"], domain)}
