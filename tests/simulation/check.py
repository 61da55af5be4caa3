"""What must hold at the end of a run, whatever happened in it.

Lives here: the ledger of ledgers: what clients were told against what every database holds. Must not live
here: the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from simulation.check_sagas import is_cause, taken_for_done, violations_of_sagas
from simulation.runs import ACCOUNTS, NAMES, OPENING, Loss, Meddling, Run, Told, Transfer
from twophase.contract.names import Gid, Txid
from twophase.coordinator.engine import reasons
from twophase.coordinator.engine.recorded import heuristics_of
from twophase.coordinator.journal.events import Decided, Finished, TransactionRecord
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.memory_state import Entry, Given, Stamped
from twophase.coordinator.protocol.decisions import ABORT, Ending


def violations(run: Run) -> tuple[str, ...]:
    """Every contradiction, with the rule it breaks."""
    return (
        *violations_of_sagas(run),
        *_of_transfers(run),
        *_of_branches(run),
        *_of_alarms(run),
        *_of_recovery(run),
        *(f"R10: the coordinator failed: {defect}" for defect in run.defects),
    )


# --- what clients were told, and what is there ------------------------------------------------------------------------


def _of_transfers(run: Run) -> Iterator[str]:
    databases = {bank: participant.database for bank, participant in run.participants.items()}
    held = Counter((bank, *movement) for bank, database in databases.items() for movement in database.movements)
    for transfer in run.transfers:
        if transfer.saga is not None:
            continue
        wrong = _wrong(transfer, Counter({key: count for key, count in held.items() if key[1] == transfer.name}))
        if wrong is not None:
            yield from _unexcused(run, transfer, wrong)
    yield from (
        f"R1: nobody sent {name}" for name in sorted({key[1] for key in held} - {t.name for t in run.transfers})
    )
    total = sum(sum(database.balances.values()) for database in databases.values())
    by_hand = taken_for_done(run)
    if total != len(NAMES) * ACCOUNTS * OPENING and not run.losses and not run.meddled and not by_hand:
        yield f"money: {total} in the end"
    if not run.failovers and not run.meddled:
        yield from (f"R6: {name} was told applied, and was not there yet" for name in run.early if name not in by_hand)


def _wrong(transfer: Transfer, there: Counter[tuple[str, str, int, int]]) -> str | None:
    """What a transfer's movements contradict, if anything."""
    wanted = Counter((bank, transfer.name, account, amount) for bank, account, amount in transfer.movements)
    if not transfer.movements:
        return None
    if there == wanted:
        return f"R6: {transfer.name} was told failed, and is there" if transfer.told is Told.FAILED else None
    if not there:
        return f"R6: {transfer.name} was told ok, and is not there" if transfer.told is Told.OK else None
    if there > wanted:
        return f"R7: {transfer.name} took effect more than once: {sorted(there)}"
    return f"R1: {transfer.name} is at {sorted({key[0] for key in there})} only"


def _unexcused(run: Run, transfer: Transfer, wrong: str) -> Iterator[str]:
    """What a person did, or a failover lost, may contradict what others hold or were told; never unseen."""
    lost = [loss for loss in run.losses if transfer.name in loss.transfers]
    by_hand = [each for each in run.meddled if transfer.name in each.transfers]
    if not lost and not by_hand:
        yield wrong
        return
    if lost and not wrong.startswith("R7"):
        for loss in lost:
            if not any(_tells_of_loss(alarm, loss) for alarm in run.alarms):
                yield f"R11: {loss.gid} was lost at {loss.bank}, and no alarm was raised"
    elif lost:
        yield wrong
    if by_hand and not any(_cannot_be_seen(run, each) or _is_told_of(run.alarms, each.gid) for each in by_hand):
        yield f"R11: {by_hand[0].gid} was finished by hand, and no alarm was raised; {wrong}"


