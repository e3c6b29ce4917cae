"""Names of modules and of what is in them that have changed: the old ones go on working."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings

import pytest

from rttc_graph.moved_modules import MOVED, RENAMED

NAMES = [(module, old, new) for module, names in RENAMED.items() for old, new in names.items()]
METHODS = [row for row in NAMES if "." in row[1]]
OTHERS = [row for row in NAMES if "." not in row[1]]


def test_a_moved_module_is_found_by_its_old_name() -> None:
    for old, new in MOVED.items():
        sys.modules.pop(f"rttc_graph.{old}", None)  # or a second import would not ask again
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            moved = importlib.import_module(f"rttc_graph.{old}")

        assert f"rttc_graph.{old} is now rttc_graph.{new}" in {str(w.message) for w in told}
        assert moved is importlib.import_module(f"rttc_graph.{new}"), old


def test_what_was_renamed_is_found_by_its_old_name() -> None:
    for module, old, new in OTHERS:
        elsewhere, _, name = new.rpartition(":")
        here = importlib.import_module(f"rttc_graph.{module}")
        home = importlib.import_module(f"rttc_graph.{elsewhere or module}")

        assert old not in vars(here), module
        told = f"{module}.{old} is now {home.__name__}.{name}$"
        with pytest.warns(DeprecationWarning, match=told):
            assert getattr(here, old) is getattr(home, name), (module, old)


@pytest.mark.parametrize(("module", "old", "new"), METHODS)
def test_a_renamed_method_is_called_by_its_old_name(module: str, old: str, new: str) -> None:
    owner, _, method = old.partition(".")
    kind = getattr(importlib.import_module(f"rttc_graph.{module}"), owner)

    assert inspect.getattr_static(kind, method) is inspect.getattr_static(kind, new)


def test_a_name_that_never_was_is_none_of_a_module() -> None:
    module = importlib.import_module("rttc_graph.serving.http_app")

    with pytest.raises(AttributeError, match=r"http_app' has no attribute 'Of'"):
        _ = module.Of
