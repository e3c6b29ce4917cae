"""Answers that are not whole: people are told for every reason why, and how to get more."""

from __future__ import annotations

from typing import Any, cast, get_args

import pytest
from scripted_parts import candidate

from rttc_graph.installation.ask_question import AskResult, why_cut
from rttc_graph.state import FinishReason


@pytest.mark.parametrize("ended", get_args(FinishReason))
def test_an_answer_that_is_not_whole_is_told(ended: FinishReason) -> None:
    taken = {**candidate("direct", 0.5), "finish_reason": ended}
    said: dict[str, Any] = {"candidates": [taken], "declined": False}
    cut = why_cut(cast("AskResult", said))
    assert (cut is None) == (ended == "stop")
    assert why_cut(cast("AskResult", said | {"declined": True})) is None
