"""Trainings of several queries in one pass, each with its own adapter."""
