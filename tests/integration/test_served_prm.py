"""A served process reward model against a real HTTP server, which speaks vLLM's pooling route."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from http_servers import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.installation.config import load_config
from rttc_graph.installation.configured_process_reward import open_process_reward
from rttc_graph.integrations.process_rewards.served_prm import ServedPrm
from rttc_graph.integrations.rewards.reward_settings import ServedPrmKind, ServedPrmSettings
from rttc_graph.protocols import ProcessRewardModel
from rttc_graph.testing import ProcessRewardModelContract
from rttc_graph.testing.reward_model_contract import begun


def good(text: str) -> float:
    """Probability that is the text's own."""
    return (sum(text.encode()) % 89 + 1) / 91


@dataclass
class Pooling:
    """What the server does, and what it was sent."""

    statuses: list[int] = field(default_factory=list[int])
    """Of the next answers; 200 when there are no more."""
    raw: bool = False
    """Whether it sends logits, as a model without a softmax."""
    answer: Any = None
    """Sent instead of pairs."""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[str | None] = field(default_factory=list["str | None"])

    async def __call__(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers.get("authorization"))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return JSONResponse({"error": "busy"}, status)
        if self.answer is not None:
            return JSONResponse(self.answer)
        if "messages" in body:
            said = body["messages"][-1]["content"].split("<extra_0>")[:-1]
            pairs = [[1 - good(step), good(step)] for step in said]
        else:
            pairs = [[good(step), 1 - good(step)] for step in body["input"].split("ки")[:-1]]
        if self.raw:
            pairs = [[math.log(one) + 3 for one in pair] for pair in pairs]
        return JSONResponse({"object": "list", "data": [{"index": 0, "data": pairs}]})


@pytest.fixture
def pooling() -> Pooling:
    return Pooling()


@pytest.fixture
def url(pooling: Pooling) -> Iterator[str]:
    async def pool(request: Request) -> Response:
        return await pooling(request)

    with served(Starlette(routes=[Route("/pooling", pool, methods=["POST"])])) as address:
        yield address


KINDS: tuple[ServedPrmKind, ...] = ("qwen", "math-shepherd")


class TestServedPrm(ProcessRewardModelContract):
    @pytest.fixture(params=KINDS)
    def process_reward_model(self, url: str, request: pytest.FixtureRequest) -> ProcessRewardModel:
        return ServedPrm(url, settings=ServedPrmSettings(kind=request.param))


@pytest.mark.parametrize("raw", [False, True])
async def test_the_model_is_shown_its_marks_and_says_good_against_bad(
    url: str, pooling: Pooling, raw: bool
) -> None:
    """Probabilities are taken as they are, logits are squashed; a step cannot write the mark."""
    pooling.raw = raw
    answer = begun("It is <extra_0>4.\n", "#### 4")
    [found] = await ServedPrm(f"{url}/v1").score_steps("2+2?", [answer])
    assert found == pytest.approx([good("It is 4."), good("#### 4")])
    turns = pooling.bodies[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert turns[1]["content"] == "2+2?"
    assert turns[2]["content"] == "It is 4.<extra_0>#### 4<extra_0>"
    shepherd = ServedPrm(url, settings=ServedPrmSettings(kind="math-shepherd", model="shepherd"))
    [found] = await shepherd.score_steps("2+2?", [answer])
    assert pooling.bodies[1] == {
        "input": "2+2? Step 1: It is <extra_0>4. ки\nStep 2: #### 4 ки",
        "model": "shepherd",
    }
    assert found[1] == pytest.approx(good("\nStep 2: #### 4 "))


async def test_a_busy_server_is_asked_once_more(url: str, pooling: Pooling) -> None:
    pooling.statuses = [503]
    [found] = await ServedPrm(url).score_steps("2+2?", [begun("4\n")])
    assert len(found) == 1
    pooling.statuses = [503, 503]
    with pytest.raises(RewardModelError, match="answered 503"):
        await ServedPrm(url).score_steps("2+2?", [begun("4\n")])


WRONG: list[tuple[Any, str]] = [
    ({"data": [{"index": 0, "data": [[0.1, 0.9]]}]}, "1 pairs for 2 steps.*step_tag_id"),
    ({"data": [{"index": 0, "data": [0.1, 0.9]}]}, "no pair of numbers"),
    ({"data": [{"index": 0, "data": [[0.1, 0.2, 0.7]] * 2}]}, "no pair of numbers"),
    ({"data": [{"index": 0, "data": [["x", 0.9]] * 2}]}, "no pair of numbers"),
    ({"data": []}, "no pair of numbers"),
    ({"object": "error"}, "no pair of numbers"),
]


@pytest.mark.parametrize(("answer", "problem"), WRONG)
async def test_what_is_no_pair_a_step_is_refused(
    url: str, pooling: Pooling, answer: Any, problem: str
) -> None:
    pooling.answer = answer
    with pytest.raises(RewardModelError, match=problem):
        await ServedPrm(url).score_steps("2+2?", [begun("4\n", "#### 4")])


def test_an_installation_names_it(
    url: str, pooling: Pooling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare address is a server of a process reward model, with headers from the environment."""
    toml = f'process_reward = "{url}"\n[process_reward_served]\nkind = "qwen"\nmodel = "prm"\n'
    (tmp_path / "rttc.toml").write_text(
        f'{toml}headers = {{ Authorization = "Bearer $PRM_KEY" }}\n'
    )
    monkeypatch.chdir(tmp_path)

    async def policy() -> str:
        return "f"

    with pytest.raises(ConfigurationError, match=r"process_reward_served\.headers\.Auth"):
        open_process_reward(load_config(), None, policy)
    monkeypatch.setenv("PRM_KEY", "key")
    judge = open_process_reward(load_config(), None, policy)
    assert isinstance(judge, ServedPrm)
    assert judge.name == "prm"
    asyncio.run(judge.score_steps("2+2?", [begun("4\n")]))
    assert pooling.headers == ["Bearer key"]
    others = [ServedPrm(url), ServedPrm(url, settings=ServedPrmSettings(kind="math-shepherd"))]
    assert len({asyncio.run(one.fingerprint()) for one in (judge, *others)}) == 3


BAD_SETTINGS = [{"kind": "best"}, {"concurrency": 0}, {"timeout_seconds": 0.0}]


@pytest.mark.parametrize("given", BAD_SETTINGS)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        ServedPrmSettings(**given)
    with pytest.raises(ConfigurationError, match="http"):
        ServedPrm("localhost:8000")
