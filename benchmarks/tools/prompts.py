"""Questions that a small model answers at length, so that every answer is as long as allowed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

PLACES = (
    "Europe", "Asia", "Africa", "Japan", "Brazil", "Canada", "India", "Spain",
    "Italy", "Norway", "Mexico", "Egypt", "China", "Peru", "Greece", "Kenya",
)  # fmt: skip
TOPICS = (
    "rivers", "mountains", "bridges", "castles", "islands", "lakes", "harbours", "forests",
    "deserts", "gardens", "railways", "canals", "museums", "markets", "towers", "valleys",
)  # fmt: skip
PARTS = ("north", "south", "east", "west")


def prompts() -> Iterator[str]:
    """Yield 1,024 questions, no two with the same first three words.

    So an engine that keeps what recent prompts computed knows the system prompt, and no question.
    """
    for part, topic, place in product(PARTS, TOPICS, PLACES):
        yield f"{place}, {part}, {topic}: describe the best known ones in detail."
