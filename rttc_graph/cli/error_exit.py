"""What becomes of an error on the command line: one line on stderr and an exit code."""

from __future__ import annotations

import sys
import traceback

from typer.exceptions import Abort, TyperException

from rttc_graph.errors import ConfigurationError, RttcError

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130
"""128 plus the number of SIGINT, as shells do."""


def report(error: BaseException, *, debug: bool) -> int:
    """Print an error and return the exit code of the process."""
    if debug and not isinstance(error, TyperException | Abort | KeyboardInterrupt):
        traceback.print_exception(error)
    code, line = _explain(error)
    print(f"rttc: {line}", file=sys.stderr)  # noqa: T201 - the one place that speaks of errors
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, TyperException):
        message = " ".join(error.format_message().split())
        return EXIT_MISUSE, f"{message} (see rttc --help)"
    if isinstance(error, ConfigurationError):
        return EXIT_MISUSE, " ".join(str(error).split())
    if isinstance(error, RttcError):
        return EXIT_FAILED, " ".join(str(error).split())
    if isinstance(error, Abort | KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    kind = type(error).__name__
    return EXIT_FAILED, f"unexpected {kind}: {error} (run it again with --debug for the traceback)"
