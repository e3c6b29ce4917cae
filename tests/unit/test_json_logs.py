"""Lines of logs as JSON: a run's id in each line of its work, and no text of a run."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from http_servers import get, post, served
from scripted_parts import Parts

from rttc_graph.protocols.ledgers import current_run_id
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.json_logs import JsonFormatter, json_logs
from rttc_graph.serving.serve_options import ServeOptions

QUESTION = "is my secret safe?"


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_run_that_ends_is_a_line_without_texts(capfd: pytest.CaptureFixture[str]) -> None:
    options = ServeOptions(drain_seconds=5, log_format="json", access_log=True)
    app = create_app(ServedParts(parts=Parts().parts()))
    body = {"model": "rttc", "messages": [{"role": "user", "content": QUESTION}]}
    with json_logs(), served(app, options) as url:
        done = post(url, "/v1/chat/completions", body).json()
        get(url, "/nowhere")
    lines = lines_of(capfd)
    (run,) = [line for line in lines if line["message"] == "run ended"]
    assert run["run_id"] == done["rttc"]["run_id"]
    assert (run["policy"], run["accepted"], run["level"]) == ("cascade", False, "info")
    asked = {(line["path"], line["status"]) for line in lines if line["logger"] == "uvicorn.access"}
    assert asked == {("/v1/chat/completions", 200), ("/nowhere", 404)}
    assert QUESTION not in json.dumps(lines)


def test_what_is_logged_within_a_node_has_the_runs_id(capfd: pytest.CaptureFixture[str]) -> None:
    parts = Parts()
    answer = parts.policy_model.generate

    async def logs_and_answers(*given: Any, **more: Any) -> Any:
        logging.getLogger("rttc_graph.somewhere").warning("a warning\nof two lines")
        return await answer(*given, **more)

    parts.policy_model.generate = logs_and_answers  # type: ignore[method-assign]
    app = create_app(ServedParts(parts=parts.parts()))
    body = {"model": "rttc", "messages": [{"role": "user", "content": QUESTION}]}
    with json_logs(), served(app, ServeOptions(drain_seconds=5, log_format="json")) as url:
        run_id = post(url, "/v1/chat/completions", body).json()["rttc"]["run_id"]
    found = [line for line in lines_of(capfd) if line["level"] == "warning"]
    assert {line["run_id"] for line in found} == {run_id}
    assert found[0]["message"] == "a warning\nof two lines"
    assert current_run_id.get() is None


def test_an_error_brings_its_traceback() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as exc:
        info = (ValueError, exc, exc.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "failed: %s", ("x",), info)
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"]) == ("failed: x", "error")
    assert "ValueError: wrong" in line["traceback"]
