"""What every ledger store must do; subclass it and define `ledger_store` and `stored_runs`."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from rttc_graph.arms import PLAIN
from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import LedgerStore, RunRecord
from rttc_graph.testing.inputs import BAD_NAMES, ODD_NAMES, TENANT

ReadRuns = Callable[[str], Awaitable[Sequence[RunRecord]]]
"""Tenant to the runs that are stored of it, newest first."""

RUN = RunRecord(
    run_id="run-1",
    tenant=TENANT,
    domain="math",
    query="What is 1 + 1?",
    policy="cascade",
    tau_r=0.9,
    arm=PLAIN,
    reward=0.95,
    accepted=True,
    seconds=1.5,
    tokens=120,
    entries=[
        {"node": "generate", "event": "answered", "seconds": 0.5, "detail": {"tokens": 60}},
        {"node": "reward_judge", "event": "judged", "seconds": 0.1, "detail": {"rewards": [0.95]}},
    ],
)


class LedgerStoreContract:
    """Subclass it in a backend's tests and define `ledger_store` and `stored_runs`."""

    @pytest.fixture
    def ledger_store(self) -> LedgerStore:
        """Return an empty store; override it."""
        raise NotImplementedError("define the fixture `ledger_store`")

    @pytest.fixture
    def stored_runs(self, ledger_store: LedgerStore) -> ReadRuns:
        """Return what reads a tenant's runs back; override it."""
        raise NotImplementedError("define the fixture `stored_runs`")

    async def test_a_run_comes_back_as_it_was(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns
    ) -> None:
        """All of its fields, also those that may be empty; each tenant has its own."""
        bare = replace(RUN, run_id="run-2", domain=None, reward=None, accepted=False, entries=[])
        await ledger_store.append(RUN)
        await ledger_store.append(bare)
        await ledger_store.append(replace(RUN, run_id="run-3", tenant="other"))
        assert list(await stored_runs(TENANT)) == [bare, RUN]
        assert [run.run_id for run in await stored_runs("other")] == ["run-3"]
        assert list(await stored_runs("nobody")) == []

    async def test_a_run_is_stored_once(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns
    ) -> None:
        """A step that a host runs again after a crash does not count twice; the first one stays."""
        await ledger_store.append(RUN)
        await ledger_store.append(replace(RUN, query="something else"))
        assert list(await stored_runs(TENANT)) == [RUN]

    async def test_what_is_stored_does_not_change_with_the_caller(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns
    ) -> None:
        """The graph goes on writing into the lists that it handed over."""
        run = copy.deepcopy(RUN)
        await ledger_store.append(run)
        run.entries[0]["detail"]["tokens"] = 0
        run.entries.clear()
        assert list(await stored_runs(TENANT)) == [RUN]

    async def test_odd_texts_and_details_lose_no_run(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns
    ) -> None:
        """What cannot be stored may be replaced; the rest of the run is there."""
        detail = {"loss": math.nan, "text": "a\0b", "half": "\ud800", "path": {1}, "ok": [True]}
        odd = replace(
            RUN,
            query="a\0b\ud800c 数学 🧮",
            entries=[{"node": "n", "event": "e", "seconds": 0.0, "detail": detail}],
        )
        await ledger_store.append(odd)
        [found] = await stored_runs(TENANT)
        assert found.query.startswith("a")
        assert found.query.endswith("c 数学 🧮")
        [entry] = found.entries
        assert entry["detail"].keys() == detail.keys()
        assert entry["detail"]["ok"] == [True]

    @pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    async def test_odd_names_are_names(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns, name: str
    ) -> None:
        """Tenant and domain are data, whatever they look like."""
        run = replace(RUN, tenant=name, domain=name)
        await ledger_store.append(run)
        assert list(await stored_runs(name)) == [run]

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
    async def test_a_bad_name_of_a_tenant_is_refused(
        self, ledger_store: LedgerStore, name: str
    ) -> None:
        """Nobody could ask for it later."""
        with pytest.raises(ConfigurationError):
            await ledger_store.append(replace(RUN, tenant=name))

    def test_several_event_loops_may_use_it(
        self, ledger_store: LedgerStore, stored_runs: ReadRuns
    ) -> None:
        """Nothing in it is tied to the first loop, and no run is lost."""

        def append(number: int) -> None:
            asyncio.run(ledger_store.append(replace(RUN, run_id=f"run-{number}")))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(append, range(12)))
        found = asyncio.run(_read(stored_runs))
        assert sorted(run.run_id for run in found) == sorted(f"run-{n}" for n in range(12))


async def _read(stored_runs: ReadRuns) -> Sequence[RunRecord]:
    return await stored_runs(TENANT)
