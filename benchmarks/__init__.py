"""Measurements: what this project costs, side by side with a peer in the same process."""
