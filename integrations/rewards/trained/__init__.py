"""Reward models of our own: a small addition to a backbone that is here already."""
