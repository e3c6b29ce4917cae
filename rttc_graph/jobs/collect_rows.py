"""Rows of arms for data sets named by paths: what `rttc eval` and `rttc calibrate` share.

The file of rows is read once; from then on its content is handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rttc_graph.arms import cascade_arms, in_order
from rttc_graph.calibration.proposal import calibrated_by
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.evaluation.baselines import MajorityAnswers
from rttc_graph.evaluation.collect import (
    AskPolicy,
    Collection,
    DataSet,
    collect,
    judge_missing,
    planned_rows,
    verdicts_missing,
)
from rttc_graph.evaluation.evaluation_rows import PANEL, EvaluationRows, RowKey, RowLog
from rttc_graph.evaluation.panels.panel_collect import collect_panels, judge_panels
from rttc_graph.evaluation.panels.panel_collect import panel_keys as panel_keys_of
from rttc_graph.evaluation.policy_figures import (
    EvaluatedQuestion,
    evaluated_questions,
    question_of,
    undecided_questions,
)
from rttc_graph.evaluation.replay import Gate
from rttc_graph.evaluation.scorers import CHAT_JUDGE, ScorerName, choose_scorer
from rttc_graph.evaluation.verdicts import Verdicts
from rttc_graph.installation.closed_arms import closed_arms
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.hosted_models import whole_name
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    arms_of,
    calibrated_fingerprint,
    of_answers,
    plan_of,
    probability_map,
)
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.jobs.collect_panels import panel_asker, panel_collection
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import StoredCalibration
from rttc_graph.run.policies import no_plan
from rttc_graph.samples import draw_rows, read_samples
from rttc_graph.samples.ingest import IngestProgress, ingest
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm
from rttc_graph.support.progress import Advance

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc

QUESTIONS, SAMPLES = "questions.jsonl", "samples.jsonl"
"""Files in the folder of a data set."""

STANDING = "standing"
"""Name, among the settings that rows are kept under, of the adapters that stood for domains."""

_NO_PART = {
    *("policy", "arms", "first_arm", "tau_r", "tau_r_of", "use_cache", "seed"),
    "stream_candidates",
}
_LATER = (
    *("ttt_shown", "ttt_augment", "ttt_views"),
    *("nearest_votes", "evidence_similarity", "top_p", "stop_strings"),
    *(name for name in RttcSettings.model_fields if name.startswith("search_")),
    *("system_prompt", "rag_template", "rewrite_follow_ups"),
    "budget_flops",
)
"""Settings that came after there were rows: with their defaults they do not make rows of another
kind, so that those of before are found again."""
_UNBOUNDED: Mapping[str, Any] = {
    "budget_seconds": 86_400.0,
    "budget_tokens": 10**9,
    "budget_flops": 0.0,
    "use_cache": False,
}
"""No arm is cut short for want of time: which one that would hit depends on the machine's load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsWanted:
    """Which rows a command wants."""

    log: Path
    """File of rows."""
    data_sets: Sequence[DataSet] = ()
    """Questions; without any, the rows of the file are taken as they are, and no arm runs."""
    samples: Sequence[Path] = ()
    """Files to ingest before."""
    models: Sequence[str] = ()
    """Policy models; by default the configured one, or without questions all of the file."""
    domain: str | None = None
    """Domain of the samples; by default that of the row."""
    arms: Sequence[Arm] = field(default_factory=cascade_arms)
    """Arms that run; none where only panels are wanted."""
    panel_size: int = 0
    """Answers of the panel that is drawn once for each question; 0 for none."""
    draws: int = 1
    """Answers of each arm to each question, with the configured seed and those that follow."""
    scorer: ScorerName = "auto"
    grader: GraderSettings | None = None
    """Model that judges for the scorer `chat-judge`."""


