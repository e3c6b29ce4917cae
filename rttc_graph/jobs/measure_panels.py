"""Figures of recorded panels, with the rewards and thresholds of an installation."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.calibration.panel_maps import cross_fitted_panels
from rttc_graph.evaluation.panels.panel_collect import recorded_panels
from rttc_graph.evaluation.panels.panel_figures import PanelFigures, grouped_panels
from rttc_graph.evaluation.panels.panel_replay import RecordedPanel
from rttc_graph.evaluation.panels.panel_specs import PanelSpec
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import probability_map
from rttc_graph.jobs.collect_rows import ModelRows


def measured_panels(
    found: Sequence[ModelRows],
    specs: Sequence[PanelSpec],
    *,
    tau_r: float,
    scorer: ScorerName,
    cross_fit: bool,
) -> list[PanelFigures]:
    """Return the figures of strategies on the panels of all models.

    Args:
        found: Rows with their panels.
        specs: What is measured; without any there are no figures.
        tau_r: Least reward of an accepted answer.
        scorer: Says what is right.
        cross_fit: Whether rewards are calibrated on the other questions, instead of by the
            calibration that is kept.

    Raises:
        ConfigurationError: There are no panels, or too few answers to calibrate on.
    """
    if not specs:
        return []
    panels: list[RecordedPanel] = []
    for rows in found:
        kept = rows.maps if not cross_fit else None
        some = recorded_panels(
            rows.rows,
            rows.panel_keys,
            rows.fingerprint,
            calibrate=probability_map(kept) if kept else None,
            tau_r=tau_r,
            scorer=scorer,
            verdicts=rows.verdicts,
        )
        panels += cross_fitted_panels(some) if cross_fit else some
    return grouped_panels(panels, specs)
