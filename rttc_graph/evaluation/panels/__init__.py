"""Panels that were drawn once: recorded, and every strategy that only selects replayed on them."""
