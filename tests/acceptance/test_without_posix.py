"""With a DSN the command line needs nothing that Windows does not have."""

from __future__ import annotations

import json
import subprocess
import sys

from installations import Installation

WITHOUT_POSIX = """
import os, sys
for name in ("fcntl", "grp", "pwd"):  # torch imports others on Linux
    sys.modules[name] = None
del os.getloadavg
from rttc_graph.__main__ import main
main()
"""


def run_rttc(installed: Installation, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *arguments],
        env=installed.variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_given(installed: Installation) -> None:
    assert "Usage" in run_rttc(installed, "db", "up", "--help")


def test_the_status_of_a_database_is_shown(installed: Installation) -> None:
    assert json.loads(run_rttc(installed, "status", "--json"))


def test_a_question_is_answered(installed: Installation) -> None:
    result = json.loads(run_rttc(installed, "ask", "what is 7 plus 8", "--json"))
    assert [candidate["arm"] for candidate in result["candidates"]]


def test_a_missing_module_of_python_is_not_called_an_extra() -> None:
    script = "import sys; sys.modules['json'] = None; from rttc_graph.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert "pip install" not in done.stderr
