"""Text that every tokenizer and every wire format takes."""

from __future__ import annotations

from rttc_graph.support.identity import clean

__all__ = ("clean",)
