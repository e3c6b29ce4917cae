"""Questions under policies, each once, resumable: the one loop behind every evaluation.

Questions of all data sets take turns, so that a collection that is broken off holds some of each.
Each question begins with another policy, so that a machine that grows slower hits all alike. The
rows that are replayed are of the arms alone, without a query-state cache and without a budget of
seconds: no arm profits from another, and none is cut short.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Protocol, cast

from rttc_graph.arms import ARMS, RETRIEVE, ArmRecord, cascade_arms
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.evaluation.baselines import scored_answers
from rttc_graph.evaluation.evaluation_rows import (
    EvaluationRow,
    EvaluationRows,
    Judgement,
    Line,
    PartSeconds,
    RowKey,
    RowLog,
    SettingsLine,
    key_fields,
    sample_of,
    settings_digest,
)
from rttc_graph.evaluation.scorers import (
    ExactMatchWatch,
    ScorerName,
    check_reference,
    choose_scorer,
)
from rttc_graph.evaluation.verdicts import Verdicts, scored
from rttc_graph.protocols import NewSample, RewardModel, reward_requests
from rttc_graph.run.ledger import JUDGINGS
from rttc_graph.run.tau_r import best_candidate
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.settings import PolicyName
from rttc_graph.state import Candidate
from rttc_graph.support.progress import Advance, show_nothing

_WARM_UP_QUESTION = "What comes after the first one?"
"""Asked before the rows. It is in no data set: a model drafts from its own answer to the same
prompt, which would make the first row too fast (160 tokens in 1.3 s, the next row in 17 s)."""


class AskPolicy(Protocol):
    """Runs the graph once under a policy."""

    async def __call__(
        self, question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        """Return `candidates`, `ledger` and `seconds`, as `rttc ask --json`.

        Where `samples` are returned too, those in hand at the end of the run, a judge that is
        asked later is shown them, and baselines are worked out from them. `majority` is the most
        common answer of the domain's samples.

        Args:
            question: What to answer.
            domain: Where samples are looked for; `None` searches all domains.
            policy: Who decides the next arm.
            seed: Seed of sampling and training.
            warm_up: The answer is thrown away: the run must leave nothing behind.

        Raises:
            RttcError: There is no answer.
            ConfigurationError: Nothing can be asked this way; the collection ends.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Questions with reference answers under a name."""

    name: str
    rows: Sequence[NewSample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Questions, arms and settings to collect with one policy model."""

    data_sets: Sequence[DataSet]
    model: str
    """Name of the policy model."""
    settings: Mapping[str, Any]
    """JSON-ready; everything else that an answer depends on."""
    domain: str | None = None
    """Domain in which samples are looked for; by default that of the row."""
    policies: Sequence[PolicyName] = field(default_factory=cascade_arms)
    """Policies that are run; by default the arms that `cascade` tries."""
    seeds: Sequence[int] = (0,)
    """Seeds of the draws, one row for each; all questions get their first draw first."""
    scorer: ScorerName = "auto"
    """Says what is right; kept answers are scored anew by whoever reads them."""

    def __post_init__(self) -> None:
        """Refuse what would collect nothing, or something twice.

        Raises:
            ConfigurationError: Names it.
        """
        for what, named in (("policies", self.policies), ("seeds", self.seeds)):
            if not named or len(set(named)) < len(named):
                raise ConfigurationError(
                    f"{what}={list(named)!r} must name at least one, each once"
                )
        names = [data_set.name for data_set in self.data_sets]
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"data sets {names!r} must be at least one, each name once")
        for data_set in self.data_sets:
            if not data_set.rows:
                raise ConfigurationError(
                    f"data set {data_set.name!r} has no rows: the file is empty, or all rows are "
                    "bad"
                )

    def settings_of(self, policy: str) -> dict[str, Any]:
        """Return the settings that the rows of a policy depend on.

        Those of panels are none of an arm that draws none: another size leaves its rows as they
        are.
        """
        answers_once = policy in ARMS and ARMS[policy].own.strategy is None
        return {
            name: value
            for name, value in self.settings.items()
            if not (answers_once and name.startswith("search_"))
        }

    def digest_of(self, policy: str) -> str:
        """Return the digest of these settings, which the keys of the policy's rows begin with."""
        return settings_digest(self.settings_of(policy))

    def domain_of(self, sample: NewSample) -> str | None:
        """Return the domain in which samples for a question are looked for; `None` for all."""
        named = None if sample.domain == DEFAULT_DOMAIN else sample.domain
        return self.domain or named

    def keys(self) -> list[RowKey]:
        """Return the keys of all rows, in the order in which they are collected."""
        return [key for key, _ in planned_rows(self)]


