"""Candidates to learn a reward model from, and what such a model is worth."""
