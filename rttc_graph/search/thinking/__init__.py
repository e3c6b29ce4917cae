"""Strategies that think: look-ups in mid-answer, and questions split into smaller ones."""
