"""Strategies that write answers step by step and choose between the steps."""
