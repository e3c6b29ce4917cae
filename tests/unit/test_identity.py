"""Digests tell different things apart, and names are checked before they reach a database."""

from __future__ import annotations

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.identity import checked_name, query_digest, sample_id


def test_a_samples_digest_counts_each_part_and_where_it_ends() -> None:
    parts = [("ab", "c", "d"), ("a", "bc", "d"), ("ab", "", "cd"), ("ab", "c", "D"), ("", "", "")]
    assert len({sample_id(*part) for part in parts}) == len(parts)
    assert sample_id("ab", "c", "d") == sample_id("ab", "c", "d")


def test_digests_are_the_same_in_every_release() -> None:
    # printf '["q", "a", "d"]' | sha256sum; printf '"q"' | sha256sum
    assert sample_id("q", "a", "d").startswith("61be6c5855905fca2957eaddc1c14b3c")
    assert query_digest("q").hex().startswith("90edba1c9d0bb14ec514a96ca800a954")


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 pair", "x" * 1_000_000])
def test_any_text_has_a_digest(text: str) -> None:
    assert len(query_digest(text)) == 32
    assert len(sample_id(text, text, text)) == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("", "domain='' has 0 characters, it must have 1 to 200", id="empty"),
        pytest.param("d" * 201, "has 201 characters, it must have 1 to 200", id="too-long"),
        pytest.param("a\0b", "NUL character", id="nul"),
        pytest.param("\ud800", "a lone surrogate", id="half-a-pair"),
    ],
)
def test_a_name_that_cannot_be_kept_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        checked_name("domain", name)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("name", ["d", "d" * 200, "🧮" * 200, "tab\tand\nline", "'; drop"])
def test_any_other_name_is_kept(name: str) -> None:
    assert checked_name("domain", name) == name
