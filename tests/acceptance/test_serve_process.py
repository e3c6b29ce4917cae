"""`rttc serve` in a process of its own, asked, searched by another one, drained and refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from http_servers import PATIENCE_SECONDS, Impatient, ServeProcess, get, post, until
from installations import REPOSITORY, Installation
from langserve import RemoteRunnable
from psycopg import sql

from rttc_graph.cli.app import main

ROWS = [
    {"question": f"what is {n} plus {n}", "answer": str(2 * n), "domain": "sums"} for n in range(20)
]
CHAT = "/v1/chat/completions"


@pytest.fixture
def env(installed: Installation, tmp_path: Path) -> dict[str, str]:
    Path(installed.described["RTTC_HOME"]).mkdir()
    (tmp_path / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return installed.variables


@pytest.fixture
def here(
    installed: Installation, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Folder of the same installation, for commands that run in this process."""
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def hello(**ours: Any) -> dict[str, Any]:
    talk = [{"role": "user", "content": "what is 7 plus 8"}]
    return {"model": "rttc", "messages": talk, "rttc": ours}


def test_a_real_server_answers_by_every_protocol_stops_for_who_leaves_and_drains(
    env: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(here / "solved.jsonl"), "--json")
    with ServeProcess(env) as server:
        assert get(server.url, "/readyz").status_code == 200
        asked = hello(tau_r=1, domain="sums", arms=["direct", "rag", "ttt"])
        done = post(server.url, CHAT, asked).json()
        assert [c["arm"] for c in done["rttc"]["candidates"]] == ["direct", "rag", "ttt"]
        assert done["rttc"]["candidates"][2]["trained_tokens"] > 0
        client: RemoteRunnable[Any, Any] = RemoteRunnable(f"{server.url}/rttc", timeout=60)
        again = client.invoke(
            {"query": "what is 7 plus 8", "domain": "sums"}, {"configurable": {"tau_r": 1.0}}
        )
        assert again["cache"] == {"samples": "hit", "adapter": "hit"}
        client.sync_client.close()
        stats = post(server.url, "/kb/stats", {}).json()["domains"]
        assert [(d["domain"], d["samples"]) for d in stats] == [("sums", 20)]
        figures = get(server.url, "/metrics").text
        assert 'rttc_cache_total{result="hit",what="adapter"} 1.0' in figures

        training = hello(policy="ttt", domain="sums", ttt_epochs=100, ttt_stop_loss=0, k=16)
        inside = 'rttc_inside{lane="runs"}'
        with Impatient(server.url, CHAT, {**training, "stream": True}):
            until(lambda: f"{inside} 1.0" in get(server.url, "/metrics").text)
        until(lambda: "rttc_hung_up_total 1.0" in get(server.url, "/metrics").text)
        until(lambda: f"{inside} 0.0" in get(server.url, "/metrics").text)

        answered: list[int] = []
        slow = hello(policy="direct", max_new_tokens=480, seed=1, temperature=1.0)
        asking = threading.Thread(
            target=lambda: answered.append(post(server.url, CHAT, slow).status_code)
        )
        asking.start()
        until(lambda: f"{inside} 1.0" in get(server.url, "/metrics").text)
        server.stop()
        asking.join(PATIENCE_SECONDS)
        assert (answered, server.wait()) == ([200], 0)
    with pytest.raises(httpx.ConnectError):
        get(server.url, "/healthz")


def test_the_edge_client_needs_only_samples_from_the_server(
    env: dict[str, str],
    here: Path,
    empty_dsn: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_json(capsys, "kb", "ingest", str(here / "solved.jsonl"), "--json")
    added = call_json(capsys, "keys", "add", "--scopes", "kb:read", "--name", "edge", "--json")
    with ServeProcess(env, "--kb-only") as server:
        assert post(server.url, CHAT, {}).status_code in (401, 404)
        assert post(server.url, "/kb/stats", {}, key=added["key"]).status_code == 200
        own = {**env, "RTTC_DATABASE_URL": empty_dsn, "RTTC_API_KEY": added["key"]}
        own |= {"PYTHONPATH": str(REPOSITORY), "RTTC_HOME": str(here / "edge")}
        rttc = [sys.executable, "-m", "rttc_graph", "db", "migrate"]
        subprocess.run(rttc, env=own, check=True, capture_output=True, timeout=100)
        example = [sys.executable, str(REPOSITORY / "examples" / "edge_client.py"), server.url]
        ran: Any = subprocess.run(
            [*example, "what is 7 plus 8", "sums"],
            env=own,
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert ran.returncode == 0, ran.stderr
        assert "retrieved" in ran.stdout
        assert "trained" in ran.stdout
    with psycopg.connect(empty_dsn) as edge, psycopg.connect(env["RTTC_DATABASE_URL"]) as hosted:
        assert _count(edge, "rttc_adapter") == 1
        assert _count(edge, "rttc_sample") == 0
        assert _count(hosted, "rttc_adapter") == 0
        assert _count(hosted, "rttc_run") == 0


def _count(connection: Any, table: str) -> int:
    query = sql.SQL("select count(*) from {}").format(sql.Identifier(table))
    return int(connection.execute(query).fetchone()[0])


@pytest.mark.usefixtures("here")
def test_only_loopback_is_served_without_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:  # said before anything is loaded
        patch.setenv("RTTC_MODEL", str(tmp_path / "no-model"))
        assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "rttc keys add" in capsys.readouterr().err

    code = main(["serve", "--kb-only", "--host", "0.0.0.0", "--port", "0"])
    line = capsys.readouterr().err
    assert code == 2
    assert "rttc keys add" in line

    made = call_json(capsys, "keys", "add", "--tenant", "acme", "--json")
    assert call_json(capsys, "keys", "list", "--json")[0]["tenant"] == "acme"
    assert made["key"] not in json.dumps(call_json(capsys, "keys", "list", "--json"))
    assert call_json(capsys, "keys", "revoke", made["id"], "--json")["revoked_at"]
    assert main(["serve", "--kb-only", "--host", "0.0.0.0", "--port", "0"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--port", "70000"], "65535"),
        (["serve", "--concurrency", "0"], "concurrency=0"),
        (["serve", "--kb-only", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["keys", "add", "--scopes", "admin"], "kb:write"),
        (["keys", "revoke", "nobody"], "nobody"),
    ],
)
@pytest.mark.usefixtures("here")
def test_misuse_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code = main(arguments)
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    # What is begun is told in lines of its own.
    [line] = [line for line in printed.err.splitlines() if line.startswith("rttc: ")]
    assert words in line
    assert printed.err.endswith(f"{line}\n")


@pytest.mark.parametrize("has_browser", [True, False])
@pytest.mark.usefixtures("here")
def test_ui_serves_on_loopback_and_opens_the_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, has_browser: bool
) -> None:
    opened: list[str] = []

    def note(url: str) -> bool:
        opened.append(url)
        return has_browser

    def run(app: Any, listening: Any, *, on_ready: Any, **_: Any) -> None:
        on_ready()

    monkeypatch.setattr("webbrowser.open", note)
    monkeypatch.setattr("rttc_graph.serving.server.run_until_stopped", run)
    assert main(["ui", "--kb-only", "--port", "0"]) == 0
    printed = capsys.readouterr().out
    [url] = opened
    assert url.startswith("http://127.0.0.1:")
    assert f"serving on {url}," in printed
    assert ("no browser" in printed) is not has_browser
    assert main(["ui", "--kb-only", "--port", "0", "--no-browser"]) == 0
    assert len(opened) == 1