def _cannot_be_seen(run: Run, by_hand: Meddling) -> bool:
    """Whether a branch was committed by hand for which nobody will ever ask.

    - No record names it: what its coordinator wrote down of it died with the machine. Or:
    - abort is decided, and the branch had answered before: with a no, after which no abort need be sent, or that it is
      rolled back. Then a second copy of its prepare came, and the person was there before the next sweep.

    A branch that is rolled back by hand is no such case: if that contradicts anything, somebody asks for its commit.
    """
    name = Gid.parse(by_hand.gid)
    record = _record_of(run.journal, name.txid)
    if not by_hand.commit or record is None:
        return by_hand.commit
    if name.branch not in {ref.number for ref in record.branches}:
        return record.decision in (None, ABORT)
    hearers = record.hearers or frozenset()
    return record.decision == ABORT and (name.branch not in hearers or _was_rolled_back(run.journal, name, by_hand.at))


def _was_rolled_back(journal: Iterable[Entry], name: Gid, before: float) -> bool:
    return any(
        isinstance(entry, Stamped)
        and entry.event == Finished(name.txid, name.branch, Ending.ABORTED)
        and entry.at <= before * 1000
        for entry in journal
    )


def _record_of(journal: Iterable[Entry], txid: Txid) -> TransactionRecord | None:
    """What the journal had of a transaction, also if it is pruned; None if nothing of it ever was on disk."""
    found = [entry.event for entry in journal if isinstance(entry, Stamped) and entry.event.txid == txid]
    return fold(found) if found else None


# --- branches ---------------------------------------------------------------------------------------------------------


def _of_branches(run: Run) -> Iterator[str]:
    for gid in run.left:
        # What a person did can leave a branch to another person.
        if not (run.meddled and _is_told_of(run.alarms, gid)):
            yield f"R9: {gid} is still prepared"
    for bank, gid in run.neighbours.items():
        if gid not in run.participants[bank].database.prepared:
            yield f"R9: {gid} of another journal was finished at {bank}"


# --- alarms -----------------------------------------------------------------------------------------------------------


def _of_alarms(run: Run) -> Iterator[str]:
    yield from (f"R11: an alarm without a cause: {alarm}" for alarm in run.alarms if not _has_cause(run, alarm))
    for each in run.meddled:
        name = Gid.parse(each.gid)
        record = _record_of(run.journal, name.txid)
        if record is not None and name.branch in heuristics_of(record) and str(name.txid) not in run.heuristics:
            yield f"R11: the heuristic outcome of {each.gid} is forgotten"


def _has_cause(run: Run, alarm: str) -> bool:
    """An alarm of a timeline needs a failover of that participant, one of a branch that this branch was lost, or
    finished by hand. Who is fenced and does not know it yet finds epochs strange that were given out after it."""
    if "dead letter" in alarm:
        return is_cause(run, alarm)
    if "timeline" in alarm:
        return any(f"'{bank}'" in alarm for bank in run.failovers)
    if "older than its participants" in alarm:
        return run.setting.freezing or bool(run.meddled)
    return any(_tells_of_loss(alarm, loss) for loss in run.losses) or bool(run.meddled)


def _tells_of_loss(alarm: str, loss: Loss) -> bool:
    """Whether it names the branch or its transaction, or says that the participant's server was failed over."""
    return _transaction(loss.gid) in alarm or ("timeline" in alarm and f"'{loss.bank}'" in alarm)


def _is_told_of(alarms: Iterable[str], gid: str) -> bool:
    """Whether an alarm names the branch or its transaction."""
    return any(_transaction(gid) in alarm for alarm in alarms)


def _transaction(gid: str) -> str:
    return "-".join(gid.split("-")[2:5])


# --- recovery ---------------------------------------------------------------------------------------------------------


def _of_recovery(run: Run) -> Iterator[str]:
    """A coordinator that presumes its own transaction aborted took what is live for what was left behind."""
    epoch = None
    for entry in run.journal:
        match entry:
            case Given():
                epoch = entry.epoch
            case Stamped(_, Decided() as decided) if decided.txid.epoch == epoch and decided.decision == ABORT:
                if reasons.presumed() in decided.reasons:
                    yield f"R8: {decided.txid} was presumed aborted while its owner was at work on it"
            case _:
                pass
