"""Documents to passages: Markdown by its headings, text by its paragraphs, PDF by its pages.

A passage is a sample with the mark of `rttc_graph.support.passages`: where it stands is its
question, its text its answer. Its id is its place in the document, so that a changed passage takes
the place of the one before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.support.encodings import open_text, undecodable
from rttc_graph.support.extras import require
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, checked_name, clean
from rttc_graph.support.passages import KIND, PASSAGE

__all__ = ("DOCUMENT_SUFFIXES", "PASSAGE_CHARACTERS", "SOURCE", "is_document", "read_document")

PASSAGE_CHARACTERS = 1000
"""Longest passage: some 250 tokens of English. The default embedder reads 256 tokens, and the
default policy model has room for eight passages."""

SOURCE = "source"
"""Key in a passage's metadata of its document's name."""

_TITLE_CHARACTERS = 80
_HEADING_SEPARATOR = " > "
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_BLANK = re.compile(r"[^\S\n]+")


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of a document with one place: a section, a page, or all of it."""

    text: str
    headings: tuple[str, ...] = ()
    page: int | None = None


def is_document(name: str) -> bool:
    """Return whether a file is cut into passages, by its suffix."""
    return not name.startswith("hub:") and Path(name).suffix.lower() in _READERS


def read_document(
    path: Path, *, source: str | None = None, domain: str | None = None
) -> list[NewSample]:
    """Return the passages of a document, in order; what is there twice in one place is there once.

    Args:
        path: A file that ends in `.md`, `.markdown`, `.txt` or `.pdf`.
        source: Name of the document; passages of one that was ingested before under this name
            are replaced. The path by default, of which passages show the file's name alone.
        domain: Domain of the passages; `general` by default.

    Raises:
        ConfigurationError: The file cannot be read, has no text, or an extra is missing.
    """
    name = clean(source or path.as_posix())
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(
            f"cannot tell the format of {str(path)!r} by its suffix {path.suffix!r}: "
            f"documents end in {', '.join(_READERS)}"
        )
    try:
        parts = list(reader(path))
    except OSError as exc:
        raise ConfigurationError(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"cannot read {str(path)!r} as the {exc.encoding} it begins as: {exc.reason}; save the "
            "file as UTF-8"
        ) from exc
    where = checked_name("domain", domain or DEFAULT_DOMAIN)
    title = path.name if name.endswith(path.name) else name  # a model need not see the folders
    passages = list(_passages(parts, name, where, title=title))
    if not passages:
        raise ConfigurationError(
            f"there is no text in {str(path)!r}; a scanned document needs text recognition first"
        )
    return passages


def _passages(parts: list[_Part], source: str, domain: str, *, title: str) -> Iterator[NewSample]:
    splitters = require("langchain_text_splitters", extra="documents", purpose="documents")
    splitter: Any = splitters.RecursiveCharacterTextSplitter(
        chunk_size=PASSAGE_CHARACTERS, chunk_overlap=0
    )
    numbers: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for part in parts:
        for text in splitter.split_text(part.text):
            if not any(character.isalnum() for character in text):
                continue  # a rule, or the frame of an empty table
            place = _place(part)
            question = _question(title, part, text)
            if (question, text) in seen:
                continue
            seen.add((question, text))
            numbers[place] += 1
            metadata: dict[str, Any] = {KIND: PASSAGE, SOURCE: source}
            if part.headings:
                metadata["heading"] = _HEADING_SEPARATOR.join(part.headings)
            if part.page is not None:
                metadata["page"] = part.page
            yield NewSample(
                question=question,
                answer=text,
                domain=domain,
                external_id=_id(source, place, numbers[place]),
                metadata=metadata,
            )


def _place(part: _Part) -> str:
    return f"p{part.page}" if part.page is not None else _HEADING_SEPARATOR.join(part.headings)


def _question(title: str, part: _Part, text: str) -> str:
    """Return where a passage stands: document, and headings or page, else its first line."""
    if part.page is not None:
        return f"{title}, page {part.page}"
    if part.headings:
        return _HEADING_SEPARATOR.join((title, *part.headings))
    first = text.strip().partition("\n")[0]
    return f"{title}: {first if len(first) <= _TITLE_CHARACTERS else first[:_TITLE_CHARACTERS]}"


def _id(source: str, place: str, number: int) -> str:
    """Return the id of a place in a document; of a long one, the ends of its names."""
    tail = f"#{number}"
    room = MAX_NAME_CHARACTERS - len(tail) - 2
    short_source = source[-room // 2 :]
    short_place = place[-(room - len(short_source)) :]
    return f"{short_source}#{short_place}{tail}" if place else f"{short_source}{tail}"


def _markdown_parts(path: Path) -> Iterator[_Part]:
    """Yield the sections of a Markdown file, each under its headings; text is left as it is."""
    parsers = require("markdown_it", extra="documents", purpose="Markdown documents")
    text = _FRONT_MATTER.sub("", _text_of(path))
    lines = text.splitlines()
    tokens: list[Any] = parsers.MarkdownIt("commonmark").parse(text)
    headings: dict[int, str] = {}
    begin = 0
    for token, after in pairwise(tokens):
        if token.type != "heading_open" or token.level:
            continue  # a heading inside a quotation or a list is a part of its text
        yield _Part("\n".join(lines[begin : token.map[0]]), tuple(headings.values()))
        depth, begin = int(token.tag[1:]), token.map[1]
        headings = {level: title for level, title in headings.items() if level < depth}
        headings[depth] = " ".join(after.content.split())[:_TITLE_CHARACTERS]
    yield _Part("\n".join(lines[begin:]), tuple(headings.values()))


def _text_parts(path: Path) -> Iterator[_Part]:
    yield _Part(_text_of(path))


def _pdf_parts(path: Path) -> Iterator[_Part]:
    """Yield the text of each page.

    Raises:
        ConfigurationError: `pypdf` is not installed, or the file is no PDF that it can read.
    """
    pypdf = require("pypdf", extra="documents", purpose="PDF documents")
    failed: type[Exception] = require(
        "pypdf.errors", extra="documents", purpose="PDF documents"
    ).PyPdfError
    try:
        for number, page in enumerate(pypdf.PdfReader(str(path)).pages, start=1):
            yield _Part(_BLANK.sub(" ", _readable(page.extract_text())), page=number)
    except (failed, ValueError, KeyError, TypeError, NotImplementedError) as exc:
        raise ConfigurationError(
            f"cannot read {str(path)!r} as a PDF: {exc}; an encrypted one must be opened first"
        ) from exc


def _text_of(path: Path) -> str:
    """Return a text file's text.

    Raises:
        ConfigurationError: It is not UTF-8, nor what it begins as.
    """
    with open_text(path) as file:
        text = file.read()
    problem = undecodable(text)
    if problem is not None:
        raise ConfigurationError(f"{str(path)!r} is {problem}")
    return _readable(text)


def _readable(text: str) -> str:
    """Return a text that can be stored, with line ends of one kind."""
    return clean(text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n"))


_READERS: dict[str, Callable[[Path], Iterator[_Part]]] = {
    ".md": _markdown_parts,
    ".markdown": _markdown_parts,
    ".txt": _text_parts,
    ".pdf": _pdf_parts,
}
DOCUMENT_SUFFIXES = tuple(_READERS)
