"""The examples run as a reader would run them, in a process of their own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from installations import REPOSITORY, Installation


def output_of(example: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / example)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_quickstart_stores_asks_and_explains(installed: Installation) -> None:
    lines = output_of("quickstart.py", {**installed.variables, "RTTC_TAU_R": "1"}).splitlines()

    assert lines[0].startswith("answer: ")
    assert re.fullmatch(r"arm: +(nearest|rag|ttt)", lines[1])
    assert re.fullmatch(r"reward: +[01]\.\d+", lines[2])
    nodes = [line.split()[0] for line in lines[3:]]
    # Below a threshold that nothing reaches, the three stored samples serve every arm.
    positions = [nodes.index(node) for node in ("retrieve", "nearest", "rag_generate", "ttt_adapt")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("tau_r", ["0", "1"])
def test_a_host_with_a_state_of_its_own_gets_its_reply(installed: Installation, tau_r: str) -> None:
    urgent, calm = output_of("subgraph.py", {**installed.variables, "RTTC_TAU_R": tau_r}).split(
        "How do I"
    )

    assert urgent.startswith("Urgent: what is the capital of Italy?\n")
    assert urgent.endswith("\n  (direct of direct)\n")
    assert re.search(r"\n  \((direct|rag|ttt) of direct(, rag)?(, ttt)?\)\n$", calm)


def test_the_how_to_shares_the_engine_with_a_host(installed: Installation) -> None:
    text = (REPOSITORY / "docs/howto/other-models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if "ChatTransformers" in block]
    done = subprocess.run(
        [sys.executable, "-c", f"{block}\nprint([title, result['arm']])"],
        env={**installed.variables, "RTTC_TAU_R": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title, arm = ast.literal_eval(done.stdout)
    assert isinstance(title, str)
    assert arm
