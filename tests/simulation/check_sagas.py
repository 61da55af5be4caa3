"""What must hold of sagas at the end of a run: all is done, or all that was done is undone, and what was told is true.

Lives here: the rows of all ledgers, in the order in which they were committed, against the journal, the money and what
clients were told. Must not live here: what holds of every transfer (`check`), the run.

A person who takes a dead letter for done answers for that step, and a failover for the rows that it lost; an alarm must
tell of both. What a failover never excuses: a saga that was told undone is not done by its coordinator. Its turn is in
the journal, whatever became of the row that it stood on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from simulation.deeds import Deed
from simulation.participants import ATTEMPTS
from simulation.runs import Loss, Run, Told, Transfer
from simulation.sagas import graph_of
from twophase.contract.names import Txid
from twophase.coordinator.journal.events import DeadLettered, TransactionRecord, Turned
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.memory_state import Stamped
from twophase.coordinator.protocol.graph import Graph


@dataclass(slots=True)
class Attempt:
    """One saga: its record, when it turned, what was committed of it in the order of time, and the
    rows of that which are left."""

    record: TransactionRecord
    turned_at: float | None = None
    deeds: list[Deed] = field(default_factory=list)
    work: dict[int, str] = field(default_factory=dict)
    undone: dict[int, str] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)

    @property
    def resolved(self) -> frozenset[int]:
        """The steps that a person took for done."""
        return frozenset(self.record.resolved)

    def counts(self, number: int) -> int:
        """1 if the step is done in the end, 0 if it is not, or undone, and -1 for one that is undone and never was."""
        return (self.work.get(number) == "applied") - (self.undone.get(number) == "applied")


def violations_of_sagas(run: Run) -> Iterator[str]:
    """Every contradiction, with the rule it breaks."""
    attempts = _attempts(run)
    for transfer in run.transfers:
        if transfer.saga is not None:
            yield from _of_transfer(run, transfer, graph_of(transfer.saga), attempts[transfer.name])
    records = {attempt.record.txid: attempt.record for each in attempts.values() for attempt in each}
    lossy = {loss.gid_txid for loss in run.losses}
    for said in run.said:
        ended = records[said.txid].committed if said.txid in records else None
        if ended is not said.committed and not (said.committed and said.txid in lossy):
            yield f"R6: {said.transfer} was told {_SHOWN[said.committed]}, and {said.txid} is {_SHOWN[ended]}"
    if not run.failovers:
        by_hand = taken_for_done(run)
        yield from (f"R6: {name} was told {what}" for name, what in run.hasty if name not in by_hand)
    yield from (f"R8: saga {txid} is not over" for txid in run.unfinished)
    yield from _of_dead_letters(run, records.values())


def taken_for_done(run: Run) -> set[str]:
    """The transfers of which a person took a step, or its compensation, for done."""
    return {name for name, attempts in _attempts(run).items() if any(attempt.resolved for attempt in attempts)}


_SHOWN = {True: "done", False: "undone", None: "neither done nor undone"}


# --- gathering --------------------------------------------------------------------------------------------------------


def _attempts(run: Run) -> dict[str, list[Attempt]]:
    """The sagas of each transfer, in the order of their attempts."""
    events: dict[Txid, list[Stamped]] = defaultdict(list)
    for entry in run.journal:
        if isinstance(entry, Stamped):
            events[entry.event.txid].append(entry)
    found: dict[Txid, Attempt] = {}
    for txid, entries in events.items():
        record = fold(entry.event for entry in entries)
        if record.definition is not None:
            turns = [entry.at / 1000 for entry in entries if isinstance(entry.event, Turned)]
            found[txid] = Attempt(record, turns[0] if turns else None)
    for deed in run.deeds:
        if deed.gid.txid in found:
            found[deed.gid.txid].deeds.append(deed)
    for participant in run.participants.values():
        for key, row in participant.database.committed_rows():
            deed = Deed(0.0, participant.name, key, row.outcome)
            if (attempt := found.get(deed.gid.txid)) is not None:
                (attempt.undone if deed.undoes else attempt.work)[deed.gid.branch] = row.outcome
    for loss in run.losses:
        if loss.gid_txid in found:
            found[loss.gid_txid].losses.append(loss)
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in found.values():
        if attempt.record.request is not None:
            attempts[attempt.record.request.request_id].append(attempt)
    for each in attempts.values():
        each.sort(key=lambda attempt: attempt.record.request.attempt if attempt.record.request is not None else 0)
    return attempts


# --- one transfer -----------------------------------------------------------------------------------------------------


def _of_transfer(run: Run, transfer: Transfer, shape: Graph, attempts: list[Attempt]) -> Iterator[str]:
    yield from _of_money(run, transfer, attempts)
    for attempt in attempts:
        yield from _of_turn(attempt, shape)
        for wrong in (*_of_attempt(transfer, attempt, shape), *_of_order(attempt, shape)):
            yield from _unexcused(run, attempt, wrong)
    if any(attempt.losses or attempt.resolved for attempt in attempts):
        return
    done = [attempt for attempt in attempts if any(attempt.counts(n) for n in shape.numbers)]
    if len(done) > 1:
        yield f"R6: {transfer.name} is done by {len(done)} attempts"
    if done and transfer.told is Told.FAILED:
        yield f"R6: {transfer.name} was told failed, and is there"
    if not done and transfer.told is Told.OK:
        yield f"R6: {transfer.name} was told ok, and is not there"
    for earlier, later in pairwise(attempts):
        began = min((deed.at for deed in later.deeds if deed.outcome == "applied"), default=float("inf"))
        if any(deed.undoes and deed.at > began for deed in earlier.deeds):
            yield f"R6: {transfer.name} began anew while its attempt before was being undone"


def _of_money(run: Run, transfer: Transfer, attempts: list[Attempt]) -> Iterator[str]:
    """The business took effect as often as the ledgers say (R7)."""
    held = Counter(
        (bank, *rest)
        for bank, participant in run.participants.items()
        for name, *rest in participant.database.movements
        if name == transfer.name
    )
    for number, (bank, account, amount) in enumerate(transfer.movements):
        times = held.pop((bank, account, amount), 0) - held.pop((bank, account, -amount), 0)
        written = sum(attempt.counts(number) for attempt in attempts)
        if times != written:
            yield f"R7: step {number} of {transfer.name} took effect {times} times, the ledger has {written}"
    if held:
        yield f"R7: {transfer.name} moved what it should not: {sorted(held)}"


def _of_turn(attempt: Attempt, shape: Graph) -> Iterator[str]:
    """It goes back only once it is recorded, and that only once a row says that the pivot, or a step before it, is not
    applied. Rows that a failover lost later were there."""
    txid, turned_at = attempt.record.txid, attempt.turned_at
    if turned_at is None:
        if any(deed.undoes and deed.outcome == "applied" for deed in attempt.deeds):
            yield f"R4: {txid} was undone, and its turn is not in the journal"
        return
    proofs = [
        deed
        for deed in attempt.deeds
        if not deed.undoes and deed.outcome != "applied" and shape.may_refuse(deed.gid.branch)
    ]
    if not any(deed.at <= turned_at + 0.001 for deed in proofs):
        yield f"R8: {txid} turned, and no row said that a step is not applied"


def _of_attempt(transfer: Transfer, attempt: Attempt, shape: Graph) -> Iterator[str]:
    counted = {number: attempt.counts(number) for number in shape.numbers}
    if any(count < 0 for count in counted.values()):
        yield f"R7: {transfer.name}: a step was undone that was never done"
    if len({count for number, count in counted.items() if number not in attempt.resolved}) > 1:
        done = sorted(number for number, count in counted.items() if count)
        yield f"R1: {transfer.name} ({attempt.record.txid}) is half done, in the end steps {done} are"
    if attempt.record.committed is None and not attempt.record.ended:
        yield f"R8: {transfer.name} ({attempt.record.txid}) has no outcome"


def _of_order(attempt: Attempt, shape: Graph) -> Iterator[str]:
    """A step is done after those before it, and undone before them."""
    done: dict[int, float] = {}
    undone: dict[int, float] = {}
    for deed in attempt.deeds:
        if deed.outcome == "applied":
            (undone if deed.undoes else done)[deed.gid.branch] = deed.at
    left_alone = float("inf")
    for number, at in done.items():
        for before in shape.before[number] - attempt.resolved:
            if done.get(before, left_alone) > at:
                yield f"R1: step {number} of {attempt.record.txid} was done before step {before}"
            if number not in attempt.resolved and undone.get(number, left_alone) > undone.get(before, left_alone):
                yield f"R1: step {before} of {attempt.record.txid} was undone before step {number}"


def _unexcused(run: Run, attempt: Attempt, wrong: str) -> Iterator[str]:
    if not attempt.losses:
        yield wrong
        return
    for loss in attempt.losses:
        if not any(str(loss.gid_txid) in alarm or _tells_of_failover(alarm, loss) for alarm in run.alarms):
            yield f"R11: {loss.gid} was lost at {loss.bank}, and no alarm was raised; {wrong}"


def _tells_of_failover(alarm: str, loss: Loss) -> bool:
    return "timeline" in alarm and f"'{loss.bank}'" in alarm


# --- dead letters -----------------------------------------------------------------------------------------------------


def _of_dead_letters(run: Run, records: Iterable[TransactionRecord]) -> Iterator[str]:
    """What a person took for done had been a dead letter, and was told of."""
    letters = {
        (entry.event.txid, entry.event.branch)
        for entry in run.journal
        if isinstance(entry, Stamped) and isinstance(entry.event, DeadLettered)
    }
    for record in records:
        for number in record.resolved:
            if (record.txid, number) not in letters:
                yield f"R11: step {number} of {record.txid} was taken for done, and was no dead letter"


def is_cause(run: Run, alarm: str) -> bool:
    """Whether an alarm of a dead letter is right: its participant has answered so often that it cannot be done now."""
    for participant in run.participants.values():
        for key, times in participant.failures.items():
            txid, number = str(Deed(0.0, "", key, "").gid.txid), Deed(0.0, "", key, "").gid.branch
            if times >= ATTEMPTS and f"step 's{number}' of saga {txid}" in alarm:
                return True
    return False
