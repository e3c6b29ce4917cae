"""Recorded panels of an installation: drawn on the real graph, once for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rttc_graph.arms import ARMS, Attempt, proposer_names
from rttc_graph.evaluation.collect import Collection
from rttc_graph.evaluation.panels.panel_collect import AskPanel
from rttc_graph.evaluation.panels.panel_specs import PanelSpec, needed_size
from rttc_graph.installation.config import InstallationConfig

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc
    from rttc_graph.settings import RttcSettings

DRAWS_ALL = "majority"
"""Policy under which a panel is recorded: it draws all its answers in one round."""


def recorded_size(config: InstallationConfig, specs: Sequence[PanelSpec]) -> int:
    """Return how many answers a panel must have for some specs; 0 without any."""
    return needed_size(specs, _sources(config)) if specs else 0


def _sources(config: InstallationConfig) -> tuple[Attempt, ...]:
    """Return what panels are drawn from; no adapter is recalled, since no cache is used."""
    wanted = config.run_settings().search.from_ or proposer_names()
    return tuple(name for name in wanted if ARMS.attempts[name].finds != "adapter") or wanted


def panel_collection(collection: Collection) -> Collection:
    """Return the questions of a collection as panels are kept for them: of any size."""
    settings = {name: value for name, value in collection.settings.items() if name != "search_n"}
    return replace(collection, settings=settings, seeds=collection.seeds[:1])


def panel_asker(local: LocalRttc, unbounded: Mapping[str, Any]) -> AskPanel:
    """Return what draws a panel on the real graph with raw rewards, and leaves no trace.

    Args:
        local: Opened installation.
        unbounded: Settings under which nothing is cut short.
    """
    from rttc_graph.graph import RttcParts, create_rttc_graph
    from rttc_graph.installation.ask_question import ask

    parts: RttcParts = {
        **local.parts,
        "reward_model": local.judge,
        "cache": None,
        "ledger_store": None,
    }
    graph = create_rttc_graph(**parts)

    async def ask_panel(
        question: str, *, domain: str | None, size: int, seed: int
    ) -> Mapping[str, Any]:
        drawn: list[Any] = []

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "panel":
                drawn.extend(event["answers"])

        run: RttcSettings = local.config.run_settings(domain)
        forced = {**unbounded, "tau_r_of": "", "policy": DRAWS_ALL, "seed": seed, "search_n": size}
        chosen = run.model_copy(update=forced)
        result = await ask(
            graph, question, domain=domain, settings=chosen, on_event=hear, with_samples=True
        )
        return {"drawn": drawn, "samples": result.get("samples", []), "ledger": result["ledger"]}

    return ask_panel
