"""What cases and experiments share: options, pairs of runs, databases, data."""
