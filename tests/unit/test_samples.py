"""Rows of every format become samples, and bad rows are named by file, line and reason."""

from __future__ import annotations

import importlib
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rttc_graph.errors import BadSampleError, ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.samples import Samples, read_samples
from rttc_graph.samples.rows import ColumnNames

pa: Any = importlib.import_module("pyarrow")  # untyped
openpyxl: Any = importlib.import_module("openpyxl")
pq: Any = importlib.import_module("pyarrow.parquet")

GOOD = '{"question": "q1", "answer": "a1"}'
LATER = '{"question": "q2", "answer": "a2"}'


def plain(question: str, answer: str, domain: str = "general") -> NewSample:
    return NewSample(question=question, answer=answer, domain=domain)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problem_of(samples: Samples) -> BadSampleError:
    with pytest.raises(BadSampleError) as caught:
        list(samples)
    return caught.value


def test_every_field_of_a_jsonl_row_arrives(tmp_path: Path) -> None:
    row = {
        "question": "  Why?\n",
        "answer": "So é",
        "domain": " math ",
        "id": 7,
        "metadata": {"a": [1, None]},
        "unknown": 1,
    }
    path = write(tmp_path, "x.jsonl", json.dumps(row))
    assert list(read_samples(path)) == [
        NewSample(
            question="Why?",
            answer="So é",
            domain="math",
            external_id="7",
            metadata={"a": [1, None]},
        )
    ]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{GOOD}\n{LATER}\n".encode(), id="plain"),
        pytest.param(f"{GOOD}\n{LATER}".encode(), id="no-last-line-end"),
        pytest.param(f"{GOOD}\r\n{LATER}\r\n".encode(), id="windows-line-ends"),
        pytest.param(b"\xef\xbb\xbf" + f"{GOOD}\n{LATER}\n".encode(), id="byte-order-mark"),
        pytest.param(f"\n{GOOD}\n  \t\n\n{LATER}\n\n".encode(), id="blank-lines"),
    ],
)
def test_jsonl_in_every_common_form(tmp_path: Path, content: bytes) -> None:
    samples = read_samples(write(tmp_path, "x.jsonl", content))
    assert list(samples) == [plain("q1", "a1"), plain("q2", "a2")]


def test_line_separators_inside_a_string_do_not_end_a_line(tmp_path: Path) -> None:
    row = '{"question": "a\u2028b\u0085c", "answer": "x\x7f"}\n'
    assert [s.question for s in read_samples(write(tmp_path, "x.jsonl", row))] == [
        "a\u2028b\u0085c"
    ]


