"""The command line on a real database, a tiny random model and a tiny random embedder."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from installations import Installation

from rttc_graph.cli.app import main
from rttc_graph.evaluation.baselines import BASELINES
from rttc_graph.evaluation.evaluation_rows import EvaluationRows, RowLog
from rttc_graph.installation.config import load_config
from rttc_graph.installation.configured_policy import open_engine
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import Rating

ROWS = [
    {"question": f"what is {n} plus {n}", "answer": str(2 * n), "domain": "sums"} for n in range(20)
]


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation) -> Path:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def solved(installation: Path) -> Path:
    path = installation / "solved.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return exit code and stderr; there must be no traceback and nothing on stdout."""
    code = main(arguments)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""
    return code, printed.err


def test_ask_goes_through_all_arms_and_its_json_has_the_promised_shape(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")

    result = call_json(
        capsys, "ask", "what is 7 plus 8", "--domain", "sums", "--tau", "1", "--json"
    )

    # The plain model is not among them: it answers where there are no samples.
    arms = ["nearest", "rag", "ttt"]
    said = ["answer", "arm", "reward", "accepted", "declined", "tau_r", "calibrated", "sources"]
    assert list(result) == [*said, "run_id", "candidates", "ledger", "cache", "seconds"]
    assert (result["tau_r"], result["accepted"], result["calibrated"]) == (1.0, False, False)
    used = Counter(tuple(s["arms"]) for s in result["sources"])
    assert used == {tuple(arms): 1, ("rag", "ttt"): 7}  # the nearest arm rests on one sample
    assert [c["arm"] for c in result["candidates"]] == arms
    wanted = {"arm", "answer", "reward", "seconds", "prompt_tokens", "completion_tokens"}
    assert all(wanted <= c.keys() for c in result["candidates"])
    assert result["cache"] == {"samples": "miss", "adapter": "miss"}
    assert result["reward"] == max(c["reward"] for c in result["candidates"])


def test_below_tau_r_is_seen_and_the_sources_are_shown(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "rag")

    assert main([*ask, "--tau", "1"]) == 0
    printed = capsys.readouterr().out
    assert "NOT ACCEPTED: score" in printed
    assert "is below τr 1; take the answer for a guess" in printed
    assert "what is 7 plus 7" in printed
    assert main([*ask, "--tau", "1", "--fail-unaccepted"]) == 3
    assert capsys.readouterr().out.startswith(printed.splitlines()[0])
    assert main([*ask, "--tau", "0", "--fail-unaccepted"]) == 0
    capsys.readouterr()

    assert main([*ask, "--tau", "1", "--below", "decline"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("I do not know.")
    assert "DECLINED: score" in printed

    assert main([*ask, "--tau", "0"]) == 0
    printed = capsys.readouterr().out
    assert "accepted: score" in printed
    assert "NOT ACCEPTED" not in printed
    run_id = printed.strip().splitlines()[-1].removeprefix("run ")
    assert len(run_id) == 32


def test_a_corrected_answer_is_asked_for_and_is_the_source_of_the_next(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "rag", "--json")
    run = call_json(capsys, *ask)["run_id"]

    rated = call_json(capsys, "rate", run, "wrong", "--answer", "15", "--note", "sum", "--json")
    assert (rated["is_right"], rated["correction"], rated["note"]) == (False, "pending", "sum")
    [waiting] = call_json(capsys, "rate", "--pending", "--json")
    assert (waiting["run_id"], waiting["query"]) == (run, "what is 7 plus 8")
    assert call_json(capsys, "rate", run, "approve", "--json")["correction"] == "stored"

    source = call_json(capsys, *ask)["sources"][0]
    assert (source["question"], source["answer"], source["taken"]) == (
        "what is 7 plus 8",
        "15",
        True,
    )
    assert main(["rate", "--export", "rated.jsonl"]) == 0
    row = json.loads(Path("rated.jsonl").read_text())
    assert (row["question"], row["answer"], row["domain"]) == ("what is 7 plus 8", "15", "sums")
    capsys.readouterr()
    code, line = complaint(capsys, "rate", "unknown", "right")
    assert code == 2
    assert "there is no run 'unknown'" in line


def test_a_misspelt_domain_ends_with_the_one_that_is_meant_and_no_statistics(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")

    code, line = complaint(capsys, "ask", "what is 7 plus 8", "--domain", "summs")

    assert code == 2
    assert "domain 'summs' of tenant 'default' has no samples: did you mean 'sums'?" in line
    assert call_json(capsys, "stats", "--json")["rows"] == []


def test_a_repeated_question_is_served_from_the_cache(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "ttt", "--json")
    first, second = call_json(capsys, *ask), call_json(capsys, *ask)

    assert second["cache"] == {"samples": "hit", "adapter": "hit"}
    assert first["candidates"][0]["trained_tokens"] > 0
    assert second["candidates"][0]["trained_tokens"] == 0
    assert second["answer"] == first["answer"]
    assert call_json(capsys, "cache", "stats", "--json")["adapters"] == 1
    assert call_json(capsys, "cache", "purge", "--yes", "--json")["adapters"] == 1
    assert call_json(capsys, *ask)["cache"] == {"samples": "miss", "adapter": "miss"}


def test_a_bad_row_is_named_and_nothing_is_stored(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with solved.open("a", encoding="utf-8") as file:
        file.write('{"question": "and the answer?"}\n')

    code, line = complaint(capsys, "kb", "ingest", str(solved))

    assert code == 1
    assert f"{solved}:21:" in line
    assert call_json(capsys, "kb", "stats", "--json")["domains"] == []


def test_a_row_with_the_id_of_a_stored_one_takes_its_place(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = installation / "ids.jsonl"

    def ingest(answer: str, *words: str) -> str:
        row = {"id": "one", "question": "what is updated", "answer": answer, "domain": "updated"}
        path.write_text(json.dumps(row), encoding="utf-8")
        assert main(["kb", "ingest", str(path), *words]) == 0
        return capsys.readouterr().out

    assert "1 stored, 0 updated, 0 were there, 0 bad left out" in ingest("wrong")
    report = json.loads(ingest("right", "--json"))
    assert (report["stored"], report["updated"], report["already"]) == (0, 1, 0)
    assert "0 stored, 0 updated, 1 were there" in ingest("right")
    stats = call_json(capsys, "kb", "stats", "--json")
    assert [d["samples"] for d in stats["domains"] if d["domain"] == "updated"] == [1]

    path.write_text(
        "\n".join(
            json.dumps({"id": 7, "question": "q", "answer": answer}) for answer in ("a", "b")
        ),
        encoding="utf-8",
    )
    code, error = complaint(capsys, "kb", "ingest", str(path))
    assert code == 1
    assert "ids.jsonl:2: id '7' is that of row 1" in error


def test_skip_bad_keeps_the_good_rows_on_both_sides(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved.write_text("not JSON\n" + solved.read_text() + "[]\n", encoding="utf-8")

    report = call_json(capsys, "kb", "ingest", str(solved), "--skip-bad", "--json")

    assert (report["stored"], report["skipped"], len(report["bad"])) == (20, 2, 2)
    (domain,) = call_json(capsys, "kb", "stats", "--json")["domains"]
    assert (domain["domain"], domain["samples"]) == ("sums", 20)
    assert call_json(capsys, "kb", "delete", "--domain", "sums", "--yes", "--json")["deleted"] == 20


@pytest.mark.parametrize("command", [["kb", "ingest"], ["eval"], ["calibrate"]])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("x.jsonl", "", id="empty"),
        pytest.param("x.csv", "question,answer\n", id="header-alone"),
    ],
)
def test_a_file_without_a_row_fails(
    installation: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
    content: str,
) -> None:
    (installation / name).write_text(content)
    code, line = complaint(capsys, *command, name)
    assert code == 1
    assert "no row could be used" in line


def test_skip_bad_without_a_good_row_fails(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installation / "x.jsonl").write_text('{"question": "q"}\n{"answer": "a"}\n')
    code, line = complaint(capsys, "kb", "ingest", "x.jsonl", "--skip-bad")
    assert code == 1
    assert "no row could be used: line 1: answer is missing; 1 more are bad" in line


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["eval", "solved.jsonl", "--json", "no/x.json"], id="no-folder"),
        pytest.param(["eval", "solved.jsonl", "--json", "solved.jsonl/x"], id="file-for-a-folder"),
        pytest.param(["eval", "solved.jsonl", "--json", "."], id="a-folder"),
        pytest.param(["eval", "solved.jsonl", "--plot", "."], id="plot"),
        pytest.param(["eval", "solved.jsonl", "--report", "solved.jsonl"], id="report"),
        pytest.param(["eval", "solved.jsonl", "--records", "."], id="records"),
        pytest.param(["calibrate", "solved.jsonl", "--plot", "solved.jsonl/x"], id="calibrate"),
        pytest.param(["reward", "train", "solved.jsonl", "--out", "solved.jsonl"], id="train"),
        pytest.param(["reward", "draw", "solved.jsonl", "--out", "."], id="draw"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_any_work(
    solved: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    before = solved.read_bytes()
    code, line = complaint(capsys, *arguments)
    assert code == 2
    assert "cannot write" in line
    assert solved.read_bytes() == before
    assert sorted(path.name for path in solved.parent.glob("*.js*")) == ["solved.jsonl"]


@pytest.fixture
def questions(solved: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder of questions with samples beside them."""
    folder = solved.parent / "sums"
    folder.mkdir()
    solved.rename(folder / "samples.jsonl")
    rows = [
        {"question": f"what is {n} plus 1", "answer": str(n + 1), "domain": "sums"}
        for n in range(50, 68)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_eval_measures_every_policy_on_the_same_rows(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("eval", str(questions), "--limit", "3", "--tau", "1", "--records", "rows.jsonl")
    result = call_json(capsys, *arguments, "--report", "report", "--json", "-")

    assert result["rows"] == 3
    names = ["nearest", "direct", "rag", "ttt", "compare", "cascade"]
    assert list(result["policies"]) == [*names, *BASELINES, "oracle", "random"]
    for policy, summary in result["policies"].items():
        low, high = summary["interval"]
        assert 0 <= low <= summary["accuracy"] <= high <= 1
        assert sum(summary["arms"].values()) == pytest.approx(0 if policy in BASELINES else 3)
        if policy in ("ttt", "compare", "cascade"):
            assert summary["trained_tokens"] > 0
    assert result["policies"]["cascade"]["arms_run"] == {"nearest": 3, "rag": 3, "ttt": 3}
    assert Path("rttc-eval-sums.png").read_bytes().startswith(b"\x89PNG")
    report = Path("report/report.md").read_text()
    assert report.startswith("# Evaluation of sums")
    assert f"**{result['verdict']['text']}**" in report
    assert "| vote of samples |" in report
    assert "against each arm" in report
    assert main([*arguments, "--json", "result.json"]) == 0  # all from the records
    assert json.loads(Path("result.json").read_text()) == result
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == result["verdict"]["text"]
    assert "questions nothing can be told" in shown[-1]
    again = call_json(capsys, "eval", "--rejudge", "--records", "rows.jsonl", "--json", "-")
    assert again["rows"] == 3
    assert call_json(capsys, "stats", "--json")["total"]["runs"] == 0  # leaves no trace


def test_eval_runs_and_compares_what_was_named(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("eval", str(questions), "--limit", "3", "--policies", "nearest")
    result = call_json(capsys, *arguments, "--records", "rows.jsonl", "--json", "-")
    assert list(result["policies"]) == ["nearest", *BASELINES]
    assert {key.policy for key in RowLog(Path("rows.jsonl")).load().rows} == {"nearest"}
    assert result["policies"]["nearest"]["against_cascade"] is None
    assert main([*arguments, "--records", "rows.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "3 questions are too few for an interval" in shown
    assert " to " not in shown.splitlines()[2]
    assert "cascade" not in shown


def test_eval_runs_policies_for_real_if_asked(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(questions / "samples.jsonl"), "--json")
    arguments = ("eval", str(questions / "questions.jsonl"), "--limit", "2", "--tau", "1")
    chosen = ("--policies", "direct,rag,ttt,cascade")
    real = call_json(capsys, *arguments, *chosen, "--real", "--json", "-")
    replayed = call_json(capsys, *arguments, *chosen, "--records", "rows.jsonl", "--json", "-")

    assert list(real["policies"]) == ["direct", "rag", "ttt", "cascade", *BASELINES]
    for policy, summary in real["policies"].items():
        for figure in ("accuracy", "prompt_tokens", "completion_tokens", "trained_tokens", "arms"):
            assert replayed["policies"][policy][figure] == summary[figure]


def count_reads_of_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each file of rows when it is parsed."""
    read: list[str] = []
    load = RowLog.load

    def counted(log: RowLog) -> EvaluationRows:
        read.append(log.path.name)
        return load(log)

    monkeypatch.setattr(RowLog, "load", counted)
    return read


def check_listed_and_undone(
    capsys: pytest.CaptureFixture[str], found: Any, given: Sequence[str]
) -> None:
    """Look at the calibration that was saved, save one for all domains, and go back to it."""
    other = ("ask", "what is 7 plus 8", "--policy", "direct", "--json")
    raw = call_json(capsys, *other)["reward"]  # of no domain, so not of the calibrated one
    [kept] = call_json(capsys, "calibrate", "--list", "--json")
    assert [(one["domain"], one["arms"]) for one in kept["domains"]] == [("sums", found["arms"])]
    assert (kept["tau_r_of"], kept["earlier"]) == (found["tau_r_of"], 1)
    assert call_json(capsys, "status", "--json")["calibration"] == kept
    assert main(["status"]) == 0
    assert f"sums; saved {kept['saved_at']}" in capsys.readouterr().out
    call_json(capsys, *given, "--save", "--all-domains", "--json")
    assert call_json(capsys, *other)["reward"] != raw
    assert main(["calibrate", "--list"]) == 0
    assert "(all others)" in capsys.readouterr().out
    undone = call_json(capsys, "calibrate", "--undo", "--yes", "--json")
    assert undone["tau_r_of"] == found["tau_r_of"]
    assert call_json(capsys, *other)["reward"] == raw


def check_plans(
    capsys: pytest.CaptureFixture[str], found: Any, ask: Sequence[str], rejudge: Sequence[str]
) -> None:
    """Look at the plan that was saved, run it, and measure it in both ways."""
    plan = found["plans"][""]["plan"]
    assert plan["bins"] == [{"arms": [], "tau_r": 0.0}]  # of rewards that tell nothing
    assert found["plan_curve"][0]["seconds"] > 0
    result = call_json(capsys, *ask, "--json")
    assert [c["arm"] for c in result["candidates"]] == [plan["first"]]
    [decided] = [e["detail"] for e in result["ledger"] if e["event"] == "decided"]
    assert decided["reason"].startswith("the only bin of the plan")
    [kept] = call_json(capsys, "calibrate", "--list", "--json")
    assert [one["plan"] for one in kept["domains"]] == [plan]
    assert main(["calibrate", "--list"]) == 0
    assert f"{plan['first']}, then stop" in " ".join(capsys.readouterr().out.split())
    policies = ("--policies", "plan,cascade")
    by_kept = call_json(capsys, *rejudge, *policies)["policies"]["plan"]
    assert by_kept["arms"] == {plan["first"]: 18}
    fair = call_json(capsys, *rejudge, *policies, "--cross-fit", "--target-cost", "1000")
    assert fair["policies"]["plan"]["against_cascade"] is not None


def test_a_calibration_is_fitted_kept_and_used(
    questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = str(questions), ["--records", "rows.jsonl"]
    read = count_reads_of_rows(monkeypatch)
    code, line = complaint(capsys, "calibrate", folder, *records)
    assert code == 2
    assert read == ["rows.jsonl"]
    assert re.search(r"\d+ questions are too few: \d+ right and .* too few to calibrate on", line)
    rows = [json.loads(text) for text in Path("rows.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):  # a model that is sometimes right
        if row["kind"] == "answer" and number % 4 == 1:
            row["reference"] = row["candidates"][0]["answer"] or "nothing"
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    plan = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "plan")
    code, line = complaint(capsys, *plan)
    assert code == 2
    assert "no plan is kept for the domain 'sums'" in line

    given = ["calibrate", *records, "--scorer", "exact", "--target-cost", "1000"]
    read.clear()
    found = call_json(capsys, *given, "--save", "--json")
    assert read == ["rows.jsonl"]
    assert found["saved"]
    assert found["questions"] == 18
    gates = [(point["arms"], point["tau_r"]) for point in found["points"]]
    assert gates == [(["nearest"], 0), (["direct"], 0), (["rag"], 0)]
    assert found["maps"][""]["arms"] == found["arms"]
    assert found["maps"][""]["tells_nothing"]  # the confidence of random weights
    assert Path("rttc-calibrate-rows.png").read_bytes().startswith(b"\x89PNG")
    assert found["tau_r_of"] != found["fingerprint"]

    rejudge = ("eval", "--rejudge", *records, "--scorer", "exact", "--json", "-")
    read.clear()
    fair = call_json(capsys, *rejudge, "--cross-fit", "--target-cost", "1000")
    assert read == ["rows.jsonl"]
    assert fair["settings"]["calibrated"] == "cross-fitted"
    assert fair["policies"]["direct"]["accuracy"] == 0.5
    by_features = call_json(capsys, *given, "--features", "--json")["maps"][""]
    assert found["maps"][""]["features_log_loss"] is None
    assert by_features["features_log_loss"] > 0
    assert by_features["features"] is None  # it tells no more of random weights

    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "direct", "--json")
    monkeypatch.setenv("RTTC_TAU_R_OF", found["tau_r_of"])
    assert 0 < call_json(capsys, *ask)["reward"] < 1
    monkeypatch.delenv("RTTC_TAU_R_OF")
    check_plans(capsys, found, plan, rejudge)
    check_listed_and_undone(capsys, found, given)
    monkeypatch.setenv("RTTC_TAU_R_OF", found["fingerprint"])  # of the raw scores
    code, line = complaint(capsys, *ask)
    assert code == 2
    assert "rttc calibrate" in line
    code, line = complaint(capsys, "eval", "--rejudge", *records)
    assert code == 2
    assert "rttc calibrate" in line


def test_the_last_runs_are_listed_by_their_ids(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        call_json(capsys, "ask", f"what is {n}", "--policy", "direct", "--json") for n in range(3)
    ]
    runs = call_json(capsys, "stats", "--last", "2", "--json")["runs"]
    assert [run["run_id"] for run in runs] == [one["run_id"] for one in asked[:0:-1]]
    assert [run["query"] for run in runs] == ["what is 2", "what is 1"]
    assert main(["stats", "--last", "5"]) == 0
    shown = capsys.readouterr().out
    assert all(one["run_id"] in shown for one in asked)
    assert main(["stats", "--last", "5", "--days", "1"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert call_json(capsys, "stats", "--last", "5", "--tenant", "nobody", "--json")["runs"] == []


def test_missing_indexes_are_built_on_demand(
    solved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = PostgresKnowledgeBase.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "index_rows", 10)
    monkeypatch.setitem(defaults, "auto_index", False)
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    assert call_json(capsys, "db", "index", "--json") == {"indexed": ["sums"]}
    [domain] = call_json(capsys, "kb", "stats", "--json")["domains"]
    assert domain["index"] == "hnsw"
    assert main(["db", "index"]) == 0
    assert "no large domain lacks an index" in capsys.readouterr().out


def test_stats_add_up_what_was_asked(solved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats"]) == 0
    assert "no runs" in capsys.readouterr().out
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "ttt", "--json")
    for _ in range(2):
        call_json(capsys, *ask)

    found = call_json(capsys, "stats", "--json")
    total = found["total"]
    assert (total["runs"], total["samples_hits"], total["adapter_hits"]) == (2, 1, 1)
    assert found["arms"] == [{"arm": "ttt", **total}]
    (row,) = found["rows"]
    assert row == {"day": row["day"], "domain": "sums", "arm": "ttt", **total}
    assert main(["stats", "--days", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in table[1:3]] == [
        ["sums", "ttt", "2"],
        ["ttt", "2", "100%"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["ask", ""], "the question is empty", id="empty-question"),
        pytest.param(["ask", "q", "--tau", "1.5"], "--tau 1.5: input", id="tau-out-of-bounds"),
        pytest.param(["ask", "q", "--n", "0"], "--n 0: input should be", id="no-panel"),
        pytest.param(["ask", "q", "--policy", "best"], "best", id="unknown-policy"),
        pytest.param(
            ["ask", "q", "--policy", "nearst"], "did you mean 'nearest'", id="misspelt-policy"
        ),
        pytest.param(
            ["ask", "q", "--below", "declin"],
            "'--below': 'declin' is not one of 'answer', 'decline'; did you mean 'decline'?",
            id="misspelt-choice",
        ),
        pytest.param(["ask", "q", "--arms", "rga"], "did you mean 'rag'", id="misspelt-arm"),
        pytest.param(
            ["eval", "q", "--policies", "nearst"], "did you mean 'nearest'", id="misspelt-policies"
        ),
        pytest.param(["ask"], "question", id="missing-argument"),
        pytest.param(["ask", "q", "--samples-choice", "best"], "best", id="unknown-choice"),
        pytest.param(["ask", "q", "--k", "many"], "valid integer", id="not-a-number"),
        pytest.param(["kb", "ingest", "nowhere.jsonl"], "nowhere.jsonl", id="missing-file"),
        pytest.param(["kb", "ingest", "data.xml"], ".xml", id="unknown-format"),
        pytest.param(["eval", "nowhere.jsonl"], "nowhere.jsonl", id="missing-questions"),
        pytest.param(["eval"], "no questions", id="no-questions"),
        pytest.param(["eval", "--rejudge", "--records", "no.jsonl"], "no rows", id="no-rows"),
        pytest.param(["eval", "q", "--target-cost", "3"], "--cross-fit", id="aim-of-what"),
        pytest.param(["calibrate"], "no questions", id="nothing-to-calibrate-on"),
        pytest.param(["calibrate", "q", "--target-cost", "0"], "target cost=0.0", id="no-cost"),
        pytest.param(["stats", "--days", "0"], "--days 0 must be", id="no-days"),
        pytest.param(["--config", "no.toml", "status"], "no.toml", id="missing-settings-file"),
        pytest.param(["db", "up"], "RTTC_DATABASE_URL", id="no-embedded-server-with-a-dsn"),
        pytest.param(["frobnicate"], "frobnicate", id="unknown-command"),
    ],
)
@pytest.mark.usefixtures("installation")
def test_misuse_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, line = complaint(capsys, *arguments)

    assert code == 2
    assert line.startswith("rttc: ")
    assert words in line
    assert line.count("\n") == 1


@pytest.mark.usefixtures("installation")
def test_a_database_that_is_down_is_a_failed_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTTC_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    code, line = complaint(capsys, "kb", "stats")

    assert code == 1
    assert "could not" in line


def without_a_server(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTTC_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")


def with_a_file_for_a_folder(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RTTC_DATABASE_URL")
    monkeypatch.setenv("RTTC_HOME", str(installation / "home"))
    (installation / "home").mkdir(exist_ok=True)
    (installation / "home" / "postgres").write_text("no folder")


def with_a_full_disk(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_no_folder = installation / "full"
    monkeypatch.delenv("RTTC_DATABASE_URL")
    monkeypatch.setenv("RTTC_HOME", str(with_no_folder))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", refuse)


def with_an_address_that_cannot_be_read(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTTC_DATABASE_URL", "host=db password=open sesame")


@pytest.mark.parametrize(
    "fault",
    [
        without_a_server,
        with_a_file_for_a_folder,
        with_a_full_disk,
        with_an_address_that_cannot_be_read,
    ],
)
def test_ask_answers_without_a_database(
    installation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    fault(installation, monkeypatch)
    result = call_json(capsys, "ask", "what is 7 plus 8", "--tau", "1", "--json")
    assert result["answer"]
    assert [entry for entry in result["ledger"] if entry["event"] == "failed"]
    monkeypatch.undo()


@pytest.mark.parametrize("fault", [with_a_file_for_a_folder, with_a_full_disk])
@pytest.mark.parametrize("command", [["kb", "stats"], ["stats"], ["cache", "stats"], ["db", "up"]])
def test_commands_that_need_the_database_say_what_is_wrong_with_its_folder(
    installation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    fault: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    fault(installation, monkeypatch)
    code, said = complaint(capsys, *command)
    assert code in (1, 2)
    assert "data folder" in said
    assert "unexpected" not in said
    monkeypatch.undo()


@pytest.mark.usefixtures("installation")
def test_status_speaks_of_models_and_database(capsys: pytest.CaptureFixture[str]) -> None:
    status = call_json(capsys, "status", "--json")

    assert status["database"] == "given by DSN"
    assert status["samples"] == 0
    assert status["packages"]["langgraph"][0].isdigit()


def test_status_tells_what_fitted_the_device_when_the_model_was_last_loaded(
    installation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTTC_HOME", str(installation / "home"))
    config = load_config()
    assert "engine" not in call_json(capsys, "status", "--json")
    with open_engine(config) as engine:
        asyncio.run(engine.model())
        sizes = engine.sizes
    assert sizes is not None
    engine_told = call_json(capsys, "status", "--json")["engine"]
    assert engine_told["rows"] == sizes.rows
    assert engine_told["positions"] == sizes.positions
    assert engine_told["device"] == "cpu"
    assert main(["status"]) == 0
    assert f"up to {sizes.rows} rows at once" in capsys.readouterr().out
    assert "engine" not in call_json(capsys, "--model", "another", "status", "--json")


def commands() -> list[list[str]]:
    groups = {"kb": ["ingest", "stats", "delete", "reembed"], "cache": ["stats", "purge"]}
    groups |= {"db": ["up", "down", "status", "migrate", "index"], "models": ["pull", "list"]}
    single = [["ask"], ["eval"], ["calibrate"], ["stats"], ["demo"], ["status"]]
    return single + [[group, name] for group, names in groups.items() for name in names]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert "--json" in text


@pytest.mark.parametrize("group", [[], ["kb"], ["cache"], ["db"], ["models"], ["reward"], ["keys"]])
def test_a_bare_group_shows_its_help(capsys: pytest.CaptureFixture[str], group: list[str]) -> None:
    assert main([*group, "--help"]) == 0
    helped = capsys.readouterr().out
    assert main([*group, "-h"]) == 0
    assert capsys.readouterr().out == helped
    assert main(group) == 0
    bare = capsys.readouterr()
    assert (bare.out, bare.err) == (helped, "")
    listed = bare.out.partition("Commands:")[2].partition("Example:")[0]
    assert listed
    assert "..." not in listed


def test_misuse_names_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "kb", "show")[1].endswith("(see rttc kb show --help)\n")
    assert complaint(capsys, "kbb")[1].endswith("(see rttc --help)\n")


def test_sizes_are_numbers_in_json(solved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_json(capsys, "status", "--json")["adapter_bytes"] == 0
    assert main(["status"]) == 0
    assert re.search(r"^adapter_bytes +0 B$", capsys.readouterr().out, re.MULTILINE)


def test_a_library_s_advice_stays_off_the_screen() -> None:
    library = logging.getLogger("bitsandbytes")
    library.setLevel(logging.NOTSET)
    assert main(["models", "--help"]) == 0
    assert not library.getChild("backends.cpu.ops").isEnabledFor(logging.WARNING)


def test_a_traceback_is_shown_with_debug_only(installation: Path) -> None:
    rttc = [sys.executable, "-m", "rttc_graph"]
    run = {"capture_output": True, "text": True, "cwd": installation, "check": False}
    plain: Any = subprocess.run([*rttc, "ask", ""], **run)  # type: ignore[call-overload]
    debug: Any = subprocess.run([*rttc, "ask", "", "--debug"], **run)  # type: ignore[call-overload]

    assert (plain.returncode, debug.returncode) == (2, 2)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize("name", ["caf\udce9", "a\0b", "x" * 201])
@pytest.mark.parametrize(
    "command",
    [
        ("ask", "hi", "--domain"),
        ("ask", "hi", "--tenant"),
        ("kb", "ingest", "solved.jsonl", "--domain"),
        ("kb", "ingest", "solved.jsonl", "--tenant"),
        ("kb", "delete", "--domain"),
        ("kb", "stats", "--tenant"),
        ("eval", "solved.jsonl", "--domain"),
        ("calibrate", "solved.jsonl", "--domain"),
        ("calibrate", "solved.jsonl", "--tenant"),
        ("cache", "purge", "--tenant"),
        ("keys", "add", "--tenant"),
        ("stats", "--tenant"),
    ],
    ids=" ".join,
)
def test_a_name_that_cannot_be_ends_a_command_before_its_work(
    solved: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    name: str,
) -> None:
    monkeypatch.setenv("RTTC_DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    code, said = complaint(capsys, *command, name)
    assert code == 2
    assert command[-1].removeprefix("--") in said


NEAREST = ("--policy", "nearest", "--json")


def rate_runs(*, right: int, wrong: int) -> None:
    """Store the last run under as many ids, and rate each."""

    async def rate(knowledge: Knowledge) -> None:
        [run] = await knowledge.ledger_store.recent(tenant="default", count=1)
        for number in range(right + wrong):
            copied = replace(run, run_id=f"run-{number}")
            await knowledge.ledger_store.append(copied)
            rating = Rating(run_id=copied.run_id, is_right=number >= wrong)
            await knowledge.ratings.rate(rating, tenant="default")

    with open_knowledge(load_config()) as knowledge:
        asyncio.run(rate(knowledge))


def test_a_map_is_fitted_to_rated_runs(solved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kb", "ingest", str(solved)]) == 0
    capsys.readouterr()
    call_json(capsys, "ask", "what is 3 plus 3", "--domain", "sums", *NEAREST)
    rate_runs(right=9, wrong=10)
    code, line = complaint(capsys, "calibrate", "--from-ledger")
    assert code == 2
    assert "9 right and 10 wrong ratings are too few" in line
    code, line = complaint(capsys, "calibrate", "--from-ledger", "--best")
    assert code == 2
    assert "--from-ledger takes no files" in line

    rate_runs(right=10, wrong=10)
    found = call_json(capsys, "calibrate", "--from-ledger", "--save", "--json")
    assert found["ratings"] == {"right": 10, "wrong": 10, "left_out": {}}
    assert found["maps"][""]["pairs"] == 20
    assert Path("rttc-calibrate-ratings.png").read_bytes().startswith(b"\x89PNG")
    [kept] = call_json(capsys, "calibrate", "--list", "--json")
    assert (kept["tau_r_of"], kept["aim"]) == (found["tau_r_of"], "map of rated runs, no gate")
    assert [(one["domain"], one["tau_r"]) for one in kept["domains"]] == [("sums", None)]
    asked = call_json(capsys, "ask", "what is 3 plus 3", "--domain", "sums", *NEAREST)
    assert asked["reward"] == pytest.approx(0.5, abs=0.01)  # half of the answers were right
    assert main(["calibrate", "--from-ledger"]) == 0
    shown = capsys.readouterr().out
    assert "20 rated answers, 10 right and 10 wrong" in shown
    assert "τr, arms and plans are as they were" in shown
