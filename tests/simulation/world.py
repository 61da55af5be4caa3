"""One run of the whole system under a seed: coordinator, participants, clients, and everything that can go wrong.

Lives here: who runs, and what strikes them. Must not live here: what must hold in the end (`check`).

The coordinator is the real engine on a disk that forgets what was not synced; the network, the participants and their
databases are models. Time is virtual, and chance comes from the seed, so a seed always runs the same way.
"""

from __future__ import annotations

import asyncio
import random

from simulation.clients import DEADLINE
from simulation.deeds import gid_of, short
from simulation.network import Network, Weather
from simulation.operators import Operators
from simulation.participants import Participant
from simulation.postgres import Committed, Finished, Prepared, Work
from simulation.runs import ACCOUNTS, NAMES, OPENING, Loss, Meddling, Run, Setting
from simulation.shared import SharedJournal
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine.api import (
    DEFAULT_LIMITS,
    Limits,
    Rejected,
)
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.events import Turned
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.memory_state import Stamped
from twophase.coordinator.journal.port import JournalError

_REST_SECONDS = 120.0
_MACHINE_DIES = 0.7
_DIES_WHILE_STARTING = 0.2
_JOURNAL_DIES = 0.7


class World(Operators):
    """The system, its clients, and what strikes them. `parts` are the classes to run; a planted bug replaces one."""

    def __init__(
        self,
        seed: int,
        setting: Setting,
        *,
        participant: type[Participant] = Participant,
        journal: type[MemoryJournal] | None = None,
        keep_trace: bool = False,
    ) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - it must repeat
        self._keep_trace = keep_trace
        self._journal_class = journal or (SharedJournal if setting.freezing else MemoryJournal)
        participants = {
            name: participant(name, self._chance, self.tell, accounts=ACCOUNTS, opening=OPENING) for name in NAMES
        }
        self.run = Run(seed, setting, participants)
        self.weather = Weather(
            drop=self._chance.choice((0.0, 0.0, 0.02, 0.1)),
            copy=self._chance.choice((0.0, 0.05, 0.2)) if setting.copies is None else setting.copies,
            slow=self._chance.choice((0.002, 0.01, 0.2)),
            late=setting.later,
        )
        self.disk = MemoryDisk(sync=self._sync)
        self.disk.journal_id = f"{self._chance.getrandbits(64):016x}"
        self.engine: Engine | None = None
        self._frozen: dict[Engine, asyncio.Task[None]] = {}
        for name, each in participants.items():
            each.fickle, each.moody, each.standby = setting.fickle, setting.moody, setting.standby
            each.deeds = self.run.deeds
            self.run.neighbours[name] = self._move_in(each)
        self._dies_at_the_sync = False
        self._calls = set()
        self._numbers = iter(range(1, 1 << 30))

    async def go(self) -> Run:
        """Runs it: load and trouble, then calm until nothing is left to do."""
        setting = self.run.setting
        await self.start_coordinator()
        for participant in self.run.participants.values():
            await self.register(participant)
        clients = [asyncio.create_task(self.client()) for _ in range(setting.clients)]
        if setting.watched:
            clients.append(asyncio.create_task(self.operator()))
        await self._trouble()
        await self._heal()
        await asyncio.gather(*clients)
        await self._rest()
        await self.ask_again()
        await self._look_into_the_journal()
        await self.stop_coordinator()
        return self.run

    def _move_in(self, participant: Participant) -> str:
        """Another installation, whose journal has a similar name, has a branch prepared in the same database."""
        journal_id = self.disk.journal_id[:8] + f"{self._chance.getrandbits(32):08x}"
        gid = str(Gid(journal_id, Txid(Epoch(1, f"{self._chance.getrandbits(32):08x}"), 1), 0))
        participant.database.prepare(gid, Work())
        return gid

    # --- the coordinator ----------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self.run.setting.sync))
        if self._dies_at_the_sync:
            raise OSError("the machine dies")

    async def start_coordinator(self) -> None:
        """A new life on the same disk."""
        loop, setting, awake = asyncio.get_running_loop(), self.run.setting, asyncio.Event()
        journal = await self._journal_class.open(self.disk, clock=lambda: round(loop.time() * 1000))
        for earlier in self._frozen:
            assert isinstance(earlier.journal, SharedJournal)
            earlier.journal.follow(journal)
        awake.set()
        if isinstance(journal, SharedJournal):
            awake = journal.awake
        network = Network(self.run.participants, self.weather, self._chance, self.tell, awake)
        limits = DEFAULT_LIMITS
        if setting.retention is not None:
            limits = Limits(deadline_cap=DEADLINE, retention=setting.retention)
        engine = Engine(journal, network, limits=limits, sweep_every=2.0)
        self.tell("coordinator", f"starts, epoch {journal.epoch.number}")
        await engine.start()
        self.engine = engine

    async def crash_coordinator(self) -> None:
        """The machine dies with everything that was not synced, or the process alone: its writes can be read."""
        engine, self.engine = self.engine, None
        if engine is None:
            return
        self._look_for_a_defect(engine)
        if self._chance.random() < _MACHINE_DIES:
            self._crash_disk()
        else:
            self.tell("coordinator", f"is killed; {len(self.disk.volatile)} entries are not synced")
            self.disk.kill()
        await engine.abandon()

    def _crash_disk(self) -> None:
        """Loses what was not synced, but for what the disk wrote all the same: a part of it, the last torn."""
        survivors = self._chance.randint(0, len(self.disk.volatile))
        self.tell("coordinator", f"dies; of {len(self.disk.volatile)} entries not synced {survivors} are on disk")
        self.disk.crash(survivors=survivors)
        for frozen in self._frozen:
            assert isinstance(frozen.journal, SharedJournal)
            frozen.journal.lose_connection()

    async def freeze_coordinator(self) -> None:
        """It stands still, and another one goes on; then it goes on, too, until it learns that it is fenced."""
        frozen, self.engine = self.engine, None
        if frozen is None:
            return
        assert isinstance(frozen.journal, SharedJournal)
        frozen.journal.awake.clear()
        self.disk.holder = None
        self._frozen[frozen] = asyncio.create_task(self._bury(frozen))
        self.tell("coordinator", f"stands still, epoch {frozen.journal.epoch.number}")
        await self._start_again()
        await asyncio.sleep(self._chance.choice((0.1, 0.3, 1.0)))
        if self._chance.random() < _JOURNAL_DIES:
            await self._crash_journal()
        self.tell("coordinator", f"goes on, epoch {frozen.journal.epoch.number}")
        frozen.journal.awake.set()

    async def _crash_journal(self) -> None:
        """The journal's own machine dies, and whoever was at it starts again; who stands still does not notice."""
        engine, self.engine = self.engine, None
        if engine is not None:
            self._crash_disk()
            await engine.abandon()
            await self._start_again()

    async def _bury(self, frozen: Engine) -> None:
        """Ends it when it learns that it is fenced."""
        await asyncio.wait({frozen.failed})
        self.tell("coordinator", f"ends, epoch {frozen.journal.epoch.number}: {frozen.failed.exception()}")
        self._look_for_a_defect(frozen)
        del self._frozen[frozen]
        await frozen.abandon()

    async def stop_coordinator(self) -> None:
        """In good order."""
        for frozen, burial in self._frozen.items():
            burial.cancel()
            await frozen.abandon()
        engine, self.engine = self.engine, None
        if engine is not None:
            self._look_for_a_defect(engine)
            await engine.stop(1.0)
            await engine.journal.close()

    def _look_for_a_defect(self, engine: Engine) -> None:
        """Whether it had failed, with anything but its journal."""
        error = engine.failed.exception() if engine.failed.done() else None
        if error is not None and not isinstance(error, JournalError):
            self.run.defects.append(f"epoch {engine.journal.epoch.number}: {error!r}")

    def is_on_disk(self, txid: Txid) -> bool:
        """Whether the turn of a saga is durable."""
        return any(
            isinstance(entry, Stamped) and isinstance(entry.event, Turned) and entry.event.txid == txid
            for entry in self.disk.durable
        )

    async def register(self, participant: Participant) -> None:
        """Until it works."""
        while True:
            try:
                if self.engine is not None:
                    await self.engine.register(participant.name, f"{participant.name}:1")
                    return
            except (Rejected, JournalError):
                pass
            await asyncio.sleep(0.1)

    # --- trouble ------------------------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.run.setting.seconds:
            await asyncio.sleep(self._chance.expovariate(1 / self.run.setting.trouble))
            victim = self.run.participants[self._chance.choice(NAMES)]
            match self._chance.randrange(6):
                case 0 | 1 if self.run.setting.freezing:
                    await self.freeze_coordinator()
                case 0 | 1:
                    await self.crash_coordinator()
                    await asyncio.sleep(self._chance.choice((0.0, 0.1, 1.0)))
                    await self._start_again()
                case 2:
                    self.tell(victim.name, "dies")
                    victim.crash()
                    await asyncio.sleep(self._chance.choice((0.0, 0.3, 1.5)))
                    victim.up = True
                    self.tell(victim.name, "is back")
                case 3:
                    self.tell(victim.name, "has its server stopped at once")
                    victim.crash_database()
                case 4 if self.run.setting.meddling and self.left(victim):
                    self._meddle(victim)
                case 4 if self.run.setting.failing_over:
                    self._fail_over(victim)
                case _:
                    self.weather.cut.add(victim.name)
                    self.tell("network", f"{victim.name} is cut off")
                    await asyncio.sleep(self._chance.choice((0.2, 1.0, 3.0)))
                    self.weather.cut.discard(victim.name)
                    self.tell("network", f"{victim.name} can be reached again")

    def _meddle(self, victim: Participant) -> None:
        """Somebody finishes a prepared branch by hand, without asking."""
        gid = self._chance.choice(self.left(victim))
        commit = self._chance.random() < 1 / 2
        transfers = frozenset(name for name, _, _ in victim.database.prepared[gid].changes)
        victim.database.finish(gid, commit=commit)
        self.run.meddled.append(Meddling(asyncio.get_running_loop().time(), victim.name, gid, commit, transfers))
        self.tell("somebody", f"{'commits' if commit else 'rolls back'} {short(gid)} at {victim.name} by hand")

    def _fail_over(self, victim: Participant) -> None:
        """A standby that may be behind is promoted."""
        records = victim.fail_over(lost=self._chance.choice((0, 1, 1, 2, 4)))
        self.run.failovers.add(victim.name)
        self.tell(victim.name, f"fails over to a standby that lacks the last {len(records)} records")
        for record in records:
            match record:
                case Prepared(gid) if gid == self.run.neighbours.get(victim.name):
                    del self.run.neighbours[victim.name]
                case Committed(work) | Prepared(_, work):
                    names = frozenset(name for name, _, _ in work.changes)
                    self.run.losses += [
                        Loss(victim.name, gid_of(key), row.outcome, names) for key, row in work.rows.items()
                    ]
                case Finished():
                    pass  # it is prepared again, and ends again

    async def _start_again(self) -> None:
        if self.engine is not None:
            return
        self._dies_at_the_sync = self._chance.random() < _DIES_WHILE_STARTING
        try:
            await self.start_coordinator()
        except JournalError:
            self.tell("coordinator", "opens its journal, and forces nothing any more")
            self._crash_disk()
        finally:
            self._dies_at_the_sync = False
        if self.engine is None:
            await self.start_coordinator()

    async def _heal(self) -> None:
        self.weather.cut.clear()
        self.weather.drop = self.weather.copy = 0.0
        for participant in self.run.participants.values():
            participant.up, participant.moody = True, 0.0
        await self._start_again()
        self.tell("network", "nothing fails any more")

    async def _rest(self) -> None:
        """Gives everything the time to end by itself."""
        end = asyncio.get_running_loop().time() + _REST_SECONDS
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(1.0)
            if not self.all_left() and not await self._sagas_left():
                await asyncio.sleep(6.0)  # late copies, and one more round of sweeps
                if not self.all_left():
                    break
        self.run.left, self.run.unfinished = self.all_left(), await self._sagas_left()

    async def _sagas_left(self) -> list[str]:
        """The sagas that are not over."""
        assert self.engine is not None
        left = await self.engine.journal.unfinished() if self.run.setting.sagas else ()
        return [str(record.txid) for record in left if record.definition is not None]

    def left(self, participant: Participant) -> list[str]:
        """What is prepared there and not finished."""
        neighbour = self.run.neighbours.get(participant.name)
        return [gid for gid in participant.database.prepared if gid != neighbour]

    def all_left(self) -> list[str]:
        """What is prepared anywhere and not finished."""
        return [gid for participant in self.run.participants.values() for gid in self.left(participant)]

    async def _look_into_the_journal(self) -> None:
        assert self.engine is not None
        journal = self.engine.journal
        self.run.heuristics = {str(record.txid) for record in await journal.heuristics()}
        self.run.journal = [*self.disk.durable, *self.disk.volatile]