def row_with(**fields: object) -> bytes:
    return json.dumps({"question": "q", "answer": "a", **fields}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"{", "not JSON", id="not-json"),
        pytest.param(b'{"question": "q", "answer": "a"} x', "not JSON", id="rest-behind-json"),
        pytest.param(b'["q", "a"]', "must be a JSON object, got a list", id="a-list"),
        pytest.param(b"null", "must be a JSON object", id="null"),
        pytest.param(b"[" * 100_000, "JSON", id="nested-too-deeply"),
        pytest.param(b'{"question": "q", "answer": "\xff"}', "UTF-8", id="not-utf-8"),
        pytest.param(b'{"question": "q"}', "answer is missing", id="no-answer"),
        pytest.param(row_with(question=None), "question is missing", id="null-question"),
        pytest.param(row_with(question=" \n"), "question is empty", id="blank-question"),
        pytest.param(row_with(answer=""), "answer is empty", id="empty-answer"),
        pytest.param(b'{"question": "q", "answer": NaN}', "NaN is not a number", id="nan-answer"),
        pytest.param(b'{"question": "q", "answer": 1e999}', "got inf (float)", id="endless-answer"),
        pytest.param(row_with(answer=True), "got True (bool): write it", id="boolean-answer"),
        pytest.param(b'{"Question": "q", "answer": "a"}', "'Question': rename", id="capitals"),
        pytest.param(b'{"question": "q", "answer": "a", "answer": "b"}', "twice", id="twin-key"),
        pytest.param(row_with(question="x" * 5_000_000), "5,000,000 characters", id="5-mb"),
        pytest.param(row_with(answer=["a"]), "answer must be a string", id="list-answer"),
        pytest.param(row_with(answer="a\0b"), "NUL", id="nul-in-answer"),
        pytest.param(row_with(question="\ud800"), "UTF-8", id="half-a-surrogate-pair"),
        pytest.param(row_with(question="x" * 100_001), "100,001 characters", id="too-long"),
        pytest.param(row_with(domain=3), "domain must be a string", id="number-domain"),
        pytest.param(row_with(domain="d" * 201), "domain has 201", id="long-domain"),
        pytest.param(row_with(domain="d\0"), "domain holds a NUL", id="nul-in-domain"),
        pytest.param(row_with(id=1.5), "id must be a string", id="fraction-id"),
        pytest.param(row_with(id=True), "id must be a string", id="boolean-id"),
        pytest.param(row_with(metadata=[1]), "metadata must be an object", id="list-metadata"),
        pytest.param(row_with(metadata="{"), "metadata is not JSON", id="broken-metadata"),
        pytest.param(row_with(metadata={"x": "a\0"}), "metadata holds a NUL", id="nul-in-metadata"),
        pytest.param(row_with(metadata={"x": "y" * 100_001}), "metadata has", id="long-metadata"),
        pytest.param(row_with(metadata={"x": float("nan")}), "NaN", id="nan-in-metadata"),
        pytest.param(
            b'{"question": "q", "answer": "a", "metadata": {"x": 1e999}}',
            "cannot be written as JSON",
            id="infinity-by-overflow",
        ),
        pytest.param(b'{"question": "q", "n": ' + b"9" * 5000 + b"}", "JSON", id="huge-number"),
    ],
)
def test_a_bad_line_is_named_and_can_be_skipped(tmp_path: Path, line: bytes, reason: str) -> None:
    content = b"\n".join([GOOD.encode(), line, LATER.encode(), b""])
    path = write(tmp_path, "x.jsonl", content)

    problem = problem_of(read_samples(path))
    assert (problem.source, problem.line) == (str(path), 2)
    assert reason in str(problem)
    assert str(problem).startswith(f"{path}:2: ")

    skipping = read_samples(path, skip_bad=True)
    assert [s.question for s in skipping] == ["q1", "q2"]
    assert [p.line for p in skipping.bad] == [2]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(row_with(question="x" * 100_000), id="longest-question"),
        pytest.param(row_with(domain="d" * 200), id="longest-domain"),
        pytest.param(row_with(domain=None, id=None, metadata=None), id="nulls-for-nothing"),
        pytest.param(row_with(domain=" ", id=""), id="blank-domain-and-id"),
        pytest.param(row_with(metadata={"x": "\\u0000"}), id="a-spelled-out-escape"),
    ],
)
def test_lines_at_the_limits_are_good(tmp_path: Path, line: bytes) -> None:
    assert len(list(read_samples(write(tmp_path, "x.jsonl", line)))) == 1


def test_a_line_beyond_all_bounds_is_bad_but_the_next_is_read(tmp_path: Path) -> None:
    huge = b'{"question": "' + b"x" * (9 * 2**20) + b'", "answer": "a"}'
    path = write(tmp_path, "x.jsonl", huge + b"\n" + GOOD.encode())
    samples = read_samples(path, skip_bad=True)
    assert list(samples) == [plain("q1", "a1")]
    assert [p.line for p in samples.bad] == [1]


def test_a_source_is_read_anew_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", f"{GOOD}\nbad\n")
    samples = read_samples(path, skip_bad=True)
    assert len(list(samples)) == len(list(samples)) == 1
    assert samples.bad_count == 1
    write(tmp_path, "x.jsonl", f"{GOOD}\n{LATER}\n")
    assert len(list(samples)) == 2
    assert samples.bad_count == 0


