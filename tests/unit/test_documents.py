"""Documents become passages: by headings, by paragraphs, by pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.samples.documents import PASSAGE_CHARACTERS, is_document, read_document
from rttc_graph.support.passages import embedded_text, is_passage

MANUAL = """---
title: left out
---
Before any heading.

# Manual

Text one.

```python
def f():
    # not a heading
    return 1
```

## Prices

| what | euros |
|---|---|
| helmet | 20 |

### Locks
15 euros

Warranty
--------

> ## quoted
> two years

## Prices

again
"""


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pdf_of(*pages: str) -> bytes:
    """Return a PDF by hand: one line of Helvetica a page, and a table of where its objects are."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font "
            f"<< /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    body, places = b"%PDF-1.4\n", list[int]()
    for number, text in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    table = f"xref\n0 {size}\n0000000000 65535 f \n{table}"
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"{table}{end}".encode()


def shown(passages: list[NewSample]) -> list[tuple[str | None, str, str]]:
    return [(one.external_id, one.question, one.answer) for one in passages]


def test_markdown_is_cut_at_its_headings_and_nothing_else_is_changed(tmp_path: Path) -> None:
    passages = read_document(written(tmp_path, "m.md", MANUAL), source="m.md", domain="bikes")
    code = "Text one.\n\n```python\ndef f():\n    # not a heading\n    return 1\n```"
    table = "| what | euros |\n|---|---|\n| helmet | 20 |"
    assert shown(passages) == [
        ("m.md#1", "m.md: Before any heading.", "Before any heading."),
        ("m.md#Manual#1", "m.md > Manual", code),
        ("m.md#Manual > Prices#1", "m.md > Manual > Prices", table),
        ("m.md#Manual > Prices > Locks#1", "m.md > Manual > Prices > Locks", "15 euros"),
        ("m.md#Manual > Warranty#1", "m.md > Manual > Warranty", "> ## quoted\n> two years"),
        ("m.md#Manual > Prices#2", "m.md > Manual > Prices", "again"),
    ]
    assert passages[2].metadata == {
        "kind": "passage",
        "source": "m.md",
        "heading": "Manual > Prices",
    }
    assert {one.domain for one in passages} == {"bikes"}
    assert all(is_passage(one.metadata) for one in passages)


def test_passages_of_a_path_show_the_file_s_name_and_keep_the_path_as_their_source(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "m.md", "# A\n\nx\n")
    [passage] = read_document(file)
    assert passage.question == "m.md > A"
    assert passage.metadata["source"] == file.as_posix()
    assert read_document(file, source="Hand/book")[0].question == "Hand/book > A"


def test_a_long_section_is_cut_between_its_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {n}. " + "word " * 90 for n in range(6)]
    text = "# Long\n\n" + "\n\n".join(paragraphs)
    passages = read_document(written(tmp_path, "long.md", text))
    assert len(passages) == 3
    assert all(len(one.answer) <= PASSAGE_CHARACTERS for one in passages)
    assert " ".join(one.answer for one in passages).split() == " ".join(paragraphs).split()
    assert [one.external_id for one in passages][-1] == f"{tmp_path.as_posix()}/long.md#Long#3"


def test_text_is_named_by_its_first_line(tmp_path: Path) -> None:
    text = "Opening hours\nnine to five\r\n\r\n" + "and so on " * 98
    first, *more = read_document(written(tmp_path, "n.txt", text), source="notes")
    assert first.question == "notes: Opening hours"
    assert first.answer.startswith("Opening hours\nnine to five")
    assert [one.external_id for one in more] == ["notes#2"]


def test_a_pdf_is_cut_at_its_pages(tmp_path: Path) -> None:
    path = written(tmp_path, "g.pdf", pdf_of("A helmet costs 20 euros.", "", "Locks cost 15."))
    passages = read_document(path, source="g.pdf")
    assert shown(passages) == [
        ("g.pdf#p1#1", "g.pdf, page 1", "A helmet costs 20 euros."),
        ("g.pdf#p3#1", "g.pdf, page 3", "Locks cost 15."),
    ]
    assert [one.metadata["page"] for one in passages] == [1, 3]


def test_what_is_there_twice_in_one_place_is_there_once(tmp_path: Path) -> None:
    passages = read_document(written(tmp_path, "m.md", "# A\nx\n# B\nx\n# A\nx\n"), source="m")
    assert [one.external_id for one in passages] == ["m#A#1", "m#B#1"]


def test_ids_of_long_names_fit_and_differ(tmp_path: Path) -> None:
    text = "".join(f"# {'heading ' * 40}{n}\n\ntext {n}\n" for n in range(3))
    passages = read_document(written(tmp_path, "m.md", text), source="folder/" * 60 + "m.md")
    ids = [one.external_id or "" for one in passages]
    assert len(set(ids)) == 3
    assert all(len(one) <= 200 for one in ids)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.md", "", "there is no text"),
        ("x.md", "# Only a heading\n\n---\n", "there is no text"),
        ("x.txt", " \n\n", "there is no text"),
        ("x.pdf", pdf_of(""), "text recognition"),
        ("x.pdf", b"no PDF", "cannot read"),
        ("x.pdf", b"%PDF-1.4\nbroken", "cannot read"),
        ("x.txt", b"Z\xfcrich", "byte 0xFC"),
        ("x.docx", b"x", "cannot tell the format"),
    ],
)
def test_what_has_no_text_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_document(written(tmp_path, name, content))


def test_documents_are_told_by_their_suffix() -> None:
    documents = ["a.md", "A.MD", "b.markdown", "c.txt", "d.pdf"]
    others = ["e.jsonl", "hub:f.md", "g"]
    assert [name for name in documents + others if is_document(name)] == documents


def test_a_passage_is_found_by_its_text_and_a_solved_question_by_its_question() -> None:
    assert "the text" in embedded_text("where", "the text", {"kind": "passage"})
    assert embedded_text("what?", "that", {"kind": "other"}) == "what?"
    assert embedded_text("what?", "that", None) == "what?"
