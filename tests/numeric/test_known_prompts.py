"""What recent prompts have computed serves the next ones, and changes no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import torch
from decoding import BiasedRows, computed, decode, generated, held, request, resident_adapters
from tiny_adapters import adapter_of

from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.transformers.decoding.prompt_cache import Owner, PromptCache
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LocalEngine

BASE: Owner = ("", None, -1)


def test_the_beginning_of_a_known_prompt_is_not_computed_again(
    keeping_engine: LocalEngine,
) -> None:
    questions = ["the rain in Spain", "the rain in Spain falls", "the rain", "x" * 70]
    (first,) = decode(keeping_engine, request(questions[0]))
    with computed(keeping_engine) as shapes:
        with held(keeping_engine):
            futures = keeping_engine.decode([request(question) for question in questions])
        rows = [future.result(60) for future in futures]
    for question, row in zip(questions, rows, strict=True):
        assert list(row.tokens) == generated(keeping_engine, question, 24)
    assert rows[0].tokens == first.tokens
    # What differs from the known prompt: two short rests together, then the one of 70 letters.
    assert shapes[0][0] == 3
    assert shapes[0][1] < first.prompt_tokens * 2 // 3


def test_known_prompts_serve_a_running_batch(keeping_engine: LocalEngine) -> None:
    decode(keeping_engine, request("what is the rain?"))
    late: list[Future[Decoded]] = []

    def join(_: str) -> None:
        if not late:
            late.extend(keeping_engine.decode([request("what is the rain like?")]))

    rows = decode(keeping_engine, request("z" * 30, on_text=join, max_new_tokens=30))
    assert list(rows[0].tokens) == generated(keeping_engine, "z" * 30, 30)
    assert list(late[0].result(60).tokens) == generated(
        keeping_engine, "what is the rain like?", 24
    )


def test_a_prompt_is_known_to_the_adapter_that_computed_it(keeping_engine: LocalEngine) -> None:
    keeping_engine.attach_adapters(BiasedRows)
    for key in ("token 40", None, "token 40"):
        (row,) = decode(keeping_engine, request(adapter=key, max_new_tokens=4))
        expected = generated(keeping_engine, "hi", 4) if key is None else [40] * 4
        assert list(row.tokens) == expected


def test_a_prompt_is_computed_anew_for_another_adapter_of_the_same_key(
    keeping_engine: LocalEngine, tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def recording(forward_rows: Callable[..., Callable[..., Any]]) -> Callable[..., Any]:
        def rows(adapters: Sequence[Adapter | None]) -> Callable[..., Any]:
            forward = forward_rows(adapters)

            def run(**kwargs: Any) -> Any:
                lengths.append(kwargs["input_ids"].shape[1])
                return forward(**kwargs)

            return run

        return rows

    def answers(engine: LocalEngine) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        resident = resident_adapters(engine)
        adapted = resident.adapted
        monkeypatch.setattr(adapted, "forward_rows", recording(adapted.forward_rows))
        layout = adapted.layout
        for seed in (1, 1, 2, 2, 1):  # each time made resident under the same key
            resident.put("a", adapter_of(layout, rank=8, alpha=16.0, seed=seed))
            for _ in range(2):
                (row,) = decode(engine, request(adapter="a", max_new_tokens=8))
                found.append(row.tokens)
        return found

    (alone,) = decode(tiny_engine, request())
    prompt = alone.prompt_tokens
    kept = answers(keeping_engine)
    prompts = sum(length >= prompt for length in lengths)
    assert prompts == 5  # once each time that an adapter was made resident
    assert kept == answers(tiny_engine)
    assert len(set(kept)) == 2  # the two adapters answer differently


def zeros(tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of one layer, head and number, eight bytes a token."""
    return [(torch.zeros(1, tokens, 1), torch.zeros(1, tokens, 1))]