def test_many_bad_rows_are_counted_but_not_all_kept(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path, "x.jsonl", "bad\n" * 250 + GOOD), skip_bad=True)
    assert list(samples) == [plain("q1", "a1")]
    assert samples.bad_count == 250
    assert len(samples.bad) == 100


@pytest.mark.parametrize(
    ("given", "row", "expected"),
    [
        pytest.param(None, None, "general", id="nobody-names-one"),
        pytest.param("shop", None, "shop", id="the-caller-fills"),
        pytest.param("shop", "math", "math", id="the-row-keeps-its-own"),
        pytest.param(" ", None, "general", id="a-blank-one-is-none"),
    ],
)
def test_domain_of_a_row(tmp_path: Path, given: str | None, row: str | None, expected: str) -> None:
    path = write(tmp_path, "x.jsonl", row_with(domain=row))
    assert [s.domain for s in read_samples(path, domain=given)] == [expected]


@pytest.mark.parametrize(
    ("written", "text"),
    [("42", "42"), ("-1.50", "-1.5"), ("1e3", "1000.0"), ("0", "0"), ("9" * 30, "9" * 30)],
)
def test_a_number_is_taken_as_text(tmp_path: Path, written: str, text: str) -> None:
    row = f'{{"question": {written}, "answer": {written}}}'
    assert list(read_samples(write(tmp_path, "x.jsonl", row))) == [plain(text, text)]


GERMAN = ColumnNames(question="Frage", answer="Antwort", domain="Thema", id="Nr")
GERMAN_ROWS = [
    NewSample(question="Wo?", answer="hier", domain="orte", external_id="7"),
    NewSample(question="Wann?", answer="12", domain="general", external_id="8"),
]


