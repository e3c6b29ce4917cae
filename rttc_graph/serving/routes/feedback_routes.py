"""`/v1/feedback`: what people say of answers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from rttc_graph.protocols import Rating
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.admission.authentication import request_caller
from rttc_graph.serving.http_errors import OpenAIProblem
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS

__all__ = ("feedback_router",)

_STATUSES = (400, 401, 403, 405, 408, 413, 415, 429, 500, 503, 504)


class Feedback(BaseModel):
    """A rating of a run."""

    model_config = ConfigDict(extra="forbid")

    run_id: str = Field(
        min_length=1, max_length=MAX_NAME_CHARACTERS, description="`rttc.run_id` of the answer."
    )
    rating: Literal["right", "wrong"]
    answer: str | None = Field(
        default=None,
        max_length=MAX_TEXT_CHARACTERS,
        description="The right answer; by the server's settings it becomes a sample, at once or "
        "after approval.",
    )
    note: str | None = Field(default=None, max_length=MAX_TEXT_CHARACTERS)
    tenant: str | None = Field(
        default=None, max_length=MAX_NAME_CHARACTERS, description="Only on a server without keys."
    )


class FeedbackTaken(BaseModel):
    """What became of a rating."""

    run_id: str
    rating: Literal["right", "wrong"]
    correction: Literal["none", "pending", "stored", "rejected"] = Field(
        description="State of the right answer: none was given, it waits for approval, or it is a "
        "sample."
    )


def feedback_router(corrections: Corrections, *, default_tenant: str) -> APIRouter:
    """Return the route.

    Args:
        corrections: Takes the ratings.
        default_tenant: For callers that name none and have no key that does.
    """
    router = APIRouter(
        prefix="/v1",
        tags=["feedback"],
        responses={status: {"model": OpenAIProblem} for status in _STATUSES},
    )

    @router.post("/feedback")
    async def rate(body: Feedback, request: Request) -> FeedbackTaken:
        """Say whether an answer was right; a later rating of a run takes an earlier one's place.

        A right answer becomes a sample without approval only with a key that may write to the
        knowledge base.
        """
        caller = request_caller(request.scope)
        rating = Rating(
            run_id=body.run_id,
            is_right=body.rating == "right",
            answer=body.answer,
            note=body.note,
        )
        done = await corrections.rate(
            rating,
            tenant=caller.tenant_for(body.tenant, default_tenant),
            may_store="kb:write" in caller.scopes,
        )
        return FeedbackTaken(
            run_id=body.run_id, rating=body.rating, correction=done.rating.correction
        )

    return router
