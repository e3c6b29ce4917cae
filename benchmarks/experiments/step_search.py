"""Searches over steps against votes over plain answers, on the same questions, model and judge.

Every question is answered by each search, by as many plain draws (for the cost of a decoded token),
and once by many answers that are written step by step without any choice between them. The first
1, 2, 4, … of these are what a majority, a vote weighted by the judge of steps and its best answer
would have been, so that each search has a vote of at least as many operations beside it. Records
are kept, and a run that was broken off goes on. `beam-0.05` is a beam whose soft widths have that
temperature.

    python -m benchmarks.experiments.step_search ask build/steps/asked-sums.jsonl \
        --model build/steps/smollm2 --probe build/steps/probe --records sums.jsonl --limit 200
    python -m benchmarks.experiments.step_search report sums.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.peers.step_peers import StepPeers
from benchmarks.tools.benchmark_options import tell
from rttc_graph.evaluation.intervals import paired_difference
from rttc_graph.evaluation.scorers import is_right
from rttc_graph.installation.config import load_config
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.integrations.process_rewards.probe_file import read_probe
from rttc_graph.protocols import NewSample, StepCut
from rttc_graph.samples.source import read_samples
from rttc_graph.search.answer_votes import read_vote
from rttc_graph.search.panel import Panel
from rttc_graph.search.steps import step_widths
from rttc_graph.search.steps.step_search import shared_out, vote_of_paths
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.strategies import register_strategy
from rttc_graph.search.strategy import Choice, Proposal
from rttc_graph.search.weighted import log_odds_of

APART, PLAIN = "apart", "best_of_n"
PEER = "its-hub-"
SEARCHES = ("beam", "beam-hard", "particles", "dvts", "lookahead", "mcts")
MOST_TOKENS = 96
PEERS = (f"{PEER}beam", f"{PEER}particles")

Row = dict[str, Any]
"""One policy on one question."""


class Apart:
    """A strategy that writes answers step by step and never chooses between them."""

    def __init__(self) -> None:
        self.last: ContextVar[list[Panel]] = ContextVar("last")
        """Panel of the question that is being asked, in the list that its asker has put there."""

    def propose(self, panel: Panel) -> Proposal:
        """Return one more step behind each step."""
        return shared_out(panel, lambda shares: [1] * len(shares))

    def choose(self, panel: Panel) -> Choice:
        """Return a choice that nobody uses; the panel is kept."""
        self.last.get()[:] = [panel]
        return vote_of_paths(panel)


async def asked(local: LocalRttc, apart: Apart, question: NewSample, policy: str, size: int) -> Row:
    """Return what a policy makes of a question."""
    name, _, form = policy.partition("-")
    changed: Row = {
        "max_new_tokens": MOST_TOKENS,
        "budget_seconds": 3600.0,  # questions that are asked together wait for each other
        "policy": name,
        "use_cache": False,
        "search_n": size,
        "search_from": ("direct",),
    }
    if form == "hard":
        changed["search_beam"] = form
    if policy == APART:
        changed["search_nodes"] = 16 * size  # nothing is left out
    settings = local.config.run_settings(None).model_copy(update=changed)
    last: list[Panel] = []
    apart.last.set(last)
    result = await local.ask(question.question, settings=settings)
    row = _row(question, policy, size, result["answer"]) | _paid(result["ledger"])
    if policy == APART:
        row["answers"] = _answers(last[0], question)
    else:
        row["ends"] = _ends(result["ledger"], question)
    return row


async def asked_peer(peers: StepPeers, question: NewSample, policy: str, size: int) -> Row:
    """Return what a search of its-hub makes of a question."""
    answer, paid = await peers.ask(policy.removeprefix(PEER), question.question, size, seed=0)
    return _row(question, policy, size, answer) | {
        "flops": paid.flops,
        "judging_flops": 0.0,
        "decoded": paid.decoded,
        "reused": paid.reused,
        "abstained": paid.abstained,
        "steps": paid.steps,
    }


def _row(question: NewSample, policy: str, size: int, answer: str) -> Row:
    return {
        "question": question.question,
        "policy": policy,
        "n": size,
        "right": is_right(answer, question, "auto"),
    }


async def _together(asking: Sequence[Coroutine[Any, Any, Row]]) -> list[Row]:
    """Return the rows of questions that are asked at once, each with its share of the time.

    Seconds and CPU seconds are shared out by the tokens that each has decoded.
    """
    began, cpu = time.monotonic(), time.process_time()
    rows = await asyncio.gather(*asking)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    decoded = sum(row["decoded"] for row in rows)
    for row in rows:
        share = row["decoded"] / max(1, decoded)
        row |= {"at_once": len(rows), "seconds": share * seconds, "cpu": share * cpu}
    return rows


def _paid(ledger: Sequence[Mapping[str, Any]]) -> Row:
    """Return what the rounds of a panel cost together."""
    drawn = [entry["detail"] for entry in ledger if entry["event"] == "drawn"]
    judged = [entry["detail"] for entry in ledger if entry["event"] == "judged_steps"]
    return {
        "flops": sum(one["flops"] or 0.0 for one in drawn),
        "judging_flops": sum(one["flops"] or 0.0 for one in judged),
        "decoded": sum(one["completion_tokens"] for one in drawn),
        "reused": sum(one["reused_tokens"] for one in drawn),
        "abstained": sum(one["abstained"] for one in judged),
        "steps": sum(one["steps"] for one in judged),
    }


def _answers(panel: Panel, question: NewSample) -> list[Row]:
    """Return the answers of a tree without forks, each with what its steps cost."""
    tree = StepTree(panel.tree)
    found: list[Row] = []
    for place, node in enumerate(panel.tree):
        if node["answer"] is None:
            continue
        path = [panel.tree[one] for one in tree.path(place)]
        found.append(
            {
                "vote": panel.drawn[node["answer"]]["vote"],
                "right": is_right(tree.text(place), question, "auto"),
                "p": node["p"],
                "steps": [one["p"] for one in path],
                "flops": sum(one["flops"] or 0.0 for one in path),
                "decoded": sum(one["completion_tokens"] for one in path),
            }
        )
    return found


def _ends(ledger: Sequence[Mapping[str, Any]], question: NewSample) -> list[Row]:
    """Return the answers at the ends of a search's tree, from which other choices can be told."""
    (stopped,) = (entry["detail"] for entry in ledger if entry["event"] == "stopped")
    nodes = stopped.get("steps", ())
    tree, found = StepTree(nodes), list[Row]()
    for place, node in enumerate(nodes):
        if node["answer"] is None:
            continue
        path = tree.path(place)
        text = "".join(nodes[one]["step"] for one in path)
        vote = read_vote(text, finish_reason=node["finish_reason"], numeric=True)
        right = is_right(text, question, "auto")
        found.append({"path": path, "p": node["p"], "vote": vote, "right": right})
    return found


