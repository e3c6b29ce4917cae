"""A reward model whose scores are P(right), and the maps that it applies.

May import protocols, state and errors.
"""