def drop_warning(text: str) -> None:
    """Drop a warning, where nobody reads them."""
    del text


async def collect(
    collection: Collection,
    ask: AskPolicy,
    reward_model: RewardModel | None,
    log: RowLog,
    *,
    rows: EvaluationRows | None = None,
    verdicts: Verdicts | None = None,
    on_progress: Advance = show_nothing,
    on_warning: Callable[[str], None] = drop_warning,
) -> EvaluationRows:
    """Ask what is not in the log yet, judge what `reward_model` has not judged, return all rows.

    A run that failed has a row with its error and counts as wrong; it is tried again by the next
    collection with the same log.

    Args:
        collection: What is asked.
        ask: Runs the graph, which judges with `reward_model`.
        reward_model: Judge of rows that are replayed: its raw scores are kept as judgements.
            `None` for runs for real, whose own rewards stay in their rows.
        log: Appended to.
        rows: Content of the log, where the caller has read it; it gets the new rows too.
        verdicts: Needed by the scorer `chat-judge`; each answer is judged right after its run.
        on_progress: Called on the event loop after each row, and once at the start with what is
            there already.
        on_warning: Called, perhaps from another thread, when exact match seems to find nothing.

    Raises:
        ConfigurationError: A reference answer fits no scorer, the log is something else, or `ask`
            raised it.
    """
    # Files and verifiers block, so they get a thread.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rttc-collect")
    try:
        collecting = _Collecting(collection, ask, reward_model, log, thread, verdicts, on_warning)
        return await collecting.run(rows, on_progress)
    finally:
        thread.shutdown(wait=False)


class _Collecting:
    def __init__(
        self,
        collection: Collection,
        ask: AskPolicy,
        reward_model: RewardModel | None,
        log: RowLog,
        thread: ThreadPoolExecutor,
        verdicts: Verdicts | None,
        warn: Callable[[str], None],
    ) -> None:
        self._verdicts = verdicts
        self._warn = warn
        self._exact = ExactMatchWatch()
        self._scorers: dict[str, ScorerName] = {
            data_set.name: choose_scorer(data_set.rows, collection.scorer).scorer
            for data_set in collection.data_sets
        }
        self._collection = collection
        self._ask = ask
        self._reward_model = reward_model
        self._log = log
        self._thread = thread

    async def run(self, known: EvaluationRows | None, on_progress: Advance) -> EvaluationRows:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._start, known)
        plan = planned_rows(self._collection)
        waiting = [(key, sample) for key, sample in plan if not _is_answered(rows, key)]
        done = len(plan) - len(waiting)
        on_progress(done, len(plan))
        keys = [key for key, _ in plan]
        if self._verdicts is not None:
            await verdicts_missing(rows, keys, self._verdicts, self._log)
        await self._warm_up(waiting)
        for number, (key, sample) in enumerate(waiting, start=done + 1):
            row, reward, judging = await self._row(key, sample)
            lines: list[Line] = [row]
            if self._reward_model is not None and reward is not None:
                lines.append(await _judgement(key, self._reward_model, reward, seconds=judging))
            failure = await self._grade(row, sample, lines)
            await loop.run_in_executor(self._thread, self._keep, sample, row, lines)
            for line in lines:
                rows.add(line)
            if failure is not None:
                raise failure
            on_progress(number, len(plan))
        if self._reward_model is not None:
            await judge_missing(rows, keys, self._reward_model, self._log)
        return rows

    def _start(self, known: EvaluationRows | None) -> EvaluationRows:
        for data_set in self._collection.data_sets:
            for sample in data_set.rows:
                check_reference(sample, self._collection.scorer)
        rows = self._log.load() if known is None else known
        write_settings(self._collection, rows, self._log)
        return rows

    async def _warm_up(self, waiting: Sequence[tuple[RowKey, NewSample]]) -> None:
        """Run each policy once and forget it: models load on first use."""
        for policy in self._collection.policies:
            first = next(((k, sample) for k, sample in waiting if k.policy == policy), None)
            if first is not None:
                with suppress(RttcError):
                    await self._run(*first, warm_up=True)

    async def _run(
        self, key: RowKey, sample: NewSample, *, warm_up: bool = False
    ) -> Mapping[str, Any]:
        domain = self._collection.domain_of(sample)
        question = _WARM_UP_QUESTION if warm_up else sample.question
        return await self._ask(
            question, domain=domain, policy=key.policy, seed=key.seed, warm_up=warm_up
        )

    async def _row(
        self, key: RowKey, sample: NewSample
    ) -> tuple[EvaluationRow, float | None, float]:
        """Return the row of a run, the reward of an arm's answer, and the seconds of judging."""
        row: EvaluationRow = {
            "kind": "run" if self._reward_model is None else "answer",
            "digest": key.digest,
            "data_set": key.data_set,
            "model": key.model,
            "row": key.row,
            "policy": key.policy,
            "seed": key.seed,
            "id": sample.external_id,
            "domain": self._collection.domain_of(sample),
            "question": sample.question,
            "reference": sample.answer,
            "metadata": sample.metadata,
            "candidates": [],
            "right": False,
            "seconds": dict.fromkeys(_PARTS, 0.0),
            "error": None,
        }
        began = time.monotonic()
        try:
            result = await self._run(key, sample)
        except ConfigurationError:
            raise
        except RttcError as exc:
            row["error"] = f"{type(exc).__name__}: {exc}"
            row["seconds"]["generation"] = time.monotonic() - began
            return row, None, 0.0
        row["seconds"] = _parts(result, key.policy)
        row["samples"] = list(result.get("samples", ()))
        if "majority" in result:
            row["majority"] = result["majority"]
        made: Sequence[Candidate] = result["candidates"]
        if row["kind"] == "run":
            row["candidates"] = list(made)
            return row, None, 0.0
        judging = row["seconds"].pop("judging")
        candidate = next((c for c in made if c["arm"] == key.policy), None)
        if candidate is None:
            row["error"] = _why_not(result, key.policy)
            return row, None, judging
        row["candidates"] = [{**candidate, "reward": None}]
        return row, candidate["reward"], judging

    async def _grade(
        self, row: EvaluationRow, sample: NewSample, lines: list[Line]
    ) -> RttcError | None:
        """Add verdicts on a row, and return why there are none: the row is to be kept first."""
        if self._verdicts is None:
            return None
        try:
            answers = [(answer, sample) for answer in scored_answers(row)]
            async for found in self._verdicts.ask(answers):
                lines.extend(found)
        except RttcError as exc:
            return exc
        return None

    def _is_right(self, answer: str, sample: NewSample, scorer: ScorerName) -> bool:
        verdicts = self._verdicts
        if verdicts is not None and not verdicts.is_known(answer, sample):
            return False  # the grader failed; the next collection asks it again
        return bool(scored(answer, sample, scorer, verdicts))

    def _keep(self, sample: NewSample, row: EvaluationRow, lines: Sequence[Line]) -> None:
        best = best_candidate(row["candidates"])
        scorer = self._scorers[row["data_set"]]
        row["right"] = best is not None and self._is_right(best["answer"], sample, scorer)
        self._log.add(lines)
        if best is None:
            return
        warning = self._exact.add(best["answer"], sample, scorer, right=row["right"])
        if warning is not None:
            self._warn(warning)