def workbook(folder: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    path = folder / "x.xlsx"
    book.save(path)
    return path


def test_columns_of_other_names_are_read_in_every_format(tmp_path: Path) -> None:
    header = ["question", "Frage", "Antwort", "Thema", "Nr"]
    table: list[list[Any]] = [["no", "Wo?", "hier", "orte", 7], ["no", "Wann?", 12, None, 8]]
    as_csv = "\n".join(
        [";".join(name.upper() for name in header), "no;Wo?;hier;orte;7", "no;Wann?;12;;8"]
    )
    rows = [dict(zip(header, row, strict=True)) for row in table]
    texts = [{**row, "Antwort": str(row["Antwort"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "x.parquet")
    paths = [
        write(tmp_path, "x.jsonl", "\n".join(map(json.dumps, rows))),
        write(tmp_path, "x.csv", as_csv),
        tmp_path / "x.parquet",
        workbook(tmp_path, [header, *table]),
    ]
    for path in paths:
        assert list(read_samples(path, columns=GERMAN)) == GERMAN_ROWS, path
        usual = ColumnNames(question="Frage", answer="Antwort", domain="Nirgends")
        if path.suffix != ".jsonl":  # whose rows may lack what others have
            with pytest.raises(ConfigurationError, match="no column 'Nirgends'"):
                list(read_samples(path, columns=usual))
    problem = problem_of(read_samples(paths[0], columns=ColumnNames(answer="antwort")))
    assert "antwort is missing, but there is 'Antwort'" in str(problem)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (ColumnNames(question="x", answer="x"), "two columns are named 'x'"),
        (ColumnNames(answer="question"), "two columns are named 'question'"),
        (ColumnNames(question=" "), "is blank"),
    ],
)
def test_columns_that_cannot_be_are_refused(
    tmp_path: Path, columns: ColumnNames, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_samples(write(tmp_path, "x.jsonl", GOOD), columns=columns)


def test_a_workbook_is_read_at_the_sheet_that_has_the_columns(tmp_path: Path) -> None:
    path = workbook(
        tmp_path,
        [["notes"], ["nothing"]],
        [
            ["Question", None, "ANSWER", "metadata"],
            ["How much?", "x", 20, '{"k": 1}'],
            [None, None, None, None],
            ["How far?", None, 1.5, None],
            ["Is it?", None, True, None],
            ["When?", None, date(2026, 3, 1), None],
            ["What?", None, None, None],
        ],
    )
    samples = read_samples(path, skip_bad=True)
    assert [(s.question, s.answer) for s in samples] == [
        ("How much?", "20"),
        ("How far?", "1.5"),
        ("Is it?", "TRUE"),
        ("When?", "2026-03-01T00:00:00"),
    ]
    assert next(iter(samples)).metadata == {"k": 1}
    list(samples)
    assert [problem.line for problem in samples.bad] == [7]


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="as a workbook"):
        list(read_samples(write(tmp_path, "x.xlsx", "question,answer\nq,a\n")))
    with pytest.raises(ConfigurationError, match=r"no column 'question', it has \['a'\]"):
        list(read_samples(workbook(tmp_path, [["a"], ["b"]], [])))


def test_csv_with_quotes_line_ends_and_metadata(tmp_path: Path) -> None:
    header = "\ufeffid,question , answer,domain,metadata\r\n"
    content = header + '1,"a, ""b""\nc",x,,"{""k"": 1}"\r\n\r\n2,d,y,z,'
    assert list(read_samples(write(tmp_path, "x.csv", content))) == [
        NewSample(
            question='a, "b"\nc',
            answer="x",
            domain="general",
            external_id="1",
            metadata={"k": 1},
        ),
        NewSample(question="d", answer="y", domain="z", external_id="2"),
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        pytest.param(b"q", "1 cells under a header of 2", id="too-few-cells"),
        pytest.param(b"q,a,b", "3 cells under a header of 2", id="too-many-cells"),
        pytest.param(b"q,", "answer is empty", id="empty-cell"),
        pytest.param(b"q,\xff", "not valid UTF-8", id="not-utf-8"),
        pytest.param(b"q," + b"x" * 140_000, "140,000 characters", id="beyond-the-csv-limit"),
        pytest.param(b'"q\n,\n' + b"x,y\n" * 50_000 + b'",a', "100,000", id="long-quoted-field"),
    ],
)
def test_a_bad_csv_record_is_named_by_its_line(tmp_path: Path, record: bytes, reason: str) -> None:
    content = b'question,answer\n"two\nlines",a1\n' + record + b"\nq2,a2\n"
    path = write(tmp_path, "x.csv", content)
    problem = problem_of(read_samples(path))
    assert problem.line == 4
    assert reason in str(problem)
    skipping = read_samples(path, skip_bad=True)
    assert [s.answer for s in skipping] == ["a1", "a2"]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        pytest.param('"q1,a1\nq2,a2\n', "unexpected end", id="never-closed"),
        pytest.param('"q1,a1\nq2,"a2"\n', "expected after", id="closed-by-another-field"),
        pytest.param('"say "so, now\nmilk,eggs\n",a\n', "expected after", id="bare-quotes"),
        pytest.param('"say \\"so\\", now\nmilk,eggs\n",a\n', "expected", id="backslashes"),
        pytest.param('q, "to\nmilk,eggs\n', "unexpected end", id="behind-a-space"),
        pytest.param('"q' + "x,y\n" * 2_200_000, "longer than 8,388,608", id="beyond-all-bounds"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_part_of_a_csv_field_is_never_a_row(
    tmp_path: Path, records: str, reason: str, skip_bad: bool
) -> None:
    path = write(tmp_path, "x.csv", "question,answer\nq0,a0\n" + records)
    found: list[str] = []
    with pytest.raises(BadSampleError) as caught:
        found.extend(s.question for s in read_samples(path, skip_bad=skip_bad))
    assert caught.value.line == 3
    assert reason in str(caught.value)
    assert "nothing of the file is used" in str(caught.value)
    assert found == ["q0"]  # an ingest reads the whole file before it stores anything


TABLE = "question,answer\nWo liegt Zürich?,hier; links\n"
ROW = plain("Wo liegt Zürich?", "hier; links")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TABLE.encode("utf-16"), id="utf-16"),
        pytest.param(b"\xfe\xff" + TABLE.encode("utf-16-be"), id="utf-16-be-with-mark"),
        pytest.param(TABLE.encode("utf-16-le"), id="utf-16-le-without-mark"),
        pytest.param(TABLE.encode("utf-32"), id="utf-32"),
        pytest.param(TABLE.encode("utf-8-sig"), id="utf-8-with-mark"),
        pytest.param(TABLE.replace("\n", "\r\n").encode(), id="crlf"),
        pytest.param(TABLE.replace("\n", "\r").encode(), id="cr"),
        pytest.param(b"sep=,\r\n" + TABLE.encode(), id="sep-line"),
        pytest.param(("\ufeff" + TABLE).replace(",", "\t").encode("utf-16-le"), id="excel-text"),
        pytest.param(b'sep=;\nquestion;answer\nWo liegt Z\xc3\xbcrich?;"hier; links"', id="sep-;"),
        pytest.param(b'answer;question\n"hier; links";Wo liegt Z\xc3\xbcrich?', id="semicolon"),
        pytest.param(TABLE.replace(",", "|").encode(), id="bar"),
        pytest.param(TABLE.replace("question,answer", '" Question","ANSWER "').encode(), id="caps"),
        pytest.param(
            TABLE.replace(",", ', "')
            .replace("links", 'links"')
            .replace(', "answer', ",answer")
            .encode(),
            id="space-before-a-quote",
        ),
        pytest.param(
            TABLE.replace("question", '"a\nb",question').replace("Wo", "x,Wo").encode(),
            id="line-end-in-the-header",
        ),
    ],
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, content: bytes) -> None:
    assert list(read_samples(write(tmp_path, "x.csv", content))) == [ROW]


