"""What a client is told when it gets no answer: one shape for each family of routes.

`/v1` speaks as OpenAI's servers do, so that their clients raise the right error; everything else
says `detail`, `kind` and `retryable`, from which a remote knowledge base makes our errors again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from rttc_graph.errors import (
    BackendError,
    BudgetExceeded,
    ConfigurationError,
    NoAnswerError,
    RttcError,
)
from rttc_graph.serving.redaction import without_places
from rttc_graph.support.identity import clean
from rttc_graph.support.others_words import problem_words

__all__ = ("HttpError", "OpenAIProblem", "Problem", "as_http_error", "first_problem", "response_to")


class Problem(BaseModel):
    """Why there is no result."""

    detail: str = Field(description="What was wrong, with the value, the limit and the way out.")
    kind: str = Field(description="Class of the error.")
    retryable: bool = Field(description="Whether the same request may succeed later.")


class OpenAIError(BaseModel):
    """An error in the shape that OpenAI's clients read."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class OpenAIProblem(BaseModel):
    """Why there is no completion."""

    error: OpenAIError


class HttpError(RttcError):
    """A request that ends with another status than 200.

    Args:
        status: HTTP status.
        message: For the client.
        kind: Class of the error, as the client may know it.
        retry_after_seconds: When trying again makes sense; `None` for never.
        headers: More of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "ConfigurationError",
        retry_after_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds
        self.headers = dict(headers or {})


_OPENAI_TYPES: Mapping[int, tuple[str, str | None]] = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: ("not_found_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def response_to(http_error: HttpError, path: str) -> JSONResponse:
    """Return the response for a route."""
    headers = dict(http_error.headers)
    message = clean(http_error.message)  # which may repeat names of the request
    if http_error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(http_error.retry_after_seconds)))
    if path.startswith("/v1/"):
        status = 400 if http_error.status == 422 else http_error.status
        usual = ("server_error" if status >= 500 else "invalid_request_error", None)
        kind, code = _OPENAI_TYPES.get(status, usual)
        error = OpenAIError(message=message, type=kind, code=code)
        return JSONResponse(OpenAIProblem(error=error).model_dump(), status, headers)
    problem = Problem(
        detail=message,
        kind=http_error.kind,
        retryable=http_error.retry_after_seconds is not None,
    )
    return JSONResponse(problem.model_dump(), http_error.status, headers)


def as_http_error(error: RttcError) -> HttpError:
    """Return how a request ends in which an error of ours was raised.

    Its words do not say where the server's parts are.
    """
    if isinstance(error, HttpError):
        return error
    kind, words = type(error).__name__, without_places(str(error))
    if isinstance(error, ConfigurationError):
        return HttpError(422, words, kind=kind)
    if isinstance(error, BudgetExceeded) or _ran_out(error):
        return HttpError(422, words)
    if isinstance(error, BackendError) and error.retryable:
        return HttpError(503, words, kind=kind, retry_after_seconds=1)
    return HttpError(502 if isinstance(error, NoAnswerError) else 500, words, kind=kind)


def _ran_out(error: RttcError) -> bool:
    """Tell whether there is no answer because the caller's budget allowed none."""
    if not isinstance(error, NoAnswerError):
        return False
    failed = [entry["detail"].get("error", "") for entry in error.ledger if _failed(entry)]
    return all(str(reason).startswith("BudgetExceeded") for reason in failed)


def _failed(entry: Mapping[str, Any]) -> bool:
    return entry.get("event") == "failed"


def first_problem(errors: Sequence[Any]) -> str:
    """Return the first of pydantic's errors as `where: what`."""
    first = errors[0] if errors else "the body is not what this route takes"
    if not isinstance(first, Mapping):
        return str(first)
    problem: Mapping[str, Any] = first  # pyright: ignore[reportUnknownVariableType]  # pydantic's
    if problem.get("type") == "json_invalid":
        told = str(problem.get("ctx", {}).get("error", "")).removesuffix(":")
        return f"the body is not JSON: {told} at character {problem['loc'][-1] + 1}"
    where = ".".join(str(part) for part in problem.get("loc", ()))
    return f"{where}: {problem_words(problem)}".removeprefix(": ")
