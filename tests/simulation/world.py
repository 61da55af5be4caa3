"""One run of the whole system under a seed: coordinator, participants, clients, and everything that can go wrong.

Lives here: who runs, and what strikes them. Must not live here: what must hold in the end (`check`).

The coordinator is the real engine on a disk that forgets what was not synced; the network, the participants and their
databases are models. Time is virtual, and chance comes from the seed, so a seed always runs the same way.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from simulation.network import Network, Weather
from simulation.participants import Participant
from simulation.postgres import Committed, Finished, Prepared
from twophase.contract.names import Epoch, Gid
from twophase.coordinator.engine.api import NEVER_SEEN, Answer, Call, NeverSeen, Outcome, Rejected, Submission
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import JournalError
from twophase.v1 import types_pb2 as types

NAMES = ("east", "west", "north")
ACCOUNTS = 3
OPENING = 100
_DEADLINE = 2.0
_REST_SECONDS = 120.0
_CALL_SECONDS = 4.0
_MACHINE_DIES = 0.7
_DIES_WHILE_STARTING = 0.2


class Told(Enum):
    """What a client knows of its transfer."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Transfer:
    """Movements that belong together: (participant, account, amount). `looks` are participants that are only asked."""

    name: str
    movements: tuple[tuple[str, int, int], ...]
    looks: tuple[str, ...] = ()
    told: Told = Told.UNKNOWN


@dataclass(frozen=True, slots=True)
class Setting:
    """How long and how bad. Seconds are virtual."""

    seconds: float = 6.0
    clients: int = 3
    pause: float = 0.6
    trouble: float = 0.7
    meddling: bool = False
    failing_over: bool = False


CALM = Setting()
"""Processes, servers and the network fail; no person interferes."""
MEDDLED = Setting(meddling=True)
"""Besides, somebody finishes prepared branches by hand."""
FAILED_OVER = Setting(failing_over=True)
"""Besides, standbys that lag behind take the place of servers."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a failover lost at a participant: a branch with its movements, prepared or committed, or a verdict on it."""

    bank: str
    gid: str
    outcome: str
    transfers: frozenset[str]


@dataclass(slots=True)
class Run:
    """Everything about one run."""

    seed: int
    setting: Setting
    participants: dict[str, Participant]
    transfers: list[Transfer] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    at_rest: bool = False
    meddled: set[tuple[str, str]] = field(default_factory=set)
    unheard_of: set[str] = field(default_factory=set)
    failovers: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)


