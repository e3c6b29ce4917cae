"""Lines of logs as objects of JSON, with the id of the run that they come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from rttc_graph.protocols.ledgers import current_run_id

__all__ = ("JsonFormatter", "json_logs")

_ACCESS = "uvicorn.access"
_WITH_HANDLERS = ("uvicorn", "uvicorn.error", _ACCESS)
"""Loggers that may have handlers of their own, for words."""
_ACCESS_NAMES = ("client", "method", "path", "http_version", "status")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON.

    Always there are `time` (UTC), `level`, `logger` and `message`; `run_id` inside of a run, and
    `traceback` with an error. What a record brings as `told` stands beside them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (run_id := current_run_id.get()) is not None:
            line["run_id"] = run_id
        line |= cast("Mapping[str, Any]", getattr(record, "told", {}))
        if record.name == _ACCESS and isinstance(record.args, tuple):
            line |= dict(zip(_ACCESS_NAMES, record.args, strict=False))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@contextmanager
def json_logs() -> Generator[None]:
    """Write all logs of the process to the standard error so, and ours from `info` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in (None, "rttc_graph", *_WITH_HANDLERS)]
    before = [(one.handlers[:], one.propagate, one.level) for one in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [], True
    root, ours, *_ = loggers
    root.handlers = [handler]
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
