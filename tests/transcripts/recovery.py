"""Recovery in a transcript: taking up, sweeping, presuming abort.

Lives here: the readings and what is asked of whom, in the supervisor's order. Must not live here: the verdicts, which
are `protocol.resolution`, whose epoch it is (the supervisor's own `_Owners`), settling by evidence (`evidence`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.disk import at_once
from transcripts.evidence import ask_everybody, settle
from transcripts.language import Impossible
from transcripts.participants import Participant
from transcripts.saga_run import SagaRun
from transcripts.two_phase import TwoPhaseRun
from transcripts.wire import Request, Transaction
from twophase.contract.names import Txid
from twophase.coordinator.engine.recorded import heuristics_of
from twophase.coordinator.engine.supervisor import _Owners
from twophase.coordinator.journal.events import Finished, TransactionRecord
from twophase.coordinator.journal.port import JournalError, Ruling
from twophase.coordinator.protocol.decisions import ABORT, SAGA, Ending, contradicts
from twophase.coordinator.protocol.evidence import Sign
from twophase.coordinator.protocol.resolution import Owner, Seen, Verdict, resolve

_ENDINGS = {ending.value: ending for ending in Ending}


def start(at: Coordinator) -> None:
    """What a coordinator does first: alarms again, and decided transactions taken up."""
    state = at.stage.disk.state
    if at.peers.quarantine.active:
        at.quarantined()
    for record in state.heuristics():
        of = at.stage.named(record.txid)
        for number, ending in heuristics_of(record).items():
            at.alarm(of.titled(f"{of.places[number]} is {ending.value}, as the journal remembers"))
    take_up_all(at)


def take_up_all(at: Coordinator) -> None:
    """Takes up every transaction that is decided and not ended."""
    for record in at.stage.disk.state.unfinished():
        take_up(at, record, frozenset())


def take_up(at: Coordinator, record: TransactionRecord, extra: frozenset[int]) -> None:
    """Makes a decided transaction live again."""
    if record.decision is not None and not record.ended and record.txid not in at.live:
        of = at.stage.named(record.txid)
        if record.decision == SAGA:
            SagaRun.resume(at, of, record)
        else:
            TwoPhaseRun.resume(at, of, record, extra)


# --- sweeps -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reading:
    """What a sweep has read of one participant so far."""

    before: tuple[Seen[Txid], ...]
    live: frozenset[Txid] | None = None
    records: dict[Txid, TransactionRecord | None] | None = None
    owners: Callable[[Txid], Owner] | None = None


def read_prepared(at: Coordinator, there: Participant) -> None:
    """The first reading."""
    at.readings[there.name] = Reading(_prepared(at, there))


def read_live(at: Coordinator) -> None:
    """The second reading, of every sweep under way."""
    live = at.live
    shown = ", ".join(at.stage.named(txid).name for txid in sorted(live))
    if "" in at.stage.transactions:  # the only one, and it has no name
        at.stands("it is live" if live else "it is not live")
    else:
        at.stands(f"live: {shown or 'nothing'}")
    for reading in _under_way(at):
        reading.live = live


def read_decisions(at: Coordinator) -> None:
    """The third reading."""
    for reading in _under_way(at):
        state = at.stage.disk.state
        reading.records = {seen.transaction: state.record(seen.transaction) for seen in reading.before}
        for txid, record in reading.records.items():
            of = at.stage.named(txid)
            at.stage.board.draw("journal", Arrow.SENT, at.name, of.titled(_known(at, of, record)))
            at.prove(partial(_look_for_strangers, at, txid))
        reading.owners = _Owners(state.epochs(), at.peers.quarantine, ours=at.epoch).of


def read_again(at: Coordinator, there: Participant) -> None:
    """The last reading, and what follows."""
    reading = at.readings.pop(there.name, None)
    if reading is None or reading.live is None or reading.records is None or reading.owners is None:
        raise Impossible(f"{at.name} reads {there.name} again before it has read all the rest")
    after = set(_prepared(at, there))
    decisions = {txid: record.decision if record is not None else None for txid, record in reading.records.items()}
    for finding in resolve(reading.before, reading.live, decisions.__getitem__, reading.owners, after):
        txid, number = finding.seen.transaction, finding.seen.branch
        of, record = at.stage.named(txid), reading.records[txid]
        at.stage.sights |= {finding.verdict, reading.owners(txid)}
        why = "" if record is not None and record.decision is not None else f"{reading.owners(txid).value}: "
        at.stands(of.titled(f"{why}{finding.verdict.value}"))
        _obey(at, of, number, finding.verdict, record)


def sweep(at: Coordinator, there: Participant) -> None:
    """All four readings, one after the other; a sweep that finds nothing ends with the first."""
    read_prepared(at, there)
    if not at.readings[there.name].before:
        del at.readings[there.name]
        return
    read_live(at)
    read_decisions(at)
    read_again(at, there)


def _prepared(at: Coordinator, there: Participant) -> tuple[Seen[Txid], ...]:
    if not there.up:
        raise Impossible(f"{there.name} is away")
    if not at.believes(there.name, there.timeline):
        return ()
    found = [of for of in at.stage.transactions.values() if there.prepared(of)]
    shown = ", ".join(of.titled("prepared") for of in found)
    at.stage.board.draw(there.name, Arrow.SENT, at.name, shown or "nothing is prepared")
    return tuple(Seen(of.txid, of.branch_at(there.name)) for of in found)


def _under_way(at: Coordinator) -> list[Reading]:
    if not at.readings:
        raise Impossible(f"{at.name} has not begun to read")
    return list(at.readings.values())


def _look_for_strangers(at: Coordinator, txid: Txid) -> None:
    if at.peers.quarantine.is_strange(txid.epoch):
        at_once(at.peers.quarantine.prove(f"{txid} is of an epoch that was never given out"))


def _known(at: Coordinator, of: Transaction, record: TransactionRecord | None) -> str:
    if record is None:
        return "no record"
    return at.words(of, record.decision) if record.decision is not None else "not decided"


def _obey(at: Coordinator, of: Transaction, number: int, verdict: Verdict, record: TransactionRecord | None) -> None:
    match verdict:
        case Verdict.LEAVE:
            return
        case Verdict.FINISH_COMMIT | Verdict.FINISH_ABORT:
            assert record is not None
            if record.ended:
                at.ask(of, number, "commit" if verdict is Verdict.FINISH_COMMIT else "abort", Straggler(at, of))
            else:
                take_up(at, record, frozenset({number}))
        case Verdict.PRESUME_ABORT:
            presume(at, of, frozenset({number}))
        case Verdict.ASK:
            settle(at, of)


@dataclass(eq=False, slots=True)
class Straggler:
    """Waits for a branch that outlived its transaction."""

    at: Coordinator
    of: Transaction

    def answered(self, request: Request, said: str) -> None:
        """It has ended; as it had to, or not."""
        record = self.at.stage.disk.state.record(self.of.txid)
        assert record is not None
        assert record.decision is not None
        if contradicts(record.decision, _ENDINGS[said]):
            finished = Finished(self.of.txid, self.of.branch_at(request.to), _ENDINGS[said])
            self.at.write(finished, self.of.titled(f"{request.to} {said}"))
            decided = self.at.words(self.of, record.decision)
            self.at.alarm(self.of.titled(f"{request.to} is {said}, decided was {decided}"))

    def unanswered(self, request: Request) -> None:
        """The next sweep finds it again."""


# --- what nobody decided ----------------------------------------------------------------------------------------------


def look_for_begun(at: Coordinator) -> None:
    """Presumes the abort of what earlier epochs began and did not decide."""
    state = at.stage.disk.state
    owners = _Owners(state.epochs(), at.peers.quarantine, ours=at.epoch)
    found = [record for record in state.newest(before=None, unfinished_only=True) if record.decision is None]
    for record in found:
        of, owner = at.stage.named(record.txid), owners.of(record.txid)
        if record.txid.epoch == at.epoch:
            continue
        at.stage.sights.add(owner)
        at.stands(of.titled(f"begun and not decided, {owner.value}"))
        if owner is Owner.FENCED:
            presume(at, of, frozenset())
        elif owner is not Owner.OTHERS:
            settle(at, of)


def presume(at: Coordinator, of: Transaction, found: frozenset[int]) -> None:
    """Proposes abort for what nobody will decide, unless somebody has committed a branch of it."""
    signs, _ = ask_everybody(at, of)
    if Sign.COMMITTED in signs.values():
        proof = f"transaction {of.txid} is committed, and this journal has no decision on it"
        at.prove(lambda: at_once(at.peers.quarantine.prove(proof)))
    if of.txid in at.live or any(pending.of is of for pending in at.pending):
        return
    if at.peers.quarantine.doubts(of.txid):
        at.stands(of.titled("nothing is presumed"))
        return
    record = at.stage.disk.state.record(of.txid)
    known = record.branches if record is not None else ()
    everywhere = tuple(dict.fromkeys((*known, *(of.ref(number) for number in sorted(found)))))
    at.propose(of, ABORT, everywhere, Presumption(at, of, found))


@dataclass(eq=False, slots=True)
class Presumption:
    """Waits for the ruling on a presumed abort."""

    at: Coordinator
    of: Transaction
    found: frozenset[int]

    def ruled(self, ruling: Ruling) -> None:
        """Whatever the journal says is carried out."""
        record = self.at.stage.disk.state.record(self.of.txid)
        assert record is not None
        take_up(self.at, record, self.found)

    def refused(self, error: JournalError) -> None:
        """Then evidence must tell, at the next sweep."""