async def judge_missing(
    rows: EvaluationRows,
    keys: Sequence[RowKey],
    reward_model: RewardModel,
    log: RowLog,
    *,
    on_progress: Advance = show_nothing,
) -> int:
    """Judge the answers that `reward_model` has not judged yet, and return how many they were.

    Args:
        rows: Gets the judgements too.
        keys: Keys of rows of arms alone.
        reward_model: Asked for one answer at a time, as in a run, so that its seconds count alike.
        log: Gets each judgement as it is made.
        on_progress: Called on the event loop after each answer.

    Raises:
        RewardModelError: The reward model failed; what it judged before is kept.
    """
    fingerprint = await reward_model.fingerprint()
    waiting = [
        key
        for key in keys
        if key in rows.rows
        and rows.rows[key]["candidates"]
        and (key, fingerprint) not in rows.judgements
    ]
    for number, key in enumerate(waiting, start=1):
        row = rows.rows[key]
        began = time.monotonic()
        requests = reward_requests(row["candidates"], samples=row.get("samples", ()))
        [reward] = await reward_model.score(row["question"], requests)
        seconds = time.monotonic() - began
        judgement = await _judgement(key, reward_model, reward, seconds=seconds)
        await asyncio.to_thread(log.add, [judgement])
        rows.add(judgement)
        on_progress(number, len(waiting))
    return len(waiting)


