"""`rttc reward train --process`: from a file of questions to a probe that judges steps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rttc_graph.cli.app import main
from rttc_graph.installation.config import load_config
from rttc_graph.installation.configured_policy import open_policy
from rttc_graph.installation.configured_process_reward import open_process_reward
from rttc_graph.protocols import BegunAnswer, GenerationRequest
from rttc_graph.reward_training.process import step_drawing
from rttc_graph.state import ChatTurn

TRAIN = ("reward", "train", "solved.jsonl", "--process", "--out", "probe", "--max-new-tokens", "6")


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path) -> Path:
    values = {"HOME": tmp_path / "home", "MODEL": tiny_model_path, "THREADS": 1}
    values |= {"SEARCH_STEP_LEAST": 2, "SEARCH_STEP_MOST": 3}
    for name, value in values.items():
        monkeypatch.setenv(f"RTTC_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"what is {n}?", "answer": "yes", "domain": "odd"} for n in range(30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "solved.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_file_becomes_a_probe(
    installation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of random weights is never right, so what counts as right is another thing here."""

    def is_even(text: str, *_: Any) -> bool:
        return sum(map(ord, text)) % 2 == 0

    monkeypatch.setattr(step_drawing, "is_right", is_even)
    assert main([*TRAIN, "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["questions"] == 30
    assert "odd" in figures["closed"], "parity cannot be read in a state"
    assert "Nothing is steered by it in:" in (installation / "probe" / "README.md").read_text()

    async def judged() -> tuple[str, float | None]:
        config = load_config(process_reward="probe")
        with open_policy(config) as policy:
            judge = open_process_reward(config, policy.engine, policy.fingerprint)
            assert judge is not None
            turn: ChatTurn = {"role": "user", "content": "what is 7?"}
            asked = GenerationRequest(messages=(turn,), max_new_tokens=4, tells_state=True)
            [made] = await policy.model.generate([asked])
            one = BegunAnswer(steps=(made.text or "a",), state=made.state)
            [(share,)] = await judge.score_steps("what is 7?", [one])
            return await judge.within(tenant="t", domain="odd").closed(), share

    closed, share = asyncio.run(judged())
    assert "over a plain vote" in closed
    assert share is None or 0 <= share <= 1


def test_a_model_that_is_never_right_makes_no_probe(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was drawn is kept, and a second run draws none of it again."""
    few = [*TRAIN, "--questions", "3"]
    assert main(few) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "0 of 3 questions have right answers and wrong ones" in told
    before = (installation / "probe" / "steps.jsonl").read_bytes()
    assert main(few) == 2
    assert (installation / "probe" / "steps.jsonl").read_bytes() == before
