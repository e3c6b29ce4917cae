"""Reward models: classifiers, cross-encoders, chat models as judges, callables, self-confidence."""
