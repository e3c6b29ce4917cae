"""A whole improvement of a domain: questions of known outcome in, a standing adapter out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import CHAT_JUDGE, check_reference, choose_scorer
from rttc_graph.improvement.answer_log import AnswerLog
from rttc_graph.improvement.questions import Questions, known_questions, split_questions
from rttc_graph.improvement.self_training import (
    Improved,
    ImprovementParts,
    ImprovementSettings,
    SelfTraining,
)
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import PlainRewardModel, StandingAdapter, as_reward_model
from rttc_graph.protocols.managed_knowledge_base import SampleFilter
from rttc_graph.protocols.run_history import MAX_PAGE_RUNS, RunFilter
from rttc_graph.run.scope import SettingsOfRun
from rttc_graph.samples.export import sample_pages
from rttc_graph.support.identity import checked_name

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovementWanted:
    """What is improved, and on what.

    Raises:
        ConfigurationError: A value is out of its bounds.
    """

    domain: str
    settings: ImprovementSettings = field(default_factory=ImprovementSettings)
    limit: int = 400
    """Most questions, held-out ones among them."""
    held_out: float = 0.3
    """Share of the questions of known outcome that is held out."""
    unrated: bool = False
    """Whether questions of runs that nobody rated are learnt from too."""
    records: Path | None = None
    """File that keeps every answer; by default one in the home folder."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        checked_name("domain", self.domain)
        if self.limit < 1:
            raise ConfigurationError(f"limit={self.limit!r} must be at least 1")
        if not 0 < self.held_out < 1:
            raise ConfigurationError(f"held_out={self.held_out!r} must be between 0 and 1")
        if self.settings.scorer == CHAT_JUDGE:
            raise ConfigurationError(
                f"scorer {CHAT_JUDGE!r} asks a model, and an improvement is told by functions: "
                "take another scorer"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainImprovement:
    """What came of an improvement."""

    card: Mapping[str, Any]
    """Figures, as JSON; stored with the adapter if that stands for the domain now."""
    log: Path
    """File of drawn answers."""

    @property
    def is_kept(self) -> bool:
        """Whether the new adapter stands for the domain now."""
        return bool(self.card["kept"])


def improve_domain(
    config: InstallationConfig, wanted: ImprovementWanted, watcher: Watcher
) -> DomainImprovement:
    """Train a domain's adapter from accepted answers, and let it stand if a trial says so.

    Args:
        config: Names models and database, and the tenant.
        wanted: What is improved. Answers that its file holds already are not drawn again.
        watcher: Is shown the progress.

    Raises:
        ConfigurationError: The policy model is served elsewhere, there are too few questions of
            known outcome, or a file cannot be read or written.
        RttcError: A model or the database is unavailable.
    """
    from rttc_graph.installation.local import open_local

    path = wanted.records or config.home / "improvements" / f"{_file_name(wanted.domain)}.jsonl"
    check_outputs(logs=[path])
    with open_local(config) as local:
        log = AnswerLog(path, local.policy.model)
        card = asyncio.run(_improve(local, wanted, log, watcher))
    return DomainImprovement(card=card, log=path)


async def undo_improvement(local: LocalRttc, domain: str) -> StandingAdapter | None:
    """Take away the adapter that stands for a domain, and return the one that does now.

    Raises:
        ConfigurationError: None does, or the policy model is served elsewhere.
        BackendError: Nothing was changed.
    """
    _, base = await _trainable(local)
    return await local.knowledge.standing.undo(
        domain=domain, base_fingerprint=base, tenant=local.config.tenant
    )


async def _trainable(local: LocalRttc) -> tuple[Any, str]:
    """Return the trainer of the policy model, and the model's fingerprint."""
    if local.policy.trainer is None:
        raise ConfigurationError(
            f"model={local.config.model!r} is served elsewhere and cannot be trained here: name a "
            "local one, see rttc models list"
        )
    return local.policy.trainer, await local.policy.trainer.base_fingerprint()


async def _improve(
    local: LocalRttc, wanted: ImprovementWanted, log: AnswerLog, watcher: Watcher
) -> dict[str, Any]:
    began = time.monotonic()
    await local.check_domain(wanted.domain)
    trainer, base = await _trainable(local)
    questions = await _questions(local, wanted)
    questions.check_enough(wanted.domain)
    settings = _with_scorer(wanted, questions, watcher)
    judge = as_reward_model(cast("PlainRewardModel", local.parts["reward_model"]))
    parts = ImprovementParts(
        policy_model=local.policy.model,
        trainer=trainer,
        store=local.knowledge.cache,
        reward_model=judge.within(tenant=local.config.tenant, domain=wanted.domain),
        step=watcher.step,
        reuse_scope=_reuse_scope(local.config),
    )
    training = SelfTraining(parts, settings, log)
    improved = await training.run(questions)
    card = _card(local, wanted, questions, improved, base)
    card["kept"], card["why"] = await _verdict(local, wanted, questions, improved, training)
    card["seconds"] = round(time.monotonic() - began, 1)
    if card["kept"] and improved.best is not None:
        await local.knowledge.cache.keep_adapter(improved.best.adapter)
        standing = StandingAdapter(
            domain=wanted.domain,
            base_fingerprint=base,
            key=improved.best.adapter.key,
            card=card,
        )
        await local.knowledge.standing.put(standing, tenant=local.config.tenant)
    return card


def _reuse_scope(config: InstallationConfig) -> str:
    """Return among whom adapters of the installation's tenant are shared."""
    share = config.share_between_tenants
    settings = config.run_settings()
    return SettingsOfRun(settings, share_between_tenants=share).reuse_scope(settings)


def _with_scorer(
    wanted: ImprovementWanted, questions: Questions, watcher: Watcher
) -> ImprovementSettings:
    """Return the settings with the scorer that the answers call for, and say which it is."""
    rows = [one.row for one in (*questions.training, *questions.held_out)]
    choice = choose_scorer(rows, wanted.settings.scorer)
    if choice.scorer != wanted.settings.scorer:
        watcher.warn(f"{wanted.domain}: {choice.reason}")
    for row in rows:
        check_reference(row, choice.scorer)
    return replace(wanted.settings, scorer=choice.scorer)


async def _questions(local: LocalRttc, wanted: ImprovementWanted) -> Questions:
    knowledge, tenant = local.knowledge, local.config.tenant
    which = SampleFilter(domain=wanted.domain)
    pages = sample_pages(knowledge.knowledge_base, which, tenant=tenant)
    samples = [sample async for page in pages for sample in page]
    rated = await knowledge.ratings.rated_runs(tenant=tenant)
    unrated = await _unrated(local, wanted.domain) if wanted.unrated else []
    return split_questions(
        known_questions(samples, rated, wanted.domain),
        unrated,
        held_out=wanted.held_out,
        limit=wanted.limit,
        seed=wanted.settings.seed,
    )


async def _unrated(local: LocalRttc, domain: str) -> list[str]:
    """Return the questions of a domain's runs that nobody rated, each whole."""
    history, tenant = local.knowledge.ledger_store, local.config.tenant
    which = RunFilter(domain=domain, rated="none")
    found: list[str] = []
    after: str | None = None
    while True:
        page = await history.list_runs(which, tenant=tenant, limit=MAX_PAGE_RUNS, after=after)
        for listed in page.runs:
            whole = await history.find_run(listed.run.run_id, tenant=tenant)
            if whole is not None:  # else it has gone meanwhile
                found.append(whole.run.query)
        after = page.next
        if after is None:
            return found


async def _verdict(
    local: LocalRttc,
    wanted: ImprovementWanted,
    questions: Questions,
    improved: Improved,
    training: SelfTraining,
) -> tuple[bool, str]:
    """Tell whether the best round's adapter is to stand for the domain, and why.

    Where one stands already, the new one must not answer fewer held-out questions rightly.
    """
    if improved.best is None:
        last = improved.rounds[-1].trial
        return False, (
            f"no gain beyond chance: {last.gained} questions gained and {last.lost} lost, which "
            f"chance alone does with a probability of {last.luck:.2g}, and {last.chance:g} is "
            "asked for"
        )
    known = local.parts.get("standing_adapters")
    assert known is not None  # there is a trainer
    key = await known.standing_adapter(domain=wanted.domain, tenant=local.config.tenant)
    if key is None:
        return True, "better than the plain model by more than chance"
    if key == improved.best.adapter.key:
        return False, "it stands for the domain already"
    now = await training.rights(questions.held_out, key, "answer with the adapter in force")
    ours = improved.best.trial.after
    if sum(ours) < sum(now):
        return False, (
            f"the adapter in force answers {sum(now)} of {len(now)} held-out questions rightly, "
            f"the new one {sum(ours)}"
        )
    return True, "better than the plain model by more than chance, no worse than the one in force"


def _card(
    local: LocalRttc,
    wanted: ImprovementWanted,
    questions: Questions,
    improved: Improved,
    base: str,
) -> dict[str, Any]:
    settings, shown = wanted.settings, improved.best or improved.rounds[-1]
    return {
        "domain": wanted.domain,
        "base": local.config.model,
        "base_fingerprint": base,
        "adapter": shown.adapter.key,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "questions": {
            "training": len(questions.training),
            "held_out": len(questions.held_out),
            "unrated": len(questions.unrated),
        },
        "rounds": [one.as_json() for one in improved.rounds],
        "trial": shown.trial.as_json(),
        "settings": {
            "draws": settings.draws,
            "temperature": settings.temperature,
            "chance": settings.chance,
            "bound": settings.bound,
            "revisions": settings.revisions,
            "scorer": settings.scorer,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed,
            "epochs": settings.training.epochs,
            "learning_rate": settings.training.learning_rate,
            "rank": settings.training.rank,
        },
        "flops": improved.flops,
    }


def _file_name(domain: str) -> str:
    """Return a name for the file of a domain: its letters and digits, and a digest."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in domain)[:60]
    return f"{plain}-{hashlib.sha256(domain.encode('utf-8', 'replace')).hexdigest()[:8]}"
