"""The phrases of what happens when nothing fails: who is there, clients, answers, the journal.

Lives here: those phrases, as far as they are of no one protocol. Must not live here: a protocol (`told_two_phase`),
failures and recovery (`told_failures`, `told_recovery`), what a phrase leads to.
"""

from __future__ import annotations

from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.disk import sequence_after
from transcripts.language import Book, Impossible
from transcripts.participants import Participant
from transcripts.pending import Pending
from transcripts.stage import Stage
from transcripts.wire import Transaction
from twophase.contract.names import Txid
from twophase.coordinator.engine.recorded import heuristics_of, outcome_of
from twophase.coordinator.journal.events import RequestRef, TransactionRecord
from twophase.coordinator.protocol.decisions import SAGA
from twophase.coordinator.protocol.events import DeadlinePassed, RollbackAsked

BOOK: Book[Stage] = Book()


@BOOK.phrase("participants: {names...}")
def participants(stage: Stage, names: str) -> None:
    """Who has a database."""
    for name in names.split(", "):
        stage.participants[name] = Participant(name, stage.board)


# --- clients ----------------------------------------------------------------------------------------------------------


@BOOK.phrase("{client} asks for a rollback[ of {tx}]")
def asks_for_a_rollback(stage: Stage, client: str, tx: str | None) -> None:
    """Or a coordinator that is stopping does."""
    _feed(stage, tx, RollbackAsked())


@BOOK.phrase("the deadline passes[ for {tx}]")
def the_deadline_passes(stage: Stage, tx: str | None) -> None:
    """The time of a transaction is up."""
    _feed(stage, tx, DeadlinePassed())


@BOOK.phrase("{client} asks how it ended[ with {tx}][ at {who}]")
def asks_how_it_ended(stage: Stage, client: str, tx: str | None, who: str | None) -> None:
    """The answer is what the journal's record says."""
    at, of = stage.coordinator(who), stage.transaction(tx)
    record = stage.disk.state.record(of.txid)
    said = "no record" if record is None else outcome_of(record).value
    at.draw(Arrow.SENT, client, of.titled(said))


def new_transaction(
    stage: Stage,
    at: Coordinator,
    client: str,
    tx: str | None,
    request: str | None,
    places: tuple[str, ...],
    *,
    reads: frozenset[int] = frozenset(),
    in_turn: bool = False,
) -> Transaction:
    """A transaction of this coordinator, on the stage from now on. Raises `Impossible`."""
    if (tx or "") in stage.transactions:
        raise Impossible("there is a transaction of that name: give each of them one")
    for place in places:
        stage.participant(place)
    txid = Txid(at.epoch, sequence_after([each.txid for each in stage.transactions.values()], at.epoch))
    earlier = [each for each in stage.transactions.values() if each.request and each.request.request_id == request]
    asked = RequestRef(request, len(earlier) + 1, bytes(32)) if request is not None else None
    of = Transaction(tx or "", txid, client, asked, places, reads, in_turn)
    stage.transactions[of.name] = of
    return of


def is_let_in(stage: Stage, at: Coordinator, of: Transaction) -> bool:
    """Whether anything new is begun; in quarantine nothing is, and the client is told so."""
    if at.peers.quarantine.active:
        at.draw(Arrow.SENT, of.client, of.titled("refused: quarantine"))
        del stage.transactions[of.name]
        return False
    return True


# --- participants -----------------------------------------------------------------------------------------------------


