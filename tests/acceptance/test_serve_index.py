"""What a newcomer finds at the address of a server, and what an operator sees of requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
from http_servers import Vectors, get, served
from scripted_parts import Parts

from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.serving.serve_options import ServeOptions
from rttc_graph.testing import MemoryKnowledgeBase

BARE = {"/openapi.json", "/readyz", "/metrics"}
OF_THE_GRAPH = {"/v1/chat/completions", "/rttc/invoke", "/rttc/playground/"}


@pytest.mark.parametrize(
    ("parts", "listed"),
    [
        pytest.param({"parts": Parts().parts()}, BARE | OF_THE_GRAPH, id="a-graph"),
        pytest.param(
            {"knowledge_base": MemoryKnowledgeBase(), "embedder": Vectors()},
            BARE | {"/kb/search"},
            id="samples-alone",
        ),
    ],
)
def test_the_first_page_lists_what_is_there(parts: Any, listed: set[str]) -> None:
    with served(create_app(ServedParts(**parts))) as url:
        found = get(url, "/").json()
        assert found["places"].keys() == listed
        for path, what in found["places"].items():
            status = get(url, path).status_code
            assert status == (200 if what.startswith("GET") else 405), path


@pytest.mark.parametrize("path", ["/redoc", "/kb", "/rttc", "/v1/completions"])
def test_a_path_without_a_route_points_to_the_first_page(path: str) -> None:
    with served(create_app(ServedParts(parts=Parts().parts()))) as url:
        refused = get(url, path)
    said = refused.json()
    words = said["error"]["message"] if path.startswith("/v1/") else said["detail"]
    assert refused.status_code == 404
    assert words == f"there is no {path!r} here: GET / lists what there is"


@pytest.mark.parametrize("is_on", [False, True])
def test_requests_are_logged_if_asked_for(is_on: bool, capfd: pytest.CaptureFixture[str]) -> None:
    options = ServeOptions(drain_seconds=5, access_log=is_on)
    with served(create_app(ServedParts(parts=Parts().parts())), options) as url:
        get(url, "/healthz")
        get(url, "/nowhere")
    lines = [line for line in capfd.readouterr().out.splitlines() if "GET /" in line]
    line = r"\d{4}-\d\d-\d\d \S+ 127\.0\.0\.1:\d+ \"GET /\w+ HTTP/1\.1\" (200 OK|404 Not Found)"
    assert len(lines) == (2 if is_on else 0)
    assert all(re.fullmatch(line, one) for one in lines)
