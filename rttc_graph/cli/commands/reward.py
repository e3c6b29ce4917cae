"""`rttc reward`: candidates for a reward model, its training, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from rttc_graph.arms import sampled_arms, untrained_arms
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.screen import AsJsonFile, ScreenWatcher, keeping, out, print_table, write_json
from rttc_graph.cli.shared_options import (
    Rubric,
    Scorer,
    ScorerModel,
    grader_settings,
    split_names,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.state import Arm
from rttc_graph.support.identity import unknown_name

if TYPE_CHECKING:
    from rttc_graph.installation.config import InstallationConfig
    from rttc_graph.reward_training.candidate_rows import CandidateRow
    from rttc_graph.reward_training.candidate_sampling import SamplingSettings
    from rttc_graph.reward_training.measuring import Measured

app = command_group(help="Train and measure reward models.")

BackboneName = Literal["towers", "encoder", "policy"]
LossName = Literal["pointwise", "pairwise", "both"]

_Files = Annotated[list[Path], typer.Argument(help="JSONL files of questions with answers.")]
_Questions = Annotated[
    int | None,
    typer.Option(help="Questions to take from each file, drawn with --seed (default: all)."),
]
_Samples = Annotated[
    list[Path] | None,
    typer.Option(help="Files to take samples from (default: the files of questions)."),
]
_Most = Annotated[int, typer.Option(help="Most samples of each file to search.")]
_Arms = Annotated[
    str,
    typer.Option(help=f"Arms that answer, comma-separated: {', '.join(sampled_arms())}, or none."),
]
_ARMS = ",".join(untrained_arms())
_Temperatures = Annotated[
    str, typer.Option(help="Sampling temperatures of the answers, comma-separated.")
]
_K = Annotated[int, typer.Option(help="Samples in a prompt, or for training an adapter.")]
_Tokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
_Negatives = Annotated[
    int, typer.Option(help="Wrong answers to take from near samples, for each question.")
]
_Seed = Annotated[int, typer.Option(help="Seed for drawing questions, sampling and training.")]


def _drawn_so_far(file: Path) -> str:
    return f"candidates so far are kept in {file}: run the same command again, and it goes on"


@app.command("draw")
def draw(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    files: _Files,
    out_file: Annotated[Path, typer.Option("--out", help="File of candidates; rows are appended.")],
    samples: _Samples = None,
    questions: _Questions = None,
    most_samples: _Most = 2_000,
    arms: _Arms = _ARMS,
    temperatures: _Temperatures = "0,0.8",
    k: _K = 8,
    max_new_tokens: _Tokens = 96,
    negatives: _Negatives = 4,
    scorer: Scorer = "auto",
    scorer_model: ScorerModel = None,
    rubric: Rubric = None,
    seed: _Seed = 0,
) -> None:
    """Generate candidate answers, compare them with the references, and keep them in a file.

    A killed run resumes where it stopped. Give --samples to measure on questions that are not
    among the samples.

    Example: rttc reward draw questions.jsonl --samples samples.jsonl --out candidates.jsonl
    """
    config = command_context(context).config()
    settings = _draw_settings(arms, temperatures, k, max_new_tokens, negatives, scorer, seed)
    material = _material(files, samples, questions, most_samples, seed)

    from rttc_graph.jobs.train_reward import draw_candidates

    grader = grader_settings(scorer_model, rubric)
    watcher = ScreenWatcher()
    with keeping(_drawn_so_far(out_file)):
        rows = draw_candidates(config, material, settings, out_file, watcher, grader=grader)
    _print_sources(rows)
    out.print(Text(f"candidates: {out_file}"))


_OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write the reward model to.")]
_Candidates = Annotated[
    list[Path] | None,
    typer.Option(
        help="Files of candidates; rows are appended to the first (default: candidates.jsonl "
        "in --out)."
    ),
]
_Backbone = Annotated[
    BackboneName,
    typer.Option(
        help="towers: an encoder reads question and answer apart; encoder: it reads them "
        "together; policy: the policy model's own weights."
    ),
]
_Base = Annotated[str, typer.Option(help="Encoder to start from, for towers and encoder.")]
_Loss = Annotated[
    LossName,
    typer.Option(help="pointwise: right or wrong; pairwise: the better of two; both: the sum."),
]
_Epochs = Annotated[float, typer.Option(help="Passes over the questions.")]
_LearningRate = Annotated[float, typer.Option(help="Learning rate of AdamW.")]
_Rank = Annotated[int, typer.Option(help="Rank of the LoRA terms.")]
_Name = Annotated[
    str | None, typer.Option(help="Name of the reward model (default: the name of the folder).")
]


_Evidence = Annotated[
    bool,
    typer.Option(
        "--evidence/--no-evidence",
        help="Give it a head that judges by the samples in hand too, where there is enough data "
        "and the head is better on held-out questions.",
    ),
]
_Process = Annotated[
    bool,
    typer.Option(
        "--process",
        help="Train a judge of unfinished answers instead: a probe on the policy model's hidden "
        "states, for the setting process_reward. Of the flags below, --questions, "
        "--max-new-tokens, --scorer, --seed and --name count.",
    ),
]
_DataLicense = Annotated[
    str | None,
    typer.Option(help="Licence of the questions and answers, for the card (default: not stated)."),
]


@app.command("train")
def train(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    files: _Files,
    out_folder: _OutFolder,
    process: _Process = False,
    candidates: _Candidates = None,
    samples: _Samples = None,
    questions: _Questions = None,
    most_samples: _Most = 2_000,
    arms: _Arms = _ARMS,
    temperatures: _Temperatures = "0,0.8",
    k: _K = 8,
    max_new_tokens: _Tokens = 96,
    negatives: _Negatives = 4,
    backbone: _Backbone = "towers",
    base: _Base = "all-minilm-l6-v2",
    loss: _Loss = "both",
    epochs: _Epochs = 3.0,
    learning_rate: _LearningRate = 1e-3,
    rank: _Rank = 16,
    name: _Name = None,
    evidence: _Evidence = True,
    data_license: _DataLicense = None,
    scorer: Scorer = "auto",
    scorer_model: ScorerModel = None,
    rubric: Rubric = None,
    seed: _Seed = 0,
    json_out: AsJsonFile = None,
) -> None:
    """Generate candidates for questions with known answers, and train a reward model on them.

    The answers come from the policy model (arms, temperatures) and from other samples; the scorer
    of each row tells right from wrong. Candidates are kept in a file, so a killed run resumes where
    it stopped. Use the folder with RTTC_REWARD or --reward.

    Example: rttc reward train samples.jsonl --questions 200 --out my-judge

    Example: rttc reward train samples.jsonl --arms none --out my-judge    # minutes: no generation

    Example: rttc reward train samples.jsonl --backbone policy --epochs 1 --out my-judge

    Example: rttc reward train samples.jsonl --process --questions 400 --out my-probe
    """
    config = command_context(context).config()
    named = name or out_folder.name
    if process:
        material = _material(files, None, questions, most_samples, seed)
        _train_probe(config, material, out_folder, named, scorer, max_new_tokens, seed, json_out)
        return
    sampling = _draw_settings(arms, temperatures, k, max_new_tokens, negatives, scorer, seed)

    from rttc_graph.integrations.rewards.trained.network_learning import LearnSettings
    from rttc_graph.jobs.train_reward import Outcome, train_from_files, train_settings

    learn = LearnSettings(loss=loss, epochs=epochs, learning_rate=learning_rate, seed=seed)
    settings = train_settings(config, learn, name=named, backbone=backbone, base=base, rank=rank)
    material = _material(files, samples, questions, most_samples, seed)
    kept = candidates or [out_folder / "candidates.jsonl"]
    outcome = Outcome(
        folder=out_folder,
        with_evidence=evidence,
        grader=grader_settings(scorer_model, rubric),
        **({} if data_license is None else {"data_license": data_license}),
    )
    with keeping(f"{_drawn_so_far(kept[0])}; a training in progress begins anew"):
        result = train_from_files(
            config,
            material,
            sampling,
            settings,
            ScreenWatcher(),
            candidates=kept,
            outcome=outcome,
        )
    if write_json(result.spec.training, json_out):
        _print_figures({"held out": result.held_out})
        out.print(Text(f"reward model: {out_folder}\ncandidates: {', '.join(map(str, kept))}"))


def _train_probe(
    config: InstallationConfig,
    material: Any,
    folder: Path,
    name: str,
    scorer: ScorerName,
    max_new_tokens: int,
    seed: int,
    json_out: str | None,
) -> None:
    from rttc_graph.jobs.train_reward import STEPS_FILE, train_probe_from_files
    from rttc_graph.protocols import StepCut
    from rttc_graph.reward_training.process.step_drawing import StepDrawing

    search = config.run_settings().search
    cut = StepCut(
        marks=search.step_marks, least_tokens=search.step_least, most_tokens=search.step_most
    )
    drawing = StepDrawing(
        max_new_tokens=max_new_tokens,
        temperature=search.temperature,
        cut=cut,
        prompts=config.prompts,
        scorer=scorer,
        seed=seed,
    )
    kept = f"steps so far are kept in {folder / STEPS_FILE}: run the same command again"
    with keeping(kept):
        probe = train_probe_from_files(
            config, material, drawing, folder, ScreenWatcher(), name=name
        )
    if write_json({"name": name, **probe.figures, "closed": dict(probe.closed)}, json_out):
        print_table(["figure", "value"], [(one, str(v)) for one, v in probe.figures.items()])
        for domain, why in probe.closed.items():
            out.print(Text(f"closed for {domain or 'all other domains'}: {why}", style="yellow"))
        out.print(Text(f'probe: {folder}; use it with process_reward = "{folder}"'))


@app.command("eval")
def evaluate(
    context: typer.Context,
    reward: Annotated[
        str, typer.Argument(metavar="REWARD", help="Reward model: folder, name or URL.")
    ],
    files: Annotated[
        list[Path], typer.Argument(help="Files of candidates, as `rttc reward draw` writes them.")
    ],
    json_out: AsJsonFile = None,
) -> None:
    """Measure a reward model on judged candidates: AUC, calibration error, milliseconds.

    AUC is how often a right answer scores above a wrong one, over all answers and over answers to
    the same question; 0.5 is chance. Any reward model works, self-confidence too.

    Example: rttc reward eval my-judge candidates.jsonl
    """
    config = command_context(context).config(reward=reward)

    from rttc_graph.jobs.train_reward import measure_files

    measured = measure_files(config, files, ScreenWatcher())
    if write_json(measured, json_out):
        _print_measured(measured)


def _draw_settings(
    arms: str,
    temperatures: str,
    k: int,
    max_new_tokens: int,
    negatives: int,
    scorer: ScorerName,
    seed: int,
) -> SamplingSettings:
    from rttc_graph.reward_training.candidate_sampling import SamplingSettings

    return SamplingSettings(
        arms=_arms(arms),
        temperatures=_numbers("--temperatures", temperatures),
        k=k,
        max_new_tokens=max_new_tokens,
        negatives=negatives,
        scorer=scorer,
        seed=seed,
    )


def _material(
    files: list[Path],
    samples: list[Path] | None,
    questions: int | None,
    most_samples: int,
    seed: int,
) -> Any:
    from rttc_graph.jobs.train_reward import Material

    return Material(
        files=tuple(files),
        samples=tuple(samples or ()),
        questions=questions,
        most_samples=most_samples,
        seed=seed,
    )


def _arms(text: str) -> tuple[Arm, ...]:
    known = sampled_arms()
    names = split_names(text)
    if names == ["none"]:
        return ()
    for part in names:
        if part not in known:
            raise ConfigurationError(f"--arms: {unknown_name(part, known)}")
    return tuple(arm for arm in known if arm in names)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in split_names(text))
    except ValueError as exc:
        raise ConfigurationError(f"{name} {text!r} must be numbers with commas between") from exc


def _print_sources(rows: Sequence[CandidateRow]) -> None:
    counts: dict[str, list[int]] = {}
    for row in rows:
        count = counts.setdefault(row["source"], [0, 0])
        count[0] += 1
        count[1] += row["right"]
    print_table(["source", "answers", "right"], [(name, *c) for name, c in counts.items()])


def _print_measured(measured: Measured) -> None:
    _print_figures(
        {"policy model's": measured["answered"], "all": measured["everything"]}
        | {f"  {name}": found for name, found in measured["domains"].items()}
    )
    out.print(Text(f"{measured['reward_model']}: {measured['ms_per_pair']:.1f} ms for each answer"))


def _print_figures(sets: Any) -> None:
    columns = ["answers", "right", "auc", "auc_same_question", "ece", "false_accepts"]
    print_table(
        ["set", "answers", "right", "AUC", "same question", "ECE", "wrong above 0.8"],
        [(name, *(found[column] for column in columns)) for name, found in sets.items()],
    )
