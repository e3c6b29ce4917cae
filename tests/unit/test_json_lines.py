"""Files of JSON lines: what a kill, an editor or another program leaves in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.json_lines import add_lines, keep_told, last_told, load_lines


class Numbered(TypedDict):
    n: int


NUMBERED = TypeAdapter(Numbered)


def load(path: Path) -> list[int]:
    lines = load_lines(path, NUMBERED.validate_python, what="numbers", way_out="name another file")
    return [line["n"] for line in lines]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        pytest.param(b'{"n": 1}\n{"n": 2', [1], id="torn-last-line"),
        pytest.param(b'{"n": 1', [], id="torn-first-line"),
        pytest.param(b'{"n": 1}\n\0\0\0', [1], id="zeros-of-a-lost-write"),
        pytest.param(b'{"n": 1}\n{"n": 2}', [1, 2], id="line-end-taken-by-an-editor"),
        pytest.param(b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}\r\n', [1, 2], id="windows"),
    ],
)
def test_a_file_goes_on_behind_its_last_whole_line(
    tmp_path: Path, content: bytes, kept: list[int]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert load(path) == kept
    add_lines(path, [{"n": 3}])
    assert load(path) == [*kept, 3]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"a note without a line end", "line 1.*no JSON object", id="one-line-of-text"),
        pytest.param(b'{"title": "x"}', "line 1.*n: Field required", id="one-object-without-end"),
        pytest.param(b'{"n": 1}\n{"n": "x"}\n', "line 2.*n: .*valid integer", id="of-another-type"),
        pytest.param('{"n": 1}\n'.encode("utf-16"), "written as utf-16", id="utf-16"),
        pytest.param(b'{"n": 1}\n\xff\n', "line 2", id="not-utf-8"),
        pytest.param(b"[" * 100_000 + b"\n", "line 1.*no JSON object", id="nested-too-deeply"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes, word: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=word):
        load(path)
    assert path.read_bytes() == content


def test_a_line_that_finds_no_room_leaves_the_file_whole(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "x.jsonl"
    add_lines(path, [{"n": 1}])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            add_lines(path, [{"n": 2, "text": "x" * 1_000}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    add_lines(path, [{"n": 3}])
    assert load(path) == [1, 3]


FILE = "told/sizes.json"


def test_the_last_word_counts(tmp_path: Path) -> None:
    assert last_told(tmp_path / FILE) is None
    keep_told(tmp_path / FILE, {"rows": 16})
    keep_told(tmp_path / FILE, {"rows": 64})
    assert last_told(tmp_path / FILE) == {"rows": 64}
    assert [file.name for file in (tmp_path / FILE).parent.iterdir()] == ["sizes.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_what_cannot_be_read_was_not_told(tmp_path: Path, content: str) -> None:
    keep_told(tmp_path / FILE, {"rows": 16})
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    assert last_told(tmp_path / FILE) is None


def test_a_home_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    keep_told(tmp_path / "file" / FILE, {"rows": 16})
    assert last_told(tmp_path / "file" / FILE) is None
