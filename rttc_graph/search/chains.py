"""Chains in a panel: an answer, and the revisions that were made of it one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.search.panel import Panel, best_of, worth


def chains(panel: Panel) -> list[tuple[int, ...]]:
    """Return the chains of a panel as places, each answer with its revisions, in order."""
    found: dict[int, list[int]] = {}
    begins: dict[int, int] = {}
    for place, one in enumerate(panel.drawn):
        revised = one.get("revises")
        begins[place] = place if revised is None else begins[revised]
        found.setdefault(begins[place], []).append(place)
    return [tuple(places) for places in found.values()]


def kept_of(panel: Panel, chain: Sequence[int]) -> int:
    """Return the place of the answer that a chain keeps: a revision only if its reward is higher.

    One that can be read takes the place of one that cannot. Without rewards the first answer stays.
    """
    kept = chain[0]
    for place in chain[1:]:
        if _stands(panel, place) > _stands(panel, kept):
            kept = place
    return kept


def text_in_hand(panel: Panel, place: int) -> str:
    """Return the text of a draw, or where it was dropped that of another with the same vote.

    It is empty if there is none.
    """
    one = panel.drawn[place]
    if one["text"].strip() or one["vote"] is None:
        return one["text"].strip()
    same = [n for n, other in enumerate(panel.drawn) if other["vote"] == one["vote"]]
    best = best_of(panel.drawn, same)
    return "" if best is None else panel.drawn[best]["text"]


def _stands(panel: Panel, place: int) -> tuple[bool, float]:
    return panel.drawn[place]["vote"] is not None, worth(panel.drawn[place])
