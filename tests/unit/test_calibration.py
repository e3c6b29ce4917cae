"""Maps from scores to P(right), how they are chosen, and the τr that an aim calls for."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from typing import Any

import pytest

from rttc_graph.calibration.aims import GRID, Aim, GatePoint, choose, overview
from rttc_graph.calibration.map_fitting import FOLDS, Labelled, calibrate, fit_map, fold_number
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.replay import Gate
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.state import Arm
from rttc_graph.support.extras import require_evaluation


def drawn(count: int, *, seed: int = 0, slope: float = 1.0, offset: float = 0.0) -> list[Labelled]:
    """Answers whose P(right) is `sigmoid(slope * logit(score) + offset)`."""
    draw = random.Random(seed)
    pairs: list[Labelled] = []
    for number in range(count):
        score = draw.uniform(0.02, 0.98)
        z = slope * math.log(score / (1 - score)) + offset
        right = draw.random() < 1 / (1 + math.exp(-z))
        pairs.append(Labelled(score, right, str(number // 3)))
    return pairs


def test_isotonic_against_a_hand_calculation() -> None:
    # 0.2 wrong, 0.4 right, 0.6 wrong, 0.8 right: the middle two violate and pool to 1/2;
    # 4 answers keep the ends off 0 and 1 by 1/6
    pairs = [Labelled(0.2, False), Labelled(0.4, True), Labelled(0.6, False), Labelled(0.8, True)]
    found = fit_map("isotonic", pairs)
    assert found.knots == ((0.2, 1 / 6), (0.4, 0.5), (0.6, 0.5), (0.8, 1 - 1 / 6))
    assert found(0.1) == found(0.2) == 1 / 6
    assert found(0.3) == pytest.approx((1 / 6 + 0.5) / 2)
    assert found(0.5) == 0.5
    assert found(1.0) == 1 - 1 / 6


def test_isotonic_takes_equal_scores_as_one_point() -> None:
    pairs = [Labelled(0.5, True), Labelled(0.5, False), Labelled(0.5, False), Labelled(0.9, True)]
    assert fit_map("isotonic", pairs)(0.5) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (3.0, -1.0), (0.5, 2.0)])
def test_platt_finds_the_parameters_that_the_labels_were_drawn_with(
    slope: float, offset: float
) -> None:
    """6,000 answers: the estimates' standard errors are below 0.06, so 0.3 is five of them."""
    [(found_slope, found_offset)] = fit_map("platt", drawn(6000, slope=slope, offset=offset)).knots
    assert found_slope == pytest.approx(slope, abs=0.3)
    assert found_offset == pytest.approx(offset, abs=0.3)


def test_maps_are_those_that_earlier_releases_fitted() -> None:
    """Values of the fits written by hand that scikit-learn's took the place of."""
    pairs = drawn(150, seed=1, slope=2.0)
    [knot] = fit_map("platt", pairs).knots
    assert knot == pytest.approx((1.8517821537172952, 0.05935969956308403), abs=1e-8)
    knots = fit_map("isotonic", pairs).knots
    levels = [1 / 152, 1 / 6, 0.2, 0.25, 3 / 7, 0.5, 10 / 13, 27 / 29, 151 / 152]
    assert [y for _, y in knots] == pytest.approx([y for y in levels for _ in range(2)], abs=1e-12)
    assert (knots[1][0], knots[2][0]) == (0.2517634736939294, 0.26226377818864194)


@pytest.mark.parametrize(
    ("method", "module"), [("platt", "sklearn.linear_model"), ("isotonic", "sklearn.isotonic")]
)
def test_a_fit_without_its_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, method: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"rttc-graph\[eval\]"):
        fit_map("platt" if method == "platt" else "isotonic", drawn(60))


