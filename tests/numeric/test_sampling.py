"""Choosing tokens, against hand calculations and torch's own softmax."""

from __future__ import annotations

import math

import pytest
import torch

from rttc_graph.integrations.transformers.decoding import token_sampling
from rttc_graph.integrations.transformers.decoding.token_sampling import Draw, choose

# Probabilities 0.5, 0.3, 0.15, 0.05 at temperature 1.
PROBABILITIES = (0.5, 0.3, 0.15, 0.05)
LOGITS = torch.tensor([[math.log(p) + 7.0 for p in PROBABILITIES]])


def drawn(times: int, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> list[int]:
    draw = Draw.seeded(temperature=temperature, top_p=top_p, seed=seed)
    return [choose(LOGITS, [draw])[0][0] for _ in range(times)]


def test_greedy_takes_the_likeliest() -> None:
    tokens, logprobs = choose(LOGITS, [Draw.seeded(temperature=0, top_p=1, seed=None)])
    assert tokens == [0]
    assert logprobs[0] == pytest.approx(math.log(0.5), abs=1e-6)


def test_log_probabilities_are_those_at_temperature_one() -> None:
    draw = Draw.seeded(temperature=1.7, top_p=0.9, seed=3)
    for _ in range(20):
        tokens, logprobs = choose(LOGITS, [draw])
        assert logprobs[0] == pytest.approx(math.log(PROBABILITIES[tokens[0]]), abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        pytest.param(1.0, PROBABILITIES, id="as-they-are"),
        # Squared (temperature 1/2) and normalised: .25 .09 .0225 .0025 over .365
        pytest.param(0.5, (0.6849, 0.2466, 0.0616, 0.0068), id="sharpened"),
    ],
)
def test_frequencies_follow_the_probabilities(
    temperature: float, expected: tuple[float, ...]
) -> None:
    """The seed is fixed, so it cannot fail by chance; a fresh seed would in 1 of 10,000.

    Of 2,000 draws, a frequency strays from its probability by more than four standard errors
    (at most 0.045) with probability 6e-5, for four tokens.
    """
    tokens = drawn(2000, temperature=temperature)
    for token, probability in enumerate(expected):
        error = math.sqrt(probability * (1 - probability) / 2000)
        assert tokens.count(token) / 2000 == pytest.approx(probability, abs=4 * error)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        pytest.param(0.01, {0}, id="the-first-is-always-kept"),
        pytest.param(0.5, {0}, id="reached-exactly"),
        pytest.param(0.51, {0, 1}, id="just-beyond-one"),
        pytest.param(0.9, {0, 1, 2}, id="three"),
        pytest.param(1.0, {0, 1, 2, 3}, id="all"),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    """Of 400 draws the rarest kept token (0.05) is missing with probability 0.95^400 = 1e-9."""
    assert set(drawn(400, top_p=top_p)) == kept


def test_a_seed_repeats_and_another_one_does_not() -> None:
    """Two different seeds agree on 60 draws with probability (.365)^60 = 5e-27."""
    assert drawn(60, seed=1) == drawn(60, seed=1)
    assert drawn(60, seed=1) != drawn(60, seed=2)
    assert drawn(60, seed=1, top_p=0.99) == drawn(60, seed=1, top_p=0.99)


def test_without_a_seed_every_draw_is_another() -> None:
    """As above."""
    pair = [Draw.seeded(temperature=1, top_p=1, seed=None) for _ in range(2)]
    first, second = ([choose(LOGITS, [draw])[0][0] for _ in range(60)] for draw in pair)
    assert first != second


def test_a_row_draws_the_same_in_any_company() -> None:
    others = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    mixed = torch.cat([others[:2], LOGITS, others[2:]])

    def draws() -> list[Draw]:
        settings = [(0.0, 1.0, 9), (0.7, 0.8, 9), (1.0, 0.95, 5), (2.0, 1.0, 9)]
        return [Draw.seeded(temperature=t, top_p=p, seed=s) for t, p, s in settings]

    company = draws()
    alone = draws()[2]
    for _ in range(50):
        assert choose(mixed, company)[0][2] == choose(LOGITS, [alone])[0][0]


def test_rows_that_are_sampled_at_once_have_the_tokens_that_each_has_alone() -> None:
    """As a GPU samples them: with a nucleus and without, among greedy rows."""
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1)) * 3
    settings = [(0.7, 0.8), (0.0, 1.0), (1.0, 1.0), (1.3, 0.5), (0.4, 1.0), (1.0, 0.99)]

    def draws() -> list[Draw]:
        return [Draw.seeded(temperature=t, top_p=p, seed=n) for n, (t, p) in enumerate(settings)]

    at_once, alone = draws(), draws()
    for _ in range(50):
        tokens, logprobs = choose(logits, at_once, at_once=True)
        for row, draw in enumerate(alone):
            [token], [logprob] = choose(logits[row : row + 1], [draw])
            assert tokens[row] == token
            assert logprobs[row] == pytest.approx(logprob, abs=1e-6)


@pytest.mark.parametrize("uniform", [0.0, 1.0], ids=["least", "rounded-up-to-one"])
def test_a_token_without_weight_is_never_drawn(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of nothing at both ends, where a cumulative distribution stands still."""
    monkeypatch.setattr(token_sampling, "_uniform", lambda _: torch.tensor(uniform))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    nothing = -math.inf
    logits = torch.tensor([[nothing, 1.0, 2.0, nothing]])
    for top_p in (1.0, 0.999):
        draw = Draw.seeded(temperature=1, top_p=top_p, seed=0)
        assert choose(logits, [draw])[0][0] in (1, 2)


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    drawn(3)
    assert torch.equal(before, torch.random.get_rng_state())
