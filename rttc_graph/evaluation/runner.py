"""The same questions under several policies, one after the other, and what each got and cost.

Row by row all policies are asked, in an order that rotates, so that a machine that grows slower or
a file cache that grows warmer hits all alike. No policy profits from another's query-state cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.evaluation.records import JudgedCandidate, Record, RecordLog, settings_digest
from rttc_graph.evaluation.scorers import ScorerName, check_reference, is_right
from rttc_graph.evaluation.summary import EvaluationResult, summarise
from rttc_graph.protocols import NewSample
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.settings import PolicyName

Step = tuple[str, PolicyName]
"""Key of a row, and the policy under which it is asked."""


class Ask(Protocol):
    """Runs the graph once."""

    async def __call__(
        self, question: str, *, domain: str | None, policy: PolicyName, seed: int, use_cache: bool
    ) -> Mapping[str, Any]:
        """Return `answer`, `arm`, `reward`, `candidates` and `seconds`, as `rttc ask --json`.

        Raises:
            RttcError: There is no answer; the row counts as wrong.
            ConfigurationError: Nothing can be asked this way; the evaluation ends.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is compared, and everything that a record depends on."""

    policies: tuple[PolicyName, ...]
    scorer: ScorerName = "auto"
    """Not part of the digest: kept answers are scored anew."""
    seed: int = 0
    use_cache: bool = False
    """Whether runs may use the query-state cache; then what one policy trained serves the next,
    and its cost is no more its own."""
    domain: str | None = None
    """Where samples are looked for; by default in the domain of the row."""
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    """JSON-ready settings that `ask` brings itself (models, τr, k, …); a change asks anew."""

    def __post_init__(self) -> None:
        """Refuse an empty or repeated choice of policies.

        Raises:
            ConfigurationError: Says which.
        """
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ConfigurationError(
                f"policies={list(self.policies)!r} must name at least one, each once"
            )

    def digest(self) -> str:
        """Return a digest of what a single run depends on."""
        return settings_digest(
            {
                "seed": self.seed,
                "use_cache": self.use_cache,
                "domain": self.domain,
                "details": dict(self.details),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProgress:
    """Sent after each question, and once at the start for what an earlier run had finished."""

    done: int
    total: int
    latest: Record | None


def choose_rows(rows: Sequence[NewSample], *, limit: int | None, seed: int) -> list[NewSample]:
    """Return at most `limit` rows, drawn by `seed`, in the order of the file.

    Raises:
        ConfigurationError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit!r} must be at least 1")
    if limit is None or limit >= len(rows):
        return list(rows)
    chosen = random.Random(seed).sample(range(len(rows)), limit)
    return [rows[index] for index in sorted(chosen)]


async def evaluate(
    ask: Ask,
    rows: Sequence[NewSample],
    settings: EvaluationSettings,
    *,
    log: Path,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
) -> EvaluationResult:
    """Ask every row under every policy and return the figures.

    A run that raises counts as wrong and goes into the log with its error; the next evaluation
    with the same log tries it again, and leaves alone what is there with the same settings.

    Args:
        ask: Runs the graph.
        rows: Questions with reference answers; those of the domain `general`, which stands for
            none, are asked across all domains.
        settings: What is compared.
        log: JSONL file of records, appended to.
        on_progress: Called on the event loop; must not block.

    Raises:
        ConfigurationError: There are no rows, a reference answer does not fit the scorer, the log
            is something else, or `ask` raised it.
    """
    if not rows:
        raise ConfigurationError("no rows to evaluate: the file is empty, or all rows are bad")
    # Files and verifiers block, so they get a thread.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rttc-evaluation")
    try:
        evaluation = _Evaluation(ask, rows, settings, RecordLog(log), thread)
        return await evaluation.run(on_progress or _ignore)
    finally:
        thread.shutdown(wait=False)


