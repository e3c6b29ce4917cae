"""Solved questions from files and data sets, checked row by row and streamed."""

from __future__ import annotations

from rttc_graph.samples.source import Samples, read_samples

__all__ = ("Samples", "read_samples")
