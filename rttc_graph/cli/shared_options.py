"""Flags that several commands share, and how lists of words are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rttc_graph.arms import first_arm_names, policy_names, proposer_names
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.identity import checked_name, unknown_name


def one_of(names: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    """Return a parser for a flag that takes one of some names, looked up when it is parsed."""

    def parse(value: str) -> str:
        if value not in names():
            raise typer.BadParameter(unknown_name(value, names()))
        return value

    return parse


def shown(names: Callable[[], Sequence[str]]) -> str:
    """Return the names as `--help` shows them."""
    return f"[{'|'.join(names())}]"


def with_default(text: str, name: str) -> str:
    """Return the help of a flag that overrides a setting, with the setting's name and default."""
    default = InstallationConfig.model_fields[name].get_default(call_default_factory=True)
    shown = ("off", "on")[default] if isinstance(default, bool) else default
    return f"{text} (default: the setting {name}, {shown})."


Limit = Annotated[
    int | None,
    typer.Option(help="Take this many questions, drawn at random with --seed (default: all)."),
]
ByFeatures = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Let P(right) go by more than the reward (log-probability, length, votes and "
        "similarity of the samples) in each domain where that tells reliably more.",
    ),
]
Scorer = Annotated[
    ScorerName,
    typer.Option(
        help="How right answers are told from wrong ones; auto: by the references; chat-judge: by "
        "--scorer-model."
    ),
]
ScorerModel = Annotated[
    str | None,
    typer.Option(
        help="Chat model that judges for --scorer chat-judge: a local model, PROVIDER:MODEL as "
        "openai:gpt-5, or http://host/v1#MODEL (default: none)."
    ),
]
Rubric = Annotated[
    Path | None,
    typer.Option(
        help="File that says what that model's grades from 0 to 10 mean; 7 and more are right, 3 "
        "and less wrong, others not counted (default: one of our own)."
    ),
]


def grader_settings(model: str | None, rubric: Path | None) -> GraderSettings | None:
    """Return who judges for the scorer `chat-judge`; `None` where nobody is named.

    Raises:
        ConfigurationError: There is a rubric, and no model to judge by it.
    """
    if model is None and rubric is not None:
        raise ConfigurationError("--rubric needs --scorer chat-judge and --scorer-model")
    return None if model is None else GraderSettings(model=model, rubric=rubric)


def checked_domain(name: str | None) -> str | None:
    """Return the domain of a flag, checked before any work; a blank one passes unchecked."""
    return checked_name("domain", name) if name and name.strip() else name


def checked_question(question: str) -> str:
    """Return the question of an argument; an empty one is refused before any model is loaded.

    Raises:
        ConfigurationError: It has nothing but blanks in it.
    """
    if not question.strip():
        raise ConfigurationError("the question is empty: give one with text in it")
    return question


def checked_tenant(name: str | None) -> str | None:
    """Return the tenant of a flag, checked before any work."""
    return None if name is None else checked_name("tenant", name)


RowDomain = Annotated[
    str | None,
    typer.Option(
        help="Domain to search for samples (default: the domain of each row).",
        callback=checked_domain,
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        "--tau", help=with_default("Accept answers with at least this reward, 0 to 1", "tau_r")
    ),
]
First = Annotated[
    str | None,
    typer.Option(
        help="Deprecated, use --arms: cascade and compare try this arm and all dearer ones "
        "(default: none).",
        parser=one_of(first_arm_names),
        metavar=shown(first_arm_names),
    ),
]
ArmList = Annotated[
    str | None,
    typer.Option(
        "--arms",
        help="Arms that cascade and compare try, comma-separated (default: the setting arms, else "
        "those that rttc calibrate has kept, else all but direct).",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        help=with_default("Rule that chooses the next arm", "policy"),
        parser=one_of(policy_names),
        metavar=shown(policy_names),
    ),
]
PanelSize = Annotated[
    int | None,
    typer.Option(
        "--n",
        help=with_default("Most answers that a panel draws", "search_n"),
    ),
]
PanelFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        help=f"What they draw from, comma-separated, of {', '.join(proposer_names())} (default: "
        "the setting search_from, else all that there are).",
    ),
]
K = Annotated[int | None, typer.Option(help=with_default("Number of samples to retrieve", "k"))]
SamplesChoiceFlag = Annotated[
    SamplesChoice | None,
    typer.Option(
        help=with_default(
            "Which samples to retrieve: the nearest, or near ones that do not repeat each other "
            "(sift)",
            "samples_choice",
        )
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help=with_default("Longest answer, in tokens", "max_new_tokens")),
]

TargetAccuracy = Annotated[
    float | None,
    typer.Option(help="Aim: the cheapest τr and first arm that reach this accuracy, 0 to 1."),
]
TargetCost = Annotated[
    float | None,
    typer.Option(help="Aim: the most accurate τr and first arm within these seconds a question."),
]
TargetFlops = Annotated[
    float | None,
    typer.Option(
        help="Aim: the most accurate τr and first arm within these floating-point operations of "
        "the policy model a question, such as 1e12. Needs a local model."
    ),
]
Best = Annotated[
    bool,
    typer.Option("--best", help="Aim: the most accurate τr and first arm, whatever they cost."),
]
"""Without an aim: the cheapest gate within one standard error of the most accurate one."""


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, without empty ones."""
    return [word.strip() for word in text.split(",") if word.strip()]
