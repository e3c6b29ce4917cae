"""A choice by sift is the greedy one of its paper, whatever the vectors are."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from rttc_graph.errors import ConfigurationError
from rttc_graph.samples.selection import NOISE, preselected, sift
from rttc_graph.testing import at_angle

Vectors = NDArray[np.float64]

COPIES = [at_angle(20)] * 5
OTHER = at_angle(-25)


def drawn(seed: int, count: int) -> Vectors:
    """Return unit vectors that lie close together, as those of the nearest samples do."""
    found = 0.7 + np.random.default_rng(seed).normal(size=(count, 6))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def variance(query: Vectors, observed: Vectors, noise: float) -> float:
    """The posterior variance at the query, by the definition: 1 - k (K + λ 1)⁻¹ k."""
    cosines = observed @ query
    inner = observed @ observed.T + noise * np.eye(len(observed))
    return float(1 - cosines @ np.linalg.solve(inner, cosines))


@pytest.mark.parametrize("noise", [0.01, NOISE, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_each_choice_leaves_the_least_variance_at_the_query(seed: int, noise: float) -> None:
    query, *candidates = drawn(seed, 25)
    chosen = sift(query, candidates, k=8, noise=noise)
    assert len(set(chosen)) == 8
    for step in range(8):
        before = chosen[:step]
        left = {
            index: variance(query, np.array([candidates[i] for i in [*before, index]]), noise)
            for index in set(range(24)) - set(before)
        }
        assert left[chosen[step]] == pytest.approx(min(left.values()), abs=1e-12)


def test_what_copies_have_said_already_is_not_heard_again() -> None:
    assert sift(at_angle(0), [*COPIES, OTHER], k=2) == [0, 5]
    assert sift(at_angle(0), [OTHER, *COPIES], k=2) == [1, 0]


def test_the_first_choice_is_the_nearest_and_of_equals_the_first() -> None:
    assert sift(at_angle(0), [at_angle(9), at_angle(3), at_angle(3), at_angle(6)], k=1) == [1]


def test_with_much_noise_copies_count_as_the_nearest_do() -> None:
    assert sorted(sift(at_angle(0), [*COPIES, at_angle(-40)], k=2, noise=100.0)) == [0, 1]


def test_lengths_do_not_count() -> None:
    """Half precision leaves a vector's length a little off 1."""
    query, *candidates = drawn(7, 20)
    stretched = [(1 + index) * one for index, one in enumerate(candidates)]
    assert sift(query, candidates, k=6) == sift(3 * query, stretched, k=6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_where_there_are_no_more_than_k_all_are_chosen(count: int) -> None:
    assert sift(at_angle(0), [at_angle(90 - n) for n in range(count)], k=3) == list(range(count))


def test_a_vector_without_a_direction_is_chosen_last() -> None:
    nothing = [0.0, 0.0, 0.0]
    assert sift(at_angle(0), [nothing, *COPIES[:2], OTHER], k=3) == [1, 3, 2]


@pytest.mark.parametrize(
    ("k", "nearest", "of"),
    [
        pytest.param(1, 1, 8, id="one"),
        pytest.param(8, 8, 64, id="default"),
        pytest.param(64, 64, 512, id="the-most-of-a-run"),
        pytest.param(100, 100, 512, id="bounded"),
        pytest.param(1000, 1000, 1000, id="never-fewer-than-k"),
    ],
)
def test_how_many_the_choice_is_made_of(k: int, nearest: int, of: int) -> None:
    assert (preselected("nearest", k), preselected("sift", k)) == (nearest, of)


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ConfigurationError, match=r"rttc-graph\[postgres\]"):
        sift(at_angle(0), [*COPIES, OTHER], k=2)
