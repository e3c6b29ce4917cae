"""Strategies that think with the knowledge base: look-ups in mid-answer."""
