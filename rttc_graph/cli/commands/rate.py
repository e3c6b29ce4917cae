"""`rttc rate`: what people say of answers, and the samples that become of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import AsJson, out, print_json, print_table
from rttc_graph.cli.shared_options import checked_tenant
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.knowledge import corrections_of, open_knowledge
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.protocols import RatedRun, Rating
from rttc_graph.samples.corrections import Corrections, calibration_rows

Verdict = Literal["right", "wrong", "approve", "reject"]


def rate_run(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run id, as rttc ask prints it (default: none, for lists).", show_default=False
        ),
    ] = None,
    verdict: Annotated[
        Verdict | None,
        typer.Argument(
            help="Whether the answer was right; or approve or reject a right answer that waits "
            "(default: none, for lists).",
            show_default=False,
        ),
    ] = None,
    answer: Annotated[str | None, typer.Option(help="The right answer (default: none).")] = None,
    note: Annotated[str | None, typer.Option(help="A note for people (default: none).")] = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="List the right answers that wait for approval.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write rated runs as questions with answers, for rttc calibrate (default: not)."
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant whose run it is (default: the setting tenant).", callback=checked_tenant
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a run's answer was right, and approve the right answers that became known.

    A later rating of a run takes the place of an earlier one. By the setting `corrections` a right
    answer becomes a sample at once (store), after approval (approve, the default), or never (off).

    Example: rttc rate 5b0e0d6a7c1f4e925b0e0d6a7c1f4e92 wrong --answer '35 euros'
    """
    config = command_context(context).config(tenant=tenant)
    check_outputs(export)
    with open_knowledge(config) as knowledge:
        corrections = corrections_of(config, knowledge)
        if export is not None or pending:
            listed = asyncio.run(
                knowledge.ratings.rated_runs(tenant=config.tenant, pending=pending)
            )
            _show_all(listed, export, as_json=as_json)
            return
        if run is None or verdict is None:
            raise ConfigurationError(
                "give a run and a verdict, as in 'rttc rate RUN wrong --answer TEXT', or --pending"
            )
        done = asyncio.run(_do(corrections, run, verdict, answer, note, config.tenant))
    if as_json:
        print_json(_as_json(done))
    else:
        out.print(_said(done))


async def _do(
    corrections: Corrections,
    run: str,
    verdict: Verdict,
    answer: str | None,
    note: str | None,
    tenant: str,
) -> RatedRun:
    if verdict == "approve":
        return await corrections.approve(run, tenant=tenant)
    if verdict == "reject":
        return await corrections.reject(run, tenant=tenant)
    rating = Rating(run_id=run, is_right=verdict == "right", answer=answer, note=note)
    return await corrections.rate(rating, tenant=tenant)


def _show_all(listed: Sequence[RatedRun], export: Path | None, *, as_json: bool) -> None:
    if export is not None:
        rows = calibration_rows(listed)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        export.write_text("".join(lines), encoding="utf-8")
        left = len(listed) - len(rows)
        said = {"rows": len(rows), "left_out": left, "file": str(export)}
        if as_json:
            print_json(said)
        else:
            out.print(Text(f"{len(rows)} rows in {export}; {left} without a right answer left out"))
    elif as_json:
        print_json([_as_json(one) for one in listed])
    elif not listed:
        out.print("no right answer waits for approval")
    else:
        print_table(
            ["run", "question", "answered", "right answer"],
            [(one.rating.run_id, one.query, one.answered, one.rating.answer) for one in listed],
        )


def _as_json(one: RatedRun) -> dict[str, Any]:
    told = asdict(one)
    del told["candidate"]
    return {**told.pop("rating"), **told}


def _said(done: RatedRun) -> Text:
    states = {
        "none": "",
        "pending": "; the right answer waits: rttc rate "
        f"{done.rating.run_id} approve makes it a sample",
        "stored": "; the right answer is a sample now",
        "rejected": "; the right answer was turned down",
    }
    verdict = "right" if done.rating.is_right else "wrong"
    return Text(f"run {done.rating.run_id} is rated {verdict}{states[done.rating.correction]}")