@pytest.mark.parametrize(
    ("name", "content", "separator"),
    [
        ("x.csv", b"question,answer\nq,a", ","),
        ("x.csv", b"question;answer\nq;a", ";"),
        ("x.csv", b"sep=|\nquestion|answer\nq|a", "|"),
        ("x.tsv", b"question\tanswer\nq\ta", "\t"),
        ("x.jsonl", b'{"question": "q", "answer": "a"}', None),
    ],
)
def test_the_separator_taken_can_be_told(
    tmp_path: Path, name: str, content: bytes, separator: str | None
) -> None:
    assert read_samples(write(tmp_path, name, content)).separator() == separator


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_jsonl_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    content = f"{GOOD}\r\n{LATER}\r\n".encode(encoding)
    assert len(list(read_samples(write(tmp_path, "x.jsonl", content)))) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "question,answer\nWo?,Zürich\n"),
        ("x.jsonl", '{"question": "Wo?", "answer": "Zürich"}\n'),
    ],
)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_an_encoding_that_is_not_told_is_refused_with_a_way_out(
    tmp_path: Path, name: str, content: str, encoding: str
) -> None:
    problem = problem_of(read_samples(write(tmp_path, name, content.encode(encoding))))
    assert "byte 0xFC" in str(problem)
    assert "save the file as UTF-8" in str(problem)


def test_a_torn_utf_16_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", TABLE.encode("utf-16")[:-1])
    with pytest.raises(ConfigurationError, match="save the file as UTF-8"):
        list(read_samples(path))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("x.jsonl", "", "there is none", id="empty"),
        pytest.param("x.jsonl", "\n \n", "there is none", id="blank-lines"),
        pytest.param("x.csv", "question,answer\n", "there is none", id="header-alone"),
        pytest.param(
            "x.jsonl",
            '{"question": "q"}\n{}\n',
            "line 1: answer is missing; 1 more are",
            id="bad-rows-alone",
        ),
    ],
)
def test_a_file_without_a_usable_row_is_refused(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    samples = read_samples(write(tmp_path, name, content), skip_bad=True)
    assert f"no row could be used: {reason}" in str(problem_of(samples))


@pytest.mark.parametrize("content", [f"[{GOOD}]", f"\n [\n{GOOD},\n{LATER}\n]"])
def test_a_json_array_is_refused_as_a_whole(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigurationError, match="is a JSON array"):
        list(read_samples(write(tmp_path, "x.jsonl", content), skip_bad=True))


def parquet(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    path = folder / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), str(path), **options)
    return path


