"""A plan by difficulty, read from what a calibration keeps."""

from __future__ import annotations

from itertools import pairwise

from pydantic import TypeAdapter, ValidationError

from rttc_graph.errors import ConfigurationError
from rttc_graph.state import Plan

_PLAN = TypeAdapter(Plan)


def read_plan(kept: object) -> Plan | None:
    """Return a plan as it is kept; `None` where none is.

    Raises:
        ConfigurationError: It is no plan, or names an arm that nobody has registered.
    """
    if kept is None:
        return None
    try:
        plan = _PLAN.validate_python(kept)
    except ValidationError as exc:
        raise _unreadable(kept, str(exc.errors()[0]["msg"])) from exc
    if len(plan["bins"]) != len(plan["edges"]) + 1:
        raise _unreadable(kept, "there must be one bin more than edges")
    if any(not low < high for low, high in pairwise(plan["edges"])):  # NaN is caught as well
        raise _unreadable(kept, "edges must rise")
    return plan


def _unreadable(kept: object, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the plan {kept!r:.200} cannot be read: {why}; make it anew with 'rttc calibrate "
        "QUESTIONS.jsonl --save'"
    )
