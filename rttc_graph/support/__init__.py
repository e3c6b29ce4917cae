"""Small helpers: names, digests, JSON lines, clean text, optional imports.

May import errors alone.
"""
