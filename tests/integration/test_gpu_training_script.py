"""The script for a GPU, run on the CPU with a model of ten thousand weights."""

from __future__ import annotations

import re

import pytest

from benchmarks.tools.gpu_training import main


@pytest.mark.filterwarnings("ignore")  # of transformers' generate
def test_the_tables_have_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "--shape",
            "tiny",
            "--device",
            "cpu",
            "--rounds",
            "1",
            "--lengths",
            "12",
            "20",
            "--rows",
            "2",
            "--new",
            "3",
        ]
    )
    out = capsys.readouterr().out
    jobs = r"^\| 8 x (\d+), (\d) at once \| (plain|as it is) \|(?: [\d.]+ \|){2} ([\d.]+) \|"
    found = re.findall(jobs, out, re.MULTILINE)
    sizes = [("12", "1"), ("12", "8"), ("20", "1"), ("20", "8")]
    assert [(tokens, queries) for tokens, queries, _, _ in found] == sizes * 2
    losses = [loss for *_, loss in found]
    assert losses[:4] == losses[4:]  # on a CPU both are the plain pass
    rows = re.findall(r"^\| 2, ([\w' ]+) \| \d+ \| \d+ \|$", out, re.MULTILINE)
    assert rows == ["of the base", "each with its own adapter", "by transformers' generate"]