class _Evaluation:
    def __init__(
        self,
        ask: Ask,
        rows: Sequence[NewSample],
        settings: EvaluationSettings,
        log: RecordLog,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._ask = ask
        self._rows = dict(zip(row_keys(rows), rows, strict=True))
        self._settings = settings
        self._digest = settings.digest()
        self._log = log
        self._thread = thread

    async def run(self, on_progress: Callable[[EvaluationProgress], None]) -> EvaluationResult:
        loop = asyncio.get_running_loop()
        plan = _plan(self._rows, self._settings.policies)
        done = await loop.run_in_executor(self._thread, self._kept, plan)
        on_progress(EvaluationProgress(done=len(done), total=len(plan), latest=None))
        waiting = [step for step in plan if step not in done]
        await self._warm_up(waiting)
        for step in waiting:
            record = await self._record(*step)
            done[step] = await loop.run_in_executor(self._thread, self._keep, record)
            on_progress(EvaluationProgress(done=len(done), total=len(plan), latest=record))
        return summarise([done[step] for step in plan], self._settings.policies)

    def _kept(self, plan: Sequence[Step]) -> dict[Step, Record]:
        """Return what an earlier run finished without an error, scored by today's scorer."""
        for row in self._rows.values():
            check_reference(row, self._settings.scorer)
        kept = self._log.load(self._digest)
        finished = (step for step in plan if step in kept and "error" not in kept[step])
        return {step: self._scored(kept[step]) for step in finished}

    def _keep(self, record: Record) -> Record:
        scored = self._scored(record)
        self._log.add(scored)
        return scored

    async def _warm_up(self, waiting: Sequence[Step]) -> None:
        """Ask one question under each policy and forget it: models load on first use."""
        for policy in self._settings.policies:
            first = next((key for key, other in waiting if other == policy), None)
            if first is not None:
                with suppress(RttcError):
                    await self._run(self._rows[first], policy, use_cache=False)

    async def _run(
        self, row: NewSample, policy: PolicyName, *, use_cache: bool
    ) -> Mapping[str, Any]:
        named = None if row.domain == DEFAULT_DOMAIN else row.domain
        return await self._ask(
            row.question,
            domain=self._settings.domain or named,
            policy=policy,
            seed=self._settings.seed,
            use_cache=use_cache,
        )

    async def _record(self, key: str, policy: PolicyName) -> Record:
        row = self._rows[key]
        record: Record = {
            "digest": self._digest,
            "row": key,
            "id": row.external_id,
            "policy": policy,
            "right": False,
            "answer": None,
            "arm": None,
            "reward": None,
            "seconds": 0.0,
            "candidates": [],
        }
        started = time.monotonic()
        try:
            result = await self._run(row, policy, use_cache=self._settings.use_cache)
        except ConfigurationError:
            raise
        except RttcError as exc:
            reason = f"{type(exc).__name__}: {exc}"
            return {**record, "seconds": time.monotonic() - started, "error": reason}
        return {
            **record,
            "answer": result["answer"],
            "arm": result["arm"],
            "reward": result["reward"],
            "seconds": result["seconds"],
            "candidates": [_judged(candidate) for candidate in result["candidates"]],
        }

    def _scored(self, record: Record) -> Record:
        row, scorer = self._rows[record["row"]], self._settings.scorer
        candidates: list[JudgedCandidate] = [
            {**c, "right": is_right(c["answer"], row, scorer)} for c in record["candidates"]
        ]
        right = record["answer"] is not None and is_right(record["answer"], row, scorer)
        return {**record, "right": right, "candidates": candidates}


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


def _plan(keys: Mapping[str, NewSample], policies: Sequence[PolicyName]) -> list[Step]:
    """Return every row under every policy; each row starts with another policy."""
    return [
        (key, policies[(number + turn) % len(policies)])
        for number, key in enumerate(keys)
        for turn in range(len(policies))
    ]


def _judged(candidate: Mapping[str, Any]) -> JudgedCandidate:
    return {
        "arm": candidate["arm"],
        "answer": candidate["answer"],
        "reward": candidate["reward"],
        "right": False,
        "seconds": candidate["seconds"],
        "prompt_tokens": candidate["prompt_tokens"],
        "completion_tokens": candidate["completion_tokens"],
        "trained_tokens": candidate["trained_tokens"],
    }


def _ignore(progress: EvaluationProgress) -> None:
    del progress
