"""The model card that is written beside a trained reward model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rttc_graph.integrations.rewards.trained.reward_spec import RewardSpec

NOT_STATED = "not stated"

NOT_ASKED_FOR = "not asked for"
"""Why there is no head for samples, where nobody wanted one."""

NO_ENCODER = "it needs an encoder, and the backbone is the policy model's own weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Licenses:
    """Licences that a trained reward model rests on."""

    base: str = NOT_STATED
    """Licence of the backbone's weights."""
    data: str = NOT_STATED
    """Licence of the questions and answers."""


def model_card(spec: RewardSpec) -> str:
    """Return the card as Markdown: what it is, what it learned from, how well, and its limits."""
    training = spec.training
    lines = [
        f"# {spec.name}",
        "",
        "A reward model for `rttc-graph`: question and answer to the probability that the answer "
        "is right.",
        "",
        f"- Backbone: `{spec.base}` ({spec.backbone}), frozen, with LoRA terms of rank "
        f"{spec.rank} on all linear layers and a head of width {spec.hidden}",
        f"- Longest pair: {spec.max_tokens} tokens; the question gives way first, from its left",
        f"- Signals beside the text: {_signals(spec)}",
        "",
        "## Data",
        "",
        f"{training['questions']} questions to learn from, {training['questions_held_out']} held "
        "out to stop early and to calibrate.",
        "",
        *_table("domain", "questions", training["questions_by_domain"]),
        "",
        *_table("source of the answers", "answers", training["answers_by_source"]),
        "",
        "## Recipe",
        "",
        *(f"- {name}: {value}" for name, value in training["settings"].items()),
        f"- steps: {training['steps']}, best after {training['best_step']}; "
        f"held-out loss {training['held_out_loss']:.4f}; {training['seconds']:.0f} s",
        "- then the head alone, with answers in other words added, pleas to the judge and echoes "
        "of the question among them: "
        f"{training['head']['epochs']} epochs over {training['head']['pairs']} pairs; held-out "
        f"loss {training['head']['held_out_before']:.4f} to "
        f"{training['head']['held_out_loss']:.4f}",
        "",
        "## Figures",
        "",
        "Of the policy model's answers to the held-out questions (of all answers where it gave "
        "none); the calibration was fitted on the same answers, so measure ECE on others with "
        "`rttc reward eval`.",
        "",
        *_table("figure", "value", training["held_out_answers"]),
        "",
        "By domain; an AUC of 0.5 is chance, and few answers say little:",
        "",
        *_by_domain(training["held_out_by_domain"]),
        "",
        "## Samples as evidence",
        "",
        *_evidence(training.get("evidence", {"refused": NOT_ASKED_FOR})),
        "",
        "## Licences",
        "",
        *_licenses(spec.base, training.get("licenses", asdict(Licenses()))),
        "",
        "## Limits",
        "",
        "- It tells whether an answer fits the question in meaning and form. It does not compute: "
        "where right and wrong answers differ in a number only, expect no more than chance.",
        "- It judges what an answer adds to its question: copies of the question are taken out of "
        "the answer first. A copy with other words in it is seen in part only.",
        "- Among answers that all look alike, such as labels copied from the right samples, the "
        "answer's own log-probability tells more than the text does.",
        "- Its probabilities hold for answers like those it was calibrated on; calibrate it on "
        "questions of your own before you rely on a threshold.",
    ]
    return "\n".join(lines) + "\n"


def _signals(spec: RewardSpec) -> str:
    if not spec.with_signals.signals:
        return "none"
    return "the answer's mean log-probability under its model, and whether it was cut off"


def _evidence(found: dict[str, Any]) -> list[str]:
    """Return what the head for samples is worth on questions that it did not learn from."""
    lines: list[str] = []
    if "refused" in found:
        lines += [
            f"There is no head that judges by samples: {found['refused']}. Samples in hand change "
            "no score.",
            "",
        ]
    else:
        lines += [
            "Where samples are in hand, a small head judges by what they say too. It learned from "
            f"{found['answers']} answers to {found['questions']} held-out questions, collected and "
            "made ones. Until a domain has a map of its own, its rewards are scores and no "
            "probabilities.",
            "",
        ]
    if "held_out" not in found:
        return lines[:-1]
    groups = {"all": found["held_out"], **found["kinds"]}
    return [
        *lines,
        "Cross-fitted by question, with the head and without it; log-loss is the better the lower:",
        "",
        "| kind | answers | AUC without | AUC with | log-loss without | log-loss with |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            _head_row(f"{kind}{which}", figures[name])
            for kind, figures in groups.items()
            for name, which in (("all", ""), ("arms", ", of arms"))
            if figures[name]["answers"]
        ),
    ]


def _head_row(name: str, found: dict[str, Any]) -> str:
    columns = ("answers", "auc_before", "auc_grounded", "log_loss_before", "log_loss_grounded")
    cells = ("-" if found[column] is None else _shown(found[column]) for column in columns)
    return f"| {name} | {' | '.join(cells)} |"


def _licenses(base: str, found: dict[str, str]) -> list[str]:
    return [f"- Backbone `{base}`: {found['base']}", f"- Questions and answers: {found['data']}"]


def _table(name: str, value: str, entries: dict[str, Any]) -> list[str]:
    head = [f"| {name} | {value} |", "| --- | --- |"]
    return [*head, *(f"| {key} | {_shown(entry)} |" for key, entry in entries.items())]


def _by_domain(found: dict[str, dict[str, Any]]) -> list[str]:
    head = ["| domain | answers | right | AUC |", "| --- | --- | --- | --- |"]
    rows = (
        f"| {name} | {one['answers']} | {one['right']} | "
        f"{'-' if one['auc'] is None else _shown(one['auc'])} |"
        for name, one in found.items()
    )
    return [*head, *rows]


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
