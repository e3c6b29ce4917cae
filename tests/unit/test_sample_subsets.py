"""Which samples each draw of a panel sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rttc_graph.search.sample_subsets import sample_subset

COUNTS = st.integers(1, 12)


@given(COUNTS, st.integers(0, 40), st.integers(0, 3))
def test_a_subset_has_half_of_the_samples_or_more_each_once(
    count: int, turn: int, seed: int
) -> None:
    places = sample_subset(count, turn=turn, seed=seed)
    assert count / 2 <= len(places) == len(set(places))
    assert set(places) <= set(range(count))
    assert places == sample_subset(count, turn=turn, seed=seed)


@given(COUNTS, st.integers(0, 5), st.integers(0, 3))
def test_each_longer_subset_of_a_family_begins_as_the_shorter_ones(
    count: int, family: int, seed: int
) -> None:
    sizes = count - (count + 1) // 2 + 1
    turns = range(1 + family * sizes, 1 + (family + 1) * sizes)
    prompts = [sample_subset(count, turn=turn, seed=seed)[::-1] for turn in turns]
    assert [len(one) for one in prompts] == list(range(count, count - sizes, -1))
    assert all(prompts[0][: len(one)] == one for one in prompts)


def test_the_first_draw_sees_all_and_the_longest_ends_with_what_is_near() -> None:
    assert sample_subset(8, turn=0, seed=7) == tuple(range(8))
    longest, shortest = (sample_subset(8, turn=turn, seed=7) for turn in (1, 5))
    last = longest[: len(longest) - len(shortest)]
    assert last == tuple(sorted(last))


@pytest.mark.parametrize("other", [{"turn": 6, "seed": 7}, {"turn": 1, "seed": 8}])
def test_families_and_seeds_begin_with_other_samples(other: dict[str, int]) -> None:
    assert sample_subset(8, turn=1, seed=7)[-4:] != sample_subset(8, **other)[-4:]
