"""Solved questions from files and data sets, checked row by row and streamed."""

from __future__ import annotations

from rttc_graph.samples.source import Samples, draw_rows, read_samples

__all__ = ("Samples", "draw_rows", "read_samples")