@pytest.mark.parametrize("library", ["matplotlib", "scipy", "sklearn"])
def test_a_missing_library_is_told_before_the_work(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf"{library}.*rttc-graph\[eval\]"):
        require_evaluation()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([Labelled(0.5, n % 2 == 0) for n in range(40)], id="one-score"),
        pytest.param([Labelled(n / 40, n >= 20) for n in range(40)], id="separable"),
        pytest.param([Labelled(n / 40, n < 20) for n in range(40)], id="upside-down"),
        pytest.param([Labelled(float(n % 2), n % 3 == 0) for n in range(40)], id="zero-and-one"),
        pytest.param([Labelled(0.3, True)] * 20 + [Labelled(0.3, False)], id="lopsided"),
        pytest.param([Labelled(n / 40, True) for n in range(40)], id="all-right"),
        pytest.param([Labelled(n * 1e-9, n > 3) for n in range(20)], id="all-at-the-edge"),
    ],
)
def test_a_map_rises_and_is_never_sure(method: str, pairs: list[Labelled]) -> None:
    found = fit_map("platt" if method == "platt" else "isotonic", pairs)
    values = [found(step / 200) for step in range(201)]
    assert values == sorted(values)
    assert all(0 < value < 1 for value in values)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_map_comes_back_from_json(method: str) -> None:
    found = fit_map("platt" if method == "platt" else "isotonic", drawn(60))
    assert CalibrationMap.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({"method": "spline", "knots": [[0, 1]]}, id="unknown-method"),
        pytest.param({"method": "platt", "knots": []}, id="no-knots"),
        pytest.param({"method": "platt", "knots": [[1]]}, id="half-a-knot"),
        pytest.param({"method": "platt", "knots": [[1, math.nan]]}, id="not-finite"),
    ],
)
def test_what_is_no_map_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="run rttc calibrate again"):
        CalibrationMap.from_json(data)


def test_the_method_with_the_lower_held_out_loss_is_chosen() -> None:
    """A step is no sigmoid of the logit, and a sigmoid is smoother than steps from few answers."""
    step = [
        Labelled(n / 600, (n * 7919) % 100 < (15 if n < 200 or n > 400 else 85), str(n))
        for n in range(600)
    ]
    for pairs, method in [(drawn(150, seed=1, slope=2.0), "platt"), (step[:400], "isotonic")]:
        found = calibrate({"d": pairs}).pooled
        assert found.map.method == method
        assert found.losses[found.map.method] == min(found.losses.values())


def test_domains_with_enough_answers_get_a_map_of_their_own() -> None:
    pairs = {
        "large": drawn(150, offset=1.0, slope=0.5),
        "small": drawn(30, seed=1),
        "one-sided": [Labelled(0.5, True)] * 90,
        "": drawn(90, seed=2),
    }
    found = calibrate(pairs)
    assert list(found.domains) == ["large"]
    assert found.pooled.pairs == 360
    assert found.domains["large"].map(0.3) > found.pooled.map(0.3)


def test_held_out_answers_stand_in_order_and_were_not_seen() -> None:
    pairs = [Labelled(0.5, n < 15, str(n)) for n in range(30)]
    found = calibrate({"d": pairs}).pooled
    for pair, said in zip(pairs, found.held_out, strict=True):
        others = [p for p in pairs if fold_number(p.group) != fold_number(pair.group)]
        assert said == fit_map(found.map.method, others)(0.5)


def test_scores_of_noise_tell_nothing_and_good_ones_do() -> None:
    draw = random.Random(3)
    noise = [Labelled(draw.random(), draw.random() < 0.5, str(n)) for n in range(300)]
    assert calibrate({"d": noise}).pooled.tells_nothing
    lucky = [calibrate({"d": drawn(60, seed=seed, slope=0.0)}).pooled for seed in range(40)]
    assert any(min(found.losses.values()) < found.constant_loss for found in lucky)
    assert all(found.tells_nothing for found in lucky)
    assert not calibrate({"d": drawn(300, slope=3.0)}).pooled.tells_nothing


def test_groups_fall_into_all_folds() -> None:
    assert {fold_number(str(n)) for n in range(100)} == set(range(FOLDS))


def test_too_few_answers_are_refused_with_their_number() -> None:
    with pytest.raises(ConfigurationError, match="3 right and 20 wrong"):
        calibrate({"d": [Labelled(0.5, n < 3) for n in range(23)]})


def point(tau_r: float, accuracy: float, seconds: float, *arms: Arm) -> GatePoint:
    return GatePoint(
        gate=Gate(tau_r=tau_r, arms=arms or ("direct",)),
        rights=tuple(number < 20 * accuracy for number in range(20)),
        seconds=seconds,
        shares={"direct": 1.0},
        false_accepts=0.0,
        false_rejects=0.0,
    )