def ask(given: argparse.Namespace) -> None:
    """Answer the questions by every policy, as far as the records lack them."""
    apart = Apart()
    register_strategy(APART, apart, cost=49, continues=True)
    questions = list(read_samples(given.questions))[: given.limit]
    policies = [APART, *given.policies.split(",")]
    rows = read_rows(given.records)
    had = {(row["question"], row["policy"], row["n"]) for row in rows}
    probe = _open_probe(given.probe, given.records.with_suffix(".probe"), given.widest)
    config = load_config(
        model=str(given.model),
        dtype=given.dtype,
        threads=1,
        reward="self-confidence",
        process_reward=str(probe),
    )
    with open_local(config) as local, given.records.open("a", encoding="utf-8") as file:
        asyncio.run(local.warm_up())
        peers = _peers(local)

        def asking(question: NewSample, policy: str, size: int) -> Coroutine[Any, Any, Row]:
            if policy.startswith(PEER):
                return asked_peer(peers, question, policy, size)
            return asked(local, apart, question, policy, size)

        for turn, at in enumerate(range(0, len(questions), given.at_once)):
            group = questions[at : at + given.at_once]
            # In turns, so that no policy has the quiet hours of the machine.
            first = turn % len(policies)
            for policy in [*policies[first:], *policies[:first]]:
                size = given.most if policy == APART else given.n
                missing = [one for one in group if (one.question, policy, size) not in had]
                with _soft_widths(policy):
                    rows = asyncio.run(_together([asking(one, policy, size) for one in missing]))
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
            tell(f"{at + len(group)}/{len(questions)}")


@contextmanager
def _soft_widths(policy: str) -> Generator[None]:
    """Share steps out by the temperature in a policy's name, if there is one."""
    name, _, form = policy.partition("-")
    before = step_widths.TEMPERATURE
    if name == "beam" and form not in ("", "hard"):
        step_widths.TEMPERATURE = float(form)
    try:
        yield
    finally:
        step_widths.TEMPERATURE = before


def _open_probe(folder: Path, out: Path, widest: int | None) -> Path:
    """Write a probe that is not closed, so that it can be measured what it is good for."""
    probe = read_probe(folder)
    replace(probe, closed={}, widest=widest or probe.widest).write(out)
    return out


