"""Whether a failure of somebody else's model may pass when the call is made again.

LangChain's models raise their vendors' errors, which share no base class. What they do share is
read here: LangChain's own error family, HTTP status codes, and the built-in connection and
timeout errors at the end of the chain of causes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from langchain_core.exceptions import ModelError

from rttc_graph.support.others_words import without_keys

RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP status codes of a server that is busy, restarting or too slow; 529 is 'overloaded'."""


def is_retryable(error: BaseException) -> bool:
    """Tell whether the same call may succeed when it is simply made again."""
    return any(_is_passing(link) for link in _chain(error))


def describe(error: BaseException) -> str:
    """Return class and message in one line, without keys; some vendors' messages are empty.

    Where a server could not be reached, vendors say no more than that: the system's reason and the
    way out are added.
    """
    said = f"{type(error).__name__}: {_words(error)}".rstrip(": ")
    *_, root = _chain(error)
    if not any(_is_unreachable(link) for link in _chain(error)):
        return said
    reason = _words(root)
    why = f" ({reason})" if reason and reason not in said else ""
    return f"{said.rstrip('.')}{why}: start the server, or check its address"


def is_refused_request(error: BaseException) -> bool:
    """Tell whether the server did not like something in the request (HTTP 400 or 422)."""
    statuses = (getattr(link, "status_code", None) for link in _chain(error))
    return any(status in (400, 422) for status in statuses)


def _words(error: BaseException) -> str:
    return without_keys(" ".join(str(error).split()))


def _is_unreachable(error: BaseException) -> bool:
    """Tell whether there was no connection; httpx keeps the system's words, but not its error."""
    return isinstance(error, ConnectionRefusedError | socket.gaierror) or (
        type(error).__name__ == "ConnectError"
    )


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ModelError):
        return error.is_retryable
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status: object = getattr(error, "status_code", None)  # OpenAI, Anthropic, Mistral, Ollama, …
    return status in RETRYABLE_STATUS if isinstance(status, int) else False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
