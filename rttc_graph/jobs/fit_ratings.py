"""A calibration from what people said of stored runs: the map is fitted anew, the gate stays.

A rating is about the one answer that a run returned. What the other arms would have answered was
not seen, so neither τr nor arms can be chosen by it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rttc_graph.arms import ARMS
from rttc_graph.calibration.map_fitting import MIN_OF_EACH, FittedCalibration, Labelled, calibrate
from rttc_graph.calibration.merging import kept_standing, merged_maps
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.accuracy_plot import plot_reliability
from rttc_graph.evaluation.reliability import ReliabilityBin, reliability
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.calibrated.answer_features import answer_features
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    ARMS_KEY,
    PLAN_KEY,
    arms_of,
    kept_plan,
    of_answers,
)
from rttc_graph.jobs.collect_rows import standing_of
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import (
    DomainCalibration,
    Embedder,
    KnowledgeBase,
    RatedRun,
    RewardModel,
    StoredCalibration,
    reward_requests,
)
from rttc_graph.run.tau_r import is_unanswered
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Candidate, Sample
from rttc_graph.support.extras import require_evaluation

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc

AIM = "map of rated runs, no gate"
"""Aim of a calibration from ratings, which has no τr that was chosen for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingsWanted:
    """Inputs and output files of a calibration from ratings."""

    save: bool = False
    """Whether the calibration is stored, so that it is used from now on."""
    by_features: bool = False
    """Whether maps may go by features of the answers beside their rewards."""
    all_domains: bool = False
    """Whether domains without a map of their own get the one of all ratings."""
    plot: Path | None = None
    """PNG of right answers against rewards; by default in the working folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedAnswers:
    """Ratings that a map can be fitted on."""

    runs: Sequence[tuple[RatedRun, Candidate]]
    """Runs with the candidate that was taken."""
    left_out: Mapping[str, int]
    """Ratings that were left out, by the reason."""

    @property
    def right(self) -> int:
        """Number of those that were rated right."""
        return sum(run.rating.is_right for run, _ in self.runs)

    def check_enough(self) -> None:
        """Do nothing if there are enough of both kinds.

        Raises:
            ConfigurationError: There are not; says how many there are and what to do.
        """
        wrong = len(self.runs) - self.right
        if min(self.right, wrong) >= MIN_OF_EACH:
            return
        others = "".join(f", {count} left out ({why})" for why, count in self.left_out.items())
        raise ConfigurationError(
            f"{self.right} right and {wrong} wrong ratings are too few to calibrate on{others}: it "
            f"takes {MIN_OF_EACH} of each; rate more runs (rttc rate RUN right|wrong, or POST "
            "/v1/feedback), or calibrate on a file of questions with answers"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMap:
    """A map from ratings, and how it does."""

    calibration: FittedCalibration
    bins: Sequence[ReliabilityBin]
    """P(right) of answers that the map was not fitted on, with the share of right ones."""
    answers: RatedAnswers
    reward_model: str
    stored: StoredCalibration
    """Calibration as it is stored, or would be."""
    plot: Path


def rated_answers(
    rated: Sequence[RatedRun], standing: Mapping[str, str] | None = None
) -> RatedAnswers:
    """Return the ratings that tell whether a judged answer was right.

    Args:
        rated: Rated runs.
        standing: Adapters that stand for domains now: what the model answered without them, or
            with others, says nothing of its answers from now on.
    """
    standing = standing or {}
    runs: list[tuple[RatedRun, Candidate]] = []
    left_out: Counter[str] = Counter()
    for run in rated:
        candidate = run.candidate
        if candidate is None:
            left_out["stored by a release that did not keep the candidate"] += 1
        elif _is_of_another_model(run, candidate, standing):
            left_out["answered before the domain had its present adapter"] += 1
        elif run.declined:
            left_out["declined, so the answer was not seen"] += 1
        elif is_unanswered(candidate):
            left_out["an I do not know, which is never accepted"] += 1
        else:
            runs.append((run, candidate))
    return RatedAnswers(runs=runs, left_out=left_out)


def _is_of_another_model(run: RatedRun, candidate: Candidate, standing: Mapping[str, str]) -> bool:
    asks_model = candidate["arm"] in ARMS and ARMS[candidate["arm"]].own.asks_model
    return asks_model and candidate.get("standing") != standing.get(run.domain or "")


async def judge_anew(
    answers: RatedAnswers,
    reward_model: RewardModel,
    embedder: Embedder,
    knowledge_base: KnowledgeBase,
    *,
    settings: RttcSettings,
) -> dict[str, list[Labelled]]:
    """Return raw scores with the ratings, by the domain that the runs named.

    The stored reward went through the map of its day, so each answer is judged once more, with the
    samples that a run would find now. What became a sample by a rating of the same question is not
    among them: it would tell the judge the answer.

    Args:
        answers: The rated answers.
        reward_model: Judge with its raw scores.
        embedder: Embeds the questions.
        knowledge_base: Has the samples.
        settings: Tenant, number and choice of samples.

    Raises:
        RttcError: A model or the database is unavailable.
    """
    pairs: dict[str, list[Labelled]] = {}
    for run, candidate in answers.runs:
        samples: Sequence[Sample] = ()
        if candidate["arm"] in ARMS and ARMS[candidate["arm"]].retrieves:
            [vector] = await embedder.embed([run.query])
            found = await knowledge_base.search(
                vector,
                k=settings.k + 1,
                domain=run.domain,
                tenant=settings.tenant,
                choice=settings.samples_choice,
            )
            samples = [s for s in found.samples if not _is_its_own(s, run)][: settings.k]
        unjudged: Candidate = {**candidate, "reward": None}
        [score] = await reward_model.score(run.query, reward_requests([unjudged], samples=samples))
        known = answer_features(candidate["answer"], candidate["mean_logprob"], samples)
        label = Labelled(score, run.rating.is_right, run.query, known)
        pairs.setdefault(run.domain or "", []).append(label)
    return pairs


def _is_its_own(sample: Sample, run: RatedRun) -> bool:
    """Tell whether a sample is a correction of the question that was rated."""
    is_correction = "corrected_run" in sample.get("metadata", {})
    return is_correction and sample["question"] == run.query


def fit_ratings(config: InstallationConfig, wanted: RatingsWanted, watcher: Watcher) -> FoundMap:
    """Fit the map of the configured reward model to the ratings of a tenant's runs.

    Raises:
        ConfigurationError: There are too few ratings, or a file cannot be written.
        RttcError: The reward model or the database is unavailable.
    """
    from rttc_graph.installation.local import open_local

    plot = wanted.plot or Path("rttc-calibrate-ratings.png")
    check_outputs(plot)
    require_evaluation()
    with open_local(config) as local:
        with watcher.step("judge rated answers"):
            judged = asyncio.run(_judged(local))
        calibration = calibrate(judged.pairs, by_features=wanted.by_features)
        name = local.judge.name

        def merged(before: StoredCalibration | None) -> StoredCalibration:
            return StoredCalibration(
                reward_model=name,
                fingerprint=judged.fingerprint,
                domains=_merged(calibration, judged, before, all_domains=wanted.all_domains),
                aim=AIM,
            )

        stored = merged(judged.before)
        if wanted.save:
            update = local.knowledge.calibrations.update
            stored = asyncio.run(update(name, judged.fingerprint, merged, tenant=config.tenant))
    every = [pair for found in judged.pairs.values() for pair in found]
    right = [pair.right for pair in every]
    said = calibration.pooled.held_out
    curves = {
        "raw": [(pair.score, pair.right) for pair in every],
        "calibrated": list(zip(said, right, strict=True)),
    }
    plot_reliability(curves, plot, title=f"{stored.reward_model}, rated answers")
    return FoundMap(
        calibration=calibration,
        bins=reliability(said, right),
        answers=judged.answers,
        reward_model=stored.reward_model,
        stored=stored,
        plot=plot,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """Rated answers with the raw scores of the reward model in force."""

    answers: RatedAnswers
    pairs: Mapping[str, Sequence[Labelled]]
    before: StoredCalibration | None
    fingerprint: str
    standing: Mapping[str, str]
    """Adapters that stand for domains."""


async def _judged(local: LocalRttc) -> _Judged:
    knowledge, tenant = local.knowledge, local.config.tenant
    rated = await knowledge.ratings.rated_runs(tenant=tenant)
    standing = await standing_of(local, (run.domain for run in rated))
    answers = rated_answers(rated, standing)
    answers.check_enough()
    pairs = await judge_anew(
        answers,
        local.judge,
        knowledge.embedder,
        knowledge.knowledge_base,
        settings=local.config.run_settings(),
    )
    fingerprint = await local.judge.fingerprint()
    before = await knowledge.calibrations.load(local.judge.name, fingerprint, tenant=tenant)
    return _Judged(answers, pairs, before, fingerprint, standing)


def _merged(
    calibration: FittedCalibration,
    judged: _Judged,
    before: StoredCalibration | None,
    *,
    all_domains: bool,
) -> dict[str, DomainCalibration]:
    """Return the maps by domain; each domain keeps the arms and the plan that it has."""
    chosen = {
        domain: {
            **kept_beside_the_map(before, domain, judged.standing),
            **kept_standing(domain, judged.standing),
        }
        for domain in {"", *judged.pairs}
    }
    return merged_maps(calibration, judged.pairs, chosen, before=before, all_domains=all_domains)


def kept_beside_the_map(
    before: StoredCalibration | None, domain: str, standing: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a domain keeps of the calibration before, beside its map.

    Arms and plan that are of another model's answers are not kept. The plan is kept as it is: one
    that this release cannot read is not its to drop.

    Args:
        before: The calibration.
        domain: The domain.
        standing: Adapters that stand for domains.
    """
    if before is None:
        return {ARMS_KEY: []}
    mine = of_answers(before, standing)
    plan = kept_plan(mine, domain)
    return {ARMS_KEY: list(arms_of(mine, domain)), **({PLAN_KEY: plan} if plan else {})}