def _peers(local: LocalRttc) -> StepPeers:
    settings = local.config.run_settings(None)
    search = settings.search
    judge = local.parts["process_reward_model"]
    assert judge is not None, "the probe is in the settings"
    return StepPeers(
        policy=local.policy.model,
        judge=judge,
        cut=StepCut(
            marks=search.step_marks, least_tokens=search.step_least, most_tokens=search.step_most
        ),
        temperature=search.temperature,
        most_tokens=MOST_TOKENS,
    )


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of records; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Yield lines: the votes by number of answers, then each search beside the votes it costs."""
    by_policy: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], {})[row["question"]] = row
    apart = by_policy.pop(APART)
    yield f"{len(apart)} questions; answers: right of one, of any, majority, weighted, best; GFLOP"
    most = max(len(row["answers"]) for row in apart.values())
    for count in (1, 2, 4, 8, 16, 32):
        if count <= most:
            yield _votes_line(list(apart.values()), count)
    for policy, found in by_policy.items():
        asked_both = [question for question in apart if question in found]
        pairs = [(found[question], apart[question]) for question in asked_both]
        yield _search_line(policy, pairs, most)


KEPT = ("majority", "weighted", "best")


def _votes_line(rows: Sequence[Row], count: int) -> str:
    kept = {how: fmean(kept_right(row, count, how) for row in rows) for how in KEPT}
    one = fmean(row["answers"][0]["right"] for row in rows)
    some = fmean(any(a["right"] for a in row["answers"][:count]) for row in rows)
    figures = " ".join(f"{how} {100 * share:.1f}" for how, share in kept.items())
    cost = fmean(vote_flops(row, count) for row in rows)
    return (
        f"  {count:2} answers: one {100 * one:.1f} any {100 * some:.1f} {figures}; {cost / 1e9:.1f}"
    )


def _search_line(policy: str, pairs: Sequence[tuple[Row, Row]], most: int) -> str:
    ours = [float(row["right"]) for row, _ in pairs]
    cost = fmean(row["flops"] + row["judging_flops"] for row, _ in pairs)
    count = next(
        (
            number
            for number in range(1, most + 1)
            if fmean(vote_flops(apart, number) for _, apart in pairs) >= cost
        ),
        most,
    )
    beside: list[str] = []
    for how in KEPT:
        theirs = [float(kept_right(apart, count, how)) for _, apart in pairs]
        mean, low, high = paired_difference(ours, theirs)
        beside.append(f"{how} {100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
    cpu = median(1000 * row["cpu"] / max(1, row["decoded"]) for row, _ in pairs)
    return (
        f"  {policy} of {pairs[0][0]['n']}: {100 * fmean(ours):.1f} at {cost / 1e9:.1f} GFLOP, "
        f"{fmean(row['decoded'] for row, _ in pairs):.0f} tokens, {cpu:.1f} ms of CPU a token; "
        f"beside {count} answers: {', '.join(beside)}"
    )


def vote_flops(row: Row, count: int) -> float:
    """Return what the first answers cost."""
    return float(sum(answer["flops"] for answer in row["answers"][:count]))


def kept_right(row: Row, count: int, how: str) -> bool:
    """Tell whether the answer that is kept of the first ones is right."""
    answers = [answer for answer in row["answers"][:count] if answer["vote"] is not None]
    if not answers:
        return False
    if how == "best":
        return bool(max(answers, key=lambda answer: answer["p"] or 0.0)["right"])
    weights: dict[str, float] = {}
    for answer in answers:
        weight = 1.0 if how == "majority" else log_odds_of(answer["p"])
        weights[answer["vote"]] = weights.get(answer["vote"], 0.0) + weight
    kept = max(weights, key=weights.__getitem__)
    return bool(next(answer for answer in answers if answer["vote"] == kept)["right"])


def main() -> None:
    """Ask, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    asking = commands.add_parser("ask")
    asking.add_argument("questions", type=Path)
    asking.add_argument("--model", type=Path, required=True, help="folder or name of the model")
    asking.add_argument("--dtype", default="float32")
    asking.add_argument("--probe", type=Path, required=True)
    asking.add_argument("--widest", type=int, help="in the place of the probe's own")
    asking.add_argument("--policies", default=",".join((PLAIN, *SEARCHES, *PEERS)))
    asking.add_argument("--n", type=int, default=8, help="answers of a search (default: 8)")
    asking.add_argument("--most", type=int, default=24, help="answers of a vote (default: 24)")
    asking.add_argument("--limit", type=int, default=200)
    asking.add_argument("--at-once", type=int, default=4, help="questions together (default: 4)")
    asking.add_argument("--records", type=Path, required=True)
    reporting = commands.add_parser("report")
    reporting.add_argument("records", type=Path, nargs="+")
    given = parser.parse_args()
    if given.what == "ask":
        ask(given)
        return
    for path in given.records:
        print(path.stem)
        print("\n".join(report(read_rows(path))))


if __name__ == "__main__":
    main()