async def verdicts_missing(
    rows: EvaluationRows,
    keys: Sequence[RowKey],
    verdicts: Verdicts,
    log: RowLog,
    *,
    on_progress: Advance = show_nothing,
) -> None:
    """Ask a grader about the answers of rows that it has not judged yet.

    Args:
        rows: Get the verdicts too.
        keys: Keys of the rows.
        verdicts: What the grader said before is taken from the rows.
        log: Gets the verdicts as they are made.
        on_progress: Called on the event loop after some answers each.

    Raises:
        RttcError: The grader failed; what it said before is kept.
    """
    verdicts.add(rows.verdicts)
    found = [rows.rows[key] for key in keys if key in rows.rows]
    answers = [(answer, sample_of(row)) for row in found for answer in scored_answers(row)]
    waiting = sum(not verdicts.is_known(*answer) for answer in answers)
    done = 0
    async for lines in verdicts.ask(answers):
        await asyncio.to_thread(log.add, lines)
        for line in lines:
            rows.add(line)
        done += len(lines)
        on_progress(done, waiting)


async def _judgement(
    key: RowKey, reward_model: RewardModel, reward: float, *, seconds: float
) -> Judgement:
    return {
        "kind": "judgement",
        **key_fields(key),
        "reward_model": reward_model.name,
        "fingerprint": await reward_model.fingerprint(),
        "reward": reward,
        "seconds": seconds,
    }


def row_keys(rows: Sequence[NewSample]) -> list[str]:
    """Return a key for each row that stays the same when the file is reordered or extended."""
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for row in rows:
        content = "\0".join((row.question, row.answer, row.domain))
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        seen[digest] += 1
        keys.append(digest if seen[digest] == 1 else f"{digest}#{seen[digest]}")
    return keys


def write_settings(collection: Collection, rows: EvaluationRows, log: RowLog) -> None:
    """Add the settings of a collection to the file, as far as they are not there yet."""
    for policy in collection.policies:
        digest = collection.digest_of(policy)
        if digest not in rows.settings:
            line: SettingsLine = {
                "kind": "settings",
                "digest": digest,
                "settings": collection.settings_of(policy),
            }
            log.add([line])
            rows.add(line)


def planned_rows(collection: Collection) -> list[tuple[RowKey, NewSample]]:
    """Return all rows: the first question of each data set, then the second, all policies of each.

    With several seeds that is done once for each, so that what a kill leaves has whole draws.
    """
    columns = [
        [(one.name, number, key, row) for number, (key, row) in enumerate(_with_keys(one.rows))]
        for one in collection.data_sets
    ]
    turns = [turn for turn in chain.from_iterable(zip_longest(*columns)) if turn is not None]
    policies = collection.policies
    digests = {policy: collection.digest_of(policy) for policy in policies}
    return [
        (RowKey(digests[policy], name, collection.model, key, policy, seed), row)
        for seed in collection.seeds
        for name, number, key, row in turns
        for policy in (policies[(number + turn) % len(policies)] for turn in range(len(policies)))
    ]


def _with_keys(rows: Sequence[NewSample]) -> list[tuple[str, NewSample]]:
    return list(zip(row_keys(rows), rows, strict=True))


def _is_answered(rows: EvaluationRows, key: RowKey) -> bool:
    return key in rows.rows and rows.rows[key]["error"] is None


_PARTS: tuple[str, ...] = ("generation", "retrieval", "training")
"""Parts of the seconds that every row has."""


def _parts(result: Mapping[str, Any], policy: PolicyName) -> PartSeconds:
    """Split a run's seconds by the events that the arms of its policy count, judging among them.

    What no event accounts for is retrieval, or where no arm retrieves, generation. A panel searches
    where one of its proposers wants samples: that is told by the node.
    """
    records: Sequence[ArmRecord] = [ARMS[policy]] if policy in ARMS else list(ARMS.values())
    events: dict[str, set[str]] = {"judging": {*JUDGINGS}}
    for record in records:
        for part, counted in record.seconds.items():
            events.setdefault(part, set()).update(counted)
    ledger = cast("Sequence[Mapping[str, Any]]", result["ledger"])
    seconds = dict.fromkeys(_PARTS, 0.0)
    for part, names in events.items():
        seconds[part] = sum((e["seconds"] for e in ledger if e["event"] in names), 0.0)
    retrieves = any(record.retrieves for record in records)
    if not retrieves:
        seconds["retrieval"] = sum((e["seconds"] for e in ledger if e["node"] == RETRIEVE), 0.0)
    rest = max(0.0, result["seconds"] - sum(seconds.values()))
    seconds["retrieval" if retrieves else "generation"] += rest
    return seconds


def _why_not(result: Mapping[str, Any], policy: PolicyName) -> str:
    reasons = [e["detail"].get("error", "") for e in result["ledger"] if e["event"] == "failed"]
    return "; ".join(reasons) or f"nothing to answer with: no samples for {policy}"