POINTS = [
    point(0.2, 0.5, 1.0),
    point(0.4, 0.7, 2.0),
    point(0.6, 0.7, 2.0),
    point(0.7, 0.7, 2.0),
    point(0.8, 0.65, 5.0),
]


@pytest.mark.parametrize(
    ("aim", "tau_r"),
    [
        pytest.param(Aim(best=True), 0.6, id="best-and-of-equals-the-middle"),
        pytest.param(Aim(), 0.6, id="no-aim-and-a-loss-above-the-error"),
        pytest.param(Aim(accuracy=0.5), 0.2, id="the-cheapest-that-reaches"),
        pytest.param(Aim(accuracy=0.6), 0.6, id="more"),
        pytest.param(Aim(seconds=1.5), 0.2, id="the-best-within"),
        pytest.param(Aim(seconds=9.0), 0.6, id="dearer-is-not-better"),
    ],
)
def test_an_aim_chooses_its_point(aim: Aim, tau_r: float) -> None:
    assert choose(POINTS, aim).gate.tau_r == tau_r


def test_the_middle_of_equals_is_one_with_the_same_arms() -> None:
    cheaper = [point(tau_r, 0.7, 1.5, "rag") for tau_r in (0.3, 0.4, 0.5)]
    assert choose([*POINTS, *cheaper], Aim(best=True)) is cheaper[1]


@pytest.mark.parametrize(
    ("lost", "won", "is_taken"),
    [  # of 20 questions; means are 0.05, 0.1, 0.1 and 0.2, errors 0.05, 0.07, 0.12 and 0.14
        pytest.param(1, 0, True, id="one-lost"),
        pytest.param(2, 0, False, id="two-lost"),
        pytest.param(4, 2, True, id="two-lost-of-six-that-differ"),
        pytest.param(6, 2, False, id="four-lost-of-eight-that-differ"),
    ],
)
def test_without_an_aim_a_cheaper_gate_may_lose_up_to_a_standard_error(
    lost: int, won: int, is_taken: bool
) -> None:
    best = point(0.5, 0.7, 3.0)
    rights = [number >= lost for number in range(14)] + [number < won for number in range(6)]
    cheap = replace(point(0.2, 0.7, 1.0), rights=tuple(rights))
    assert choose([best, cheap], Aim()) is (cheap if is_taken else best)
    assert choose([best, cheap], Aim(best=True)) is best


@pytest.mark.parametrize(
    ("aim", "words"),
    [
        pytest.param(Aim(accuracy=0.9), r"the best is 70.0% at τr=0.4", id="accuracy"),
        pytest.param(Aim(seconds=0.5), r"the cheapest takes 1.00 s at τr=0.2", id="seconds"),
    ],
)
def test_an_aim_out_of_reach_says_what_can_be_had(aim: Aim, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        choose(POINTS, aim)


@pytest.mark.parametrize(
    "values",
    [
        {"accuracy": 0.5, "seconds": 1.0},
        {"seconds": 1.0, "best": True},
        {"accuracy": 0.0},
        {"accuracy": 1.2},
        {"seconds": 0.0},
    ],
)
def test_an_aim_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="target"):
        Aim(**values)


def test_an_overview_has_every_fifth_change_the_choice_and_its_rival() -> None:
    direct = [point(tau_r, 0.5, 1.0 + (tau_r > 0.55) + (tau_r > 0.9)) for tau_r in GRID]
    rag = [point(tau_r, 0.4 + 0.1 * (tau_r == 0.3), 3.0, "rag") for tau_r in GRID]
    chosen = choose([*direct, *rag], Aim())
    assert chosen.gate == Gate(tau_r=0.28, arms=("direct",))  # the middle of 0 to 0.54
    shown = [p.gate for p in overview([*direct, *rag], chosen, Aim())]
    assert [gate.tau_r for gate in shown if gate.arms == ("direct",)] == [0.28, 0.5, 0.9, 1.0]
    assert shown[-1] == Gate(tau_r=0.3, arms=("rag",))
    unreached = overview([*direct, *rag[:5]], chosen, Aim(accuracy=0.5))
    assert {p.gate.arms for p in unreached} == {("direct",)}
