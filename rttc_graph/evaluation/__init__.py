"""Measuring policies against each other: scorers, intervals, the runner and its report."""
