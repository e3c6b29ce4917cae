"""A simulation of many replicas: where adapters live, what routing and residency are worth.

`python -m benchmarks.tools.scale_model` prints the tables of docs/scale.md. Nothing is served: a
clock of simpy moves on by times that were measured on one machine (docs/experiments.md). Questions
arrive at random and ask about topics by Zipf's law; an answer about a topic wants that topic's
adapter, which is trained once, stored in Postgres, and kept in a replica's memory until others
push it out.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import simpy
from simpy.resources.resource import Request

__all__ = ("Measured", "Outcome", "Plan", "lru_hit_rate", "simulate", "zipf")

Routing = Literal["any", "key", "bounded"]
"""To the replica with the fewest runs; to the one that an adapter's key belongs to; or to that one
unless it has a quarter more runs than the mean."""

_BOUND = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Times of one replica: SmolLM2-135M-Instruct, two cores (docs/experiments.md)."""

    first_row_seconds: float = 0.067
    """A token for one row."""
    further_row_seconds: float = (0.180 - 0.067) / 15
    """What each further row of a batch adds; measured at 16."""
    most_rows: int = 16
    row_seconds: tuple[tuple[int, float], ...] = ()
    """Numbers of rows and the seconds of a token for them, measured at more than two numbers;
    in their place where given, with straight lines between them."""
    tokens: int = 37
    """Tokens of an answer with its prompt's share: 2.47 s of the arm `direct`, alone."""
    training_seconds: float = 2.08
    """k = 8, four steps of two, in bfloat16."""
    training_steps: int = 4
    load_seconds: float = 0.02
    """An adapter of 10 MB from the database into memory; an assumption, the read of 10 MB alone."""
    recall_seconds: float = 0.00178
    """The statement of a look-up in the query-state cache."""
    search_seconds: float = 0.0047
    """The statement of a search in 100,000 samples."""

    def pass_seconds(self, rows: int) -> float:
        """Return the seconds of a token for so many rows."""
        if not self.row_seconds:
            return self.first_row_seconds + self.further_row_seconds * (rows - 1)
        at = bisect.bisect_left(self.row_seconds, (rows, 0.0))
        high = self.row_seconds[min(at, len(self.row_seconds) - 1)]
        low = self.row_seconds[max(0, at - 1)]
        if low[0] >= high[0]:
            return high[1]
        return low[1] + (high[1] - low[1]) * (rows - low[0]) / (high[0] - low[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated."""

    replicas: int = 1
    rate: float = 1.0
    """Questions a second that ask a model."""
    topics: int = 1000
    exponent: float = 1.0
    """Of Zipf's law; 0 asks about all topics alike."""
    resident: int = 51
    """Adapters that a replica keeps: 512 MiB of 10 MB each."""
    routing: Routing = "key"
    trainers: int = 0
    """Machines that train for all; with 0 a replica trains between its own tokens."""
    arrivals: tuple[float, ...] = ()
    """Times at which questions come, in seconds, ascending; empty for random ones of `rate`. All of
    them are counted, and the clock stops when the last one is answered."""
    lengths: tuple[float, ...] = ()
    """Length of each of these answers against the usual one; empty where all are alike."""
    trained: float = 0.0
    """Share of the topics whose adapters are there at the beginning, the most asked ones first."""
    database_cores: int = 2
    seconds: float = 2000.0
    seed: int = 0
    times: Measured = field(default_factory=Measured)


@dataclass(slots=True)
class Outcome:
    """What came of a plan, after its first fifth."""

    answered: int = 0
    hits: int = 0
    loads: int = 0
    trainings: int = 0
    waits: list[float] = field(default_factory=list[float])
    busy: float = 0.0
    """Share of the replicas' time at work."""
    database_busy: float = 0.0
    """Share of the database's cores at work."""
    ended: float = 0.0
    """Reading of the clock at the end, in seconds."""

    @property
    def hit_rate(self) -> float:
        """Share of the answers whose adapter was resident where they were computed."""
        return self.hits / self.answered if self.answered else 0.0

    def seconds(self, share: float) -> float:
        """Return the time that a share of the answers took at most."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def zipf(topics: int, exponent: float) -> list[float]:
    """Return the share of the questions that each topic has, most asked first."""
    weights = [math.pow(rank + 1, -exponent) for rank in range(topics)]
    total = sum(weights)
    return [weight / total for weight in weights]


def lru_hit_rate(shares: Sequence[float], kept: int) -> float:
    """Return the hit rate of a least-recently-used store, by Che's approximation.

    A topic is there if it was asked for within the time in which `kept` topics are.
    """
    if kept >= len(shares):
        return 1.0
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        inside = sum(1 - math.pow(1 - p, middle) for p in shares)
        low, high = (middle, high) if inside < kept else (low, middle)
    return sum(p * (1 - math.pow(1 - p, low)) for p in shares)


@dataclass(slots=True)
class _Row:
    """An answer that is being computed."""

    left: int
    done: simpy.Event


class _Replica:
    """A model's lane: rows share passes, trainings go on between them, adapters come and go."""

    def __init__(self, env: simpy.Environment, plan: Plan) -> None:
        self._env, self._plan, self._times = env, plan, plan.times
        self._rows: list[_Row] = []
        self._waiting: list[_Row] = []
        self._steps: list[simpy.Event] = []
        self._awake = env.event()
        self.resident: OrderedDict[int, None] = OrderedDict()
        self.busy = 0.0
        env.process(self._lane())

    @property
    def load(self) -> int:
        """Runs in hand."""
        return len(self._rows) + len(self._waiting)

    def keep(self, topic: int) -> None:
        """Make an adapter resident, in the place of the one used longest ago."""
        self.resident[topic] = None
        self.resident.move_to_end(topic)
        while len(self.resident) > self._plan.resident:
            self.resident.popitem(last=False)

    def answer(self, length: float) -> simpy.Event:
        """Queue an answer and return what happens when it is there."""
        row = _Row(max(1, round(length * self._times.tokens)), self._env.event())
        self._waiting.append(row)
        self._wake()
        return row.done

    def train(self) -> Generator[simpy.Event, Any]:
        """Train in the lane, step by step."""
        for _ in range(self._times.training_steps):
            step = self._env.event()
            self._steps.append(step)
            self._wake()
            yield step

    def _wake(self) -> None:
        if not self._awake.triggered:
            self._awake.succeed()

    def _lane(self) -> Generator[simpy.Event, Any]:
        times, env = self._times, self._env
        while True:
            while self._waiting and len(self._rows) < times.most_rows:
                self._rows.append(self._waiting.pop(0))
            if not self._rows and not self._steps:
                self._awake = env.event()
                yield self._awake
                continue
            if self._rows:
                took = times.pass_seconds(len(self._rows))
                self.busy += took
                yield env.timeout(took)
                for row in self._rows:
                    row.left -= 1
                    if row.left == 0:
                        row.done.succeed()
                self._rows = [row for row in self._rows if row.left]
            if self._steps:
                took = times.training_seconds / times.training_steps
                self.busy += took
                yield env.timeout(took)
                self._steps.pop(0).succeed()


class _World:
    """All replicas, the trainers and the database."""

    def __init__(self, plan: Plan) -> None:
        self.env = env = simpy.Environment()
        self.plan, self.outcome = plan, Outcome()
        self._random = random.Random(plan.seed)
        self._bounds = list(itertools.accumulate(zipf(plan.topics, plan.exponent)))
        self._replicas = [_Replica(env, plan) for _ in range(plan.replicas)]
        self._trainers = simpy.Resource(env, plan.trainers) if plan.trainers else None
        self._database = simpy.Resource(env, plan.database_cores)
        self._database_busy = 0.0
        self._stored = {*range(int(plan.trained * plan.topics))}
        self._training: dict[int, simpy.Event] = {}
        self._measures_from = 0.0 if plan.arrivals else plan.seconds / 5

    def run(self) -> Outcome:
        """Let the time pass, and return what came of it."""
        if self.plan.arrivals:
            self.env.run(until=self.env.process(self._given_arrivals()))
            whole = self.env.now
        else:
            self.env.process(self._arrivals())
            self.env.run(until=self.plan.seconds)
            whole = self.plan.seconds
        self.outcome.ended = whole
        self.outcome.busy = sum(r.busy for r in self._replicas) / whole / len(self._replicas)
        self.outcome.database_busy = self._database_busy / whole / self.plan.database_cores
        return self.outcome

    def _arrivals(self) -> Generator[simpy.Event, Any]:
        while True:
            yield self.env.timeout(self._random.expovariate(self.plan.rate))
            self.env.process(self._question(self._topic()))

    def _given_arrivals(self) -> Generator[simpy.Event, Any]:
        asked: list[simpy.Event] = []
        lengths = self.plan.lengths or itertools.repeat(1.0)
        for at, length in zip(self.plan.arrivals, lengths, strict=False):
            yield self.env.timeout(at - self.env.now)
            asked.append(self.env.process(self._question(self._topic(), length)))
        yield self.env.all_of(asked)

    def _topic(self) -> int:
        """Return the topic of the next question."""
        topic = bisect.bisect_left(self._bounds, self._random.random())
        return min(topic, self.plan.topics - 1)

    def _question(self, topic: int, length: float = 1.0) -> Generator[Any, Any]:
        began, times = self.env.now, self.plan.times
        replica = self._chosen(topic)
        yield from self._ask_database(times.recall_seconds)
        was_resident = topic in replica.resident
        if not was_resident:
            if topic not in self._stored:
                yield from self._trained(topic, replica)
            if topic not in replica.resident:
                yield from self._ask_database(times.load_seconds)
                self._count("loads")
        replica.keep(topic)
        yield replica.answer(length)
        if began >= self._measures_from:
            self.outcome.answered += 1
            self.outcome.hits += was_resident
            self.outcome.waits.append(self.env.now - began)

    def _chosen(self, topic: int) -> _Replica:
        least = min(self._replicas, key=lambda one: one.load)
        if self.plan.routing == "any":
            return least
        # Any digest spreads keys alike.
        own = self._replicas[random.Random(topic).randrange(len(self._replicas))]
        if self.plan.routing == "key":
            return own
        mean = sum(one.load for one in self._replicas) / len(self._replicas)
        return own if own.load <= max(1.0, _BOUND * mean) else least

    def _ask_database(self, seconds: float) -> Generator[Any, Any]:
        turn: Request = self._database.request()
        with turn:
            yield turn
            self._database_busy += seconds
            yield self.env.timeout(seconds)

    def _trained(self, topic: int, replica: _Replica) -> Generator[Any, Any]:
        """Train the topic's adapter, or wait for whoever trains it: one lease for all replicas."""
        if topic in self._training:
            yield self._training[topic]
            return
        self._training[topic] = done = self.env.event()
        yield from self._ask_database(self.plan.times.search_seconds)
        if self._trainers is None:
            yield from replica.train()
            replica.keep(topic)
        else:
            turn: Request = self._trainers.request()
            with turn:
                yield turn
                yield self.env.timeout(self.plan.times.training_seconds)
        self._stored.add(topic)
        self._count("trainings")
        del self._training[topic]
        done.succeed()

    def _count(self, name: str) -> None:
        if self.env.now >= self._measures_from:
            setattr(self.outcome, name, getattr(self.outcome, name) + 1)


def simulate(plan: Plan) -> Outcome:
    """Return what came of a plan; the same for the same seed."""
    return _World(plan).run()


def _line(name: str, outcome: Outcome) -> str:
    return (
        f"| {name} | {outcome.hit_rate:.0%} | {outcome.seconds(0.5):.1f} | "
        f"{outcome.seconds(0.95):.1f} | {outcome.busy:.0%} | {outcome.database_busy:.1%} |"
    )


_HEAD = "| {} | hits | p50, s | p95, s | replicas busy | database busy |\n|" + " --- |" * 6


def _residency() -> None:
    print("| adapters kept of 1,000 | " + " | ".join(f"Zipf {e}" for e in (0.6, 0.8, 1.0, 1.2)))
    for kept in (10, 25, 51, 102, 256, 512):
        rates = [lru_hit_rate(zipf(1000, e), kept) for e in (0.6, 0.8, 1.0, 1.2)]
        print(f"| {kept} | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |")


def _routing(seconds: float) -> None:
    print(_HEAD.format("replicas, routing, load of an adapter"))
    for replicas in (1, 4, 16):
        routings: tuple[Routing, ...] = ("any", "key", "bounded") if replicas > 1 else ("any",)
        for routing in routings:
            for load in (0.02, 1.0):
                plan = Plan(
                    replicas=replicas,
                    rate=0.8 * replicas,
                    routing=routing,
                    trained=1.0,
                    seconds=seconds,
                    times=Measured(load_seconds=load),
                )
                print(_line(f"{replicas}, {routing}, {load:g} s", simulate(plan)))


def _training(seconds: float) -> None:
    print(_HEAD.format("questions, who trains"))
    base = Plan(replicas=4, routing="bounded", topics=100_000, exponent=0.8, seconds=seconds)
    for rate in (0.8, 1.6, 2.4):
        for trainers in (0, 2, 4, 8):
            name = f"{rate:g}/s, {f'{trainers} trainers' if trainers else 'the replicas'}"
            print(_line(name, simulate(replace(base, rate=rate, trainers=trainers))))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.scale_model", description=__doc__
    )
    parser.add_argument("--seconds", type=float, default=1000.0, help="simulated time of each row")
    seconds = parser.parse_args().seconds
    _residency()
    _routing(seconds)
    _training(seconds)


if __name__ == "__main__":
    main()
