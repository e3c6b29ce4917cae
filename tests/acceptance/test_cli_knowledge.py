"""`rttc kb`: samples listed, shown, searched, exported and deleted, as a person keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from installations import Installation
from typer.testing import CliRunner

from rttc_graph.cli.app import app, main
from rttc_graph.samples import Samples

SHOP: list[dict[str, Any]] = [
    {
        "id": "helmet",
        "question": "how much is a helmet",
        "answer": "20 euros",
        "domain": "shop",
        "metadata": {"page": 3, "tags": ["price"]},
    },
    {"id": "lock", "question": "how much is a lock", "answer": "15 euros", "domain": "shop"},
    {"question": "is there a warranty", "answer": "two years", "domain": "shop"},
    {"id": "helmet", "question": "who wears a helmet", "answer": "riders", "domain": "law"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation) -> Path:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder whose installation holds `SHOP`, and something of another tenant."""
    ingest(folder, SHOP)
    ingest(folder, [{**SHOP[0], "answer": "99 euros"}], "--tenant", "other")
    capsys.readouterr()
    return folder


def ingest(folder: Path, rows: Sequence[Mapping[str, Any]], *words: str) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["kb", "ingest", str(path), *words]) == 0


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return stderr of a misuse."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def answers(listed: Mapping[str, Any]) -> list[str]:
    return sorted(sample["answer"] for sample in listed["samples"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["15 euros", "20 euros", "riders", "two years"]),
        (["--domain", "shop"], ["15 euros", "20 euros", "two years"]),
        (["--id", "helmet"], ["20 euros", "riders"]),
        (["--id", "helmet", "--id", "lock", "--domain", "shop"], ["15 euros", "20 euros"]),
        (["--metadata", "page=3"], ["20 euros"]),
        (["--metadata", 'tags=["price"]'], ["20 euros"]),
        (["--metadata", 'page="3"'], []),
        (["--contains", "MUCH IS"], ["15 euros", "20 euros"]),
        (["--tenant", "other"], ["99 euros"]),
    ],
    ids=lambda value: " ".join(value) or "all",
)
def test_list_shows_the_samples_that_the_flags_name(
    shop: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]
) -> None:
    del shop
    assert answers(call_json(capsys, "kb", "list", *words)) == expected


