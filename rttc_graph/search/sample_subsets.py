"""Which samples stand in the prompt of each draw, so that draws differ by what they know."""

from __future__ import annotations

import random


def sample_subset(count: int, *, turn: int, seed: int) -> tuple[int, ...]:
    """Return the places of the samples for one draw, the one next to the question first.

    The first turn has all of them, nearest first. Later ones have half of them or more, drawn and
    ordered by `seed` and `turn` alone, so that a draw can be repeated.

    Args:
        count: Number of samples in hand, at least 1.
        turn: Number of draws with samples before this one.
        seed: Seed of the run.
    """
    if turn == 0:
        return tuple(range(count))
    dice = random.Random(f"{seed}:{turn}")
    return tuple(dice.sample(range(count), dice.randint((count + 1) // 2, count)))


def draw_seed(seed: int, number: int) -> int:
    """Return the seed of a panel's draw, 0 to 2**31 - 1; the first one has the run's own.

    Draws of runs with neighbouring seeds share none.
    """
    return seed if number == 0 else random.Random(f"draw {seed}:{number}").getrandbits(31)