def test_parquet_in_row_groups_with_a_struct_as_metadata(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "answer": f"a{n}", "metadata": {"n": n}, "other": n} for n in range(5)
    ]
    samples = list(read_samples(parquet(tmp_path, rows, row_group_size=2)))
    assert [s.question for s in samples] == [f"q{n}" for n in range(5)]
    assert [s.metadata for s in samples] == [{"n": n} for n in range(5)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param({"answer": None}, "answer is missing", id="null"),
        pytest.param(
            {"metadata": {"n": 1, "day": date(2026, 1, 1)}}, "cannot be written as JSON", id="date"
        ),
    ],
)
def test_a_bad_parquet_row_is_named_by_its_number(
    tmp_path: Path, bad: dict[str, Any], reason: str
) -> None:
    row = {"question": "q", "answer": "a", "metadata": {"n": 1, "day": None}}
    problem = problem_of(read_samples(parquet(tmp_path, [row, {**row, **bad}])))
    assert problem.line == 2
    assert reason in str(problem)


def test_a_parquet_row_that_is_not_utf_8(tmp_path: Path) -> None:
    questions = pa.array([b"fine", b"\xff"]).cast(pa.string(), safe=False)
    table = pa.table({"question": questions, "answer": ["a", "b"]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, str(path))
    samples = read_samples(path, skip_bad=True)
    assert [s.question for s in samples] == ["fine"]
    assert "UTF-8" in str(samples.bad[0])


def test_a_local_folder_as_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder, "train.jsonl", f"{GOOD}\n")
    write(folder, "test.jsonl", f'{LATER}\n{{"question": "q3", "answer": " "}}\n')
    assert list(read_samples(f"hub:{folder}")) == [plain("q1", "a1")]
    test_split = read_samples(f"hub:{folder}:test", skip_bad=True)
    assert list(test_split) == [plain("q2", "a2")]
    assert [p.line for p in test_split.bad] == [2]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        pytest.param("x.txt", "", "cannot tell the format", id="unknown-suffix"),
        pytest.param("x.csv", "", "no column 'question'", id="empty-csv"),
        pytest.param("x.csv", "question,reply\n", "no column 'answer'", id="csv-without-answer"),
        pytest.param("x.csv", "question,answer,answer\n", "two columns", id="csv-with-two-answers"),
        pytest.param("x.parquet", "nope", "as parquet", id="not-a-parquet-file"),
        pytest.param("x.jsonl", None, "no such file", id="missing-file"),
    ],
)
def test_an_unusable_source_is_refused_even_when_bad_rows_are_skipped(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    path = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(ConfigurationError, match=says):
        list(read_samples(path, skip_bad=True))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match="is a folder: name the files in it"):
        read_samples(tmp_path / "x.jsonl")


def test_a_file_that_vanishes_before_it_is_read(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path, "x.jsonl", GOOD))
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        list(samples)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("hub:", id="nothing"),
        pytest.param("hub::train", id="split-alone"),
        pytest.param("hub:@main", id="configuration-alone"),
    ],
)
def test_a_hub_name_of_the_wrong_form(source: str) -> None:
    with pytest.raises(ConfigurationError, match="does not name a data set"):
        read_samples(source)


def test_a_hub_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot load the data set"):
        list(read_samples(f"hub:{tmp_path / 'missing'}"))


def test_a_domain_that_no_row_could_have() -> None:
    with pytest.raises(ConfigurationError, match="1 to 200"):
        read_samples("hub:some/set", domain="d" * 201)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        pytest.param("x.parquet", "pyarrow.parquet", id="parquet"),
        pytest.param("hub:some/set", "datasets", id="hub"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x.parquet", "")
    with pytest.raises(ConfigurationError, match=r"rttc-graph\[data\]"):
        list(read_samples(source))
