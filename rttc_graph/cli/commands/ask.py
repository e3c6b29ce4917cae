"""`rttc ask`: one question, its answer, and what it took."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.error_exit import EXIT_UNACCEPTED
from rttc_graph.cli.screen import ScreenWatcher, keeping, out, print_json, print_prose, print_table
from rttc_graph.cli.shared_options import (
    ArmList,
    First,
    K,
    MaxNewTokens,
    PanelFrom,
    PanelSize,
    Policy,
    SamplesChoiceFlag,
    Tau,
    checked_domain,
    checked_question,
    with_default,
)
from rttc_graph.cli.step_tree_view import step_trees, thought_trees
from rttc_graph.installation.ask_question import AskResult, describe_event, why_cut
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.fetch_models import fetch_missing
from rttc_graph.settings import Below

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


_Question = Annotated[
    str,
    typer.Argument(help="Question to answer.", show_default=False, callback=checked_question),
]
_Domain = Annotated[
    str | None,
    typer.Option(
        help="Domain of the knowledge base to search (default: all).", callback=checked_domain
    ),
]
_Tenant = Annotated[
    str | None, typer.Option(help=with_default("Whose samples and cache to use", "tenant"))
]
_Temperature = Annotated[
    float | None,
    typer.Option(help=with_default("Sampling temperature; 0 is greedy", "temperature")),
]
_Seed = Annotated[
    int | None, typer.Option(help=with_default("Seed for sampling and training", "seed"))
]
_BudgetSeconds = Annotated[
    float | None, typer.Option(help=with_default("Longest run, in seconds", "budget_seconds"))
]
_BudgetTokens = Annotated[
    int | None,
    typer.Option(
        help=with_default("Most tokens of the run, trained ones included", "budget_tokens")
    ),
]
_BudgetFlops = Annotated[
    float | None,
    typer.Option(
        help=with_default("Most floating-point operations of the run, 0: no limit", "budget_flops")
    ),
]
_BudgetArms = Annotated[
    int | None,
    typer.Option(
        help=with_default("Most answers to generate; a panel counts as one", "budget_arms")
    ),
]
_UseCache = Annotated[
    bool | None,
    typer.Option(
        "--cache/--no-cache",
        help=with_default("Recall from and store in the query-state cache", "use_cache"),
    ),
]
_ShowTree = Annotated[
    bool,
    typer.Option(
        "--show-tree",
        help="Draw the tree of steps or the graph of questions, under a policy that grows one "
        "(such as beam or graph_of_thoughts).",
    ),
]
_FailUnaccepted = Annotated[
    bool,
    typer.Option(
        "--fail-unaccepted",
        help=f"Exit with {EXIT_UNACCEPTED} where no answer is accepted; the best one is printed "
        "all the same.",
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def ask_question(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    question: _Question,
    domain: _Domain = None,
    policy: Policy = None,
    arms: ArmList = None,
    first_arm: First = None,
    tau_r: Tau = None,
    search_n: PanelSize = None,
    search_from: PanelFrom = None,
    below: Annotated[
        Below | None, typer.Option(help=with_default("Answer or decline below τr", "below"))
    ] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(
            help=with_default("Lowest similarity of the nearest sample", "min_similarity")
        ),
    ] = None,
    k: K = None,
    samples_choice: SamplesChoiceFlag = None,
    tenant: _Tenant = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: _Temperature = None,
    seed: _Seed = None,
    budget_seconds: _BudgetSeconds = None,
    budget_tokens: _BudgetTokens = None,
    budget_flops: _BudgetFlops = None,
    budget_arms: _BudgetArms = None,
    use_cache: _UseCache = None,
    show_tree: _ShowTree = False,
    fail_unaccepted: _FailUnaccepted = False,
    as_json: _AsJson = False,
) -> None:
    """Answer a question, and show the route, the rewards and what each arm cost.

    An answer below τr is printed under NOT ACCEPTED, and the command ends with 0, unless there is
    --fail-unaccepted; in --json it is the field accepted.

    Example: rttc ask 'Why was my card charged twice?' --domain banking --tau 0.6 --json
    """
    config = command_context(context).config(
        policy=policy,
        arms=arms,
        first_arm=first_arm,
        tau_r=tau_r,
        search_n=search_n,
        search_from=search_from,
        below=below,
        min_similarity=min_similarity,
        k=k,
        samples_choice=samples_choice,
        tenant=tenant,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        budget_seconds=budget_seconds,
        budget_tokens=budget_tokens,
        budget_flops=budget_flops,
        budget_arms=budget_arms,
        use_cache=use_cache,
    )
    result = _run(config, question, domain)
    if as_json:
        print_json(result)
    else:
        print_result(result)
        if show_tree:
            ledger = result["ledger"]
            for tree in (*step_trees(ledger), *thought_trees(ledger)):
                out.print()
                out.print(tree)
    if fail_unaccepted and not result["accepted"]:
        raise typer.Exit(EXIT_UNACCEPTED)


def _run(config: InstallationConfig, question: str, domain: str | None) -> AskResult:
    from rttc_graph.installation.local import open_local

    watcher = ScreenWatcher()

    def show(event: dict[str, Any]) -> None:
        if (text := describe_event(event)) is not None:
            watcher.describe(text)

    async def answer(local: LocalRttc) -> AskResult:
        await local.warm_up(needs_database=False)
        watcher.describe("answering")  # until the run says what it does
        return await local.ask(question, domain=domain, on_event=show)

    nothing = "there is no answer, and nothing of this run was stored"
    with keeping(nothing), open_local(config) as local:
        if domain or config.domain:
            with watcher.step("opening the knowledge base"):
                asyncio.run(local.check_domain(domain))
        with watcher.step(fetch_missing(config, watcher)):
            return asyncio.run(answer(local))


def print_result(result: AskResult) -> None:
    """Print the answer, whether it is accepted, how it came about, and what it rests on."""
    out.print(Text(result["answer"], style="bold"))
    if (cut := why_cut(result)) is not None:
        print_prose(f"note: {cut}", style="yellow")
    out.print()
    print_prose(verdict(result))
    cache = result["cache"]
    print_prose(
        f"{result['arm']}, {worth(result)}, {result['seconds']:.2f} s; route {route(result)}; "
        f"cache: samples {cache['samples']}, adapter {cache['adapter']}"
    )
    print_candidates(result)
    print_votes(result)
    if result["sources"]:
        out.print()
        print_sources(result)
    for entry in result["ledger"]:
        if entry["event"] == "failed":
            failure = f"failed: {entry['node']}: {entry['detail']['error']}"
            print_prose(failure, style="red")
        if entry["event"] in ("noted", "dropped"):
            print_prose(f"note: {entry['detail']['reason']}", style="yellow")
    out.print(f"run {result['run_id']}")


def print_candidates(result: AskResult) -> None:
    """Print what each arm answered and what it cost."""
    columns = ["arm", "reward", "seconds", "prompt", "completion", "trained", "answer"]
    answers = shorten_apart([c["answer"] for c in result["candidates"]])
    print_table(
        columns,
        [
            (
                c["arm"],
                c["reward"],
                c["seconds"],
                c["prompt_tokens"],
                c["completion_tokens"],
                c["trained_tokens"],
                answer,
            )
            for c, answer in zip(result["candidates"], answers, strict=True)
        ],
    )


def print_votes(result: AskResult) -> None:
    """Print the answers of each panel with the votes for them; nothing where there was none."""
    for entry in result["ledger"]:
        found = entry["detail"].get("standings") if entry["event"] == "stopped" else None
        if not found:
            continue
        drawn = sum(entry["detail"]["draws"].values())
        answers = shorten_apart([one["answer"] for one in found])
        out.print()
        print_prose(f"{entry['detail']['arm']}: the votes of {drawn} answers")
        print_table(
            ["", "votes", "weight", "best reward", "answer"],
            [
                (
                    "→" if one["kept"] else "",
                    one["votes"],
                    one["weight"],
                    one["reward"],
                    answer,
                )
                for one, answer in zip(found, answers, strict=True)
            ],
        )
        if (unread := drawn - sum(one["votes"] for one in found)) > 0:
            print_prose(f"{unread} more voted for others, or for nothing that could be read")


def verdict(result: AskResult) -> Text:
    """Return the line that says whether the answer can be acted on."""
    tau_r, reward, style = result["tau_r"], result["reward"], "bold red"
    if result["accepted"]:
        return Text(f"accepted: {worth(result)} is at least τr {tau_r:g}", style="green")
    verdict = "DECLINED" if result["declined"] else "NOT ACCEPTED"
    if reward is None:
        return Text(f"{verdict}: the answer could not be judged", style=style)
    if reward >= tau_r:  # so it is something else than the judge
        why = "the model says that it does not know, or no sample is near enough"
    else:
        why = f"{worth(result)} is below τr {tau_r:g}"
    advice = "" if result["declined"] else "; take the answer for a guess"
    return Text(f"{verdict}: {why}{advice}", style=style)


def worth(result: AskResult) -> str:
    """Return the reward under its right name: a probability only by a calibration."""
    if result["reward"] is None:
        return "not judged"
    return f"{'P(right)' if result['calibrated'] else 'score'} {result['reward']:.3f}"


def print_sources(result: AskResult) -> None:
    """Print the samples that the answers rest on."""
    sources = result["sources"]
    questions = shorten_apart([source["question"] for source in sources])
    answers = shorten_apart([source["answer"] for source in sources])
    print_table(
        ["", "source", "similarity", "used by", "question", "answer"],
        [
            (
                "→" if source["taken"] else "",
                source["id"][:8],
                source["similarity"],
                ", ".join(source["arms"]),
                question,
                answer,
            )
            for source, question, answer in zip(sources, questions, answers, strict=True)
        ],
    )


def route(result: AskResult) -> str:
    """Return the nodes that the run went through, without the judging between them."""
    steps = [e["node"] for e in result["ledger"] if e["node"] != "reward_judge"]
    return " → ".join(node for i, node in enumerate(steps) if i == 0 or steps[i - 1] != node)


def shorten_apart(texts: Sequence[str], limit: int = 40) -> list[str]:
    """Return texts as lines of at most `limit` characters in which different texts differ.

    Those that begin alike for longer are shown from the word on in which they differ.
    """
    lines = [" ".join(text.split()) for text in texts]
    alike: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        alike.setdefault(shorten(line, limit), []).append(line)
    shown: dict[str, str] = {}
    for beginning, found in alike.items():
        shared = _shared_beginning(found) if len(found) > 1 else ""
        cut = shared.rfind(" ") + 1 or len(shared)
        rests = shorten_apart([line[cut:] for line in found], limit - 1) if cut else [beginning]
        shown |= {
            line: f"…{rest}" if cut else rest for line, rest in zip(found, rests, strict=True)
        }
    return [shown[line] for line in lines]


def _shared_beginning(lines: Sequence[str]) -> str:
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*lines, strict=False))
    return "".join(letters[0] for letters in alike)


def shorten(text: str, limit: int = 40) -> str:
    """Return a text as one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
