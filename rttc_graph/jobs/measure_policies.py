"""A whole evaluation: questions in, the figures of every policy out, as `rttc eval` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rttc_graph.arms import PLAN, arms_of_policies, default_arms, in_order
from rttc_graph.calibration.aims import Aim
from rttc_graph.calibration.proposal import cross_fitted
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.accuracy_plot import plot_accuracy
from rttc_graph.evaluation.panels.panel_figures import PanelFigures
from rttc_graph.evaluation.panels.panel_report import panel_lines, plot_panels
from rttc_graph.evaluation.panels.panel_specs import PanelSpec
from rttc_graph.evaluation.policy_figures import (
    EvaluatedQuestion,
    GroupFigures,
    grouped,
    real_figures,
    scorers_of,
)
from rttc_graph.evaluation.replay import Gate
from rttc_graph.evaluation.report import REPORT, ReportInput, write_report
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.jobs.collect_panels import recorded_size
from rttc_graph.jobs.collect_rows import (
    ModelRows,
    RowsWanted,
    abstentions,
    collect_rows,
    gates_of,
    name_and_log,
    possible_policies,
    questions_of_models,
    rows_settings,
    tell_scorers,
    wanted_data_sets,
)
from rttc_graph.jobs.measure_panels import measured_panels
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.run_policies import RealRuns, run_policies
from rttc_graph.jobs.watching import Watcher
from rttc_graph.settings import PolicyName
from rttc_graph.state import Arm
from rttc_graph.support.extras import require_evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWanted:
    """Inputs and output files of an evaluation."""

    policies: tuple[PolicyName, ...]
    """Policies over the rows of arms; may be none where panels are measured."""
    panels: Sequence[PanelSpec] = ()
    """Strategies that are replayed on panels drawn once for each question."""
    paths: Sequence[str] = ()
    """Files of questions, or folders that `wanted_data_sets` takes."""
    models: Sequence[str] = ()
    """Policy models; by default the configured one."""
    limit: int | None = None
    """Questions of each data set, drawn by the configured seed; `None` for all."""
    draws: int = 1
    """Answers of each arm to each question."""
    scorer: ScorerName = "auto"
    grader: GraderSettings | None = None
    """Model that judges for the scorer `chat-judge`."""
    domain: str | None = None
    """Domain of the samples; by default that of the row."""
    real: bool = False
    """Whether policies are run instead of being replayed."""
    use_cache: bool = False
    """Whether runs for real may use the query-state cache."""
    rejudge: bool = False
    """Whether the rows that are there are taken as they are; no arm runs."""
    collect_only: bool = False
    """Whether to stop when all rows are there."""
    cross_fit: bool = False
    """Whether calibration, τr and arms of each question come from the others."""
    by_features: bool = False
    """Whether cross-fitted maps may go by features of the answers beside their rewards."""
    aim: Aim = field(default_factory=Aim)
    """Aim of the cross-fitted gates."""
    records: Path | None = None
    """File of rows; by default one in the home folder, named after the data sets."""
    report: Path | None = None
    """Folder of a report."""
    plot: Path | None = None
    """PNG of accuracy against cost; by default in the working folder."""

    def __post_init__(self) -> None:
        """Refuse wishes that do not go together.

        Raises:
            ConfigurationError: Says which.
        """
        if not self.cross_fit and self.aim != Aim():
            raise ConfigurationError("--target-accuracy, --target-cost and --best need --cross-fit")
        if not self.cross_fit and self.by_features:
            raise ConfigurationError(
                "--features needs --cross-fit: otherwise the calibration in force says what maps "
                "go by (rttc calibrate FILE --features --save)"
            )
        if not self.paths and not self.rejudge:
            raise ConfigurationError("no questions: name a file or a folder, or give --rejudge")
        if self.use_cache and not self.real:
            raise ConfigurationError("--cache needs --real: a replay uses no query-state cache")
        others = (self.models, self.report, self.rejudge, self.cross_fit, self.collect_only)
        if self.real and self.panels:
            raise ConfigurationError(
                f"--real runs policies and replays none: name the strategy alone instead of "
                f"{self.panels[0]}, and its size with --n"
            )
        if self.real and (len(self.paths) != 1 or any(others) or self.draws > 1):
            raise ConfigurationError(
                "--real takes one file of questions and none of --models, --report, --rejudge, "
                "--draws, --cross-fit, --collect-only"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Results of an evaluation."""

    log: Path
    """File of rows."""
    groups: Sequence[GroupFigures] = ()
    """Figures of all questions, then of parts of them; none if rows were only collected."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Everything that the figures depend on."""
    plot: Path | None = None
    report: Path | None = None
    panels: Sequence[PanelFigures] = ()
    """Figures of strategies on recorded panels, all questions first."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `rttc eval --json` writes them."""
        found: dict[str, Any] = {**self.groups[0]} if self.groups else {}
        panels = {"panels": list(self.panels)} if self.panels else {}
        return {**found, "groups": list(self.groups), **panels, "settings": self.settings}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Figures, and the questions behind them."""

    groups: list[GroupFigures]
    settings: dict[str, Any]
    questions: Sequence[EvaluatedQuestion] = ()
    """Questions with the rewards that counted."""
    raw: Sequence[EvaluatedQuestion] = ()
    """Questions with raw rewards."""
    panels: Sequence[PanelFigures] = ()


def evaluate(config: InstallationConfig, wanted: EvaluationWanted, watcher: Watcher) -> Evaluation:
    """Measure policies on files of questions.

    Args:
        config: Names models, knowledge base and gate.
        wanted: What is measured. Rows that its file holds already are not made again.
        watcher: Is shown the progress, and told of questions that are samples themselves.

    Raises:
        ConfigurationError: A file cannot be read or written, or a setting is wrong.
        RttcError: A model or the database is unavailable.
    """
    data_sets, samples = wanted_data_sets(wanted.paths, limit=wanted.limit, seed=config.seed)
    name, log = name_and_log(config, data_sets, wanted.records)
    plot = wanted.plot or Path(f"rttc-eval-{name}.png")
    tell_scorers(data_sets, wanted.scorer, watcher)
    check_outputs(logs=[log, plot, *([wanted.report / REPORT] if wanted.report else [])])
    require_evaluation()
    if wanted.real:
        runs = RealRuns(
            data_set=data_sets[0],
            policies=possible_policies(config, wanted.policies, [config.model], watcher),
            log=log,
            scorer=wanted.scorer,
            grader=wanted.grader,
            domain=wanted.domain,
            use_cache=wanted.use_cache,
        )
        measured = _of_runs(config, run_policies(config, runs, watcher), wanted)
    else:
        rows = RowsWanted(
            log=log,
            data_sets=[] if wanted.rejudge else data_sets,
            samples=samples,
            models=wanted.models,
            domain=wanted.domain,
            arms=arms_of_policies(wanted.policies, _tried_arms(config, wanted)),
            panel_size=recorded_size(config, wanted.panels),
            draws=wanted.draws,
            scorer=wanted.scorer,
            grader=wanted.grader,
        )
        found = collect_rows(config, rows, watcher)
        if wanted.collect_only:
            return Evaluation(log=log)
        models = [rows.model for rows in found]
        policies = possible_policies(config, wanted.policies, models, None)
        measured = _of_rows(config, found, replace(wanted, policies=policies))
    if measured.groups:
        first = measured.groups[0]
        plot_accuracy(first["policies"], plot, rows=first["rows"], title=name)
    else:
        plot_panels(measured.panels[0], plot)
    return Evaluation(
        log=log,
        groups=measured.groups,
        settings=measured.settings,
        plot=plot,
        report=_report(measured, name, wanted.report),
        panels=measured.panels,
    )


def _tried_arms(config: InstallationConfig, wanted: EvaluationWanted) -> tuple[Arm, ...]:
    """Return the arms that policies of several arms try; empty where all are open to them."""
    listed = [config.run_settings(domain).wanted_arms for domain in (None, *config.domains)]
    if wanted.cross_fit or PLAN in wanted.policies or not all(listed):
        return ()  # a calibration chooses among all
    return in_order({arm for arms in listed for arm in arms})


def _of_runs(config: InstallationConfig, found: ModelRows, wanted: EvaluationWanted) -> _Measured:
    """Return the figures of runs for real."""
    gate = Gate(tau_r=config.tau_r, arms=config.run_settings().wanted_arms)
    figures = real_figures(
        found.rows,
        found.keys,
        tau_r=gate.tau_r,
        scorer=wanted.scorer,
        verdicts=found.verdicts,
    )
    calibrated = "yes" if found.calibration else "no"
    return _Measured(
        groups=[figures], settings=_settings([found], [gate], calibrated, scorer=wanted.scorer)
    )


def _of_rows(
    config: InstallationConfig, found: Sequence[ModelRows], wanted: EvaluationWanted
) -> _Measured:
    """Return what policies would have done, worked out from the rows of the arms."""
    panels = measured_panels(
        found,
        wanted.panels,
        tau_r=config.tau_r,
        scorer=wanted.scorer,
        cross_fit=wanted.cross_fit,
    )
    if not wanted.policies:
        return _Measured(
            groups=[],
            settings=_settings(found, [], _calibrated(found, wanted), scorer=wanted.scorer),
            panels=panels,
        )
    return replace(_of_arms(config, found, wanted), panels=panels)


def _calibrated(found: Sequence[ModelRows], wanted: EvaluationWanted) -> str:
    if wanted.cross_fit:
        return "cross-fitted, by features" if wanted.by_features else "cross-fitted"
    return ", ".join("yes" if rows.calibration else "no" for rows in found)


def _of_arms(
    config: InstallationConfig, found: Sequence[ModelRows], wanted: EvaluationWanted
) -> _Measured:
    raw = questions_of_models(found, scorer=wanted.scorer, calibrated=False)
    if wanted.cross_fit:
        return _cross_fitted(found, raw, wanted)
    for rows in found:
        rows.check_threshold(config)
    has_map = any(rows.calibration for rows in found)
    questions = questions_of_models(found, scorer=wanted.scorer) if has_map else raw
    gates = gates_of(config, found, questions, with_plans=PLAN in wanted.policies)
    calibrated = _calibrated(found, wanted)
    return _Measured(
        groups=grouped(questions, wanted.policies, lambda q: gates[q.data_set, q.model, q.row]),
        settings=_settings(found, list(gates.values()), calibrated, scorer=wanted.scorer),
        questions=questions,
        raw=raw,
    )


def _cross_fitted(
    found: Sequence[ModelRows], raw: Sequence[EvaluatedQuestion], wanted: EvaluationWanted
) -> _Measured:
    """Return the figures of questions whose maps and gates come from the others."""
    fitted = [
        pair
        for rows in found
        for pair in cross_fitted(
            [q for q in raw if q.model == rows.model],
            wanted.aim,
            by_features=wanted.by_features,
            with_plans=PLAN in wanted.policies,
        )
    ]
    questions = [question for question, _ in fitted]
    gates = {(q.data_set, q.model, q.row): gate for q, gate in fitted}
    how = _calibrated(found, wanted)
    settings = _settings(found, list(gates.values()), how, wanted.aim, wanted.scorer)
    return _Measured(
        groups=grouped(questions, wanted.policies, lambda q: gates[q.data_set, q.model, q.row]),
        settings=settings,
        questions=questions,
        raw=raw,
    )


def _settings(
    found: Sequence[ModelRows],
    gates: Sequence[Gate],
    calibrated: str,
    aim: Aim | None = None,
    scorer: ScorerName = "auto",
) -> dict[str, Any]:
    """Return everything that figures depend on, for the reader."""
    thresholds = [gate.tau_r for gate in gates]
    low, high = min(thresholds, default=0.0), max(thresholds, default=0.0)
    return {
        "policy models": ", ".join(rows.model for rows in found),
        "reward model": ", ".join(dict.fromkeys(rows.reward_model for rows in found)),
        "calibrated": calibrated,
        "arms of cascade": "; ".join(
            dict.fromkeys(", ".join(gate.arms or default_arms()) for gate in gates)
        ),
        "τr": f"{low:g}" if low == high else f"{low:g} to {high:g}",
        "scorer": _scorers_shown(found, scorer),
        **({} if aim is None else {"aim of the gates": str(aim)}),
        **rows_settings(found),
    }


def _scorers_shown(found: Sequence[ModelRows], scorer: ScorerName) -> str:
    """Return how answers were scored, data set by data set, and why so."""
    if found and found[0].verdicts is not None:
        left_out = abstentions(found, scorer)
        return f"{found[0].verdicts}{left_out and f'; {left_out}'}"
    chosen = {
        name: choice.reason
        for rows in found
        for name, choice in scorers_of(rows.rows, (*rows.keys, *rows.panel_keys), scorer).items()
    }
    if len(set(chosen.values())) == 1:
        return next(iter(chosen.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in chosen.items())


def _report(measured: _Measured, name: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    report = ReportInput(
        title=f"Evaluation of {name}",
        groups=measured.groups,
        questions=measured.questions,
        raw=measured.raw,
        settings=measured.settings,
        sections=panel_lines(measured.panels, folder),
        further={"panels": list(measured.panels)} if measured.panels else {},
    )
    return write_report(report, folder)
