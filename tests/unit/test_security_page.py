"""Every promise of the page on security names a test, and the test is there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "security.md"
SOURCES = [*(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "rttc_graph/testing").glob("*.py")]
NAMES = frozenset(
    name
    for path in SOURCES
    for name in re.findall(
        r"^ *(?:class|def|async def) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
)


def rows() -> Iterator[tuple[str, str]]:
    """Yield the first and the last cell of each row of the page's tables, heads apart."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield cells[0], cells[-1]


def is_there(named: str) -> bool:
    """Tell whether a test, a class of tests or a file of tests is in the repository."""
    file, _, name = named.rpartition("::")
    if named.endswith(".py"):
        file, name = named, ""
    return (not name or name in NAMES) and (
        not file.endswith(".py") or any(path.as_posix().endswith(f"/{file}") for path in SOURCES)
    )


def test_each_promise_is_held_by_tests_that_are_there() -> None:
    promises = list(rows())
    assert len(promises) > 50
    for promise, tests in promises:
        named = re.findall(r"`([^`]+)`", tests)
        assert named or tests == "the same", f"{promise!r} names no test"
        assert [one for one in named if not is_there(one)] == [], promise
