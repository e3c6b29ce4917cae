"""Rows to the figures of every policy and yardstick; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, cascade_arms
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.baselines import (
    BASELINES,
    Baseline,
    baseline_runs,
    scored_answers,
)
from rttc_graph.evaluation.comparison import (
    DEFAULT_POLICY,
    AgainstArms,
    Comparisons,
    Verdict,
    against_arms,
    verdict,
)
from rttc_graph.evaluation.evaluation_rows import (
    EvaluationRow,
    EvaluationRows,
    RowKey,
    sample_of,
)
from rttc_graph.evaluation.intervals import wilson_interval
from rttc_graph.evaluation.replay import (
    Arms,
    Gate,
    JudgedArm,
    ReplayedRun,
    arm_shares,
    at_random,
    oracle,
    replay,
    replayed_run,
)
from rttc_graph.evaluation.scorers import CHAT_JUDGE, ScorerChoice, ScorerName, choose_scorer
from rttc_graph.evaluation.selective import SelectiveFigures, selective
from rttc_graph.evaluation.verdicts import Verdicts, scored
from rttc_graph.protocols import NewSample, summed
from rttc_graph.samples.rows import is_unanswerable
from rttc_graph.settings import PolicyName
from rttc_graph.state import Arm

Yardstick = Literal["oracle", "random"]
YARDSTICKS: tuple[Yardstick, ...] = ("oracle", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedQuestion:
    """One question with the rows of its arms."""

    data_set: str
    model: str
    row: str
    domain: str | None
    arms: Arms
    """The first draw of each arm."""
    draws: Mapping[Arm, Sequence[JudgedArm]] = field(default_factory=dict[Arm, Sequence[JudgedArm]])
    """All draws of each arm by rising seed, for strategies that take several."""
    baselines: Mapping[Baseline, ReplayedRun] = field(default_factory=dict[Baseline, ReplayedRun])
    """Answers of the samples by themselves; without those that the rows cannot tell."""

    @property
    def answers(self) -> list[JudgedArm]:
        """All draws of all arms."""
        later = (draw for drawn in self.draws.values() for draw in drawn[1:])
        return [*self.arms.values(), *later]


class PolicyFigures(TypedDict):
    """Figures of one policy, baseline or yardstick; tokens and seconds are means per question."""

    accuracy: float
    interval: list[float]
    """Low and high end of the 95 % Wilson score interval of the accuracy."""
    against_cascade: list[float] | None
    """Difference of the accuracies, low and high end of its 95 % paired bootstrap interval; `None`
    where `cascade` is not among the policies."""
    seconds_mean: float
    prompt_tokens: float
    completion_tokens: float
    trained_tokens: float
    flops: float | None
    """Floating-point operations of the policy model, trainings among them and judges not; `None`
    where those of one answer are not known."""
    arms: dict[str, float]
    """Questions by the arm whose answer was returned."""
    arms_run: dict[str, int]
    """Answers by arm, whether returned or not: what the policy paid for; none for yardsticks."""
    false_accepts: float | None
    """Share of questions whose answer was judged at least τr and is wrong; `None` for baselines and
    yardsticks, which nobody judges."""
    false_rejects: float | None
    """Share of questions with a right answer in hand that was judged below τr."""
    failed: int
    """Questions without any answer; they count as wrong."""
    selective: SelectiveFigures | None
    """Accuracy against the share of questions that are answered; `None` for what has no reward."""


class GroupFigures(TypedDict):
    """Figures of all policies on some of the questions."""

    model: str | None
    """`None` for all models together."""
    data_set: str | None
    """`None` for all data sets together."""
    rows: int
    unanswerable: int
    """Questions to which there is no answer, so that to decline is right."""
    policies: dict[str, PolicyFigures]
    """Policies, then baselines, then yardsticks."""
    left_out: dict[str, int]
    """Baselines without figures, with the number of questions whose rows cannot tell them."""
    verdict: Verdict
    against_arms: AgainstArms | None
    """The default policy against each arm; `None` where it was not measured."""


GateOf = Callable[[EvaluatedQuestion], Gate]


def evaluated_questions(
    rows: EvaluationRows,
    keys: Sequence[RowKey],
    fingerprint: str,
    *,
    calibrate: Callable[[JudgedArm], float | None] | None = None,
    scorer: ScorerName = "auto",
    verdicts: Verdicts | None = None,
) -> list[EvaluatedQuestion]:
    """Return the questions whose arms are all there, in the order of the keys.

    Those of `cascade` must be, unless no question has a row of one: rows that were collected before
    there was that arm still serve. Questions with an answer on which a grader abstained are left
    out.

    Args:
        rows: Rows of arms alone, and their judgements.
        keys: Which of them.
        fingerprint: Reward model whose judgements count.
        calibrate: Answer with its raw reward to the reward that counts; `None` for raw ones.
        scorer: Says what is right; by the data, unless named.
        verdicts: Needed by the scorer `chat-judge`.

    Raises:
        ConfigurationError: One model has answers of two settings to one data set, or an answer has
            no verdict.
    """
    _check_settings(keys)
    scorers = scorers_of(rows, keys, scorer)
    undecided = undecided_questions(rows, keys, scorer, verdicts)
    found: dict[tuple[str, str, str], dict[Arm, list[JudgedArm]]] = {}
    for key in sorted((key for key in keys if key in rows.rows), key=lambda key: key.seed):
        if question_of(key) in undecided:
            continue
        row = rows.rows[key]
        judgement = rows.judgements.get((key, fingerprint))
        draw = JudgedArm(
            row={**row, "right": any(_rights(row, scorers[key.data_set].scorer, verdicts))},
            reward=None if judgement is None else judgement["reward"],
            judging_seconds=0.0 if judgement is None else judgement["seconds"],
            min_similarity=_min_similarity(rows, key),
        )
        if calibrate is not None:
            draw = replace(draw, reward=calibrate(draw))
        draws = found.setdefault(question_of(key), {})
        draws.setdefault(key.policy, []).append(draw)
    wanted = set(cascade_arms()).intersection(arm for draws in found.values() for arm in draws)
    places = dict.fromkeys(map(question_of, keys))
    return [
        _question(*place, found[place], scorers[place[0]].scorer, verdicts)
        for place in places
        if wanted <= found.get(place, {}).keys()
    ]


def _question(
    data_set: str,
    model: str,
    row: str,
    draws: Mapping[Arm, Sequence[JudgedArm]],
    scorer: ScorerName,
    verdicts: Verdicts | None,
) -> EvaluatedQuestion:
    arms: Arms = {arm: draws[arm][0] for arm in ARMS if arm in draws}
    return EvaluatedQuestion(
        data_set=data_set,
        model=model,
        row=row,
        domain=next(iter(arms.values())).row["domain"],
        arms=arms,
        draws=draws,
        baselines=_baselines([judged.row for judged in arms.values()], scorer, verdicts),
    )


def _baselines(
    rows: Sequence[EvaluationRow], scorer: ScorerName, verdicts: Verdicts | None
) -> dict[Baseline, ReplayedRun]:
    sample = sample_of(rows[0])
    return baseline_runs(rows, lambda answer: bool(scored(answer, sample, scorer, verdicts)))


def grouped(
    questions: Sequence[EvaluatedQuestion], policies: Sequence[PolicyName], gate_of: GateOf
) -> list[GroupFigures]:
    """Return the figures of all questions, of each model, and of each model's data sets."""
    models = list(dict.fromkeys(q.model for q in questions))
    groups = [policy_figures(questions, policies, gate_of)]
    for model in models:
        mine = [q for q in questions if q.model == model]
        data_sets = list(dict.fromkeys(q.data_set for q in mine))
        if len(models) > 1:
            groups.append(policy_figures(mine, policies, gate_of, model=model))
        if len(data_sets) > 1:
            for name in data_sets:
                some = [q for q in mine if q.data_set == name]
                found = policy_figures(some, policies, gate_of, model=model, data_set=name)
                groups.append(found)
    return groups


