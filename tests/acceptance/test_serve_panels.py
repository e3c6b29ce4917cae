"""Panels and plain asks on one server: nothing is lost, and the plain ones do not wait for long."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from http_servers import served
from scripted_parts import ScriptedRewardModel

from benchmarks.cases import load
from benchmarks.tools.prompts import prompts
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.serve_options import ServeOptions

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
"""LangServe reads `model_fields` of instances, which pydantic 3 will not allow."""

ASKS = 40
TOKENS = 16


@pytest.fixture
def url(tiny_engine: LocalEngine) -> Generator[str]:
    parts = ServedParts(
        parts={
            "policy_model": TransformersPolicyModel(tiny_engine),
            "reward_model": ScriptedRewardModel(),
        }
    )
    options = ServeOptions(queue=64, queue_seconds=300, run_seconds=300, drain_seconds=5)
    with served(create_app(parts, options=options), options) as url:
        yield url


def test_plain_asks_do_not_wait_for_twenty_panels(url: str) -> None:
    questions = prompts()
    with load.client_of(url) as client:
        load.plain(client, questions, count=8, tokens=TOKENS)
        beside, panels, early = load.beside_panels(
            client, questions, panels=load.PANELS, count=ASKS, tokens=TOKENS
        )
    assert {one.status for one in [*beside, *panels]} == {200}
    assert all(load.is_within_budget(one) for one in panels)
    assert early <= 7  # 2 to 5 were seen, and 9 and 10 where rows of the batch take no turns
