"""The memory disk: what a crash of the machine takes, and what a failed or slow sync does."""

from __future__ import annotations

import asyncio

import pytest

from journal.samples import SHOP, begun, propose, request, txid
from twophase.coordinator.journal.events import Ended
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import Basis, JournalFailed, Ruling
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, delegated


class SlowDisk(MemoryDisk):
    """Its syncs wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(sync=self._wait)
        self.free = asyncio.Event()
        self.free.set()

    async def _wait(self) -> None:
        await self.free.wait()


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_r4_a_crash_takes_what_was_not_synced_and_no_decision_that_was_told() -> None:
    disk = MemoryDisk()
    journal = await MemoryJournal.open(disk)
    await journal.decide(propose(journal, 1, COMMIT))
    await journal.decide(propose(journal, 2, delegated(0)))
    journal.append(begun(journal, 3))
    assert await journal.decide(propose(journal, 4, ABORT)) == Ruling(ABORT, Basis.ACCEPTED)
    disk.crash()
    with pytest.raises(JournalFailed, match="crashed"):
        await journal.transaction(txid(journal, 1))
    reopened = await MemoryJournal.open(disk)
    assert [record.txid for record in await reopened.transactions(limit=9)] == [txid(journal, 2), txid(journal, 1)]
    assert reopened.position == 2
    assert [given.fenced for given in await reopened.epochs()] == [True, False]


async def test_a_disk_may_have_written_more_than_it_was_told_to() -> None:
    disk = MemoryDisk()
    journal = await MemoryJournal.open(disk)
    for number in (1, 2, 3):
        journal.append(begun(journal, number))
    disk.crash(survivors=2)
    reopened = await MemoryJournal.open(disk)
    assert [record.txid for record in await reopened.transactions(limit=9)] == [txid(journal, 2), txid(journal, 1)]
    assert reopened.position == 2


async def test_r4_nothing_tells_a_decision_before_its_sync() -> None:
    disk = SlowDisk()
    journal = await MemoryJournal.open(disk)
    disk.free.clear()
    tasks = [
        asyncio.ensure_future(journal.decide(propose(journal, 1, COMMIT, claim=request("order")))),
        asyncio.ensure_future(journal.decide(propose(journal, 1, ABORT))),
        asyncio.ensure_future(journal.decide(propose(journal, 2, COMMIT, claim=request("order", 2)))),
        asyncio.create_task(journal.transaction(txid(journal, 1))),
        asyncio.create_task(journal.request("order")),
        asyncio.create_task(journal.unfinished()),
    ]
    await settle()
    assert [task.done() for task in tasks] == [False] * 6
    disk.free.set()
    await asyncio.gather(*tasks)
    assert tasks[1].result() == Ruling(COMMIT, Basis.EARLIER)


async def test_r10_a_failed_sync_fails_everybody_for_good() -> None:
    disk = MemoryDisk()
    journal = await MemoryJournal.open(disk)
    broken = OSError(5, "Input/output error")

    async def fail() -> None:
        raise broken

    disk.sync = fail
    results = await asyncio.gather(
        *(journal.decide(propose(journal, number)) for number in (1, 2)), journal.flush(), return_exceptions=True
    )
    for result in results:
        assert isinstance(result, JournalFailed)
        assert result.__cause__ is broken
    with pytest.raises(JournalFailed):
        journal.append(Ended(txid(journal, 1), committed=True))
    with pytest.raises(JournalFailed):
        await journal.register(SHOP)
    with pytest.raises(JournalFailed):
        await journal.close()
    await journal.close()
    with pytest.raises(JournalFailed):
        await MemoryJournal.open(disk)
    disk.sync = MemoryDisk().sync
    await (await MemoryJournal.open(disk)).close()


async def test_a_crash_during_a_sync_does_not_reach_the_disk() -> None:
    disk = SlowDisk()
    journal = await MemoryJournal.open(disk)
    disk.free.clear()
    deciding = asyncio.ensure_future(journal.decide(propose(journal, 1)))
    await settle()
    disk.crash()
    disk.sync = MemoryDisk().sync
    reopened = await MemoryJournal.open(disk)
    reopened.append(begun(reopened, 1))
    disk.free.set()
    with pytest.raises(JournalFailed):
        await deciding
    assert await reopened.transaction(txid(journal, 1)) is None
    # What the dead journal waited for has made nothing of the new one's durable.
    assert len(disk.volatile) == 1


async def test_r10_what_a_killed_process_has_written_can_be_read_and_is_forced_before_it_counts() -> None:
    disk = SlowDisk()
    journal = await MemoryJournal.open(disk)
    disk.free.clear()
    deciding = asyncio.ensure_future(journal.decide(propose(journal, 1)))
    await settle()
    disk.kill()
    disk.free.set()
    with pytest.raises(JournalFailed, match="killed"):
        await deciding
    with pytest.raises(JournalFailed, match="killed"):
        await journal.transaction(txid(journal, 1))
    assert disk.volatile, "it is written, and not synced"
    reopened = await MemoryJournal.open(disk)
    assert not disk.volatile, "what was read is on disk, with the new epoch"
    disk.crash()
    again = await MemoryJournal.open(disk)
    for later in (again, reopened):
        assert later.epoch != journal.epoch
    found = await again.transaction(txid(journal, 1))
    assert found is not None
    assert found.decision == COMMIT


async def test_r10_what_a_killed_process_has_written_is_lost_if_the_machine_dies_before_it_is_forced() -> None:
    disk = SlowDisk()
    journal = await MemoryJournal.open(disk)
    disk.free.clear()
    deciding = asyncio.ensure_future(journal.decide(propose(journal, 1)))
    await settle()
    disk.kill()
    opening = asyncio.create_task(MemoryJournal.open(disk))
    await settle()
    assert not opening.done(), "nothing is believed before it is on disk"
    disk.crash()
    disk.free.set()
    for failed in (deciding, opening):
        with pytest.raises(JournalFailed):
            await failed
    reopened = await MemoryJournal.open(disk)
    assert await reopened.transaction(txid(journal, 1)) is None


async def test_a_disk_without_a_journal_can_be_killed() -> None:
    disk = MemoryDisk()
    disk.kill()
    journal = await MemoryJournal.open(disk)
    await journal.close()
    disk.kill()
    await (await MemoryJournal.open(disk)).close()
