"""Questions that a small model answers at length, so that every answer is as long as allowed."""

from __future__ import annotations

from collections.abc import Sequence

TOPICS = (
    "rivers", "mountains", "bridges", "castles", "islands", "lakes", "harbours", "forests",
    "deserts", "gardens", "railways", "canals", "museums", "markets", "towers", "valleys",
)  # fmt: skip


def prompts(count: int) -> Sequence[str]:
    """Return as many different questions; at most 16."""
    return [f"Describe the best known {topic} of Europe in detail." for topic in TOPICS[:count]]
