"""The example hosts around a graph of scripted parts; the fences watch their loops."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from installations import REPOSITORY
from scripted_parts import Parts

from rttc_graph import create_rttc_graph
from rttc_graph.graph import RttcGraph


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example, loaded before a loop runs, as a program would be."""
    name: str = request.param
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where type hints are looked up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rttc() -> RttcGraph:
    return create_rttc_graph(**Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95).parts())


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize("module", ["as_tool"], indirect=True)
async def test_as_a_tool(
    rttc: RttcGraph, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    await module.main(rttc)
    assert capsys.readouterr().out == "solve['query']: ttt\n(ttt, reward 0.95)\n"


@pytest.mark.parametrize("module", ["agent"], indirect=True)
async def test_inside_an_agent(
    rttc: RttcGraph, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    await module.main(rttc, module.Delegate())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "human: How do I get a new card?"
    assert lines[2] == "tool: ttt"
    assert lines[3].startswith("  (ttt, ")
    assert lines[4] == "ai: ttt"


@pytest.mark.parametrize("module", ["shared_keys"], indirect=True)
async def test_as_a_node_with_shared_keys(
    rttc: RttcGraph, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    await module.main(rttc)
    lines = capsys.readouterr().out.splitlines()
    assert "  ttt_adapt: trained" in lines
    turns = [line for line in lines if line.startswith("turn")]
    # with earlier turns in its prompt the scripted model answers as it does with samples
    assert turns[0] == "turn 1, 2 messages, ttt:"
    assert turns[1].startswith("turn 2, 4 messages, ")
