"""Policies run for real, with the rewards, budgets and cache that a replay leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rttc_graph.evaluation.collect import AskPolicy, Collection, DataSet, collect
from rttc_graph.evaluation.evaluation_rows import RowLog
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.jobs.collect_rows import (
    ModelRows,
    judged_rows,
    later_defaults,
    majority_answers,
    opened_verdicts,
    tell_abstentions,
    warn_of_leaks,
    with_majority,
    with_standing,
)
from rttc_graph.jobs.watching import Watcher
from rttc_graph.settings import PolicyName

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRuns:
    """Settings of running policies for real."""

    data_set: DataSet
    policies: tuple[PolicyName, ...]
    log: Path
    """File of rows; what it holds already is not run again."""
    scorer: ScorerName = "auto"
    grader: GraderSettings | None = None
    """Model that judges for the scorer `chat-judge`."""
    domain: str | None = None
    use_cache: bool = False
    """Whether runs may use the query-state cache; then what one policy trained serves the next,
    and its cost is no longer its own."""


def run_policies(config: InstallationConfig, wanted: RealRuns, watcher: Watcher) -> ModelRows:
    """Run every policy on every question, and return the rows of the runs.

    Raises:
        ConfigurationError: A policy cannot be run, or τr was chosen for another reward model.
    """
    from rttc_graph.installation.local import open_local

    log = RowLog(wanted.log)
    rows = log.load()
    with (
        opened_verdicts(config, wanted.scorer, wanted.grader) as verdicts,
        watcher.step("evaluate") as advance,
        open_local(config) as local,
    ):

        async def run() -> ModelRows:
            await local.warm_up()
            await warn_of_leaks(local, wanted.data_set, watcher)
            found = await judged_rows(local, rows, [])
            collection = await with_standing(local, _collection(config, wanted, found.judge))
            ask = _asker(local, use_cache=wanted.use_cache)
            await collect(
                collection,
                ask,
                None,
                log,
                rows=rows,
                verdicts=verdicts,
                on_progress=advance,
                on_warning=watcher.warn,
            )
            return replace(found, keys=collection.keys(), verdicts=verdicts)

        ran = asyncio.run(run())
    tell_abstentions([ran], wanted.scorer, watcher)
    return ran


def _collection(config: InstallationConfig, wanted: RealRuns, judge: str) -> Collection:
    """Return what is collected; runs depend on everything that is set, and on who judges."""
    run = config.run_settings()
    # `nearest_votes` has always been among the settings of these rows.
    newer = (
        *("search_", "system_prompt", "rag_template", "rewrite_follow_ups"),
        *("ttt_shown", "ttt_augment", "ttt_views"),
    )
    searched = {name for name in later_defaults(run) if name.startswith(newer)}
    settings = {
        **run.model_dump(exclude={"policy", "seed", "use_cache"} | searched),
        "use_cache": wanted.use_cache,
        "domain": wanted.domain,
        "embedder": config.embedder,
        "reward": config.reward,
        "fingerprint": judge,
        "run for real": True,
        **({"domains": config.domains} if config.domains else {}),
    }
    return Collection(
        data_sets=[wanted.data_set],
        model=config.model,
        settings=settings,
        domain=wanted.domain,
        policies=wanted.policies,
        seeds=(run.seed,),
        scorer=wanted.scorer,
    )


def _asker(local: LocalRttc, *, use_cache: bool) -> AskPolicy:
    from rttc_graph.installation.ask_question import ask

    majority = majority_answers(local)

    async def ask_policy(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        chosen = {"policy": policy, "seed": seed, "use_cache": use_cache and not warm_up}
        settings = local.config.run_settings(domain).model_copy(update=chosen)
        result = await ask(
            local.graph, question, domain=domain, settings=settings, with_samples=True
        )
        return await with_majority(result, majority, domain)

    return ask_policy
