"""The template project: its files fit together, and its graph answers and hands over."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from installations import REPOSITORY
from langchain_core.messages import HumanMessage
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.installation import local
from rttc_graph.installation.config import InstallationConfig

TEMPLATE = REPOSITORY / "examples" / "template"


def agent(monkeypatch: pytest.MonkeyPatch, **rewards: float) -> Any:
    """Import the template's file as the server does, over a graph of scripted parts."""

    @contextmanager
    def open_scripted() -> Generator[Any]:
        yield SimpleNamespace(graph=create_rttc_graph(**Parts().rewarding(**rewards).parts()))

    monkeypatch.setattr(local, "open_local", open_scripted)
    file, _, name = json.loads((TEMPLATE / "langgraph.json").read_text())["graphs"][
        "agent"
    ].partition(":")
    spec = importlib.util.spec_from_file_location("template_graph", TEMPLATE / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.mark.parametrize(
    ("reward", "said"), [(0.95, "rag"), (0.3, "I am not sure enough of that.")]
)
def test_it_answers_what_it_is_sure_of_and_hands_over_the_rest(
    reward: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = agent(monkeypatch, rag=reward, direct=0.1, ttt=0.1)
    state = made.invoke(
        {"messages": [HumanMessage("Is a helmet in the price?")]}, context=RttcSettings(tau_r=0.8)
    )
    assert len(state["messages"]) == 2
    assert state["messages"][-1].text.startswith(said)


def test_its_files_name_what_is_there() -> None:
    described = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    ours = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (needed,) = described["project"]["dependencies"]
    extras = re.findall(r"[a-z]+", needed.partition("[")[2])
    assert set(extras) <= ours["project"]["optional-dependencies"].keys()
    settings = re.findall(r"RTTC_([A-Z_]+)=", (TEMPLATE / ".env.example").read_text())
    assert {name.lower() for name in settings} <= InstallationConfig.model_fields.keys()
    (modules,) = described["tool"]["setuptools"].values()
    assert all((TEMPLATE / f"{name}.py").exists() for name in modules)
