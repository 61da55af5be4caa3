"""The phrases of what goes wrong: lost and copied messages, deaths, crashes, failovers, hands.

Lives here: those phrases. Must not live here: what anybody does about it.
"""

from __future__ import annotations

from transcripts.board import Arrow
from transcripts.language import Book, Impossible
from transcripts.stage import Stage, shown
from transcripts.wire import Request
from twophase.coordinator.journal.memory_state import Entry

BOOK: Book[Stage] = Book()

# --- messages ---------------------------------------------------------------------------------------------------------


@BOOK.phrase("the {what}[ of {tx}][ from {sender}] to {who} is lost")
def is_lost(stage: Stage, what: str, tx: str | None, sender: str | None, who: str) -> None:
    """A request does not arrive, and its sender hears no answer."""
    request = stage.wire.request(who, what, tx=tx, sender=sender)
    stage.wire.requests.remove(request)
    stage.give_up(request)


@BOOK.phrase("the {what}[ of {tx}][ from {sender}] to {who} is given up")
def is_given_up(stage: Stage, what: str, tx: str | None, sender: str | None, who: str) -> None:
    """Its sender waits no more, and yet it is on its way."""
    request = stage.wire.request(who, what, tx=tx, sender=sender)
    copy = Request(request.sender, request.to, request.what, request.of, request.position, None)
    stage.wire.requests.remove(request)
    stage.wire.requests.append(copy)
    stage.unanswered(request)


@BOOK.phrase("the {what}[ of {tx}][ from {sender}] to {who} is copied")
def is_copied(stage: Stage, what: str, tx: str | None, sender: str | None, who: str) -> None:
    """The network will deliver it a second time, at any later moment."""
    request = stage.wire.request(who, what, tx=tx, sender=sender)
    stage.wire.requests.append(Request(request.sender, request.to, request.what, request.of, request.position, None))


@BOOK.phrase("a late {what}[ of {tx}][ from {sender}] arrives at {who}")
def arrives_late(stage: Stage, what: str, tx: str | None, sender: str | None, who: str) -> None:
    """A request arrives that nobody waits for any more."""
    stage.arrive(stage.wire.request(who, what, tx=tx, sender=sender, late=True))


@BOOK.phrase("the answer of {who}[ to {sender}][ about {tx}] is lost")
def the_answer_is_lost(stage: Stage, who: str, sender: str | None, tx: str | None) -> None:
    """Whoever waits for it does not hear it."""
    answer = stage.wire.answer(who, tx=tx, sender=sender)
    stage.wire.answers.remove(answer)
    stage.board.draw(who, Arrow.LOST, answer.request.sender, answer.request.of.titled(shown(answer.said)))
    stage.unanswered(answer.request)


@BOOK.phrase("{who} wrongly votes {vote}[ on {tx}]")
def wrongly_votes(stage: Stage, who: str, vote: str, tx: str | None) -> None:
    """A foreign participant votes as its branch cannot, and has not done what that vote says."""
    _votes_wrongly(stage, who, vote, tx)


@BOOK.phrase("{who} wrongly prepares[ {tx}] and votes {vote}")
def wrongly_prepares(stage: Stage, who: str, tx: str | None, vote: str) -> None:
    """A foreign participant keeps a branch that only reads."""
    stage.participant(who).keep_wrongly(stage.transaction(tx))
    _votes_wrongly(stage, who, vote, tx)


def _votes_wrongly(stage: Stage, who: str, vote: str, tx: str | None) -> None:
    there, request = stage.participant(who), stage.wire.request(who, "prepare", tx=tx, sender=None)
    stage.wire.requests.remove(request)
    stage.say(there, request, vote)
    stage.hear(stage.wire.answer(who, tx=tx, sender=None))


# --- coordinators -----------------------------------------------------------------------------------------------------


@BOOK.phrase("{who} dies")
def dies(stage: Stage, who: str) -> None:
    """The process: what it wrote can still be read."""
    stage.coordinator(who).die()


@BOOK.phrase("the machine dies[, and its disk has kept {kept} more]")
def the_machine_dies(stage: Stage, kept: str | None) -> None:
    """Every coordinator on it, and what was not synced, but for as many entries."""
    for at in stage.coordinators.values():
        if at.status != "dead":
            at.die()
    _lose(stage, kept=int(kept or 0))


@BOOK.phrase("the journal loses what was not synced")
def the_journal_loses(stage: Stage) -> None:
    """The machine of a shared journal dies, and those who use it live on."""
    _lose(stage, kept=0)


@BOOK.phrase("{who} freezes")
def freezes(stage: Stage, who: str) -> None:
    """It does nothing until it wakes up, and knows nothing of that."""
    stage.coordinator(who).status = "frozen"


@BOOK.phrase("{who} wakes up")
def wakes_up(stage: Stage, who: str) -> None:
    """It goes on as if nothing had happened."""
    stage.coordinators[who].wake()


# --- participants -----------------------------------------------------------------------------------------------------


@BOOK.phrase("{who} crashes")
def crashes(stage: Stage, who: str) -> None:
    """What is prepared stays; what is running is gone; nobody answers until it is back."""
    there = stage.participant(who)
    there.up = False
    stage.board.stands(who, "away")
    stage.cut(there)


@BOOK.phrase("{who} comes back")
def comes_back(stage: Stage, who: str) -> None:
    """What was waiting for it is sent again."""
    there = stage.participant(who)
    there.up = True
    stage.return_of(there)


@BOOK.phrase("{who} fails over[ and loses its last {count}]")
def fails_over(stage: Stage, who: str, count: str | None) -> None:
    """A standby takes the place of its server, without the last so many changes, on a timeline of its own."""
    there = stage.participant(who)
    stage.end_sessions(there)
    there.fail_over(lost=int(count or 0))


@BOOK.phrase("somebody commits[ {tx}] at {who} by hand")
def somebody_commits(stage: Stage, tx: str | None, who: str) -> None:
    """A person finishes a prepared branch."""
    stage.participant(who).by_hand(stage.transaction(tx), commit=True)


@BOOK.phrase("somebody rolls back[ {tx}] at {who} by hand")
def somebody_rolls_back(stage: Stage, tx: str | None, who: str) -> None:
    """A person finishes a prepared branch."""
    stage.participant(who).by_hand(stage.transaction(tx), commit=False)


# --- the journal ------------------------------------------------------------------------------------------------------


@BOOK.phrase("a copy of the journal is kept")
def a_copy_is_kept(stage: Stage) -> None:
    """A backup."""
    stage.older = stage.disk.copy()


@BOOK.phrase("the copy is put back")
def the_copy_is_put_back(stage: Stage) -> None:
    """The journal is now as old as its copy; the newest one is kept aside."""
    _put_back(stage, stage.older)


@BOOK.phrase("the newest journal is put back")
def the_newest_journal_is_put_back(stage: Stage) -> None:
    """The one that was replaced by a copy."""
    _put_back(stage, stage.newest)


def _put_back(stage: Stage, entries: tuple[Entry, ...] | None) -> None:
    if entries is None:
        raise Impossible("no such journal was kept")
    if any(at.status != "dead" for at in stage.coordinators.values()):
        raise Impossible("a coordinator has the journal")
    stage.newest = stage.disk.copy()
    stage.disk.restore(entries)


def _lose(stage: Stage, *, kept: int) -> None:
    lost = stage.disk.lose(kept=kept)
    stage.board.stands("journal", f"{lost or 'no'} unsynced entr{'y is' if lost == 1 else 'ies are'} gone")
