"""A served reward model against a real HTTP server, which speaks the forms of vLLM and TEI."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.integrations.rewards.served_reward import Route, ServedReward, ServedSettings
from rttc_graph.protocols import RewardModel, reward_requests
from rttc_graph.state import Sample
from rttc_graph.testing import RewardModelContract
from rttc_graph.testing.inputs import candidate


def share(text: str) -> float:
    """A number in [0, 1) that is the text's own."""
    return (sum(text.encode()) % 97) / 97


@dataclass
class Script:
    """What the server does, and what it was sent."""

    statuses: list[int] = field(default_factory=list[int])
    """Of the next answers; 200 when there are no more."""
    outputs: int = 1
    garbage: str | None = None
    bodies: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )
    headers: list[str | None] = field(default_factory=list["str | None"])
    signatures: list[str | None] = field(default_factory=list["str | None"])
    hangs: bool = False
    release: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.script.bodies.append((self.path, body))
        self.script.headers.append(self.headers.get("authorization"))
        self.script.signatures.append(self.headers.get("x-signature"))
        if self.script.hangs:
            self.script.release.wait(20)
        status = self.script.statuses.pop(0) if self.script.statuses else 200
        text = self.script.garbage or json.dumps(self._answer(body))
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: dict[str, Any]) -> Any:
        more = [0.0] * (self.script.outputs - 1)
        if self.path == "/classify":
            said = share(body["messages"][-1]["content"])
            return {"data": [{"index": 0, "label": "LABEL_0", "probs": [said, *more]}]}
        if self.path == "/score":
            rows = [
                {"index": i, "object": "score", "score": share(text)}
                for i, text in enumerate(body["text_2"])
            ]
            return {"data": rows[::-1]}  # in the order in which they were done
        return [
            [{"label": "LABEL_0", "score": share(answer)}, *({"score": x} for x in more)]
            for _, answer in body["inputs"]
        ]

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    handler = type("Bound", (Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    script.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


ROUTES: tuple[Route, ...] = ("classify", "score", "predict")


@pytest.mark.parametrize("route", ROUTES)
class TestServedReward(RewardModelContract):
    @pytest.fixture
    def reward_model(self, url: str, route: Route) -> RewardModel:
        return ServedReward(url, settings=ServedSettings(route=route, batch_size=4))


@pytest.mark.parametrize("route", ROUTES)
async def test_scores_stand_in_the_order_of_the_answers(url: str, route: Route) -> None:
    answers = [f"answer {'x' * n}" for n in (9, 1, 5, 0, 7)]
    reward = ServedReward(url, settings=ServedSettings(route=route, batch_size=2))
    got = await reward.score("q", [candidate(a) for a in answers])
    assert got == pytest.approx([share(a) for a in answers])


async def test_each_route_gets_its_own_form(url: str, script: Script) -> None:
    for route in ROUTES:
        settings = ServedSettings(route=route, model="judge", headers={"Authorization": "Bearer k"})
        await ServedReward(url, settings=settings).score("why", [candidate("so")])
    turns = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]
    assert script.bodies == [
        ("/classify", {"messages": turns, "model": "judge"}),
        ("/score", {"text_1": ["why"], "text_2": ["so"], "model": "judge"}),
        (
            "/predict",
            {
                "inputs": [["why", "so"]],
                "truncate": True,
                "truncation_direction": "left",
                "model": "judge",
            },
        ),
    ]
    assert script.headers == ["Bearer k"] * 3


async def test_a_classifier_gets_the_samples_before_the_question(url: str, script: Script) -> None:
    sample: Sample = {
        "id": "1",
        "question": "price?",
        "answer": "20 euros",
        "domain": "d",
        "similarity": 0.9,
    }
    requests = reward_requests([candidate("25 euros")], samples=[sample])
    served = ServedReward(url)
    await served.score("How much?", requests)
    await ServedReward(url, settings=ServedSettings(most_samples=0)).score("How much?", requests)
    score = ServedReward(url, settings=ServedSettings(route="score"))
    await score.score("How much?", requests)
    with_samples, without, pair = [body for _, body in script.bodies]
    prompt = with_samples["messages"][0]["content"]
    assert "Question: price?\nAnswer: 20 euros" in prompt
    assert prompt.endswith("How much?")
    assert without["messages"][0]["content"] == "How much?"
    assert pair["text_1"] == ["How much?"]
    assert served.sees_evidence
    assert not score.sees_evidence


async def test_what_is_too_long_keeps_the_ends_of_the_answer(url: str, script: Script) -> None:
    settings = ServedSettings(max_characters=200)
    answer = "BEGIN" + "x" * 20_000 + "END"
    await ServedReward(url, settings=settings).score("y" * 900 + "?", [candidate(answer)])
    asked, said = (turn["content"] for turn in script.bodies[0][1]["messages"])
    assert len(asked) == 200
    assert asked.endswith("y?")
    assert len(said) == 200
    assert said.startswith("BEGIN")
    assert said.endswith("END")


async def test_a_passing_failure_is_tried_once_more(url: str, script: Script) -> None:
    script.statuses = [503]
    assert await ServedReward(url).score("q", [candidate("a")]) == [pytest.approx(share("a"))]
    assert len(script.bodies) == 2
    script.statuses = [503, 503]
    with pytest.raises(RewardModelError, match="answered 503") as caught:
        await ServedReward(url).score("q", [candidate("a")])
    assert caught.value.retryable
    assert len(script.bodies) == 4


async def test_a_refusal_is_not_tried_again(url: str, script: Script) -> None:
    script.statuses = [422]
    with pytest.raises(RewardModelError, match="answered 422") as caught:
        await ServedReward(url).score("q", [candidate("a")])
    assert not caught.value.retryable
    assert len(script.bodies) == 1


async def test_a_server_that_hangs_is_given_up(url: str, script: Script) -> None:
    script.hangs = True
    reward = ServedReward(url, settings=ServedSettings(timeout_seconds=0.2))
    with pytest.raises(RewardModelError, match=r"could not reach .*Timeout") as caught:
        await reward.score("q", [candidate("a")])
    assert caught.value.retryable


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RewardModelError, match="could not reach http"):
        await ServedReward("http://127.0.0.1:9").score("q", [candidate("a")])


