"""Widths: how many steps are drawn behind each of several steps, by their probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

TEMPERATURE = 0.2
"""Difference in probability that makes a width e times as large (REBASE, arXiv 2408.00724)."""

FLOOR = 0.02
"""Probability below which, and above 1 less which, a step's odds change no more."""

POOL_GROWTH = 6
"""Growth of the pool from which the best is worth picking: with a judge of AUC 0.69 choosing among
four steps was worth 6 to 8 points over a vote of sums (docs/experiments.md), and 6 allows four."""


def soft_widths(
    shares: Sequence[float | None], total: int, *, widest: int | None = None
) -> list[int]:
    """Return how many steps follow each of these, `total` in all, as REBASE shares them out.

    The best one is given its share of what is left, rounded up, then the next one. Where a
    probability is missing, nothing is chosen by any, and all are gone on with alike.

    Args:
        shares: Probability of each step; `None` where the judge abstained.
        total: Number of steps to share out, at least 0.
        widest: Most steps behind one, unless so few would have no place; `None` for no limit.
    """
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or widest == 1:
        return even_widths(len(shares), total)
    most = _most(len(shares), total, widest)
    weights = [math.exp(share / TEMPERATURE) for share in known]
    return _capped(weights, total, most, order=_best_first(known))


def hard_widths(
    shares: Sequence[float | None], total: int, *, children: int, widest: int | None = None
) -> list[int]:
    """Return `children` steps for each of the best, until `total` are shared out, and 0 for others.

    Where `children` for each are not as many as that, all get more alike.

    Args:
        shares: Probability of each step; `None` where the judge abstained.
        total: Number of steps to share out.
        children: Steps behind each that is kept.
        widest: Most steps behind one, as in `soft_widths`.
    """
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or widest == 1:
        return even_widths(len(shares), total)
    most = min(children, _most(len(shares), total, widest))
    widths = [0] * len(known)
    left = total
    for place in _best_first(known):
        widths[place] = min(most, left)
        left -= widths[place]
    order = _best_first(known)
    for place, more in zip(order, even_widths(len(order), left), strict=True):
        widths[place] += more  # there are fewer steps than places: all of them are wider
    return widths


def even_widths(count: int, total: int) -> list[int]:
    """Return `total` shared out among `count` alike, the first ones getting one more."""
    if count == 0:
        return []
    each, more = divmod(total, count)
    return [each + (place < more) for place in range(count)]


def resampled_widths(
    shares: Sequence[float | None], total: int, *, seed: str, widest: int | None = None
) -> list[int]:
    """Return widths drawn in proportion to the odds of each step, by systematic resampling.

    One random number places `total` equal strides over the weights, so that each width is within
    one of its share.

    Args:
        shares: Probability of each step; `None` where the judge abstained.
        total: Number of steps to share out.
        seed: What decides the random number.
        widest: Most steps behind one, as in `soft_widths`.
    """
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or widest == 1:
        return even_widths(len(shares), total)
    bounded = [min(max(share, FLOOR), 1 - FLOOR) for share in known]
    odds = [share / (1 - share) for share in bounded]
    stride = math.fsum(odds) / max(1, total)
    mark, reached = random.Random(seed).random() * stride, 0.0
    widths: list[int] = []
    for weight in odds:
        reached += weight
        width = 0
        while mark < reached and sum(widths) + width < total:
            width += 1
            mark += stride
        widths.append(width)
    most = _most(len(shares), total, widest)
    over = sum(max(0, width - most) for width in widths) + total - sum(widths)
    widths = [min(width, most) for width in widths]
    for place in _best_first(known):
        more = min(over, most - widths[place])
        widths[place] += more
        over -= more
    return widths


def widest_useful(auc: float) -> int:
    """Return how many steps may follow one by a judge of this discrimination.

    The largest pool from which the best of noisy scores is worth picking grows with the exponential
    of (difference in quality / noise) squared (arXiv 2603.15377). For two normal distributions of
    equal spread that ratio is √2 times the normal quantile of the area under the curve. The paper
    gives the rate and no constant: `POOL_GROWTH` times the square of the quantile is taken.

    Args:
        auc: Share of pairs of a right and a wrong prefix that the judge orders rightly, in [0, 1].
    """
    if auc <= 0.5:
        return 1
    quantile = _normal_quantile(min(auc, 0.999))
    return max(1, math.floor(math.exp(POOL_GROWTH * quantile**2)))


def _normal_quantile(share: float) -> float:
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _most(count: int, total: int, widest: int | None) -> int:
    return total if widest is None else max(widest, math.ceil(total / max(1, count)))


def _best_first(shares: Sequence[float]) -> list[int]:
    return sorted(range(len(shares)), key=lambda place: (-shares[place], place))


def _capped(weights: Sequence[float], total: int, most: int, *, order: Sequence[int]) -> list[int]:
    widths = [0] * len(weights)
    left, rest = total, math.fsum(weights)
    for place in order:
        share = left * weights[place] / rest if rest > 0 else left
        widths[place] = min(left, most, math.ceil(share - 1e-9))
        left -= widths[place]
        rest -= weights[place]
    for place in order:  # what the limit has cut off
        more = min(left, most - widths[place])
        widths[place] += more
        left -= more
    return widths
