"""The phrases of recovery: starts, sweeps and their readings, fences, handshakes, forgetting.

Lives here: those phrases. Must not live here: what is concluded (`recovery`).
"""

from __future__ import annotations

from transcripts import recovery
from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.language import Book, Impossible
from transcripts.stage import Stage
from twophase.coordinator.protocol.decisions import ABORT, COMMIT

BOOK: Book[Stage] = Book()


@BOOK.phrase("{who} starts")
def starts(stage: Stage, who: str) -> None:
    """It opens the journal, which fences all who had it before, and takes up what is decided."""
    _start(stage, who, fence=True)


@BOOK.phrase("{who} starts on the shared journal")
def starts_on_the_shared_journal(stage: Stage, who: str) -> None:
    """The same, on a journal that several may use: nobody is fenced."""
    _start(stage, who, fence=False)


@BOOK.phrase("{who} fences {other}")
def fences(stage: Stage, who: str, other: str) -> None:
    """From then on the other one decides nothing more."""
    epoch = stage.coordinators[other].epoch
    stage.disk.fence(epoch)
    stage.coordinator(who).draw(Arrow.FORCED, "journal", f"epoch {epoch.number} is fenced")


@BOOK.phrase("{who} greets {place}")
def greets(stage: Stage, who: str, place: str) -> None:
    """A handshake."""
    stage.coordinator(who).meet(stage.participant(place))


@BOOK.phrase("{who} sweeps {place}")
def sweeps(stage: Stage, who: str, place: str) -> None:
    """All four readings of a sweep, and what follows."""
    recovery.sweep(stage.coordinator(who), stage.participant(place))


@BOOK.phrase("{who} reads {place}")
def reads(stage: Stage, who: str, place: str) -> None:
    """The first reading of a sweep."""
    recovery.read_prepared(stage.coordinator(who), stage.participant(place))


@BOOK.phrase("{who} reads what is live")
def reads_what_is_live(stage: Stage, who: str) -> None:
    """The second one."""
    recovery.read_live(stage.coordinator(who))


@BOOK.phrase("{who} reads the decisions")
def reads_the_decisions(stage: Stage, who: str) -> None:
    """The third one."""
    recovery.read_decisions(stage.coordinator(who))


@BOOK.phrase("{who} reads {place} again")
def reads_again(stage: Stage, who: str, place: str) -> None:
    """The last one, and what follows."""
    recovery.read_again(stage.coordinator(who), stage.participant(place))


@BOOK.phrase("{who} looks for what was begun")
def looks_for_what_was_begun(stage: Stage, who: str) -> None:
    """What earlier epochs began and nobody decided is presumed aborted."""
    recovery.look_for_begun(stage.coordinator(who))


@BOOK.phrase("{who} looks for what was decided")
def looks_for_what_was_decided(stage: Stage, who: str) -> None:
    """What was decided and not ended is taken up."""
    recovery.take_up_all(stage.coordinator(who))


@BOOK.phrase("{who} proposes to {decision}[ {tx}]")
def proposes(stage: Stage, who: str, decision: str, tx: str | None) -> None:
    """Whatever it is entitled to: the journal judges."""
    of = stage.transaction(tx)
    at = stage.coordinator(who)
    known = {"commit": COMMIT, "abort": ABORT}
    if decision not in known:
        raise Impossible(f"nobody proposes to {decision!r}: say commit or abort")
    branches = tuple(of.ref(number) for number in range(len(of.places)))
    at.propose(of, known[decision], branches, recovery.Presumption(at, of, frozenset()))


@BOOK.phrase("{who} forgets what is over before {tx}")
def forgets(stage: Stage, who: str, tx: str) -> None:
    """The horizon of that transaction's epoch rises as far as it may."""
    of = stage.transaction(tx)
    horizon = stage.disk.prune(of.txid.epoch, below=of.txid.sequence)
    said = f"the horizon of epoch {of.txid.epoch.number} is {horizon}"
    stage.coordinator(who).draw(Arrow.FORCED, "journal", said)


def _start(stage: Stage, who: str, *, fence: bool) -> None:
    known = stage.coordinators.get(who)
    if known is not None and known.status != "dead":
        raise Impossible(f"{who} is {known.status} already")
    at = Coordinator.open(stage, who, fence=fence)
    earlier = ", earlier ones are fenced" if fence and stage.disk.state.fenced else ""
    at.draw(Arrow.FORCED, "journal", f"epoch {at.epoch.number}{earlier}")
    recovery.start(at)
