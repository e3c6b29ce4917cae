"""The end of a process whose threads do not end."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys, threading, time
from rttc_graph.integrations.concurrency import worker_threads
from rttc_graph.integrations.concurrency.worker_threads import leave, wait_at_exit

worker_threads.EXIT_SECONDS = 0.2
begun, stopped = threading.Event(), threading.Event()

def work():
    wait_at_exit(stopped.set)
    begun.set()
    stopped.wait()
    time.sleep(float(sys.argv[1]))

threading.Thread(target=work, daemon=True).start()
begun.wait()
atexit.register(print, "put away")
print("answer", end="; ")
leave(3)
"""


@pytest.mark.parametrize("seconds", ["0", "600"], ids=["ends", "does-not-end"])
def test_a_process_ends_with_its_code_and_output(seconds: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, seconds],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, "answer; put away\n")
    assert ended.stderr == ""
