"""Which samples stand in the prompt of each draw, so that draws differ by what they know.

Subsets come in families that nest: each longer one begins, where the prompt begins, with the
samples of the shorter ones in the same order. So a model that keeps the beginnings of prompts reads
the samples of a family once.
"""

from __future__ import annotations

import random


def sample_subset(count: int, *, turn: int, seed: int) -> tuple[int, ...]:
    """Return the places of the samples for one draw, the one next to the question first.

    The first turn has all of them, nearest first. The later ones are families of one subset for
    each number of samples from all down to half of them: the longest is computed first, and the
    others find their beginning known. A family has its own half of the samples at the beginning,
    drawn and ordered by `seed` and its number alone; the others follow, the nearest last.

    Args:
        count: Number of samples in hand, at least 1.
        turn: Number of draws with samples before this one.
        seed: Seed of the run.
    """
    if turn == 0:
        return tuple(range(count))
    half = (count + 1) // 2
    family, shorter = divmod(turn - 1, count - half + 1)
    beginning = random.Random(f"{seed}:{family}").sample(range(count), half)
    others = [place for place in reversed(range(count)) if place not in beginning]
    shown = [*beginning, *others][: count - shorter]
    return tuple(reversed(shown))


def draw_seed(seed: int, number: int) -> int:
    """Return the seed of a panel's draw, 0 to 2**31 - 1; the first one has the run's own.

    Draws of runs with neighbouring seeds share none.
    """
    return seed if number == 0 else random.Random(f"draw {seed}:{number}").getrandbits(31)
