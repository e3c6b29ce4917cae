"""The mark of a passage: a sample that is a piece of a document, not a solved question.

A passage has where it stands as its question (document and headings) and its text as its answer. It
may be shown to a model, but it answers no question by itself and nothing can be trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ("KIND", "PASSAGE", "embedded_text", "is_passage")

KIND = "kind"
"""The key in a sample's metadata."""

PASSAGE = "passage"
"""The value under `KIND` that makes a sample a passage."""


def is_passage(metadata: Mapping[str, Any] | None) -> bool:
    """Return whether a sample with this metadata is a piece of a document."""
    return metadata is not None and metadata.get(KIND) == PASSAGE


def embedded_text(question: str, answer: str, metadata: Mapping[str, Any] | None) -> str:
    """Return the text that a sample's vector is made of.

    It is what a query resembles: the question of a solved question, the text of a passage.
    """
    return answer if is_passage(metadata) else question