def policy_figures(
    questions: Sequence[EvaluatedQuestion],
    policies: Sequence[PolicyName],
    gate_of: GateOf,
    *,
    model: str | None = None,
    data_set: str | None = None,
) -> GroupFigures:
    """Return the figures of each policy, of the baselines, and of the yardsticks there are.

    The best arm in hindsight needs two arms, and a random one the shares of `cascade`: only what is
    among the policies is compared with.

    Args:
        questions: At least one.
        policies: In the order wanted.
        gate_of: A question's gate.
        model: Policy model of the questions, where they are those of one among several.
        data_set: Their data set, likewise.

    Raises:
        ConfigurationError: There are no questions, or none of a policy's arm.
    """
    if not questions:
        raise ConfigurationError("no question has the rows of all arms: collect them first")
    for arm in ARMS.keys() & set(policies):
        if missing := sum(arm not in question.arms for question in questions):
            raise ConfigurationError(
                f"policy {arm!r} has no rows of its arm for {missing} of {len(questions)} "
                "questions: collect them, or leave it out of the policies"
            )
    outcomes: dict[str, list[ReplayedRun]] = {
        policy: [replay(q.arms, policy, gate_of(q)) for q in questions] for policy in policies
    }
    left_out = _add_baselines(outcomes, [q.baselines for q in questions])
    cascade = outcomes.get(DEFAULT_POLICY)
    known = set(ARMS).intersection(*(q.arms for q in questions))
    if len(known) > 1:  # of one arm the best is that one
        outcomes["oracle"] = [
            oracle({arm: q.arms[arm] for arm in q.arms if arm in known}) for q in questions
        ]
    if cascade is not None:
        shares = arm_shares(cascade)
        outcomes["random"] = [at_random(q.arms, shares, gate_of(q).tau_r) for q in questions]
    return _group(outcomes, cascade, left_out, model=model, data_set=data_set)


