"""Every arm once for every question, resumable: the rows that all policies are computed from.

Questions of all data sets take turns, so that a collection that is broken off holds some of each.
Each run is one of the real graph under the policy that is the arm's name, without a query-state
cache: no arm profits from another, and none is stopped by a budget of seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Protocol, cast

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, cascade_arms
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.evaluation.arm_rows import (
    ArmAnswer,
    ArmLog,
    ArmRows,
    Judgement,
    Line,
    PartSeconds,
    RowKey,
    SettingsLine,
)
from rttc_graph.evaluation.runner import row_keys
from rttc_graph.evaluation.scorers import check_reference, is_right
from rttc_graph.protocols import NewSample, RewardModel, reward_requests
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.state import Arm, Candidate, Sample


class RunArm(Protocol):
    """Runs the graph once under the policy that is the arm's name."""

    async def __call__(self, question: str, *, domain: str | None, arm: Arm) -> Mapping[str, Any]:
        """Return `candidates`, `ledger` and `seconds`, as `rttc ask --json`.

        Where `samples` are returned too, those in hand at the end of the run, a judge that is
        asked later is shown them.

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
    """What is collected with one policy model."""

    data_sets: Sequence[DataSet]
    model: str
    """Name of the policy model."""
    digest: str
    """Of `settings`."""
    settings: Mapping[str, Any]
    """JSON-ready; everything else that an answer depends on."""
    domain: str | None = None
    """Where samples are looked for; by default in the domain of the row."""
    arms: Sequence[Arm] = field(default_factory=cascade_arms)
    """Which arms run; by default those that `cascade` tries."""

    def keys(self) -> list[RowKey]:
        """Return the keys of all rows, in the order in which they are collected."""
        return [key for key, _ in _plan(self)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectProgress:
    """Sent after each row, and once at the start for what is there already."""

    done: int
    total: int
    latest: RowKey | None


async def collect(
    collection: Collection,
    run_arm: RunArm,
    reward_model: RewardModel,
    log: ArmLog,
    *,
    rows: ArmRows | None = None,
    on_progress: Callable[[CollectProgress], None] | None = None,
) -> ArmRows:
    """Answer what is not in the log yet, judge what `reward_model` has not judged, return all rows.

    An arm that failed has a row with its error and counts as wrong; it is tried again by the next
    collection with the same log.

    Args:
        collection: What is asked.
        run_arm: Runs the graph, which judges with `reward_model`.
        reward_model: Its raw scores are kept.
        log: Appended to.
        rows: Content of the log, where the caller has read it; it gets the new rows too.
        on_progress: Called on the event loop; must not block.

    Raises:
        ConfigurationError: A data set is empty or there twice, a reference answer fits no scorer,
            the log is something else, or `run_arm` raised it.
    """
    _check(collection)
    # Files and verifiers block, so they get a thread.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rttc-collect")
    try:
        collecting = _Collecting(collection, run_arm, reward_model, log, thread)
        return await collecting.run(rows, on_progress or _ignore)
    finally:
        thread.shutdown(wait=False)


class _Collecting:
    def __init__(
        self,
        collection: Collection,
        run_arm: RunArm,
        reward_model: RewardModel,
        log: ArmLog,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._collection = collection
        self._run_arm = run_arm
        self._reward_model = reward_model
        self._log = log
        self._thread = thread

    async def run(
        self, known: ArmRows | None, on_progress: Callable[[CollectProgress], None]
    ) -> ArmRows:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._thread, self._start, known)
        plan = _plan(self._collection)
        waiting = [step for step in plan if not _is_answered(rows, step[0])]
        done = len(plan) - len(waiting)
        on_progress(CollectProgress(done=done, total=len(plan), latest=None))
        if waiting:
            await self._warm_up(waiting)
        for number, (key, row) in enumerate(waiting, start=done + 1):
            for line in await loop.run_in_executor(
                self._thread, self._keep, row, await self._answer(key, row)
            ):
                rows.add(line)
            on_progress(CollectProgress(done=number, total=len(plan), latest=key))
        await judge_missing(rows, [key for key, _ in plan], self._reward_model, self._log)
        return rows

    def _start(self, known: ArmRows | None) -> ArmRows:
        for data_set in self._collection.data_sets:
            for row in data_set.rows:
                check_reference(row)
        rows = self._log.load() if known is None else known
        if self._collection.digest not in rows.settings:
            line: SettingsLine = {
                "kind": "settings",
                "digest": self._collection.digest,
                "settings": dict(self._collection.settings),
            }
            self._log.add([line])
            rows.add(line)
        return rows

    async def _warm_up(self, waiting: Sequence[tuple[RowKey, NewSample]]) -> None:
        """Run each arm once and forget it: models load on first use."""
        for arm in self._collection.arms:
            row = next((row for key, row in waiting if key.arm == arm), None)
            if row is not None:
                with suppress(RttcError):
                    await self._run(row, arm)

    async def _run(self, row: NewSample, arm: Arm) -> Mapping[str, Any]:
        return await self._run_arm(row.question, domain=self._domain(row), arm=arm)

    def _domain(self, row: NewSample) -> str | None:
        named = None if row.domain == DEFAULT_DOMAIN else row.domain
        return self._collection.domain or named

    async def _answer(self, key: RowKey, row: NewSample) -> list[Line]:
        """Return the row of one arm, and if the answer was judged, the judgement."""
        try:
            result = await self._run(row, key.arm)
        except ConfigurationError:
            raise
        except RttcError as exc:
            return [self._row(key, row, None, error=f"{type(exc).__name__}: {exc}")]
        made: Sequence[Candidate] = result["candidates"]
        candidate = next((c for c in made if c["arm"] == key.arm), None)
        if candidate is None:
            return [self._row(key, row, None, error=_why_not(result, key.arm))]
        bare: Candidate = {**candidate, "reward": None}
        judging = sum(e["seconds"] for e in result["ledger"] if e["event"] == "judged")
        seconds, samples = _parts(result, key.arm, judging=judging), result.get("samples", ())
        lines: list[Line] = [self._row(key, row, bare, seconds=seconds, samples=samples)]
        if candidate["reward"] is not None:
            lines.append(
                await _judgement(key, self._reward_model, candidate["reward"], seconds=judging)
            )
        return lines

    def _row(
        self,
        key: RowKey,
        row: NewSample,
        candidate: Candidate | None,
        *,
        seconds: PartSeconds | None = None,
        samples: Sequence[Sample] = (),
        error: str | None = None,
    ) -> ArmAnswer:
        return {
            "kind": "answer",
            **_named(key),
            "id": row.external_id,
            "domain": self._domain(row),
            "question": row.question,
            "reference": row.answer,
            "metadata": row.metadata,
            "candidate": candidate,
            "right": False,
            "seconds": seconds or dict.fromkeys(_PARTS, 0.0),
            "error": error,
            "samples": list(samples),
        }

    def _keep(self, row: NewSample, lines: list[Line]) -> list[Line]:
        for line in lines:
            if line["kind"] == "answer" and line["candidate"] is not None:
                line["right"] = is_right(line["candidate"]["answer"], row)
        self._log.add(lines)
        return lines


async def judge_missing(
    rows: ArmRows,
    keys: Sequence[RowKey],
    reward_model: RewardModel,
    log: ArmLog,
    *,
    on_progress: Callable[[CollectProgress], None] | None = None,
) -> int:
    """Judge the answers that `reward_model` has not judged yet, and return how many they were.

    Args:
        rows: Gets the judgements too.
        keys: Which of them.
        reward_model: Asked for one answer at a time, as in a run, so that its seconds count alike.
        log: Gets each judgement as it is made.
        on_progress: Called on the event loop; must not block.

    Raises:
        RewardModelError: The reward model failed; what it judged before is kept.
    """
    fingerprint = await reward_model.fingerprint()
    waiting = [
        key
        for key in keys
        if key in rows.answers
        and rows.answers[key]["candidate"] is not None
        and (key, fingerprint) not in rows.judgements
    ]
    for number, key in enumerate(waiting, start=1):
        answer = rows.answers[key]
        assert answer["candidate"] is not None
        began = time.monotonic()
        [request] = reward_requests([answer["candidate"]], samples=answer.get("samples", ()))
        [reward] = await reward_model.score(answer["question"], [request])
        seconds = time.monotonic() - began
        judgement = await _judgement(key, reward_model, reward, seconds=seconds)
        await asyncio.to_thread(log.add, [judgement])
        rows.add(judgement)
        if on_progress is not None:
            on_progress(CollectProgress(done=number, total=len(waiting), latest=key))
    return len(waiting)


async def _judgement(
    key: RowKey, reward_model: RewardModel, reward: float, *, seconds: float
) -> Judgement:
    return {
        "kind": "judgement",
        **_named(key),
        "reward_model": reward_model.name,
        "fingerprint": await reward_model.fingerprint(),
        "reward": reward,
        "seconds": seconds,
    }


class _Named(TypedDict):
    digest: str
    data_set: str
    model: str
    row: str
    arm: Arm


def _named(key: RowKey) -> _Named:
    """Return the fields of a key, which both kinds of lines begin with."""
    return {
        "digest": key.digest,
        "data_set": key.data_set,
        "model": key.model,
        "row": key.row,
        "arm": key.arm,
    }


def _plan(collection: Collection) -> list[tuple[RowKey, NewSample]]:
    """Return all rows: the first question of each data set, then the second, all arms of each."""
    columns = [
        [(one.name, key, row) for key, row in zip(row_keys(one.rows), one.rows, strict=True)]
        for one in collection.data_sets
    ]
    turns = chain.from_iterable(zip_longest(*columns))
    return [
        (RowKey(collection.digest, name, collection.model, key, arm), row)
        for name, key, row in (turn for turn in turns if turn is not None)
        for arm in collection.arms
    ]


def _check(collection: Collection) -> None:
    names = [data_set.name for data_set in collection.data_sets]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"data sets {names!r} must be at least one, each name once")
    for data_set in collection.data_sets:
        if not data_set.rows:
            raise ConfigurationError(
                f"data set {data_set.name!r} has no rows: the file is empty, or all rows are bad"
            )


def _is_answered(rows: ArmRows, key: RowKey) -> bool:
    return key in rows.answers and rows.answers[key]["error"] is None


_PARTS: tuple[str, ...] = ("generation", "retrieval", "training")
"""Parts of the seconds that every row has."""


def _parts(result: Mapping[str, Any], arm: Arm, *, judging: float) -> PartSeconds:
    """Split a run's seconds by the events of the arm's record.

    What is neither in one of these nor judging is retrieval, or where there is none, generation.
    """
    record, ledger = ARMS[arm], cast("Sequence[Mapping[str, Any]]", result["ledger"])
    seconds = dict.fromkeys(_PARTS, 0.0)
    for part, events in record.seconds.items():
        seconds[part] = sum((e["seconds"] for e in ledger if e["event"] in events), 0.0)
    rest = max(0.0, result["seconds"] - sum(seconds.values()) - judging)
    seconds["retrieval" if record.retrieves else "generation"] += rest
    return seconds


def _why_not(result: Mapping[str, Any], arm: Arm) -> str:
    reasons = [e["detail"].get("error", "") for e in result["ledger"] if e["event"] == "failed"]
    return "; ".join(reasons) or f"nothing to answer with: no samples for {arm}"


def _ignore(progress: CollectProgress) -> None:
    del progress
