"""The phrases of two-phase commit: what clients ask, what participants vote.

Lives here: those phrases. Must not live here: what every protocol has (`told`), what a phrase leads to (`two_phase`).
"""

from __future__ import annotations

from transcripts.board import Arrow
from transcripts.disk import sequence_after
from transcripts.language import Book, Impossible
from transcripts.stage import Stage
from transcripts.two_phase import TwoPhaseRun
from transcripts.wire import Transaction
from twophase.contract.names import Txid
from twophase.coordinator.journal.events import RequestRef
from twophase.coordinator.protocol.events import DeadlinePassed, Event, RollbackAsked

BOOK: Book[Stage] = Book()

_BUSINESS = {"yes": "yes", "read-only": "yes", "no": "no"}


# --- clients ----------------------------------------------------------------------------------------------------------


@BOOK.phrase("{client} executes[ {tx}][ for {request}][ at {who}]: {plan...}")
def executes(stage: Stage, client: str, tx: str | None, request: str | None, who: str | None, plan: str) -> None:
    """A client begins a transaction: `stock, money, audit reads`. Away participants end it before it begins."""
    at = stage.coordinator(who)
    if (tx or "") in stage.transactions:
        raise Impossible("there is a transaction of that name: give each of them one")
    parts = [part.split(" ") for part in plan.split(", ")]
    places = [stage.participant(part[0]) for part in parts]
    txid = Txid(at.epoch, sequence_after([each.txid for each in stage.transactions.values()], at.epoch))
    earlier = [each for each in stage.transactions.values() if each.request and each.request.request_id == request]
    asked = RequestRef(request, len(earlier) + 1, bytes(32)) if request is not None else None
    reads = frozenset(number for number, part in enumerate(parts) if part[1:] == ["reads"])
    of = Transaction(tx or "", txid, client, asked, tuple(there.name for there in places), reads)
    title = of.titled("execute" + (f" for {request}" if request else ""))
    if at.peers.quarantine.active:
        stage.board.draw(client, Arrow.SENT, at.name, title)
        at.draw(Arrow.SENT, client, "refused: quarantine")
        return
    stage.transactions[of.name] = of
    stage.board.draw(client, Arrow.SENT, at.name, title)
    if all(there.up for there in places):
        TwoPhaseRun.begin(at, of)
    else:
        TwoPhaseRun.refuse(at, of)


@BOOK.phrase("{client} asks for a rollback[ of {tx}]")
def asks_for_a_rollback(stage: Stage, client: str, tx: str | None) -> None:
    """Or a coordinator that is stopping does."""
    _feed(stage, tx, RollbackAsked())


@BOOK.phrase("the deadline passes[ for {tx}]")
def the_deadline_passes(stage: Stage, tx: str | None) -> None:
    """The time of a transaction is up."""
    _feed(stage, tx, DeadlinePassed())


# --- participants -----------------------------------------------------------------------------------------------------


@BOOK.phrase("{who} votes {vote}[ on {tx}]")
def votes(stage: Stage, who: str, vote: str, tx: str | None) -> None:
    """Prepare arrives, the work is done, the vote arrives. The ledger may make another vote of it."""
    if vote not in _BUSINESS:
        raise Impossible(f"nobody votes {vote!r}: say yes, no or read-only")
    of = stage.wire.request(who, "prepare", tx=tx, sender=None).of
    if vote == ("yes" if of.branch_at(who) in of.reads else "read-only"):
        raise Impossible(f"{who} cannot vote {vote} here; if it does all the same, say that it does so wrongly")
    _works(stage, who, "prepare", tx, business=_BUSINESS[vote])


@BOOK.phrase("{who} applies[ {tx}]")
def applies(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work arrives, commits, and its answer arrives."""
    _works(stage, who, "apply", tx, business="yes")


@BOOK.phrase("{who} refuses[ {tx}] for good")
def refuses_for_good(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work is refused, and its ledger says so."""
    _works(stage, who, "apply", tx, business="no")


@BOOK.phrase("{who} refuses[ {tx}] for now")
def refuses_for_now(stage: Stage, who: str, tx: str | None) -> None:
    """Delegated work is refused, and leaves no row."""
    _works(stage, who, "apply", tx, business="retry")


def _feed(stage: Stage, tx: str | None, event: Event) -> None:
    of = stage.transaction(tx)
    runs = [each.runs[of.txid] for each in stage.coordinators.values() if of.txid in each.runs and each.status == "up"]
    owners = [run for run in runs if isinstance(run, TwoPhaseRun) and run.at.epoch == of.txid.epoch]
    if not owners:
        raise Impossible("its owner is not at work on it")
    owners[0].feed(event)


def _works(stage: Stage, who: str, what: str, tx: str | None, *, business: str) -> None:
    there = stage.participant(who)
    request = stage.wire.request(who, what, tx=tx, sender=None)
    stage.wire.requests.remove(request)
    there.begin(request, silently=True)
    _, said = there.end(request.of, business=business)
    stage.say(there, request, said)
    for answer in [each for each in stage.wire.answers if each.request is request]:
        stage.hear(answer)
