"""A whole calibration: judged answers in, a map to P(right) and a gate out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rttc_graph.calibration.aims import Aim
from rttc_graph.calibration.proposal import Proposal, propose
from rttc_graph.calibration.threshold_plot import plot_sweep
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.jobs.collect_rows import (
    ModelRows,
    RowsWanted,
    collect_rows,
    name_and_log,
    questions_of_models,
    tell_scorers,
    wanted_data_sets,
)
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import StoredCalibration
from rttc_graph.support.extras import require_evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWanted:
    """Inputs and output files of a calibration."""

    paths: Sequence[str] = ()
    """Files of questions; without any, the rows of `records` are taken as they are."""
    limit: int | None = None
    """Questions of each data set, drawn by the configured seed; `None` for all."""
    scorer: ScorerName = "auto"
    grader: GraderSettings | None = None
    """Model that judges for the scorer `chat-judge`."""
    domain: str | None = None
    """Domain of the samples; by default that of the row."""
    aim: Aim = field(default_factory=Aim)
    by_features: bool = False
    """Whether maps may go by features of the answers beside their rewards."""
    all_domains: bool = False
    """Whether domains without a map of their own get the one of all answers."""
    save: bool = False
    """Whether the calibration is stored, so that it is used from now on."""
    records: Path | None = None
    """File of rows; by default one in the home folder, named after the data sets."""
    plot: Path | None = None
    """PNG over τr; by default in the working folder."""

    def __post_init__(self) -> None:
        """Refuse what there is nothing to calibrate on.

        Raises:
            ConfigurationError: There are neither questions nor rows.
        """
        if not self.paths and self.records is None:
            raise ConfigurationError("no questions: name a file, or --records of an earlier run")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCalibration:
    """A calibration and the gate that goes with it."""

    proposal: Proposal
    stored: StoredCalibration
    """Calibration as it is stored, or would be."""
    rows: ModelRows
    log: Path
    """File of rows."""
    plot: Path


def fit_calibration(
    config: InstallationConfig, wanted: CalibrationWanted, watcher: Watcher
) -> FoundCalibration:
    """Calibrate the configured reward model on answers of the configured policy model.

    Args:
        config: Names models and knowledge base.
        wanted: What is calibrated on. Rows that its file holds already are not made again.
        watcher: Is shown the progress, and told of questions that are samples themselves.

    Raises:
        ConfigurationError: There are too few answers, no gate reaches the aim, or a file cannot be
            read or written.
        RttcError: A model or the database is unavailable.
    """
    data_sets, samples = wanted_data_sets(wanted.paths, limit=wanted.limit, seed=config.seed)
    name, log = name_and_log(config, data_sets, wanted.records)
    plot = wanted.plot or Path(f"rttc-calibrate-{name}.png")
    tell_scorers(data_sets, wanted.scorer, watcher)
    check_outputs(logs=[log, plot])
    require_evaluation()
    rows_wanted = RowsWanted(
        log=log,
        data_sets=data_sets,
        samples=samples,
        models=[config.model],
        domain=wanted.domain,
        scorer=wanted.scorer,
        grader=wanted.grader,
    )
    [rows] = collect_rows(config, rows_wanted, watcher)
    questions = questions_of_models([rows], scorer=wanted.scorer, calibrated=False)
    proposal = propose(questions, wanted.aim, by_features=wanted.by_features)

    def merged(before: StoredCalibration | None) -> StoredCalibration:
        return proposal.stored(
            rows.reward_model,
            rows.fingerprint,
            before=before,
            all_domains=wanted.all_domains,
            standing=rows.standing,
        )

    stored = merged(rows.calibration)
    title = f"{name}, {rows.model}, {wanted.aim}"
    plot_sweep(proposal.points, proposal.chosen, plot, title=title)
    if wanted.save:
        with open_knowledge(config) as knowledge:
            # Maps of other domains that somebody saved in the meantime stay.
            update = knowledge.calibrations.update
            named = rows.reward_model, rows.fingerprint
            stored = asyncio.run(update(*named, merged, tenant=config.tenant))
    return FoundCalibration(proposal=proposal, stored=stored, rows=rows, log=log, plot=plot)