class World:
    """The system, its clients, and what strikes them. `parts` are the classes to run; a planted bug replaces one."""

    def __init__(
        self,
        seed: int,
        setting: Setting,
        *,
        participant: type[Participant] = Participant,
        journal: type[MemoryJournal] = MemoryJournal,
        keep_trace: bool = False,
    ) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - it must repeat
        self._keep_trace = keep_trace
        self._journal_class = journal
        participants = {
            name: participant(name, self._chance, self.tell, accounts=ACCOUNTS, opening=OPENING) for name in NAMES
        }
        self.run = Run(seed, setting, participants)
        self.weather = Weather(
            drop=self._chance.choice((0.0, 0.0, 0.02, 0.1)),
            copy=self._chance.choice((0.0, 0.05, 0.2)),
            slow=self._chance.choice((0.002, 0.01, 0.2)),
        )
        self.disk = MemoryDisk(sync=self._sync)
        self.engine: Engine | None = None
        self._dies_at_the_sync = False
        self._numbers = iter(range(1, 1 << 30))

    def tell(self, who: str, what: str) -> None:
        """A line of the transcript."""
        if self._keep_trace:
            self.run.trace.append(f"{asyncio.get_running_loop().time():9.4f}  {who:12} {what}")

    async def go(self) -> Run:
        """Runs it: load and trouble, then calm until nothing is left to do."""
        setting = self.run.setting
        await self.start_coordinator()
        for participant in self.run.participants.values():
            await self.register(participant)
        clients = [asyncio.create_task(self._client()) for _ in range(setting.clients)]
        trouble = asyncio.create_task(self._trouble())
        await trouble
        await self._heal()
        await asyncio.gather(*clients)
        self.run.at_rest = await self._rest()
        await self._ask_again()
        for _, gid in self.run.meddled:
            name = Gid.parse(gid)
            record = await self.engine.journal.transaction(name.txid) if self.engine is not None else None
            if record is None or name.branch not in {ref.number for ref in record.branches}:
                self.run.unheard_of.add(gid)
        if self.engine is not None:
            await self.stop_coordinator()
        return self.run

    # --- the coordinator ----------------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.01))
        if self._dies_at_the_sync:
            raise OSError("the machine dies")

    async def start_coordinator(self) -> None:
        """A new life on the same disk."""
        journal = await self._journal_class.open(self.disk)
        network = Network(self.run.participants, self.weather, self._chance, self.tell)
        engine = Engine(journal, network, sweep_every=2.0)
        self.tell("coordinator", f"starts, epoch {journal.epoch.number}")
        await engine.start()
        self.engine = engine

    async def crash_coordinator(self) -> None:
        """The machine dies with everything that was not synced, or the process alone: its writes can be read."""
        engine, self.engine = self.engine, None
        if engine is None:
            return
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

    async def stop_coordinator(self) -> None:
        """In good order."""
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.stop(1.0)
            await engine.journal.close()

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

    # --- clients ------------------------------------------------------------------------------------------------------

    async def _client(self) -> None:
        setting = self.run.setting
        while asyncio.get_running_loop().time() < setting.seconds:
            transfer = self._transfer()
            self.run.transfers.append(transfer)
            transfer.told = await self._send(transfer)
            self.tell("client", f"{transfer.name}: {transfer.told.value}")
            await asyncio.sleep(self._chance.expovariate(1 / setting.pause))

    async def _send(self, transfer: Transfer) -> Told:
        """As the real client does it: the same attempt again while nothing is known, a new one after an abort."""
        seen: Epoch | NeverSeen = NEVER_SEEN
        attempt = 1
        for _ in range(6):
            engine = self.engine
            answer = await self._ask(engine, self.request(transfer, attempt, seen)) if engine is not None else None
            if answer is None:
                await asyncio.sleep(self._chance.uniform(0, 1.0))
                continue
            assert engine is not None
            match answer.outcome:
                case Outcome.COMMITTED:
                    return Told.OK
                case Outcome.ABORTED | Outcome.COMPENSATED:
                    if not any(reason.retryable for reason in answer.reasons) or attempt == 3:
                        return Told.FAILED
                    attempt += 1
                    seen = engine.journal.epoch
                case Outcome.NOT_SEEN:
                    seen = engine.journal.epoch
                case Outcome.PENDING:
                    await asyncio.sleep(0.5)
        return Told.UNKNOWN

    def request(self, transfer: Transfer, attempt: int, seen: Epoch | NeverSeen) -> Submission:
        """The transfer as a request; its id is the transfer's name, whatever the attempt."""
        calls = [
            Call(bank, "move", _json(transfer=transfer.name, account=account, amount=amount))
            for bank, account, amount in transfer.movements
        ]
        calls += [Call(bank, "look", types.Payload()) for bank in transfer.looks]
        return Submission(transfer.name, attempt, seen, tuple(calls), _DEADLINE)

    async def _ask(self, engine: Engine, submission: Submission) -> Answer | None:
        """One copy of a request, perhaps two; None if there was no answer."""
        if self._chance.random() < self.weather.copy:
            copy = asyncio.create_task(self._copy(engine, submission))
            copy.add_done_callback(_seen)
        if self._chance.random() < self.weather.drop:
            return None
        work = asyncio.create_task(engine.execute(submission))
        work.add_done_callback(_seen)
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answer = await asyncio.shield(work)
        except (TimeoutError, Rejected, JournalError):
            return None
        except asyncio.CancelledError:
            if work.cancelled():
                return None
            raise
        return None if self.engine is not engine or self._chance.random() < self.weather.drop else answer

    async def _copy(self, engine: Engine, submission: Submission) -> None:
        """The copy may reach the coordinator, or a later life of it, after the client has gone on."""
        await asyncio.sleep(self._chance.choice((0.0, 0.1, 1.0)))
        target = self.engine or engine
        await target.execute(submission)

    def _transfer(self) -> Transfer:
        name = f"t{next(self._numbers)}"
        amount = self._chance.choice((1, 5, 20, 90))
        banks = self._chance.sample(NAMES, 3)
        accounts = [self._chance.randrange(ACCOUNTS) for _ in banks]
        match self._chance.randrange(8):
            case 0:
                return Transfer(name, ((banks[0], 0, -amount), (banks[0], 1, amount)))
            case 1:
                return Transfer(name, ((banks[0], 0, -amount), (banks[0], 1, amount)), looks=(banks[1],))
            case 2:
                parts = ((banks[0], accounts[0], -2 * amount), *((b, accounts[1], amount) for b in banks[1:]))
                return Transfer(name, parts)
            case 3:
                return Transfer(name, (), looks=(banks[0], banks[1]))
            case _:
                return Transfer(name, ((banks[0], accounts[0], -amount), (banks[1], accounts[1], amount)))

    # --- trouble ------------------------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.run.setting.seconds:
            await asyncio.sleep(self._chance.expovariate(1 / self.run.setting.trouble))
            victim = self.run.participants[self._chance.choice(NAMES)]
            match self._chance.randrange(6):
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
                case 4 if self.run.setting.meddling and victim.database.prepared:
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
        gid = self._chance.choice(list(victim.database.prepared))
        commit = self._chance.random() < 1 / 2
        victim.database.finish(gid, commit=commit)
        self.run.meddled.add((victim.name, gid))
        self.tell("somebody", f"{'commits' if commit else 'rolls back'} {gid} at {victim.name} by hand")

    def _fail_over(self, victim: Participant) -> None:
        """A standby that may be behind is promoted."""
        records = victim.fail_over(lost=self._chance.choice((0, 1, 1, 2, 4)))
        self.run.failovers.add(victim.name)
        self.tell(victim.name, f"fails over to a standby that lacks the last {len(records)} records")
        for record in records:
            match record:
                case Committed(work) | Prepared(_, work):
                    names = frozenset(name for name, _, _ in work.changes)
                    self.run.losses += [Loss(victim.name, gid, row.outcome, names) for gid, row in work.rows.items()]
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
            participant.up = True
        await self._start_again()
        self.tell("network", "nothing fails any more")

    async def _rest(self) -> bool:
        """Whether everything ends by itself."""
        end = asyncio.get_running_loop().time() + _REST_SECONDS
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(1.0)
            if not self.left():
                await asyncio.sleep(6.0)  # late copies, and one more round of sweeps
                if not self.left():
                    return True
        return False

    def left(self) -> list[str]:
        """What is prepared and not finished."""
        return [gid for participant in self.run.participants.values() for gid in participant.database.prepared]

    async def _ask_again(self) -> None:
        """Whoever does not know asks now, when everything answers."""
        assert self.engine is not None
        for transfer in self.run.transfers:
            if transfer.told is Told.UNKNOWN:
                view = await self.engine.view(transfer.name)
                if view is not None and view.outcome in (Outcome.COMMITTED, Outcome.ABORTED):
                    transfer.told = Told.OK if view.outcome is Outcome.COMMITTED else Told.FAILED
                    self.tell("client", f"{transfer.name}: asked again, {transfer.told.value}")


def _json(**content: Any) -> types.Payload:
    return types.Payload(json=json.dumps(content))


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
