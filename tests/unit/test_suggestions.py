"""An error about an unknown name names the known ones, the likeliest first."""

from __future__ import annotations

import pytest

from rttc_graph.support.identity import known_names

MANY = [f"domain-{n:02}" for n in range(25)]


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        pytest.param("bankin", ["banking", "law"], "did you mean 'banking'? Known", id="typo"),
        pytest.param("BANKING ", ["banking"], "did you mean 'banking'?", id="case-and-space"),
        pytest.param("Bankign", ["Banking"], "did you mean 'Banking'?", id="as-it-is-spelt"),
        pytest.param("zzz", ["law", "banking"], "Known are 'banking', 'law'", id="nothing-alike"),
        pytest.param("zzz", [], "there are none yet", id="none"),
        pytest.param("zzz", MANY, "'domain-19' and 5 more", id="many"),
    ],
)
def test_known_names(name: str, known: list[str], words: str) -> None:
    said = known_names(name, known)
    assert words in said
    assert ("did you mean" in said) == ("did you mean" in words)
