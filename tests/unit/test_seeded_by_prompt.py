"""Random numbers of a request: of its seed and its prompt, whatever answer it goes on from."""

from __future__ import annotations

from dataclasses import replace

from rttc_graph.protocols import GenerationRequest, seeded_by_prompt


def request(text: str, *, seed: int | None = 5, temperature: float = 0.7) -> GenerationRequest:
    return GenerationRequest(
        messages=({"role": "user", "content": text},),
        max_new_tokens=4,
        temperature=temperature,
        seed=seed,
    )


def test_prompts_and_seeds_have_random_numbers_of_their_own() -> None:
    seeds = {
        seeded_by_prompt(request(text, seed=seed)).seed for text in ("a", "b") for seed in (5, 6)
    }
    assert len(seeds) == 4
    assert seeded_by_prompt(request("a")) == seeded_by_prompt(request("a"))
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)


def test_answers_that_go_on_from_one_prompt_stay_a_pair() -> None:
    plain = request("a")
    begun = replace(plain, answer_prefix="It is")
    assert seeded_by_prompt(begun).seed == seeded_by_prompt(plain).seed


def test_what_draws_nothing_and_what_has_no_seed_stay_as_they_are() -> None:
    for one in (request("a", temperature=0.0), request("a", seed=None)):
        assert seeded_by_prompt(one) == one
