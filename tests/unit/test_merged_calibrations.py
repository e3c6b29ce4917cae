"""A calibration changes the domains that it measured, and no other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from rttc_graph.calibration.map_fitting import Labelled, calibrate
from rttc_graph.calibration.merging import merged_maps
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    arms_of,
    probability_map,
)
from rttc_graph.protocols import StoredCalibration

EMPTY = StoredCalibration(reward_model="judge", fingerprint="f", domains={})


def answers(count: int, seed: int) -> list[Labelled]:
    """Answers whose scores are the chance of being right, squared for even seeds."""
    draw = random.Random(seed)
    pairs: list[Labelled] = []
    for number in range(count):
        score = draw.uniform(0.05, 0.95)
        right = draw.random() < (score if seed % 2 else score * score)
        pairs.append(Labelled(score, right, str(number)))
    return pairs


def saved(
    before: StoredCalibration | None, sizes: Mapping[str, int], *, all_domains: bool = False
) -> StoredCalibration:
    """Return what is in force after a calibration on some domains; `none` names no domain."""
    pairs = {
        "" if name == "none" else name: answers(size, seed)
        for seed, (name, size) in enumerate(sizes.items(), len(before.domains) if before else 0)
    }
    chosen = {"": {"arms": ["rag"]}, **{name: {"arms": ["nearest"]} for name in pairs if name}}
    maps = merged_maps(calibrate(pairs), pairs, chosen, before=before, all_domains=all_domains)
    return replace(EMPTY, domains=maps)


@pytest.mark.parametrize(
    ("first", "second", "changed", "same"),
    [
        pytest.param(None, {"a": 80}, ["a"], ["b", None], id="the-first-calibration"),
        pytest.param({"a": 80}, {"b": 80}, ["b"], ["a", "c", None], id="another-domain"),
        pytest.param({"a": 80}, {"a": 90}, ["a"], ["b", None], id="the-same-domain"),
        pytest.param({"a": 80}, {"none": 80}, [None], ["a", "b"], id="no-domain-is-named"),
        pytest.param({"none": 80}, {"a": 80}, ["a"], ["b", None], id="none-was-named-before"),
        pytest.param({"a": 80}, {"b": 30}, ["b"], ["a", "c", None], id="few-answers"),
    ],
)
def test_only_measured_domains_change(
    first: dict[str, int] | None,
    second: dict[str, int],
    changed: list[str | None],
    same: list[str | None],
) -> None:
    before = EMPTY if first is None else saved(None, first)
    after = saved(before, second)
    old, new = probability_map(before), probability_map(after)
    for domain in changed:
        assert old(0.6, domain) != new(0.6, domain)
    for domain in same:
        assert old(0.6, domain) == new(0.6, domain)
        assert arms_of(before, domain) == arms_of(after, domain)


def test_a_map_of_all_domains_is_asked_for_and_stays_for_the_others() -> None:
    """That of an earlier release served all domains without one of their own."""
    every = saved(None, {"a": 80}, all_domains=True)
    assert probability_map(every)(0.6, "unknown") == probability_map(every)(0.6, None) != 0.6
    later = saved(every, {"none": 90})
    assert probability_map(later)(0.6, "unknown") == probability_map(every)(0.6, "unknown")
    assert arms_of(later, "unknown") == arms_of(every, "unknown") == ("rag",)
    assert probability_map(later)(0.6, None) != probability_map(every)(0.6, None)
    last = saved(later, {"none": 80})
    assert probability_map(last)(0.6, "unknown") == probability_map(every)(0.6, "unknown")
    anew = saved(last, {"b": 80}, all_domains=True)
    assert probability_map(anew)(0.6, "unknown") != probability_map(every)(0.6, "unknown")
    assert probability_map(anew)(0.6, "a") == probability_map(every)(0.6, "a")
