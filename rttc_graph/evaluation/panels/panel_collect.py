"""Panels of questions, each drawn once and kept with all texts; resumable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from rttc_graph.arms import ARMS, RETRIEVE
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.evaluation.collect import Collection, planned_rows, write_settings
from rttc_graph.evaluation.evaluation_rows import (
    PANEL,
    EvaluationRows,
    Line,
    PanelJudgement,
    PanelRow,
    RowKey,
    RowLog,
    key_fields,
    sample_of,
)
from rttc_graph.evaluation.panels.panel_replay import RecordedPanel
from rttc_graph.evaluation.policy_figures import scorers_of
from rttc_graph.evaluation.scorers import ScorerName, check_reference
from rttc_graph.evaluation.verdicts import Verdicts, scored
from rttc_graph.protocols import NewSample, RewardModel, checked_scores, reward_requests
from rttc_graph.run.prompts import solved
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.state import Candidate, Drawn
from rttc_graph.support.progress import Advance, show_nothing

_PANEL_ROUND = "panel_round"


class AskPanel(Protocol):
    """Draws one panel on the real graph."""

    async def __call__(
        self, question: str, *, domain: str | None, size: int, seed: int
    ) -> Mapping[str, Any]:
        """Return `drawn`, all draws with their texts, `samples` and `ledger`.

        Raises:
            RttcError: There is no answer.
            ConfigurationError: Nothing can be asked this way; the collection ends.
        """
        ...


def panel_keys(collection: Collection) -> list[RowKey]:
    """Return the keys of all panels of a collection, in the order in which they are drawn."""
    return [key for key, _ in planned_rows(_of_panels(collection))]


async def collect_panels(
    collection: Collection,
    ask: AskPanel,
    reward_model: RewardModel,
    log: RowLog,
    rows: EvaluationRows,
    *,
    size: int,
    verdicts: Verdicts | None = None,
    on_progress: Advance = show_nothing,
) -> None:
    """Draw the panels that are not there yet in this size, and judge what is not judged.

    A panel that failed is kept with its error, and drawn again by the next collection. A larger
    size draws a panel anew; a smaller one takes what is there.

    Args:
        collection: Questions and settings; its policies do not matter.
        ask: Draws, and judges with `reward_model`.
        reward_model: Judge with raw scores.
        log: Appended to.
        rows: Content of the log; gets the new lines too.
        size: Answers of a panel, 1 to 64.
        verdicts: Needed by the scorer `chat-judge`.
        on_progress: Called on the event loop after each panel, and once at the start.

    Raises:
        ConfigurationError: A reference answer fits no scorer, or `ask` raised it.
        RttcError: The judge or the grader failed; what was drawn before is kept.
    """
    collection = _of_panels(collection)
    for data_set in collection.data_sets:
        for sample in data_set.rows:
            check_reference(sample, collection.scorer)
    await asyncio.to_thread(write_settings, collection, rows, log)
    plan = planned_rows(collection)
    waiting = [(key, sample) for key, sample in plan if not _is_drawn(rows, key, size)]
    on_progress(len(plan) - len(waiting), len(plan))
    for number, (key, sample) in enumerate(waiting, start=len(plan) - len(waiting) + 1):
        row, rewards, judging = await _drawn_row(key, sample, collection, ask, size)
        lines: list[Line] = [row]
        if row["error"] is None:
            lines.append(await _judgement(key, reward_model, rewards, seconds=judging))
        await _keep(lines, rows, log)
        on_progress(number, len(plan))
    await judge_panels(rows, [key for key, _ in plan], reward_model, log)
    if verdicts is not None:
        await _grade(rows, [key for key, _ in plan], verdicts, log)


async def judge_panels(
    rows: EvaluationRows, keys: Sequence[RowKey], reward_model: RewardModel, log: RowLog
) -> None:
    """Judge the panels that `reward_model` has not judged yet: all draws of one in one call.

    An answer that it cannot score leaves the rest of its panel their rewards.
    """
    fingerprint = await reward_model.fingerprint()
    for key in keys:
        row, judged = rows.panels.get(key), rows.panel_judgements.get((key, fingerprint))
        if row is None or row["error"] or _is_whole(judged, row):
            continue
        began = time.monotonic()
        rewards = await _rewards(row, reward_model)
        seconds = time.monotonic() - began
        line = await _judgement(key, reward_model, rewards, seconds=seconds)
        await _keep([line], rows, log)


def recorded_panels(
    rows: EvaluationRows,
    keys: Sequence[RowKey],
    fingerprint: str,
    *,
    calibrate: Callable[[float, str | None], float] | None = None,
    tau_r: float = 0.5,
    scorer: ScorerName = "auto",
    verdicts: Verdicts | None = None,
) -> list[RecordedPanel]:
    """Return the panels of a file as strategies are replayed on them, votes read anew.

    A question on which a grader abstained for any draw is left out; one whose panel failed has no
    draws, and counts as wrong.

    Args:
        rows: Content of the file.
        keys: Which of its panels.
        fingerprint: Reward model whose rewards count.
        calibrate: Raw reward and domain to the reward that counts; `None` for raw ones.
        tau_r: Least reward of an accepted answer.
        scorer: Says what is right; by the data, unless named.
        verdicts: Needed by the scorer `chat-judge`.
    """
    scorers = scorers_of(rows, keys, scorer)
    found: list[RecordedPanel] = []
    for key in keys:
        row = rows.panels.get(key)
        if row is None:
            continue
        sample = sample_of(row)
        right = [
            scored(one["text"], sample, scorers[row["data_set"]].scorer, verdicts)
            for one in row["drawn"]
        ]
        if None in right:
            continue
        judged = rows.panel_judgements.get((key, fingerprint))
        rewards = judged["rewards"] if judged else [None] * len(right)
        if calibrate is not None:
            rewards = [None if one is None else calibrate(one, row["domain"]) for one in rewards]
        found.append(
            RecordedPanel(
                data_set=row["data_set"],
                model=row["model"],
                row=row["row"],
                domain=row["domain"],
                drawn=_with_rewards(row, rewards),
                right=tuple(map(bool, right)),
                seconds=row["seconds"],
                judging_seconds=judged["seconds"] if judged else 0.0,
                tau_r=tau_r,
                calibrated=calibrate is not None,
            )
        )
    return found


def _of_panels(collection: Collection) -> Collection:
    return replace(collection, policies=(PANEL,))


def _is_drawn(rows: EvaluationRows, key: RowKey, size: int) -> bool:
    row = rows.panels.get(key)
    return row is not None and row["error"] is None and row["size"] >= size


def _is_whole(judged: PanelJudgement | None, row: PanelRow) -> bool:
    return judged is not None and len(judged["rewards"]) == len(row["drawn"])


async def _judgement(
    key: RowKey, reward_model: RewardModel, rewards: list[float | None], *, seconds: float
) -> PanelJudgement:
    return {
        "kind": "panel_judgement",
        **key_fields(key),
        "reward_model": reward_model.name,
        "fingerprint": await reward_model.fingerprint(),
        "rewards": rewards,
        "seconds": seconds,
    }


async def _drawn_row(
    key: RowKey, sample: NewSample, collection: Collection, ask: AskPanel, size: int
) -> tuple[PanelRow, list[float | None], float]:
    """Return the row of a panel, the rewards that its run gave, and the seconds of judging."""
    domain = collection.domain_of(sample)
    row: PanelRow = {
        "kind": "panel",
        **key_fields(key),
        "id": sample.external_id,
        "domain": domain,
        "question": sample.question,
        "reference": sample.answer,
        "metadata": sample.metadata,
        "size": size,
        "drawn": [],
        "seeds": [],
        "samples": [],
        "seconds": {"generation": 0.0, "retrieval": 0.0},
        "error": None,
    }
    try:
        result = await ask(sample.question, domain=domain, size=size, seed=key.seed)
    except ConfigurationError:
        raise
    except RttcError as exc:
        row["error"] = f"{type(exc).__name__}: {exc}"
        return row, [], 0.0
    drawn = cast("Sequence[Drawn]", result["drawn"])
    ledger = cast("Sequence[Mapping[str, Any]]", result["ledger"])
    row["drawn"] = [{**one, "reward": None} for one in drawn]
    row["seeds"] = [draw_seed(key.seed, number) for number in range(len(drawn))]
    row["samples"] = list(result["samples"])
    row["seconds"] = {
        "generation": sum((e["seconds"] for e in ledger if e["event"] == "drawn"), 0.0),
        "retrieval": sum((e["seconds"] for e in ledger if e["node"] == RETRIEVE), 0.0),
    }
    if not drawn:
        reasons = [e["detail"].get("error", "") for e in ledger if e["event"] == "failed"]
        row["error"] = "; ".join(reasons) or "nothing was drawn"
    judging = [e["seconds"] for e in ledger if e["event"] == "judged" and e["node"] == _PANEL_ROUND]
    return row, [one["reward"] for one in drawn], sum(judging, 0.0)


async def _rewards(row: PanelRow, reward_model: RewardModel) -> list[float | None]:
    candidates = {n: _candidate(one, row) for n, one in enumerate(row["drawn"]) if one["text"]}
    every = list(candidates.values())
    requests = reward_requests(every, of_run=every, samples=row["samples"])
    rewards: list[float | None] = [None] * len(row["drawn"])
    if not requests:
        return rewards
    try:
        given = await checked_scores(reward_model, row["question"], requests)
        found: list[float | None] = [*given]
    except RttcError as exc:
        if getattr(exc, "retryable", False):
            raise
        found = []
        for request in requests:
            try:
                found += await checked_scores(reward_model, row["question"], [request])
            except RttcError:
                found.append(None)
    for place, reward in zip(candidates, found, strict=True):
        rewards[place] = reward
    return rewards


def _candidate(one: Drawn, row: PanelRow) -> Candidate:
    return {
        "arm": ARMS.of_attempt(one["proposer"]).name,
        "answer": one["text"],
        "reward": None,
        "seconds": 0.0,
        "prompt_tokens": one["prompt_tokens"],
        "completion_tokens": one["completion_tokens"],
        "trained_tokens": 0,
        "mean_logprob": one["mean_logprob"],
        "finish_reason": one["finish_reason"],
        "adapter": None,
        "rests_on": [row["samples"][place]["id"] for place in one["shown"]],
    }


def _with_rewards(row: PanelRow, rewards: Sequence[float | None]) -> tuple[Drawn, ...]:
    numeric = wants_number(sample["answer"] for sample in solved(row["samples"]))
    return tuple(
        {
            **one,
            "reward": reward,
            "vote": read_vote(one["text"], finish_reason=one["finish_reason"], numeric=numeric),
        }
        for one, reward in zip(row["drawn"], rewards, strict=True)
    )


async def _grade(
    rows: EvaluationRows, keys: Sequence[RowKey], verdicts: Verdicts, log: RowLog
) -> None:
    verdicts.add(rows.verdicts)
    panels = [rows.panels[key] for key in keys if key in rows.panels]
    answers = [(one["text"], sample_of(row)) for row in panels for one in row["drawn"]]
    async for lines in verdicts.ask(answers):
        await _keep(lines, rows, log)


async def _keep(lines: Sequence[Line], rows: EvaluationRows, log: RowLog) -> None:
    await asyncio.to_thread(log.add, lines)
    for line in lines:
        rows.add(line)