def real_figures(
    rows: EvaluationRows,
    keys: Sequence[RowKey],
    *,
    tau_r: float,
    scorer: ScorerName = "auto",
    verdicts: Verdicts | None = None,
) -> GroupFigures:
    """Return the figures of policies that were run for real; there are no yardsticks among them.

    Args:
        rows: Rows of runs, all policies on the same questions.
        keys: Which of them, at least one.
        tau_r: Threshold of the runs.
        scorer: Says what is right; by the data, unless named.
        verdicts: Needed by the scorer `chat-judge`; questions on which it abstained are left out.

    Raises:
        ConfigurationError: A grader abstained on all questions, or an answer has no verdict.
    """
    runs: dict[tuple[str, str], dict[str, ReplayedRun]] = {}
    of_question: dict[tuple[str, str], list[EvaluationRow]] = {}
    scorers = scorers_of(rows, keys, scorer)
    undecided = undecided_questions(rows, keys, scorer, verdicts)
    for key in keys:
        if question_of(key) in undecided:
            continue
        row = rows.rows[key]
        seconds = sum(row["seconds"].values())
        rights = list(map(bool, _rights(row, scorers[key.data_set].scorer, verdicts)))
        outcome = replayed_run(
            row["candidates"],
            rights,
            seconds=seconds,
            tau_r=tau_r,
            unanswerable=is_unanswerable(row["metadata"]),
            has_near_sample=_has_near_sample(rows, key),
        )
        runs.setdefault((key.data_set, key.row), {})[key.policy] = outcome
        of_question.setdefault((key.data_set, key.row), []).append(row)
    outcomes = {
        policy: [found[policy] for found in runs.values()]
        for policy in dict.fromkeys(key.policy for key in keys)
    }
    baselines = [
        _baselines(found, scorers[data_set].scorer, verdicts)
        for (data_set, _), found in of_question.items()
    ]
    left_out = _add_baselines(outcomes, baselines)
    return _group(outcomes, outcomes.get(DEFAULT_POLICY), left_out)


def _add_baselines(
    outcomes: dict[str, list[ReplayedRun]], found: Sequence[Mapping[Baseline, ReplayedRun]]
) -> dict[str, int]:
    """Add the baselines that are known of every question, and return how many lack the others."""
    left_out: dict[str, int] = {}
    for name in BASELINES:
        runs = [of_question[name] for of_question in found if name in of_question]
        if len(runs) == len(found):
            outcomes[name] = runs
        else:
            left_out[name] = len(found) - len(runs)
    return left_out


def _group(
    outcomes: Mapping[str, Sequence[ReplayedRun]],
    cascade: Sequence[ReplayedRun] | None,
    left_out: dict[str, int],
    *,
    model: str | None = None,
    data_set: str | None = None,
) -> GroupFigures:
    compared = Comparisons(outcomes)
    names = [name for name in outcomes if name not in YARDSTICKS]
    return {
        "model": model,
        "data_set": data_set,
        "rows": compared.questions,
        "unanswerable": sum(run.unanswerable for run in next(iter(outcomes.values()))),
        "policies": {
            name: _figures(
                found,
                None
                if name == DEFAULT_POLICY or cascade is None
                else list(compared(name, DEFAULT_POLICY)),
                is_judged=name not in (*YARDSTICKS, *BASELINES),
            )
            for name, found in outcomes.items()
        },
        "left_out": left_out,
        "verdict": verdict(
            compared, names, where=", ".join(part for part in (data_set, model) if part)
        ),
        "against_arms": against_arms(compared, names),
    }


