"""`/runs`: finished runs of a tenant, what they add up to, and the calibrations of their judge.

Questions and answers of everybody who has asked are in them, so the scope is one of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rttc_graph.protocols.run_history import (
    LISTED_CHARACTERS,
    MAX_PAGE_RUNS,
    FinishedRun,
    RatedAs,
    RunFilter,
    RunHistory,
)
from rttc_graph.serving.admission.authentication import request_caller
from rttc_graph.serving.http_errors import HttpError, Problem
from rttc_graph.serving.redaction import without_places_in
from rttc_graph.state import Candidate, LedgerEntry, Source
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS

__all__ = ("ToldCalibrations", "run_router")

ToldCalibrations = Callable[[str], Awaitable[Sequence[dict[str, Any]]]]
"""Returns the calibrations of a tenant as plain data, each with its domains and their curves."""

_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, 504)
_MOST_DAYS = 36_500

_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class _Message(BaseModel):
    """A message with exactly its fields."""

    model_config = ConfigDict(extra="forbid")

    tenant: _Name | None = Field(default=None, description="The key's, if not given.")


class RunsRequest(_Message):
    """A page of the runs for which all of these hold."""

    domain: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = Field(
        default=None, description="Domain that the run named; empty for runs that named none."
    )
    arm: _Name | None = None
    accepted: bool | None = None
    rated: RatedAs | None = None
    first_day: date | None = Field(default=None, description="Earliest day, in UTC.")
    last_day: date | None = Field(default=None, description="Latest day, in UTC.")
    contains: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)] | None = Field(
        default=None, description="A part of question or answer."
    )
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_RUNS)] = 50
    after: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="`next` of the page before."
    )

    def to_filter(self) -> RunFilter:
        """Return it as a history takes it."""
        return RunFilter(
            domain=self.domain,
            arm=self.arm,
            accepted=self.accepted,
            rated=self.rated,
            first_day=self.first_day,
            last_day=self.last_day,
            contains=self.contains,
        )


class TriedAnswer(BaseModel):
    """An answer that a run had judged, by its ledger."""

    arm: str
    reward: float | None = Field(description="Null where the judge gave none.")
    seconds: float = Field(description="Of the run until then, by its ledger.")


class ListedRun(BaseModel):
    """A run of a list."""

    run_id: str
    created_at: datetime
    domain: str | None
    query: str = Field(description=f"Its first {LISTED_CHARACTERS} characters.")
    answer: str = Field(description=f"Its first {LISTED_CHARACTERS} characters.")
    policy: str
    tau_r: float
    arm: str
    reward: float | None
    accepted: bool
    declined: bool
    calibrated: bool
    seconds: float
    tokens: int
    rated: RatedAs
    tried: list[TriedAnswer]


class RunsReply(BaseModel):
    """Some runs of a list, the newest first."""

    runs: list[ListedRun]
    next: str | None


class RunRequest(_Message):
    """A run that is asked for."""

    run_id: _Name


class GivenRating(BaseModel):
    """What a person said of a run."""

    rating: Literal["right", "wrong"]
    answer: str | None = Field(description="The right answer, where one was given.")
    note: str | None
    correction: Literal["none", "pending", "stored", "rejected"]


class RunReply(ListedRun):
    """A run with everything that is stored of it."""

    query: str
    answer: str
    candidate: Candidate | None = Field(description="The answer that was taken, with its cost.")
    sources: list[Source]
    ledger: list[LedgerEntry]
    rating: GivenRating | None


class RunStatsRequest(_Message):
    """Figures of the runs of the last days."""

    days: Annotated[int, Field(ge=1, le=_MOST_DAYS)] | None = Field(
        default=None, description="How far back; all, if not given."
    )


class RunStatsRow(BaseModel):
    """Figures of the runs of one domain that one arm answered on one day in UTC."""

    domain: str
    day: date
    arm: str
    runs: int
    accepted: int
    seconds: float
    tokens: int
    look_ups: int
    samples_hits: int
    adapter_hits: int
    seconds_saved: float


class RunStatsReply(BaseModel):
    """Figures by day, domain and arm, the newest day first."""

    rows: list[RunStatsRow]


class CalibrationsRequest(_Message):
    """Calibrations of a tenant."""


class CalibratedDomain(BaseModel):
    """The map of one domain, and what each τr would do there."""

    domain: str = Field(description="Empty for questions that name none.")
    answers: int
    method: str | None
    knots: list[list[float]]
    own: bool = Field(description="Whether the map was fitted on the domain's own answers.")
    for_others: bool
    arms: list[str]
    tau_r: float | None
    curve: list[list[float]] = Field(
        description="Lists of τr, accuracy, mean seconds, share accepted, and share accepted and "
        "wrong; empty where calibrated before these were kept."
    )


class ToldCalibration(BaseModel):
    """A calibration of a reward model."""

    reward_model: str
    in_force: bool
    saved_at: datetime
    aim: str | None
    domains: list[CalibratedDomain]


class CalibrationsReply(BaseModel):
    """Calibrations, the last saved first."""

    calibrations: list[ToldCalibration]


def run_router(
    history: RunHistory, *, calibrations: ToldCalibrations | None, default_tenant: str
) -> APIRouter:
    """Return the routes under `/runs`.

    Args:
        history: Finds the runs.
        calibrations: Tells a tenant's calibrations; `None` where there is no way to know.
        default_tenant: For callers that name none and have no key that does.
    """
    router = APIRouter(
        prefix="/runs",
        tags=["runs"],
        responses={status: {"model": Problem} for status in _STATUSES},
    )

    def tenant_of(request: Request, asked: str | None) -> str:
        return request_caller(request.scope).tenant_for(asked, default_tenant)

    @router.post("/list")
    async def list_runs(body: RunsRequest, request: Request) -> RunsReply:
        """Return a page of runs, newest first."""
        page = await history.list_runs(
            body.to_filter(),
            tenant=tenant_of(request, body.tenant),
            limit=body.limit,
            after=body.after,
        )
        return RunsReply(runs=[ListedRun(**_listed(one)) for one in page.runs], next=page.next)

    @router.post("/show")
    async def show_run(body: RunRequest, request: Request) -> RunReply:
        """Return a run with everything that is stored of it."""
        found = await history.find_run(body.run_id, tenant=tenant_of(request, body.tenant))
        if found is None:
            raise HttpError(404, f"there is no run {body.run_id!r} of this tenant")
        return _whole(found)

    @router.post("/stats")
    async def add_up(body: RunStatsRequest, request: Request) -> RunStatsReply:
        """Return what the runs add up to."""
        rows = await history.statistics(tenant=tenant_of(request, body.tenant), days=body.days)
        return RunStatsReply(
            rows=[RunStatsRow.model_validate(row, from_attributes=True) for row in rows]
        )

    @router.post("/calibrations")
    async def tell_calibrations(body: CalibrationsRequest, request: Request) -> CalibrationsReply:
        """Return the calibrations, with what each threshold would do by their answers."""
        tenant = tenant_of(request, body.tenant)
        told: Sequence[dict[str, Any]] = ()
        if calibrations is not None:
            told = await calibrations(tenant)
        return CalibrationsReply(calibrations=[ToldCalibration(**one) for one in told])

    return router


def _whole(found: FinishedRun) -> RunReply:
    rating = None
    if found.rating is not None:
        rating = GivenRating(
            rating="right" if found.rating.is_right else "wrong",
            answer=found.rating.answer,
            note=found.rating.note,
            correction=found.rating.correction,
        )
    return RunReply(
        **_listed(found),
        candidate=found.run.candidate,
        sources=found.run.sources,
        ledger=[without_places_in(entry) for entry in found.run.entries],  # type: ignore[misc]
        rating=rating,
    )


def _listed(found: FinishedRun) -> dict[str, Any]:
    run = found.run
    rated: RatedAs = "none"
    if found.rating is not None:
        rated = "right" if found.rating.is_right else "wrong"
    names = ListedRun.model_fields.keys() - {"created_at", "rated", "tried"}
    return {
        **{name: getattr(run, name) for name in names},
        "created_at": found.created_at,
        "rated": rated,
        "tried": _tried(run.entries),
    }


_WORK = frozenset({"recalled", "retrieved", "trained", "reused", "answered", "judged", "stopped"})
"""Entries whose seconds are of work; those of the others are in them already."""


def _tried(entries: Sequence[LedgerEntry]) -> list[TriedAnswer]:
    """Return the judged answers of a ledger, each once, with its last reward."""
    seconds = 0.0
    tried: dict[str, TriedAnswer] = {}
    for entry in entries:
        seconds += entry["seconds"] if entry["event"] in _WORK else 0.0
        if entry["event"] != "judged":
            continue
        detail = entry["detail"]
        for arm, reward in zip(detail.get("arms", ()), detail.get("rewards", ()), strict=False):
            had = tried.get(arm)
            at = seconds if had is None else had.seconds
            tried[arm] = TriedAnswer(arm=arm, reward=reward, seconds=round(at, 6))
    return list(tried.values())
