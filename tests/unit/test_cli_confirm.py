"""Commands that delete ask first, and delete nothing without a yes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rttc_graph.cli.app import app


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "purge"],
        ["cache", "purge", "--tenant", "t"],
        ["db", "prune", "--older-than-days", "30"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("said", ["n\n", "\n", ""], ids=["no", "enter", "end-of-input"])
def test_nothing_is_opened_without_a_yes(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(config: object) -> None:
        pytest.fail(f"the database was opened with {config}")

    for module in ("cache", "db"):
        monkeypatch.setattr(f"rttc_graph.cli.commands.{module}.open_knowledge", opened)
    result = CliRunner().invoke(app, words, input=said)
    assert result.exit_code == 1
    assert "[y/N]" in result.output
    assert "nothing was done; --yes does it without asking" in result.output
    assert "interrupted" not in result.output
