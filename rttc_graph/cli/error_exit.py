"""What becomes of an error on the command line: one line on stderr and an exit code."""

from __future__ import annotations

import errno
import re
import shutil
import sys
import textwrap
import traceback
from typing import Any

from typer.exceptions import Abort, TyperException

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.support.identity import meant_name
from rttc_graph.support.others_words import without_keys

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_UNACCEPTED = 3
"""An answer that is not accepted, where that is asked to be told so."""
EXIT_INTERRUPTED = 130
"""128 plus the number of SIGINT, as shells do."""


_FULL = "free some space there and run it again; what was written before is kept"
_FORBIDDEN = "name another file, or another folder with --home or RTTC_HOME, or allow it there"
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files",
}
"""Advice by errno, for errors of the system that are no fault of the program."""


def report(error: BaseException, *, debug: bool) -> int:
    """Print an error and return the exit code of the process."""
    if debug and not isinstance(error, TyperException | Abort | KeyboardInterrupt):
        print(without_keys("".join(traceback.format_exception(error))), file=sys.stderr)  # noqa: T201
    code, line = _explain(error)
    print(_wrapped(f"rttc: {without_keys(line)}"), file=sys.stderr)  # noqa: T201 - the one place for errors
    return code


def _wrapped(line: str) -> str:
    """Return the line, for a person broken between words; a file or a pipe gets it whole."""
    if not sys.stderr.isatty():
        return line
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)


def _command(error: TyperException) -> str:
    """Return the command that was misused, as it is called."""
    context: Any = getattr(error, "ctx", None)
    path: list[str] = [] if context is None else context.command_path.split()
    root = 0 if context is None else len(context.find_root().command_path.split())
    return " ".join(["rttc", *path[root:]])


def _flag_of_the_root(error: TyperException) -> str | None:
    """Return the option that a command does not have, and `rttc` itself does."""
    flag, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if flag is None or context is None:
        return None
    known = {name for one in context.find_root().command.params for name in one.opts}
    return str(flag) if flag in known else None


def _with_suggestion(message: str) -> str:
    """Return Typer's words about a flag; where it takes one of some names, with the likeliest."""
    plain = message.replace(": Value error, ", ": ")
    found = _CHOICE.search(plain)
    if found is None or "did you mean" in plain:
        return plain
    meant = meant_name(found["given"], _NAME.findall(found["names"]))
    return plain if meant is None else f"{plain.rstrip('.')}; did you mean {meant!r}?"


_NAME = re.compile(r"'([^']*)'")
_CHOICE = re.compile(r"'(?P<given>[^']*)' is not one of (?P<names>'[^']*'(?:, '[^']*')*)")
"""Words of Typer for a flag that takes one of some names."""


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, TyperException):
        message = " ".join(error.format_message().split())
        if (flag := _flag_of_the_root(error)) is not None:
            command = " ".join(_command(error).split()[1:])
            return EXIT_MISUSE, f"{flag} goes before the command: rttc {flag} … {command} …"
        return EXIT_MISUSE, f"{_with_suggestion(message)} (see {_command(error)} --help)"
    if isinstance(error, ConfigurationError):
        return EXIT_MISUSE, " ".join(str(error).split())
    if isinstance(error, RttcError):
        return EXIT_FAILED, " ".join(str(error).split())
    if isinstance(error, Abort | KeyboardInterrupt):
        return EXIT_INTERRUPTED, ": ".join(["interrupted", *getattr(error, "__notes__", ())])
    if isinstance(error, OSError) and error.errno in _WAYS_OUT:
        where = "the disk" if error.filename is None else repr(str(error.filename))
        said = (error.strerror or type(error).__name__).lower()
        return EXIT_FAILED, f"{where}: {said}: {_WAYS_OUT[error.errno]}"
    kind = type(error).__name__
    return EXIT_FAILED, f"unexpected {kind}: {error} (run it again with --debug for the traceback)"
