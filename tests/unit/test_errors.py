"""The tree of errors: who has to act, what they carry, and that they travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from rttc_graph import errors
from rttc_graph.errors import (
    AdaptationError,
    BackendError,
    BadSampleError,
    BudgetExceeded,
    ConfigurationError,
    EmbeddingError,
    KnowledgeBaseError,
    NoAnswerError,
    PolicyModelError,
    QueryStateCacheError,
    RewardModelError,
    RttcError,
    UnusableAdapterError,
)

BACKEND_ERRORS = [
    AdaptationError,
    EmbeddingError,
    KnowledgeBaseError,
    PolicyModelError,
    QueryStateCacheError,
    RewardModelError,
    UnusableAdapterError,
]
ONE_OF_EACH = [
    RttcError("a"),
    ConfigurationError("a"),
    BadSampleError("no answer", source="a.jsonl", line=3),
    BudgetExceeded("a"),
    NoAnswerError("a", ledger=[{"node": "generate", "event": "failed"}]),
    BackendError("a", retryable=True),
    *(error("a", retryable=True) for error in BACKEND_ERRORS),
]


def test_every_error_of_the_module_is_in_the_tree() -> None:
    classes = {
        c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert classes == {type(error) for error in ONE_OF_EACH}
    assert all(issubclass(c, RttcError) for c in classes)
    assert {c.__name__ for c in classes} == set(errors.__all__)


def test_the_drawing_at_the_head_of_the_module_shows_every_error() -> None:
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)


@pytest.mark.parametrize("error", BACKEND_ERRORS, ids=lambda e: e.__name__)
def test_a_backend_error_says_whether_trying_again_can_help(error: type[BackendError]) -> None:
    assert issubclass(error, BackendError)
    assert error("a").retryable is False
    assert error("a", retryable=True).retryable is True


@pytest.mark.parametrize("error", [ConfigurationError, BadSampleError])
def test_mistakes_of_the_caller_are_value_errors(error: type[Exception]) -> None:
    assert issubclass(error, ValueError)


@pytest.mark.parametrize("error", [BudgetExceeded, NoAnswerError, BackendError])
def test_what_fails_in_a_run_is_no_value_error(error: type[Exception]) -> None:
    assert not issubclass(error, ValueError)


def test_a_bad_sample_says_where_it_stands() -> None:
    error = BadSampleError("no answer", source="a.jsonl", line=3)
    assert str(error) == "a.jsonl:3: no answer"
    assert (error.source, error.line) == ("a.jsonl", 3)


def test_no_answer_keeps_the_ledger_as_it_was() -> None:
    ledger = [{"node": "generate"}]
    error = NoAnswerError("a", ledger=ledger)
    ledger.clear()
    assert error.ledger == ({"node": "generate"},)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda e: type(e).__name__)
def test_an_error_travels_between_processes(error: RttcError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
