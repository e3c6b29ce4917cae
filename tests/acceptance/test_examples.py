"""The examples run as a reader would run them: one in a process of its own, others in this one.

A process of its own spends ten seconds of a core on imports, and shows no more.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from typing import Any

import pytest
from installations import REPOSITORY, Installation


def test_quickstart_stores_asks_and_explains(installed: Installation) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples/quickstart.py")],
        env={**installed.variables, "RTTC_TAU_R": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("answer: ")
    assert re.fullmatch(r"arm: +(nearest|rag|ttt)", lines[1])
    assert re.fullmatch(r"reward: +[01]\.\d+", lines[2])
    nodes = [line.split()[0] for line in lines[3:]]
    # Below a threshold that nothing reaches, the three stored samples serve every arm.
    positions = [nodes.index(node) for node in ("retrieve", "nearest", "rag_generate", "ttt_adapt")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("tau_r", ["0", "1"])
def test_a_host_with_a_state_of_its_own_gets_its_reply(
    installed: Installation,
    tau_r: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(installed, monkeypatch, tau_r)
    runpy.run_path(str(REPOSITORY / "examples/subgraph.py"), run_name="__main__")
    urgent, calm = capsys.readouterr().out.split("How do I")

    assert urgent.startswith("Urgent: what is the capital of Italy?\n")
    assert urgent.endswith("\n  (direct of direct)\n")
    assert re.search(r"\n  \((direct|rag|ttt) of direct(, rag)?(, ttt)?\)\n$", calm)


def test_the_how_to_shares_the_engine_with_a_host(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "docs/howto/other-models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if "ChatTransformers" in block]
    use(installed, monkeypatch, tau_r="0")
    names: dict[str, Any] = {}
    exec(compile(block, "other-models.md", "exec"), names)
    assert isinstance(names["title"], str)
    assert names["result"]["arm"]


def use(installed: Installation, monkeypatch: pytest.MonkeyPatch, tau_r: str) -> None:
    """Let what runs in this process find an installation."""
    for name, value in {**installed.variables, "RTTC_TAU_R": tau_r}.items():
        monkeypatch.setenv(name, value)