@pytest.mark.parametrize("route", ["classify", "predict"])
async def test_a_model_with_more_outputs_is_refused(url: str, script: Script, route: Route) -> None:
    script.outputs = 3
    with pytest.raises(RewardModelError, match="is it a model with one output"):
        await ServedReward(url, settings=ServedSettings(route=route)).score("q", [candidate("a")])


@pytest.mark.parametrize("garbage", ["<html>", '{"data": []}', "[]", '{"data": [{"index": 0}]}'])
async def test_an_answer_without_scores_is_an_error(url: str, script: Script, garbage: str) -> None:
    script.garbage = garbage
    with pytest.raises(RewardModelError, match=r"answered no JSON|gave no score"):
        await ServedReward(url).score("q", [candidate("a")])


async def test_raw_scores_are_squashed_on_request(url: str, script: Script) -> None:
    script.garbage = json.dumps({"data": [{"index": 0, "probs": [4.0]}]})
    settings = ServedSettings(activation="sigmoid")
    [got] = await ServedReward(url, settings=settings).score("q", [candidate("a")])
    assert got == pytest.approx(0.98201, abs=1e-5)  # 1 / (1 + exp(-4))
    with pytest.raises(RewardModelError, match="from 0 to 1"):
        await ServedReward(url).score("q", [candidate("a")])


async def test_the_fingerprint_says_what_is_asked_for(url: str) -> None:
    first = await ServedReward(url, settings=ServedSettings(model="a")).fingerprint()
    assert first == await ServedReward(url, settings=ServedSettings(model="a")).fingerprint()
    assert first != await ServedReward(url, settings=ServedSettings(model="b")).fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"route": "rank"}, "route='rank'", id="route"),
        pytest.param({"activation": "relu"}, "activation='relu'", id="activation"),
        pytest.param({"batch_size": 0}, "batch_size must be at least 1", id="batch"),
        pytest.param({"timeout_seconds": 0.0}, "timeout_seconds must be above 0", id="timeout"),
        pytest.param({"max_characters": 9}, "max_characters must be at least 100", id="cut"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ServedSettings(**options)


def test_an_address_needs_a_scheme() -> None:
    with pytest.raises(ConfigurationError, match="must start with http"):
        ServedReward("localhost:8000")


def installed(config: InstallationConfig) -> RewardModel:
    async def policy() -> str:
        return "policy"

    return open_reward_model(config, cast("Any", None), policy)  # a served one needs no engine


async def test_an_installation_calls_the_server_as_its_settings_say(
    url: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_SIGNATURE", "signed")
    monkeypatch.setenv("RTTC_REWARD_API_KEY", "key")
    table = f"""
reward = "{url}"
[reward_served]
route = "score"
model = "judge"
[reward_served.headers]
X-Signature = "$JUDGE_SIGNATURE for $$5"
"""
    path = tmp_path / "rttc.toml"
    path.write_text(table)
    reward = installed(await asyncio.to_thread(load_config, path))
    assert reward.name == "judge"
    [got] = await reward.score("why", [candidate("so")])
    assert got == pytest.approx(share("so"))
    [(route, body)] = script.bodies
    assert (route, body["model"]) == ("/score", "judge")
    assert script.headers == ["Bearer key"]
    assert script.signatures == ["signed for $5"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [("$NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE.*not set"), ("5 $", "names no variable")],
)
def test_a_header_without_its_variable_is_refused(header: str, problem: str) -> None:
    served = ServedSettings(headers={"X-Signature": header})
    config = load_config(reward="http://judge", reward_served=served)
    with pytest.raises(ConfigurationError, match=rf"reward_served.headers.X-Signature.*{problem}"):
        installed(config)
