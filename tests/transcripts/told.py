"""The phrases of what happens when nothing fails: who is there, clients, answers, the journal.

Lives here: those phrases, as far as they are of no one protocol. Must not live here: a protocol (`told_two_phase`),
failures and recovery (`told_failures`, `told_recovery`), what a phrase leads to.
"""

from __future__ import annotations

from transcripts.board import Arrow
from transcripts.coordinator import Pending
from transcripts.language import Book, Impossible
from transcripts.participants import Participant
from transcripts.stage import Stage
from transcripts.wire import Transaction
from twophase.coordinator.engine.recorded import heuristics_of, outcome_of

BOOK: Book[Stage] = Book()


@BOOK.phrase("participants: {names...}")
def participants(stage: Stage, names: str) -> None:
    """Who has a database."""
    for name in names.split(", "):
        stage.participants[name] = Participant(name, stage.board)


# --- clients ----------------------------------------------------------------------------------------------------------


@BOOK.phrase("{client} asks how it ended[ with {tx}][ at {who}]")
def asks_how_it_ended(stage: Stage, client: str, tx: str | None, who: str | None) -> None:
    """The answer is what the journal's record says."""
    at, of = stage.coordinator(who), stage.transaction(tx)
    record = stage.disk.state.record(of.txid)
    said = "no record" if record is None else outcome_of(record).value
    at.draw(Arrow.SENT, client, of.titled(said))


# --- participants -----------------------------------------------------------------------------------------------------


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


# --- the journal ------------------------------------------------------------------------------------------------------


@BOOK.phrase("the journal rules[ on {tx}][ for {who}]")
def rules(stage: Stage, tx: str | None, who: str | None) -> None:
    """It takes a proposal up, writes, syncs if it must, and answers."""
    pending = _pending(stage, tx, who, written=False)
    if pending.proposer.written(pending):
        pending.proposer.synced(pending)


@BOOK.phrase("the journal writes[ what is proposed for {tx}]")
def writes(stage: Stage, tx: str | None) -> None:
    """It takes a proposal up and writes; what must be forced is not answered yet."""
    pending = _pending(stage, tx, None, written=False)
    if pending.proposer.written(pending):
        assert pending.ruling is not None
        said = pending.proposer.words(pending.of, pending.ruling.decision)
        stage.board.stands("journal", pending.of.titled(f"{said}, not synced"))


@BOOK.phrase("the journal syncs")
def syncs(stage: Stage) -> None:
    """Everything written is on disk; those who waited for that are answered."""
    stage.disk.sync()
    for at in stage.coordinators.values():
        for pending in [each for each in at.pending if each.ruling is not None]:
            at.answered(pending, Arrow.FORCED)


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
    decision, said = record.decision, []
    if decision is None:
        said += ["not decided", outcome_of(record).value]
    elif decision.branch is not None:
        said += [f"delegated to {of.places[decision.branch]}", outcome_of(record).value]
    else:
        said.append(decision.kind.value)
    said += ["ended" if record.ended else "not ended"]
    said += [f"{of.places[number]} is {ending.value}" for number, ending in heuristics_of(record).items()]
    return ", ".join(said)


def _pending(stage: Stage, tx: str | None, who: str | None, *, written: bool) -> Pending:
    found = [
        each
        for at in stage.coordinators.values()
        for each in at.pending
        if tx in (None, each.of.name) and who in (None, at.name) and (each.ruling is not None) is written
    ]
    if len(found) != 1:
        raise Impossible(f"{len(found)} proposals are on their way to the journal: say for whom, and on what")
    return found[0]
