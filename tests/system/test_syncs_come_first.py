"""R4, R10 and R12 at the system calls of the real coordinator: what was told had been synced before.

It runs under strace, with syncs that take a while longer: whoever does not wait for them is seen.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures import durable, hasty, syscalls
from fixtures.durable import Findings
from fixtures.told import What
from fixtures.two_banks import SECONDS, prepared, transfer, two_banks, until
from twophase.coordinator.client import (
    AsyncClient,
    CoordinatorUnavailable,
    OutcomeUnknown,
    TransactionAborted,
    operation,
)
from twophase.coordinator.protocol.decisions import DecisionKind
from twophase.sandbox.syncs import AtSync, NoInjection, recorder, wrapper
from twophase.sandbox.system import System

pytestmark = pytest.mark.integration
_ACCOUNTS = range(1, 21)
_TOO_MUCH = 1_000_000
_CALLS = ("pwrite64", "write", "writev", "sendmsg", "sendto")
_SYNC_SECONDS = 0.02
# Opening the journal takes a few, the registrations one each; the next ones are decisions.
_NTH = 15


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


class Recording:
    """A coordinator that runs under the tracer from now on; `bug` plants one of `hasty`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._trace = system.directory / "trace"

    async def start(self, bug: str | None = None) -> None:
        """Starts it. Skips the test where nothing can be traced."""
        try:
            traced = await asyncio.to_thread(recorder, self._trace, _CALLS, sync_seconds=_SYNC_SECONDS)
        except NoInjection as reason:
            pytest.skip(str(reason))
        planted = () if bug is None else (sys.executable, str(Path(hasty.__file__)), bug)
        self._system.coordinator.wrapper = (*traced, *planted)
        await self._system.coordinator.start()

    async def findings(self) -> Findings:
        """Stops the coordinator, and judges all that it did."""
        pid = self._system.coordinator.pid
        await self._system.coordinator.stop()
        # The tracer outlives it by a moment.
        await until(lambda: self._lines()[-1].split() == [str(pid), "+++", "exited", "with", "0", "+++"])
        return durable.judge(syscalls.read(self._lines()), str(self._system.journal))

    def _lines(self) -> list[str]:
        return self._trace.read_text("latin-1").split("\n")[:-1] or [""]


@pytest.fixture
async def recording(system: System) -> Recording:
    await system.coordinator.stop()
    return Recording(system)


async def at_once(system: System, name: str, *, amount: int = 1) -> None:
    """One transfer from each account, all at the same time."""
    async with AsyncClient(system.address) as client, asyncio.TaskGroup() as group:
        for account in _ACCOUNTS:
            moves = transfer(f"{name}/{account}", account=account, amount=amount)
            group.create_task(client.execute(*moves, request_id=f"{name}/{account}", deadline=60, retries=0))


async def refused(system: System) -> None:
    """A transfer from each account of what it does not hold, one after the other."""
    async with AsyncClient(system.address) as client:
        for account in _ACCOUNTS:
            with pytest.raises(TransactionAborted, match="does not hold"):
                await client.execute(*transfer("refused", account=account, amount=_TOO_MUCH))


async def deposits(system: System) -> None:
    """To each account of one bank, all at the same time, while the other one only looks: one branch writes."""
    async with AsyncClient(system.address) as client, asyncio.TaskGroup() as group:
        for account in _ACCOUNTS:
            move = operation("east", "move", {"transfer": f"deposit/{account}", "account": account, "amount": "1"})
            look = operation("west", "look", {"account": account})
            group.create_task(client.execute(move, look, request_id=f"deposit/{account}", deadline=60, retries=0))


async def test_r4_r12_everything_that_was_told_had_been_synced_before(system: System, recording: Recording) -> None:
    await recording.start()
    await at_once(system, "first")
    await refused(system)
    await deposits(system)
    await at_once(system, "second")
    found = await recording.findings()

    assert found.wrongs == []
    kinds = (DecisionKind.COMMIT, DecisionKind.ABORT, DecisionKind.DELEGATED)
    commits, aborts, delegated = (found.decided(kind) for kind in kinds)
    assert [len(commits), len(aborts), len(delegated)] == [40, 20, 20], found
    # Run pytest with -rP to see them.
    sys.stdout.write(f"{found}\n")
    # Nothing has escaped the reader: whatever was decided was told to all whom it concerns.
    assert found.heard(What.COMMIT) == commits
    assert found.heard(What.COMMITTED) == commits | delegated
    assert found.heard(What.APPLY) == delegated
    assert found.heard(What.ABORT) == found.heard(What.ABORTED) == aborts
    assert found.heard(What.PREPARE) == commits | aborts | delegated
    assert found.unforced(commits | delegated) == set()
    # Those that come together share a sync; an abort waits for none.
    assert 0 < len(found.syncs) < len(commits | delegated), found
    assert found.unforced(aborts) == aborts


async def killed_at_a_sync(system: System) -> None:
    """Runs transfers until the coordinator dies with a batch that is written and not synced."""
    try:
        system.coordinator.wrapper = await asyncio.to_thread(wrapper, AtSync.DIES, nth=_NTH)
    except NoInjection as reason:
        pytest.skip(str(reason))
    await system.coordinator.start()

    async def work(account: int) -> None:
        for number in range(1000):
            name = f"{account}/{number}"
            moves = transfer(name, account=account, amount=1)
            try:
                await client.execute(*moves, request_id=name, deadline=20, retries=0, give_up_after=0.5)
            except (OutcomeUnknown, CoordinatorUnavailable):
                return

    async with AsyncClient(system.address) as client, asyncio.TaskGroup() as group:
        for account in range(1, 5):
            group.create_task(work(account))
        assert await system.coordinator.wait(timeout=SECONDS) == -signal.SIGKILL


async def recovered(system: System, recording: Recording, bug: str | None = None) -> Findings:
    """What the next coordinator does with what the one that was killed had decided."""
    await killed_at_a_sync(system)
    await recording.start(bug)
    await until(lambda: not any(prepared(system)))
    return await recording.findings()


async def test_r10_what_a_dead_process_wrote_is_synced_before_it_is_told(system: System, recording: Recording) -> None:
    found = await recovered(system, recording)
    assert found.wrongs == []
    assert found.heard(What.COMMIT), "nothing was decided when it died: nothing was tried"
    assert found.heard(What.COMMIT) <= found.decided(DecisionKind.COMMIT)


async def test_r10_a_coordinator_that_acts_on_what_it_sees_is_found_out(system: System, recording: Recording) -> None:
    found = await recovered(system, recording, "opened as it looks")
    assert any("commit, to a participant, and the decision" in wrong for wrong in found.wrongs), found.wrongs


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("no syncs", r": \S+ is told commit, to a participant, and the decision was written at line \d+, synced never"),
        ("synced too late", r"committed, to a client, and the decision was written at line \d+, synced at line"),
        ("told while it is written", r": \S+ is told (commit|do and commit), to a participant"),
        ("epoch not forced", r": epoch \S+ is told, and was written at line \d+, synced at line"),
    ],
    ids=["no syncs", "synced too late", "told while it is written", "epoch not forced"],
)
async def test_r4_a_coordinator_that_does_not_wait_is_found_out(
    system: System, recording: Recording, bug: str, said: str
) -> None:
    await recording.start(bug)
    await at_once(system, "first")
    await deposits(system)
    found = await recording.findings()
    assert any(re.search(said, wrong) for wrong in found.wrongs), found.wrongs
