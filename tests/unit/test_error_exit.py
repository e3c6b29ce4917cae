"""What becomes of the system's errors on the command line."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer import Abort

from rttc_graph.cli.error_exit import report
from rttc_graph.cli.screen import keeping
from rttc_graph.integrations.transformers.weight_files.arrangement import told_step
from rttc_graph.support.json_lines import add_lines
from rttc_graph.support.named_files import write_file


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.EROFS, "RTTC_HOME"),
        (errno.EACCES, "RTTC_HOME"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
@pytest.mark.parametrize("file", ["/data/rows.jsonl", None])
def test_an_error_of_the_system_names_the_file_and_the_way_out(
    number: int, way_out: str, file: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(OSError(number, os.strerror(number), file), debug=False) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert way_out in said
    assert os.strerror(number).lower() in said
    assert file is None or file in said
    assert "unexpected" not in said


def test_an_error_without_a_way_out_stays_unexpected(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(OSError(errno.EIO, "Input/output error"), debug=False) == 1
    assert "unexpected OSError" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_file_that_finds_no_room_is_named() -> None:
    with pytest.raises(OSError, match="'/dev/full'") as caught:
        write_file(Path("/dev/full"), "x")
    assert caught.value.errno == errno.ENOSPC


_ADD = """
import resource, sys
from pathlib import Path
from rttc_graph.cli.error_exit import report
from rttc_graph.support.json_lines import add_lines
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    while True:
        add_lines(Path(sys.argv[1]), [{"number": 1, "text": "x" * 90}])
except OSError as exc:
    sys.exit(report(exc, debug=False))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="files have no limit here")
def test_a_log_that_finds_no_room_keeps_its_lines_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", _ADD, str(log)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert str(log) in done.stderr
    assert "free some space" in done.stderr

    kept = log.read_text().splitlines()
    assert len(kept) == 8
    assert all(json.loads(line)["number"] == 1 for line in kept)
    add_lines(log, [{"number": 2}])
    assert json.loads(log.read_text().splitlines()[-1]) == {"number": 2}


@pytest.mark.parametrize(
    ("kept", "said"),
    [(None, "rttc: interrupted\n"), ("rows are kept", "rttc: interrupted: rows are kept\n")],
)
def test_ctrl_c_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], kept: str | None, said: str
) -> None:
    ended = (KeyboardInterrupt, Abort)
    with pytest.raises(ended) as caught, keeping(kept) if kept else nullcontext():
        raise KeyboardInterrupt
    assert report(caught.value, debug=False) == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("step: tokenizer\n", "tokenizer"),
        ("Converting and de-quantizing GGUF tensors...:  43%|####    | 1/2\n", "weights, 43 %"),
        ("UserWarning: something\n", None),
    ],
)
def test_a_conversion_tells_its_step(line: str, step: str | None) -> None:
    assert told_step(line) == step