def wanted_data_sets(
    paths: Sequence[str], *, limit: int | None, seed: int
) -> tuple[list[DataSet], list[Path]]:
    """Return the data sets that paths stand for, and the files of samples beside them.

    Args:
        paths: Files of questions, or folders with `questions.jsonl` and perhaps `samples.jsonl`;
            the name of the file or folder is that of the data set.
        limit: Questions of each, drawn by `seed`; `None` for all.
        seed: Seed for drawing questions.

    Raises:
        ConfigurationError: A folder has no questions.
    """
    data_sets: list[DataSet] = []
    samples: list[Path] = []
    for path in paths:
        source, name = path, Path(path.removeprefix("hub:")).stem
        if Path(path).is_dir():
            folder = Path(path).resolve()
            source, name = str(folder / QUESTIONS), folder.name
            if not (folder / QUESTIONS).is_file():
                raise ConfigurationError(f"folder {path!r} has no {QUESTIONS}")
            samples += [folder / SAMPLES] if (folder / SAMPLES).is_file() else []
        rows = draw_rows(read_samples(source), limit=limit, seed=seed)
        data_sets.append(DataSet(name=name, rows=rows))
    return data_sets, samples


def tell_scorers(data_sets: Sequence[DataSet], scorer: ScorerName, watcher: Watcher) -> None:
    """Say for which data sets answers are not told by exact match, and why."""
    for data_set in data_sets:
        choice = choose_scorer(data_set.rows, scorer)
        if choice.scorer != scorer:
            watcher.warn(f"{data_set.name}: {choice.reason}")


def name_and_log(
    config: InstallationConfig, data_sets: Sequence[DataSet], records: Path | None
) -> tuple[str, Path]:
    """Return the name of a run's files, its data sets or its file of rows, and the file of rows."""
    named = "-".join(data_set.name for data_set in data_sets)
    name = named or (records.stem if records else "rows")
    return name, records or config.home / "evaluations" / f"{name}.jsonl"


def wanted_collection(config: InstallationConfig, wanted: RowsWanted) -> Collection:
    """Return what is collected with the policy model of a configuration.

    Raises:
        ConfigurationError: Several draws are wanted where all would be alike.
    """
    run = config.run_settings()
    if wanted.draws < 1 or (wanted.draws > 1 and run.temperature == 0):
        raise ConfigurationError(
            f"--draws {wanted.draws} must be at least 1, and more need a temperature above 0, as "
            "RTTC_TEMPERATURE=0.7: greedy answers are all alike"
        )
    left_out = _NO_PART | later_defaults(run) | _UNBOUNDED.keys()
    settings = run.model_dump(mode="json", exclude=left_out)
    details = {**settings, "embedder": config.embedder, "domain": wanted.domain}
    details |= domains_part(config)
    return Collection(
        data_sets=wanted.data_sets,
        model=config.model,
        settings=details,
        domain=wanted.domain,
        policies=wanted.arms or (PANEL,),
        seeds=range(run.seed, run.seed + wanted.draws),
        scorer=wanted.scorer,
    )


def domains_part(config: InstallationConfig) -> dict[str, Any]:
    """Return the settings by domain as part of what rows are kept under; nothing without any."""
    answering = {
        domain: {name: own[name] for name in own if name not in _NO_PART}
        for domain, own in config.domains.items()
    }
    made_with = {domain: own for domain, own in answering.items() if own}
    return {"domains": made_with} if made_with else {}