@BOOK.phrase("{who} applies[ {tx}]")
def applies(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work arrives, commits, and its answer arrives."""
    works(stage, who, "apply", tx, business="yes")


@BOOK.phrase("{who} refuses[ {tx}] for good")
def refuses_for_good(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work is refused, and its ledger says so."""
    works(stage, who, "apply", tx, business="no")


@BOOK.phrase("{who} refuses[ {tx}] for now")
def refuses_for_now(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work is refused, and leaves no row."""
    works(stage, who, "apply", tx, business="retry")


@BOOK.phrase("{who} answers {what}[ of {tx}][ from {sender}]")
def answers(stage: Stage, who: str, what: str, tx: str | None, sender: str | None) -> None:
    """A request of the second phase arrives, is carried out, and its answer arrives."""
    if what in ("prepare", "apply"):
        raise Impossible(f"say how the work ends that {what} asks for")
    request = stage.wire.request(who, what, tx=tx, sender=sender)
    stage.arrive(request)
    for answer in [each for each in stage.wire.answers if each.request is request]:
        stage.hear(answer)


@BOOK.phrase("the {what}[ of {tx}][ from {sender}] arrives at {who}")
def arrives_at(stage: Stage, what: str, tx: str | None, sender: str | None, who: str) -> None:
    """A request arrives. Its answer is a matter of its own."""
    stage.arrive(stage.wire.request(who, what, tx=tx, sender=sender))


@BOOK.phrase("{who} writes its row[ of {tx}]")
def writes_its_row(stage: Stage, who: str, tx: str | None) -> None:
    """The work has come so far that its ledger row is written, and not committed."""
    stage.participant(who).write_row(stage.transaction(tx))


@BOOK.phrase("{who} ends its work[ of {tx}]")
def ends_its_work(stage: Stage, who: str, tx: str | None) -> None:
    """It is prepared, or committed, if the ledger lets it."""
    there = stage.participant(who)
    stage.say(there, *there.end(stage.transaction(tx), business="yes"))


@BOOK.phrase("the answer of {who}[ to {sender}][ about {tx}] arrives")
def the_answer_arrives(stage: Stage, who: str, sender: str | None, tx: str | None) -> None:
    """Whoever waits for it hears it."""
    stage.hear(stage.wire.answer(who, tx=tx, sender=sender))


def _feed(stage: Stage, tx: str | None, event: DeadlinePassed | RollbackAsked) -> None:
    of = stage.transaction(tx)
    runs = [each.runs[of.txid] for each in stage.coordinators.values() if of.txid in each.runs and each.status == "up"]
    if len(runs) != 1:
        raise Impossible(f"{len(runs)} coordinators are at work on it")
    runs[0].feed(event)


def works(stage: Stage, who: str, what: str, tx: str | None, *, business: str) -> None:
    """A request for work arrives, the work ends as the business wants it, and the answer arrives."""
    there = stage.participant(who)
    request = stage.wire.request(who, what, tx=tx, sender=None)
    stage.wire.requests.remove(request)
    there.begin(request, silently=True)
    _, said = there.end(request.of, business=business)
    stage.say(there, request, said)
    for answer in [each for each in stage.wire.answers if each.request is request]:
        stage.hear(answer)


# --- the journal ------------------------------------------------------------------------------------------------------


@BOOK.phrase("the journal rules[ on {tx}][ for {who}]")
def rules(stage: Stage, tx: str | None, who: str | None) -> None:
    """It takes a proposal up, writes, syncs if it must, and answers."""
    pending = _pending(stage, tx, who)
    if pending.write():
        stage.disk.sync()
        pending.answer(Arrow.FORCED)


@BOOK.phrase("the journal writes[ what is proposed for {tx}]")
def writes(stage: Stage, tx: str | None) -> None:
    """It takes a proposal up and writes; what must be forced is not answered yet."""
    pending = _pending(stage, tx, None)
    if pending.write():
        stage.board.stands("journal", pending.of.titled(f"{pending.said}, not synced"))


@BOOK.phrase("the journal syncs")
def syncs(stage: Stage) -> None:
    """Everything written is on disk; those who waited for that are answered."""
    stage.disk.sync()
    for at in stage.coordinators.values():
        for pending in [each for each in at.pending if each.is_written]:
            pending.answer(Arrow.FORCED)


@BOOK.phrase("how it stands[ with {tx}]")
def how_it_stands(stage: Stage, tx: str | None) -> None:
    """What the journal's record says, and every database."""
    of = stage.transaction(tx)
    stage.board.stands("journal", _record_of(stage, of))
    for there in stage.participants.values():
        if there.name in of.places:
            stage.board.stands(there.name, there.branch(of).shown)


def _record_of(stage: Stage, of: Transaction) -> str:
    record = stage.disk.state.record(of.txid)
    if record is None:
        return "no record"
    said = [*_decided(of, record), "ended" if record.ended else "not ended"]
    said += [f"{of.places[number]} is {ending.value}" for number, ending in heuristics_of(record).items()]
    return ", ".join(said)


def _decided(of: Transaction, record: TransactionRecord) -> list[str]:
    decision = record.decision
    if decision is None:
        return ["not decided", outcome_of(record).value]
    if decision == SAGA:
        return ["saga", *(["turned"] if record.turned else [])]
    if decision.branch is not None:
        return [f"delegated to {of.places[decision.branch]}", outcome_of(record).value]
    return [decision.kind.value]


def _pending(stage: Stage, tx: str | None, who: str | None) -> Pending:
    found = [
        each
        for at in stage.coordinators.values()
        for each in at.pending
        if tx in (None, each.of.name) and who in (None, at.name) and not each.is_written
    ]
    if len(found) != 1:
        raise Impossible(f"{len(found)} proposals are on their way to the journal: say for whom, and on what")
    return found[0]
