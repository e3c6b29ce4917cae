"""A model that raises: innocent rows answer as alone, the one to blame is told, nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from decoding import decode, held, in_lane, request

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.decoding import detokenise
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.scoring import ScoringRequest, log_probabilities

POISON = "poison"
QUESTIONS = tuple(f"number {n}" for n in range(5))
ERRORS = (
    RuntimeError("x"),
    MemoryError("x"),
    AssertionError("x"),
    OSError("x"),
    torch.OutOfMemoryError("x"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
    StopIteration(1),
)
by_error = pytest.mark.parametrize("error", ERRORS, ids=lambda one: f"{one!r}"[:30])


@contextmanager
def failing(engine: LocalEngine, fails: Callable[[Any], bool], error: Exception) -> Generator[None]:
    """Let the model raise for passes of which `fails` says so."""

    def wrap(loaded: LoadedModel) -> Callable[..., Any]:
        forward = loaded.model.forward

        def picky(*args: Any, **kwargs: Any) -> Any:
            if fails(kwargs["input_ids"]):
                raise error
            return forward(*args, **kwargs)

        loaded.model.forward = picky
        return forward

    original = in_lane(engine, wrap)
    yield
    in_lane(engine, lambda loaded: setattr(loaded.model, "forward", original))


def poisoned(engine: LocalEngine) -> Callable[[Any], bool]:
    wanted = in_lane(
        engine, lambda loaded: loaded.tokenizer(POISON, add_special_tokens=False)["input_ids"]
    )

    def fails(ids: Any) -> bool:
        rows = ids.tolist()
        return any(row[at : at + len(wanted)] == wanted for row in rows for at in range(len(row)))

    return fails


def nth(*numbers: int, rows: int = 0) -> Callable[[Any], bool]:
    """Fail in passes of these numbers, of those with at least so many rows."""
    seen: list[int] = []

    def fails(ids: Any) -> bool:
        if ids.shape[0] < rows:
            return False
        seen.append(1)
        return len(seen) in numbers

    return fails


def asked() -> list[DecodeRequest]:
    """Rows of which two are drawn."""
    drawn = {1: 0.9, 3: 1.3}
    return [request(one, temperature=drawn.get(n, 0.0), seed=n) for n, one in enumerate(QUESTIONS)]


def together(engine: LocalEngine, requests: list[DecodeRequest]) -> list[Future[Decoded]]:
    with held(engine):
        return engine.decode(requests)


@by_error
def test_a_row_that_is_alone_is_told_whatever_the_model_raised(
    tiny_engine: LocalEngine, error: Exception
) -> None:
    for number in (1, 3):  # in the pass that admits it, and in a running one
        with (
            failing(tiny_engine, nth(number), error),
            pytest.raises(PolicyModelError, match=r"could not generate|out of memory"),
        ):
            decode(tiny_engine, request())
    assert len(decode(tiny_engine, request())[0].tokens) == 24


@by_error
def test_a_bad_row_costs_none_of_those_admitted_with_it(
    tiny_engine: LocalEngine, error: Exception
) -> None:
    alone = [decode(tiny_engine, one)[0].tokens for one in asked()]
    bad = poisoned(tiny_engine)
    with failing(tiny_engine, bad, error):
        rows = asked()
        *found, guilty = together(tiny_engine, [*rows, request(POISON)])
        assert [each.result(60).tokens for each in found] == alone
        with pytest.raises(PolicyModelError):
            guilty.result(60)
    assert decode(tiny_engine, request(POISON))[0].text


@by_error
@pytest.mark.parametrize("faults", [(1,), (2,), (4,), (2, 3), (2, 7, 9)], ids=str)
def test_a_fault_in_company_costs_no_row_and_changes_none(
    tiny_engine: LocalEngine, error: Exception, faults: tuple[int, ...]
) -> None:
    alone = [decode(tiny_engine, one)[0] for one in asked()]
    told: list[list[str]] = [[] for _ in alone]
    rows = [
        DecodeRequest(generation=one.generation, on_text=told[n].append)
        for n, one in enumerate(asked())
    ]
    with failing(tiny_engine, nth(*faults, rows=2), error):
        found = [each.result(60) for each in together(tiny_engine, rows)]
    assert [each.tokens for each in found] == [each.tokens for each in alone]
    assert ["".join(pieces) for pieces in told] == [each.text for each in alone]


def test_company_that_never_has_memory_is_computed_row_by_row(tiny_engine: LocalEngine) -> None:
    alone = [decode(tiny_engine, one)[0].tokens for one in asked()]
    with failing(tiny_engine, lambda ids: ids.shape[0] > 1, MemoryError()):
        found = together(tiny_engine, asked())
        assert [each.result(60).tokens for each in found] == alone


def test_a_fault_of_a_kind_that_nobody_catches_reaches_the_rows_in_every_pass(
    tiny_engine: LocalEngine,
) -> None:
    class Odd(BaseException):
        pass

    for number in (1, 2, 4):
        with failing(tiny_engine, nth(number), Odd("x")):  # type: ignore[arg-type]
            for each in together(tiny_engine, asked()):
                with pytest.raises(Odd):
                    each.result(60)
    assert len(decode(tiny_engine, request())[0].tokens) == 24


def test_a_tokenizer_that_fails_on_one_row_fails_that_row(
    tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [decode(tiny_engine, one)[0].tokens for one in asked()]
    original = detokenise.TextStream.push
    broken: list[int] = []

    def push(self: Any, token: int) -> str:
        broken[:] = broken or [id(self)]
        if id(self) == broken[0]:
            raise AssertionError("cannot be read")
        return original(self, token)

    with monkeypatch.context() as patch:
        patch.setattr(detokenise.TextStream, "push", push)
        first, *others = together(tiny_engine, asked())
        with pytest.raises(PolicyModelError, match="cannot be read"):
            first.result(60)
        assert [each.result(60).tokens for each in others] == alone[1:]


def test_scores_that_fail_in_company_are_computed_alone(tiny_engine: LocalEngine) -> None:
    pairs = [
        ScoringRequest(messages=({"role": "user", "content": one},), answer="yes")
        for one in QUESTIONS
    ]
    wanted = asyncio.run(log_probabilities(tiny_engine, pairs))
    with failing(tiny_engine, lambda ids: ids.shape[0] > 1, MemoryError()):
        found = asyncio.run(log_probabilities(tiny_engine, pairs))
    assert found == pytest.approx(wanted, abs=1e-4)