def test_a_list_is_read_page_by_page(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del shop
    first = call_json(capsys, "kb", "list", "--limit", "3")
    rest = call_json(capsys, "kb", "list", "--limit", "3", "--after", first["next"])
    assert (len(first["samples"]), len(rest["samples"]), rest["next"]) == (3, 1, None)
    assert main(["kb", "list", "--limit", "3"]) == 0
    assert f"add --after {first['next']}" in capsys.readouterr().out


def test_show_and_search_print_ids_texts_and_similarity(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del shop
    assert main(["kb", "show", "helmet", "--domain", "shop"]) == 0
    printed = capsys.readouterr().out
    for words in ("helmet  shop", "Q how much is a helmet", "A 20 euros", '"page": 3'):
        assert words in printed
    assert main(["kb", "search", "is there a warranty", "--domain", "shop", "-k", "2"]) == 0
    head, question, answer, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("similarity 1.000")
    assert (question, answer) == ("  Q is there a warranty", "  A two years")
    found = call_json(capsys, "kb", "search", "how much is a helmet", "-k", "1")
    assert [(s["external_id"], s["answer"]) for s in found["samples"]] == [("helmet", "20 euros")]
    assert found["samples"][0]["similarity"] == pytest.approx(1, abs=2e-3)


def test_an_export_ingests_again_with_the_same_ids_and_metadata(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = call_json(capsys, "kb", "list")["samples"]
    path = shop / "backup.jsonl"
    path.write_text("what was there before\n", encoding="utf-8")
    assert call_json(capsys, "kb", "export", "backup.jsonl")["samples"] == 4
    report = call_json(capsys, "kb", "ingest", "backup.jsonl")
    assert (report["stored"], report["updated"], report["already"]) == (0, 0, 4)

    for domain in ("shop", "law"):
        call_json(capsys, "kb", "delete", "--domain", domain, "--yes")
    assert call_json(capsys, "kb", "ingest", "backup.jsonl")["stored"] == 4
    assert call_json(capsys, "kb", "list")["samples"] == before

    assert main(["kb", "export", "-", "--domain", "law"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row == SHOP[3]


def test_an_export_that_breaks_off_leaves_the_file_before_it(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop / "backup.jsonl"
    path.write_text("before\n", encoding="utf-8")

    def broken(sample: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rttc_graph.samples.export.exported_row", broken)
    assert "No space left" in complaint(capsys, "kb", "export", str(path))
    assert path.read_text(encoding="utf-8") == "before\n"
    assert [p.name for p in shop.glob("*backup*")] == ["backup.jsonl"]
    assert "cannot write" in complaint(capsys, "kb", "export", "nowhere/backup.jsonl")


def test_an_export_into_a_pipe_leaves_the_pipe(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = shop / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reading:
        read = reading.submit(pipe.read_text, "utf-8")
        assert call_json(capsys, "kb", "export", str(pipe), "--domain", "law")["samples"] == 1
        assert json.loads(read.result()) == SHOP[3]
    assert pipe.is_fifo()


def test_a_dry_run_says_what_an_ingest_would_change_and_changes_nothing(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = call_json(capsys, "kb", "list")["samples"]
    new = {"question": "how much is a bell", "answer": 5, "domain": "shop"}
    rows = [{**SHOP[0], "answer": "35 euros"}, SHOP[1], SHOP[1], new, new]
    path = shop / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    told = call_json(capsys, "kb", "ingest", str(path), "--dry-run")
    counts = {key: told[key] for key in ("rows", "new", "updated", "already", "refused")}
    assert counts == {"rows": 5, "new": 1, "updated": 1, "already": 3, "refused": 0}
    (update,) = told["updates"]
    assert (update["id"], update["domain"]) == ("helmet", "shop")
    assert (update["before"]["answer"], update["after"]["answer"]) == ("20 euros", "35 euros")
    assert main(["kb", "ingest", str(path), "--dry-run"]) == 0
    assert "  A 20 euros → 35 euros" in capsys.readouterr().out
    assert call_json(capsys, "kb", "list")["samples"] == before

    report = call_json(capsys, "kb", "ingest", str(path))
    assert (report["stored"], report["updated"], report["already"]) == (1, 1, 3)
    with path.open("a", encoding="utf-8") as file:
        file.write("broken\n{}\n")
    assert main(["kb", "ingest", str(path), "--dry-run"]) == 1
    printed = capsys.readouterr().out
    assert "0 would be new, 0 updated, 5 are there, 2 refused" in printed
    assert "rows.jsonl:6: " in printed
    assert "rows.jsonl:7: " in printed
    assert main(["kb", "ingest", str(path), "--dry-run", "--skip-bad"]) == 0


def test_metadata_that_changed_is_stored_and_counted(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shop / "rows.jsonl"
    rows = [{**SHOP[0], "metadata": {"page": 4}}, SHOP[1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = call_json(capsys, "kb", "ingest", str(path), "--dry-run")
    assert (told["new"], told["updated"], told["already"]) == (0, 1, 1)
    assert told["updates"][0]["after"]["metadata"] == {"page": 4}
    assert main(["kb", "ingest", str(path), "--dry-run"]) == 0
    assert '→ {"page": 4}' in capsys.readouterr().out

    for updated in (1, 0):
        report = call_json(capsys, "kb", "ingest", str(path))
        assert (report["stored"], report["updated"]) == (0, updated)
    (found,) = call_json(capsys, "kb", "list", "--metadata", "page=4")["samples"]
    assert found["question"] == SHOP[0]["question"]


@pytest.mark.parametrize("policy", ["nearest", "cascade"])
def test_a_corrected_price_is_answered_with_its_source(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Ingested again under its id; nothing that an earlier run has kept brings the old one back."""
    monkeypatch.setenv("RTTC_EVIDENCE_SIMILARITY", "0")  # cosines of random weights
    monkeypatch.setenv("RTTC_ARMS", "nearest")
    ask = ["ask", "how much is a helmet", "--domain", "shop", "--policy", policy]

    def price() -> tuple[str, list[tuple[str, str, bool]]]:
        found = call_json(capsys, *ask)
        sources = [(s["question"], s["answer"], s["taken"]) for s in found["sources"]]
        return found["answer"], [source for source in sources if "helmet" in source[0]]

    assert price() == ("20 euros", [("how much is a helmet", "20 euros", True)])
    ingest(shop, [{**SHOP[0], "answer": "35 euros"}])
    assert "1 updated" in capsys.readouterr().out
    assert price() == ("35 euros", [("how much is a helmet", "35 euros", True)])


def test_a_file_is_read_twice_and_no_more(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to check it, once to store it; who looks for contradictions knows the domains then."""
    read: list[int] = []
    whole = Samples.__iter__

    def counted(samples: Samples) -> Any:
        read.append(1)
        return whole(samples)

    monkeypatch.setattr(Samples, "__iter__", counted)
    path = folder / "solved.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SHOP), encoding="utf-8")
    report = call_json(capsys, "kb", "ingest", str(path))
    assert report["domains"] == ["law", "shop"]
    assert len(read) == 2


def test_columns_are_named_by_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "fragen.csv"
    path.write_text("Nr;Frage;Antwort\n1;Wie viel?;20\n", encoding="utf-8")
    assert "--question-column" in complaint(capsys, "kb", "ingest", str(path))
    words = ["--question-column", "Frage", "--answer-column", "Antwort", "--id-column", "Nr"]
    report = call_json(capsys, "kb", "ingest", str(path), *words)
    assert (report["stored"], report["separator"]) == (1, ";")
    assert main(["kb", "ingest", str(path), *words]) == 0
    assert "columns were told apart by semicolons" in capsys.readouterr().out
    (sample,) = call_json(capsys, "kb", "list")["samples"]
    assert (sample["external_id"], sample["answer"]) == ("1", "20")


OLD_MANUAL = "# Helmet\n20 euros\n# Lock\n15 euros\n# Bell\n5 euros\n"
NEW_MANUAL = "# Helmet\n35 euros\n# Lock\n15 euros\n# Tyre\n9 euros\n"


def test_a_document_is_replaced_by_its_new_version(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manual = folder / "docs" / "manual.md"
    manual.parent.mkdir()
    ingest(folder, SHOP)

    def passages() -> dict[str, str]:
        listed = call_json(capsys, "kb", "list", "--metadata", "kind=passage")["samples"]
        return {sample["external_id"]: sample["answer"] for sample in listed}

    manual.write_text(OLD_MANUAL, encoding="utf-8")
    capsys.readouterr()
    assert call_json(capsys, "kb", "ingest", str(manual), "--domain", "shop")["stored"] == 3
    other = folder / "docs" / "notes.txt"
    other.write_text("unlike the manual", encoding="utf-8")
    assert call_json(capsys, "kb", "ingest", "docs/notes.txt", "--domain", "shop")["stored"] == 1

    manual.write_text(NEW_MANUAL, encoding="utf-8")
    words = ("kb", "ingest", "docs/manual.md", "--domain", "shop")
    told = call_json(capsys, *words, "--dry-run")
    assert [told[key] for key in ("new", "updated", "already", "deleted")] == [1, 1, 1, 1]
    assert main([*words, "--dry-run"]) == 0
    assert "1 that the document no longer has would be deleted" in capsys.readouterr().out
    report = call_json(capsys, *words)
    assert [report[key] for key in ("stored", "updated", "already", "deleted")] == [1, 1, 1, 1]
    assert passages() == {
        "docs/manual.md#Helmet#1": "35 euros",
        "docs/manual.md#Lock#1": "15 euros",
        "docs/manual.md#Tyre#1": "9 euros",
        "docs/notes.txt#1": "unlike the manual",
    }
    assert len(call_json(capsys, "kb", "list")["samples"]) == 8
    assert "no such file" in complaint(capsys, "kb", "ingest", "nowhere.md")
    assert "--source names a document" in complaint(
        capsys, "kb", "ingest", "rows.jsonl", "--source", "x"
    )


def test_delete_takes_ids_and_filters_and_a_dry_run_deletes_nothing(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del shop
    told = call_json(capsys, "kb", "delete", "--id", "helmet", "--dry-run")
    assert (told["deleted"], told["matching"]) == (0, {"shop": 1, "law": 1})
    assert main(["kb", "delete", "--id", "helmet", "--dry-run"]) == 0
    assert "would delete 1 sample of 'law', 1 sample of 'shop'" in capsys.readouterr().out
    assert len(call_json(capsys, "kb", "list")["samples"]) == 4

    words = ("kb", "delete", "--id", "helmet", "--domain", "shop", "--yes")
    assert call_json(capsys, *words)["deleted"] == 1
    assert answers(call_json(capsys, "kb", "list")) == ["15 euros", "riders", "two years"]
    assert answers(call_json(capsys, "kb", "list", "--tenant", "other")) == ["99 euros"]
    assert call_json(capsys, *words)["deleted"] == 0
    assert call_json(capsys, "kb", "delete", "--contains", "euros", "--yes")["deleted"] == 1


@pytest.mark.parametrize("said", ["n\n", "\n", ""], ids=["no", "enter", "end-of-input"])
def test_delete_says_how_many_and_deletes_nothing_without_a_yes(
    shop: Path, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    del shop
    result = CliRunner().invoke(app, ["kb", "delete", "--contains", "euros"], input=said)
    assert result.exit_code == 1
    assert "Delete 2 samples of 'shop' of tenant 'default'? [y/N]" in result.output
    assert len(call_json(capsys, "kb", "list")["samples"]) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["kb", "list", "--domain"],
        ["kb", "show", "helmet", "--domain"],
        ["kb", "search", "helmet", "--domain"],
        ["kb", "export", "out.jsonl", "--domain"],
        ["kb", "delete", "--yes", "--domain"],
    ],
    ids=lambda words: words[1],
)
def test_an_unknown_domain_is_an_error_that_names_the_known_ones(
    shop: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    error = complaint(capsys, *words, "Shpo")
    assert "domain 'Shpo' of tenant 'default' has no samples: did you mean 'shop'?" in error
    assert "Known are 'law', 'shop'" in error
    wider = ". Leave the domain out to mean all, or fill it with" in error
    assert wider == (words[1] != "delete"), "who deletes is not told to delete more"
    assert "did you mean" not in complaint(capsys, *words, "zzz")
    assert not (shop / "out.jsonl").exists()
    empty = complaint(capsys, *words, "shop", "--tenant", "nobody")
    assert "domain 'shop' of tenant 'nobody' has no samples: the knowledge base is empty" in empty


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kb", "delete", "--yes"], "everything would be deleted"),
        (["kb", "show", "helmt"], "no sample with id 'helmt'"),
        (["kb", "search", " "], "the text to search for is empty"),
        (["kb", "list", "--after", "x"], "not the end of a page"),
        (["kb", "list", "--metadata", "page"], "must be KEY=VALUE"),
        (["kb", "list", "--metadata", "a=1", "--metadata", "a=2"], "names 'a' twice"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    shop: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    del shop
    assert message in complaint(capsys, *words)
    assert len(call_json(capsys, "kb", "list")["samples"]) == 4


def test_check_finds_answers_that_contradict_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": "How much is a helmet?", "answer": "20 euros", "domain": "shop"},
        {"question": "how much is a helmet", "answer": "35 euros", "domain": "shop"},
        {"question": "How much is a helmet", "answer": "20 euros.", "domain": "shop"},
        {"question": "How much is a helmet?", "answer": "99 euros", "domain": "law"},
        {"question": "how much are 2 bells", "answer": "8", "domain": "sums"},
        {"question": "how much are 3 bells", "answer": "12", "domain": "sums"},
    ]
    passage = {"question": "x", "answer": "How much is a helmet?", "domain": "shop"}
    ingest(folder, [*rows, {**passage, "metadata": {"kind": "passage"}}])
    told = capsys.readouterr().out
    assert "2 pairs of samples ask nearly the same with different answers" in told
    assert "rttc kb check --domain shop" in told
    assert "--domain sums" not in told
    ingest(folder, [{**rows[0], "answer": "1 euro"}], "--tenant", "other")
    capsys.readouterr()
    found = call_json(capsys, "kb", "check")["domains"]
    counted = {one["domain"]: (one["samples"], one["contradictions"]) for one in found}
    assert counted == {"law": (1, 0), "shop": (3, 2), "sums": (2, 0)}
    (shop,) = call_json(capsys, "kb", "check", "--domain", "shop")["domains"]
    assert shop["copies"] == 1
    for pair in shop["pairs"]:
        answers_of = {pair["first"]["answer"].strip("."), pair["second"]["answer"].strip(".")}
        assert answers_of == {"20 euros", "35 euros"}
    assert main(["kb", "check", "--domain", "shop"]) == 0
    printed = capsys.readouterr().out
    assert "shop: 3 solved questions; nearly the same are 2 pairs with different" in printed
    assert "domain 'shpo' of tenant 'default' has no samples" in complaint(
        capsys, "kb", "check", "--domain", "shpo"
    )