def later_defaults(run: RttcSettings) -> set[str]:
    """Return the settings that are no part of what rows are kept under: new ones, not changed."""
    return {name for name in _LATER if getattr(run, name) == getattr(RttcSettings(), name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRows:
    """The rows of one policy model, judged by one reward model."""

    model: str
    rows: EvaluationRows
    """Content of the whole file; several models may share it."""
    keys: Sequence[RowKey]
    """Keys of the rows of `model`."""
    reward_model: str
    fingerprint: str
    """Fingerprint of the reward model with its raw scores."""
    calibration: StoredCalibration | None
    verdicts: Verdicts | None = None
    """Verdicts of the grader, where the scorer is `chat-judge`."""
    panel_keys: Sequence[RowKey] = ()
    """Keys of the recorded panels of `model`."""

    @property
    def standing(self) -> dict[str, str]:
        """Adapter that stood for each domain when the rows were made; domains without are left out.

        Where rows were made with several, the last one.
        """
        digests = dict.fromkeys(key.digest for key in (*self.keys, *self.panel_keys))
        made_with = (self.rows.settings.get(digest, {}) for digest in digests)
        return {
            domain: key
            for settings in made_with
            for domain, key in settings.get(STANDING, {}).items()
        }

    @property
    def maps(self) -> StoredCalibration | None:
        """The calibration with the maps that are of answers as these; `None` without one."""
        return None if self.calibration is None else of_answers(self.calibration, self.standing)

    @property
    def judge(self) -> str:
        """Fingerprint of the reward model with its calibration, if there is one."""
        return calibrated_fingerprint(self.calibration) if self.calibration else self.fingerprint

    def check_threshold(self, config: InstallationConfig) -> None:
        """Refuse a τr that was chosen for another reward model.

        Raises:
            ConfigurationError: It was.
        """
        fingerprint = self.judge
        if config.tau_r_of not in ("", fingerprint):
            raise ConfigurationError(
                f"tau_r={config.tau_r!r} was chosen for the fingerprint {config.tau_r_of!r}, but "
                f"{self.reward_model!r} has {fingerprint!r}: run rttc calibrate, or give --tau and "
                "leave out tau_r_of"
            )


def collect_rows(
    config: InstallationConfig, wanted: RowsWanted, watcher: Watcher
) -> list[ModelRows]:
    """Run every arm on every question and judge every answer, with each policy model in turn.

    Args:
        config: Names reward model and knowledge base.
        wanted: What its file holds already is not run or judged again.
        watcher: Is shown the progress, and told of questions that are samples themselves.

    Raises:
        ConfigurationError: There are neither questions nor rows of a wanted model.
    """
    with opened_verdicts(config, wanted.scorer, wanted.grader) as verdicts:
        return _collect_rows(config, wanted, watcher, verdicts)


@contextmanager
def opened_verdicts(
    config: InstallationConfig, scorer: ScorerName, grader: GraderSettings | None
) -> Generator[Verdicts | None]:
    """Open the grader of the scorer `chat-judge`; nothing is loaded before it is asked.

    Raises:
        ConfigurationError: The scorer needs a grader and there is none, or the other way round.
    """
    if (scorer == CHAT_JUDGE) != (grader is not None):
        raise ConfigurationError(
            f"scorer {CHAT_JUDGE!r} needs a model that judges: name it with --scorer-model"
            if grader is None
            else f"--scorer-model and --rubric are for --scorer {CHAT_JUDGE}, not {scorer!r}"
        )
    if grader is None:
        yield None
        return
    from rttc_graph.installation.configured_grader import open_grader

    with open_grader(config, grader) as opened:
        yield Verdicts(opened)


def _collect_rows(
    config: InstallationConfig,
    wanted: RowsWanted,
    watcher: Watcher,
    verdicts: Verdicts | None,
) -> list[ModelRows]:
    from rttc_graph.installation.local import open_local

    log = RowLog(wanted.log)
    rows = log.load()
    found: list[ModelRows] = []
    for model in _models(config, wanted, rows):
        chosen = config.model_copy(update={"model": model})
        arms = possible_policies(config, wanted.arms, [model], watcher)
        mine = replace(wanted, arms=arms)
        collection = wanted_collection(chosen, mine) if wanted.data_sets else None
        with open_local(chosen) as local:
            if collection is not None:
                _fill(local, wanted, watcher)
                collection = asyncio.run(with_standing(local, collection))
                asyncio.run(_check_domains(local, collection, rows))
                keys = collection.keys() if mine.arms else []
                if mine.arms:
                    _collect_arms(local, collection, rows, log, watcher, verdicts)
                panel_keys: list[RowKey] = []
                if wanted.panel_size:
                    drawn = panel_collection(collection)
                    panel_keys = panel_keys_of(drawn)
                    with watcher.step(f"panels with {model}") as advance:
                        asyncio.run(
                            collect_panels(
                                drawn,
                                panel_asker(local, _UNBOUNDED),
                                local.judge,
                                log,
                                rows,
                                size=wanted.panel_size,
                                verdicts=verdicts,
                                on_progress=advance,
                            )
                        )
            else:
                keys = [key for key in rows.replayable() if key.model == model]
                panel_keys = [key for key in rows.panels if key.model == model]
                with watcher.step(f"judge answers of {model}") as advance:
                    asyncio.run(judge_missing(rows, keys, local.judge, log, on_progress=advance))
                    asyncio.run(judge_panels(rows, panel_keys, local.judge, log))
            judged = replace(
                asyncio.run(judged_rows(local, rows, keys)),
                verdicts=verdicts,
                panel_keys=panel_keys,
            )
        if verdicts is not None:
            with watcher.step(f"verdicts of {verdicts.grader.name}") as advance:
                asyncio.run(verdicts_missing(rows, keys, verdicts, log, on_progress=advance))
        tell_abstentions([judged], wanted.scorer, watcher)
        found.append(judged)
    return found


async def with_standing(local: LocalRttc, collection: Collection) -> Collection:
    """Return a collection whose rows are kept apart by the adapters that stand for its domains.

    Raises:
        BackendError: They cannot be looked up.
    """
    asked = (collection.domain_of(row) for one in collection.data_sets for row in one.rows)
    standing = await standing_of(local, asked)
    if not standing:
        return collection
    return replace(collection, settings={**collection.settings, STANDING: standing})


async def standing_of(local: LocalRttc, domains: Iterable[str | None]) -> dict[str, str]:
    """Return the adapters that stand for domains; domains without one are left out.

    Raises:
        BackendError: They cannot be looked up.
    """
    known, tenant = local.parts.get("standing_adapters"), local.config.tenant
    if known is None:
        return {}
    named = [domain for domain in dict.fromkeys(domains) if domain]
    found = {each: await known.standing_adapter(domain=each, tenant=tenant) for each in named}
    return {domain: key for domain, key in found.items() if key is not None}


async def _check_domains(local: LocalRttc, collection: Collection, rows: EvaluationRows) -> None:
    """Refuse domains without samples before a model is loaded, as the first run in one would be.

    Raises:
        ConfigurationError: A question that is still to be asked has such a domain.
    """
    waiting = [sample for key, sample in planned_rows(collection) if key not in rows.rows]
    for domain in dict.fromkeys(map(collection.domain_of, waiting)):
        await local.check_domain(domain)


def _collect_arms(
    local: LocalRttc,
    collection: Collection,
    rows: EvaluationRows,
    log: RowLog,
    watcher: Watcher,
    verdicts: Verdicts | None,
) -> None:
    with watcher.step(f"collect with {collection.model}") as advance:
        asyncio.run(
            collect(
                collection,
                _asker(local),
                local.judge,
                log,
                rows=rows,
                verdicts=verdicts,
                on_progress=advance,
                on_warning=watcher.warn,
            )
        )


def possible_policies(
    config: InstallationConfig,
    policies: Sequence[PolicyName],
    models: Sequence[str],
    watcher: Watcher | None,
) -> tuple[PolicyName, ...]:
    """Return the policies that all of some policy models can follow, and tell which are left out.

    Args:
        config: Says what served models can do.
        policies: Arms, or policies over arms.
        models: Names of policy models.
        watcher: Is told why an arm is left out, unless it was told before.

    Raises:
        ConfigurationError: None is left.
    """
    closed = {
        arm: why
        for model in models
        for arm, why in closed_arms(model, continues=config.continues_answers).items()
    }
    if policies and not set(policies) - closed.keys():
        raise ConfigurationError(f"{closed[policies[0]]}: name other policies")
    if watcher is not None:
        for arm in closed.keys() & set(policies):
            watcher.warn(closed[arm])
    return tuple(policy for policy in policies if policy not in closed)


def abstentions(found: Sequence[ModelRows], scorer: ScorerName) -> str:
    """Return on how many questions a grader abstained, as a sentence; empty where on none."""
    left_out = sum(
        len(undecided_questions(one.rows, one.keys, scorer, one.verdicts)) for one in found
    )
    asked = sum(len({question_of(key) for key in one.keys}) for one in found)
    if not left_out:
        return ""
    return f"{left_out} of {asked} questions are not counted, since the chat judge abstained"


def tell_abstentions(found: Sequence[ModelRows], scorer: ScorerName, watcher: Watcher) -> None:
    """Say on how many questions a grader abstained."""
    if told := abstentions(found, scorer):
        watcher.warn(told)


def _models(config: InstallationConfig, wanted: RowsWanted, rows: EvaluationRows) -> Sequence[str]:
    """Return the policy models whose rows are wanted."""
    if wanted.data_sets:
        return [whole_name(model, "model") for model in wanted.models or [config.model]]
    there = list(dict.fromkeys(key.model for key in (*rows.replayable(), *rows.panels)))
    if not there:
        raise ConfigurationError(f"{str(wanted.log)!r} has no rows to judge: collect some first")
    if missing := set(wanted.models) - set(there):
        raise ConfigurationError(
            f"{str(wanted.log)!r} has no rows of the policy model {min(missing)!r}: name another "
            "with rttc --model, or name a file of questions"
        )
    return wanted.models or there


def rows_settings(found: Sequence[ModelRows]) -> dict[str, Any]:
    """Return what the rows were made with; where that differs, all values with a comma."""
    values: dict[str, dict[str, None]] = {}
    for model_rows in found:
        keys = (*model_rows.keys, *model_rows.panel_keys)
        for digest in dict.fromkeys(key.digest for key in keys):
            for name, value in model_rows.rows.settings.get(digest, {}).items():
                values.setdefault(name, {})[str(value)] = None
        for seed in sorted({key.seed for key in keys}):
            values.setdefault("seed", {})[str(seed)] = None
    return {name: ", ".join(seen) for name, seen in values.items()}


def questions_of_models(
    found: Sequence[ModelRows], *, scorer: ScorerName, calibrated: bool = True
) -> list[EvaluatedQuestion]:
    """Return the questions of all models, with calibrated rewards where there is a calibration."""
    questions: list[EvaluatedQuestion] = []
    for model_rows in found:
        maps = model_rows.maps if calibrated else None
        questions += evaluated_questions(
            model_rows.rows,
            model_rows.keys,
            model_rows.fingerprint,
            calibrate=calibrated_by(probability_map(maps)) if maps else None,
            scorer=scorer,
            verdicts=model_rows.verdicts,
        )
    return questions


def gates_of(
    config: InstallationConfig,
    found: Sequence[ModelRows],
    questions: Sequence[EvaluatedQuestion],
    *,
    with_plans: bool = False,
) -> dict[tuple[str, str, str], Gate]:
    """Return the gate that a run of each question has: by data set, policy model and row.

    Args:
        config: The installation, with its settings by domain.
        found: Rows of each policy model, with the calibration in force.
        questions: Questions with these rows.
        with_plans: Whether the gates have the plans that are kept.

    Raises:
        ConfigurationError: A plan is wanted, and none is kept for a question's domain.
    """
    calibrations = {rows.model: rows.maps for rows in found}
    reward_models = {rows.model: rows.reward_model for rows in found}
    settings = {domain: config.run_settings(domain) for domain in {q.domain for q in questions}}

    def gate(question: EvaluatedQuestion) -> Gate:
        stored, mine = calibrations[question.model], settings[question.domain]
        kept = in_order(arms_of(stored, question.domain)) if stored else ()
        gate = Gate(tau_r=mine.tau_r, arms=mine.wanted_arms or kept)
        if not with_plans:
            return gate
        plan = plan_of(stored, question.domain) if stored else None
        if plan is None:
            raise no_plan(question.domain, reward_models[question.model])
        return replace(gate, plan=plan)

    return {(q.data_set, q.model, q.row): gate(q) for q in questions}


async def judged_rows(local: LocalRttc, rows: EvaluationRows, keys: Sequence[RowKey]) -> ModelRows:
    """Return rows of an installation's policy model with its reward model and calibration."""
    fingerprint = await local.judge.fingerprint()
    return ModelRows(
        model=local.config.model,
        rows=rows,
        keys=keys,
        reward_model=local.judge.name,
        fingerprint=fingerprint,
        calibration=await local.knowledge.calibrations.load(
            local.judge.name, fingerprint, tenant=local.config.tenant
        ),
    )


def _asker(local: LocalRttc) -> AskPolicy:
    """Return what runs one arm on the real graph with raw rewards, and leaves no trace."""
    from rttc_graph.graph import RttcParts, create_rttc_graph
    from rttc_graph.installation.ask_question import ask

    parts: RttcParts = {
        **local.parts,
        "reward_model": local.judge,
        "cache": None,
        "ledger_store": None,
    }
    graph = create_rttc_graph(**parts)
    majority = majority_answers(local)

    async def ask_arm(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        del warm_up  # no run of this graph leaves anything behind
        forced = {**_UNBOUNDED, "tau_r_of": "", "policy": policy, "seed": seed}
        chosen = local.config.run_settings(domain).model_copy(update=forced)
        result = await ask(graph, question, domain=domain, settings=chosen, with_samples=True)
        return await with_majority(result, majority, domain)

    return ask_arm


def majority_answers(local: LocalRttc) -> MajorityAnswers:
    """Return what counts the answers of an installation's samples."""
    return MajorityAnswers(local.knowledge.knowledge_base, tenant=local.config.tenant)


async def with_majority(
    result: Mapping[str, Any], majority: MajorityAnswers, domain: str | None
) -> Mapping[str, Any]:
    """Return a run's result with the most common answer of its domain, if that can be counted."""
    try:
        return {**result, "majority": await majority.most_common(domain)}
    except RttcError:  # the run has its answer; the baseline is left out
        return result


def _fill(local: LocalRttc, wanted: RowsWanted, watcher: Watcher) -> None:
    """Ingest what lies beside the questions, and say how many of these are samples themselves."""
    tenant = local.config.tenant
    base, embedder = local.knowledge.knowledge_base, local.knowledge.embedder
    for path in wanted.samples:
        with watcher.step(f"ingest {path}") as advance:

            def show(done: IngestProgress, advance: Advance = advance) -> None:
                advance(done.rows, done.total or 0)

            samples = read_samples(str(path))
            asyncio.run(ingest(samples, base, embedder, tenant=tenant, on_progress=show))
    for data_set in wanted.data_sets:
        asyncio.run(warn_of_leaks(local, data_set, watcher))


async def warn_of_leaks(local: LocalRttc, data_set: DataSet, watcher: Watcher) -> None:
    """Say how many of the questions are in the knowledge base with their answers."""
    base = local.knowledge.knowledge_base
    missing = await base.missing(data_set.rows, tenant=local.config.tenant)
    if known := missing.count(False):
        watcher.warn(
            f"{known} of {len(missing)} questions of {data_set.name} are in the knowledge base "
            "with their answers, which flatters rag and ttt"
        )
