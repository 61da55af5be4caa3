"""The phrases of two-phase commit: what clients ask, what participants vote.

Lives here: those phrases. Must not live here: what every protocol has (`told`), what a phrase leads to (`two_phase`).
"""

from __future__ import annotations

from transcripts.board import Arrow
from transcripts.language import Book, Impossible
from transcripts.stage import Stage
from transcripts.told import is_let_in, new_transaction, works
from transcripts.two_phase import TwoPhaseRun

BOOK: Book[Stage] = Book()

_BUSINESS = {"yes": "yes", "read-only": "yes", "no": "no"}


# --- clients ----------------------------------------------------------------------------------------------------------


@BOOK.phrase("{client} executes[ {tx}][ for {request}][ at {who}]: {plan...}")
def executes(stage: Stage, client: str, tx: str | None, request: str | None, who: str | None, plan: str) -> None:
    """A client begins a transaction: `stock, money, audit reads`. Away participants end it before it begins."""
    _execute(stage, client, tx, request, who, plan)


@BOOK.phrase("{client} executes in turn[ {tx}]: {plan...}")
def executes_in_turn(stage: Stage, client: str, tx: str | None, plan: str) -> None:
    """The same, and the branches prepare one after the other, as they are named."""
    _execute(stage, client, tx, None, None, plan, in_turn=True)


def _execute(
    stage: Stage, client: str, tx: str | None, request: str | None, who: str | None, plan: str, *, in_turn: bool = False
) -> None:
    at = stage.coordinator(who)
    parts = [part.split(" ") for part in plan.split(", ")]
    reads = frozenset(number for number, part in enumerate(parts) if part[1:] == ["reads"])
    places = tuple(part[0] for part in parts)
    of = new_transaction(stage, at, client, tx, request, places, reads=reads, in_turn=in_turn)
    title = of.titled("execute" + (f" for {request}" if request else ""))
    stage.board.draw(client, Arrow.SENT, at.name, title)
    if not is_let_in(stage, at, of):
        return
    if all(stage.participant(place).up for place in places):
        TwoPhaseRun.begin(at, of)
    else:
        TwoPhaseRun.refuse(at, of)


# --- participants -----------------------------------------------------------------------------------------------------


@BOOK.phrase("{who} votes {vote}[ on {tx}]")
def votes(stage: Stage, who: str, vote: str, tx: str | None) -> None:
    """Prepare arrives, the work is done, the vote arrives. The ledger may make another vote of it."""
    if vote not in _BUSINESS:
        raise Impossible(f"nobody votes {vote!r}: say yes, no or read-only")
    of = stage.wire.request(who, "prepare", tx=tx, sender=None).of
    if vote == ("yes" if of.branch_at(who) in of.reads else "read-only"):
        raise Impossible(f"{who} cannot vote {vote} here; if it does all the same, say that it does so wrongly")
    works(stage, who, "prepare", tx, business=_BUSINESS[vote])