def _figures(
    outcomes: Sequence[ReplayedRun], against_cascade: list[float] | None, *, is_judged: bool
) -> PolicyFigures:
    count = len(outcomes)
    right = [outcome.right for outcome in outcomes]
    ran = [arm for outcome in outcomes for arm in outcome.ran]
    return {
        "accuracy": fmean(right),
        "interval": list(wilson_interval(min(count, round(sum(right))), count)),
        "against_cascade": against_cascade,
        "seconds_mean": fmean(o.seconds for o in outcomes),
        "prompt_tokens": fmean(o.prompt_tokens for o in outcomes),
        "completion_tokens": fmean(o.completion_tokens for o in outcomes),
        "trained_tokens": fmean(o.trained_tokens for o in outcomes),
        "flops": _mean_flops(outcomes),
        "arms": _by_arm(outcomes),
        "arms_run": {arm: ran.count(arm) for arm in ARMS if arm in ran},
        "false_accepts": fmean(o.false_accept for o in outcomes) if is_judged else None,
        "false_rejects": fmean(o.false_reject for o in outcomes) if is_judged else None,
        "failed": sum(not outcome.shares for outcome in outcomes),
        "selective": selective(outcomes),
    }


def _mean_flops(outcomes: Sequence[ReplayedRun]) -> float | None:
    total = summed(*(outcome.flops for outcome in outcomes))
    return None if total is None else total / len(outcomes)


def _by_arm(outcomes: Sequence[ReplayedRun]) -> dict[str, float]:
    sums = {arm: sum(o.shares.get(arm, 0.0) for o in outcomes) for arm in ARMS}
    return {arm: round(value, 6) for arm, value in sums.items() if value}


def scorers_of(
    rows: EvaluationRows, keys: Iterable[RowKey], scorer: ScorerName = "auto"
) -> dict[str, ScorerChoice]:
    """Return what scores each data set, by its questions unless a scorer is named."""
    questions: dict[str, dict[str, NewSample]] = {}
    for key in keys:
        row = rows.rows.get(key) or rows.panels.get(key)
        if row is not None:
            questions.setdefault(key.data_set, {})[key.row] = sample_of(row)
    return {name: choose_scorer(list(of.values()), scorer) for name, of in questions.items()}


QuestionKey = tuple[str, str, str]
"""Data set, policy model and row of a question."""


def question_of(key: RowKey) -> QuestionKey:
    """Return the question that a row is about."""
    return key.data_set, key.model, key.row


def undecided_questions(
    rows: EvaluationRows, keys: Iterable[RowKey], scorer: ScorerName, verdicts: Verdicts | None
) -> set[QuestionKey]:
    """Return the questions with an answer, of a baseline perhaps, on which a grader abstained.

    They are left out with all their answers, since policies are compared on the same questions.

    Raises:
        ConfigurationError: It abstained on all of them, or an answer has no verdict.
    """
    if scorer != CHAT_JUDGE:
        return set()
    there = [key for key in keys if key in rows.rows]
    found = {question_of(key) for key in there if _is_undecided(rows.rows[key], scorer, verdicts)}
    if found and len(found) == len({question_of(key) for key in there}):
        raise ConfigurationError(
            f"the grader abstained on all {len(found)} questions: take a stronger model, another "
            "rubric, or another scorer"
        )
    return found


def _is_undecided(row: EvaluationRow, scorer: ScorerName, verdicts: Verdicts | None) -> bool:
    sample = sample_of(row)
    return None in [scored(a, sample, scorer, verdicts) for a in scored_answers(row)]


def _rights(row: EvaluationRow, scorer: ScorerName, verdicts: Verdicts | None) -> list[bool | None]:
    """Return for each candidate of a row whether it is right, by today's scorer.

    It is `None` where a grader abstained.
    """
    sample = sample_of(row)
    return [scored(c["answer"], sample, scorer, verdicts) for c in row["candidates"]]


def _min_similarity(rows: EvaluationRows, key: RowKey) -> float:
    """Return the setting that a row was made with; rows of earlier releases had none."""
    return float(rows.settings.get(key.digest, {}).get("min_similarity") or 0.0)


def _has_near_sample(rows: EvaluationRows, key: RowKey) -> bool:
    """Tell whether a run for real found a sample near enough, or asked for none."""
    searches = key.policy not in ARMS or ARMS[key.policy].retrieves
    found = bool(rows.rows[key].get("samples"))
    return found or not searches or not _min_similarity(rows, key)


def _check_settings(keys: Sequence[RowKey]) -> None:
    # Rows of panels depend on settings of their own.
    digests: dict[tuple[str, str, bool], set[str]] = {}
    for key in keys:
        draws = key.policy in ARMS and ARMS[key.policy].own.strategy is not None
        digests.setdefault((key.data_set, key.model, draws), set()).add(key.digest)
    mixed = {place: found for place, found in digests.items() if len(found) > 1}
    if mixed:
        (data_set, model, _), found = next(iter(mixed.items()))
        raise ConfigurationError(
            f"the rows of {model} on {data_set} were made with {len(found)} different settings "
            f"(digests {', '.join(sorted(found))}): keep each in a file of its own"
        )
