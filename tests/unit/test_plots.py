"""Plots show all of what they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from rttc_graph.evaluation.accuracy_plot import finish, new_figure


@pytest.mark.parametrize("title", ["a model of some length " * 8, "x" * 150, "short"])
def test_a_title_is_within_its_plot(title: str, tmp_path: Path) -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([0], [0], label="one")
    finish(figure, axes, tmp_path / "plot.png", title)
    box, whole = axes.title.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert box.y1 <= whole.y1
