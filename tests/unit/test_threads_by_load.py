"""How many threads a lane gets beside others, and how that follows them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rttc_graph.integrations.transformers.torch_threads import LOOK_AGAIN_SECONDS, ThreadsByLoad


@dataclass
class Machine:
    """A machine whose load average is what its users made of it, minute by minute."""

    seconds: float = 0.0
    used: float = 0.0
    load: float = 0.0

    def threads(self, *, cores: int = 2, most: int = 2) -> ThreadsByLoad:
        return ThreadsByLoad(
            most=most,
            cores=cores,
            load=lambda: self.load,
            cpu_seconds=lambda: self.used,
            clock=lambda: self.seconds,
        )

    def run(self, seconds: float, *, own: float, load: float) -> None:
        """Let time pass while this process uses `own` cores."""
        self.seconds += seconds
        self.used += own * seconds
        self.load = load


@pytest.mark.parametrize(
    ("cores", "most", "load", "expected"),
    [
        pytest.param(8, 8, 0.0, 8, id="all-cores-of-an-idle-machine"),
        pytest.param(8, 8, 3.2, 5, id="the-idle-ones-of-a-busy-machine"),
        pytest.param(2, 2, 5.0, 1, id="one-when-all-are-busy"),
        pytest.param(8, 3, 0.0, 3, id="never-more-than-torch-was-given"),
    ],
)
def test_at_first_all_load_is_that_of_others(
    cores: int, most: int, load: float, expected: int
) -> None:
    machine = Machine(used=500.0, load=load)
    assert machine.threads(cores=cores, most=most).now() == expected


def test_the_own_load_takes_no_thread_away() -> None:
    machine = Machine()
    threads = machine.threads()
    assert threads.now() == 2
    for minute in range(1, 5):
        machine.run(60.0, own=2.0, load=2 * (1 - 2.718**-minute))
        assert threads.now() == 2


def test_threads_go_when_others_come_and_come_back_when_they_leave() -> None:
    machine = Machine()
    threads = machine.threads()
    threads.now()
    machine.run(300.0, own=2.0, load=2.0)
    assert threads.now() == 2
    machine.run(300.0, own=1.0, load=4.0)  # two of ours and two of theirs on two cores
    assert threads.now() == 1
    machine.run(300.0, own=1.0, load=2.0)  # one of each
    assert threads.now() == 1
    machine.run(300.0, own=1.0, load=1.0)
    assert threads.now() == 2


def test_the_load_is_not_read_for_every_job() -> None:
    machine = Machine()
    threads = machine.threads()
    threads.now()
    machine.run(LOOK_AGAIN_SECONDS / 2, own=0.0, load=9.0)
    assert threads.now() == 2
    machine.run(LOOK_AGAIN_SECONDS / 2, own=0.0, load=9.0)
    assert threads.now() == 1