def last_of(prompt: Sequence[int]) -> Callable[[int], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Keys and values whose numbers are the tokens themselves."""

    def read(tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        numbers = torch.tensor(prompt[len(prompt) - tokens :], dtype=torch.float32)[None, :, None]
        return [(numbers, -numbers)]

    return read


def test_steps_of_a_tree_cost_their_own_tokens_alone() -> None:
    cache = PromptCache(max_bytes=8 * (300 + 64 * 10))
    begun, leaves = list(range(300)), list[list[int]]()
    cache.add(BASE, begun, last_of(begun))
    for child in range(8):
        path = begun
        for depth in range(8):
            path = [*path, *(1000 * child + 10 * depth + 400 + n for n in range(10))]
            cache.add(BASE, path, last_of(path))
        leaves.append(path)
    assert cache.bytes == 8 * (300 + 64 * 10)
    for path in leaves:
        known = cache.longest(BASE, [*path, 1])
        assert known is not None
        assert known.tokens == len(path) == cache.known_tokens(BASE, [*path, 1])
        ((keys, values),) = known.layers
        assert keys.flatten().tolist() == path
        assert values.flatten().tolist() == [-one for one in path]


def test_a_path_that_leaves_another_in_mid_step_shares_what_is_before() -> None:
    cache = PromptCache(max_bytes=10_000)
    for path in ([1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 8], [1, 2, 7, 7]):
        cache.add(BASE, path, last_of(path))
    assert cache.bytes == 8 * (3 + 3 + 2 + 2)
    for path in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 8], [1, 2, 7, 7]):
        known = cache.longest(BASE, [*path, 0])
        assert known is not None
        ((keys, _),) = known.layers
        assert keys.flatten().tolist()[: known.tokens] == path


def test_what_others_go_on_from_is_dropped_after_them() -> None:
    cache = PromptCache(max_bytes=8 * 30)
    root, first, second = [1] * 10, [1] * 10 + [2] * 10, [1] * 10 + [3] * 10
    for path in (root, first, second):
        cache.add(BASE, path, last_of(path))
    other = [9] * 15
    cache.add(BASE, other, last_of(other))  # both steps go, and the root stays
    assert cache.known_tokens(BASE, [*first, 0]) == 10
    assert cache.known_tokens(BASE, [*other, 0]) == 15
    cache.add(BASE, [8] * 30, last_of([8] * 30))
    assert cache.bytes == 8 * 30
    assert cache.known_tokens(BASE, [*root, 0]) == 0


def test_no_more_bytes_of_prompts_are_kept_than_allowed() -> None:
    cache = PromptCache(max_bytes=3 * 2 * 4 * 10)  # three prompts of ten tokens
    prompts = [[n, *range(1, 10)] for n in range(5)]
    for prompt in prompts[:3]:
        cache.add(BASE, prompt, zeros)
    assert cache.longest(BASE, [*prompts[0], 11]) is not None  # now the second is the oldest
    cache.add(BASE, prompts[3], zeros)
    cache.add(BASE, [9] * 99, zeros)  # more than fits at all
    assert cache.bytes == 3 * 2 * 4 * 10
    assert [cache.longest(BASE, prompt) is not None for prompt in prompts] == [
        True,
        False,
        True,
        True,
        False,
    ]
    known = cache.longest(BASE, prompts[0])
    assert known is not None
    assert known.tokens == 9  # the last token is computed, for its logits
    assert cache.longest(BASE, [77]) is None


def test_what_an_adapter_computed_is_no_other_s() -> None:
    cache = PromptCache(max_bytes=2**20)
    owners = (
        ("", None, -1),
        ("", "a", 0),
        ("", "a", 1),
        ("", "b", 0),
        ("x", None, -1),
        ("x", "a", 0),
    )
    for length, owner in enumerate(owners, start=3):
        cache.add(owner, range(length), zeros)
    for length, owner in enumerate(owners, start=3):
        known = cache.longest(owner, range(99))
        assert known is not None
        assert known.tokens == length
    assert cache.longest(("", "b", 1), range(99)) is None


def test_a_prompt_is_known_to_its_own_scope_alone(keeping_engine: LocalEngine) -> None:
    """Neither the pass over a prompt nor its draft tells that another has asked it."""

    def shapes(scope: str) -> list[tuple[int, ...]]:
        asked = DecodeRequest(generation=replace(request("the rain").generation, reuse_scope=scope))
        with computed(keeping_engine) as seen:
            decode(keeping_engine, asked)
        return list(seen)

    first = shapes("a")
    assert shapes("b") == first
    assert len(shapes("a")) < len(first)  # its own last answer is a draft


def test_rows_of_two_scopes_do_not_share_a_pass_over_their_prompt(
    keeping_engine: LocalEngine,
) -> None:
    rows = [
        DecodeRequest(generation=replace(request("the rain").generation, reuse_scope=scope))
        for scope in ("a", "b", "b")
    ]
    with computed(keeping_engine) as shapes:
        with held(keeping_engine):
            futures = keeping_engine.decode(rows)
        assert len({future.result(60).tokens for future in futures}) == 1
    assert shapes[0][0] == 2  # one for each scope
