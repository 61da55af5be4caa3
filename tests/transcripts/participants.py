"""The participants of a transcript: what their databases hold, and what they are at work on.

Lives here: what a request does there, by the model that the search uses (`search.participants`), and how that is drawn.
Must not live here: when a request arrives, and whether the answer does.

Added to that model are the row that a running branch has written and not committed, and a server's timeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from search.changes import become
from search.participants import Participants
from search.world import Column
from transcripts.board import Board
from transcripts.language import Impossible
from transcripts.wire import Request, Transaction
from twophase.contract.names import Epoch
from twophase.coordinator.protocol.evidence import Sign

NOTHING_TO_UNDO = "nothing to undo"

_MODEL = Participants()
_SIGNS = {
    "applied": Sign.COMMITTED,
    "lost": Sign.COMMITTED,
    "tombstone": Sign.ABORTED,
    "barred": Sign.DELEGATED,
    "refused": Sign.DELEGATED,
}


@dataclass(slots=True)
class Branch:
    """One branch in its database. `request` is what is being worked on, `row` says that its ledger row is written."""

    column: Column
    request: Request | None = None
    row: bool = False
    undone: bool = False

    @property
    def shown(self) -> str:
        """How it stands."""
        if self.request is not None:
            return "running, its row written" if self.row else "running"
        if self.column.db == "none":
            return "nothing"
        return f"{self.column.db}, undone" if self.undone else self.column.db


@dataclass(slots=True)
class Participant:
    """One participant, with its database."""

    name: str
    board: Board
    up: bool = True
    timeline: int = 1
    epoch: Epoch | None = None
    position: int = 0
    branches: dict[str, Branch] = field(default_factory=dict)
    history: list[tuple[str, Column]] = field(default_factory=list)

    def branch(self, of: Transaction) -> Branch:
        """Its branch of a transaction."""
        writes = of.branch_at(self.name) not in of.reads
        return self.branches.setdefault(of.name, Branch(Column(writes=writes)))

    def prepared(self, of: Transaction) -> bool:
        """Whether its branch is prepared."""
        return of.name in self.branches and self.branches[of.name].column.db == "prepared"

    def sign(self, of: Transaction) -> Sign | None:
        """What its ledger says of a transaction; None if there is no row."""
        return _SIGNS.get(self.branches[of.name].column.db) if of.name in self.branches else None

    # --- work -------------------------------------------------------------------------------------------------------

    def begin(self, request: Request, *, silently: bool = False) -> None:
        """Begins to work on a prepare or an apply; `silently` if it ends at once."""
        branch = self.branch(request.of)
        if branch.request is not None:
            raise Impossible(f"{self.name} is at work on {branch.request.what} already")
        branch.request = request
        if not silently:
            self.board.stands(self.name, request.of.titled("running"))

    def write_row(self, of: Transaction) -> None:
        """The work is done and its row is written; neither is committed or prepared yet."""
        branch = self._running(of)
        branch.row = True
        self.board.stands(self.name, of.titled(branch.shown))

    def end(self, of: Transaction, *, business: str) -> tuple[Request, str]:
        """The work ends as the business wants it (yes, no, or retry: no for now), if the ledger lets it."""
        branch = self._running(of)
        request, branch.request, branch.row = branch.request, None, False
        assert request is not None
        if request.what == "prepare":
            db, said = _MODEL.prepare(branch.column, agrees=business == "yes")
        else:
            wanted = {"yes": "applied", "no": "refused"}.get(business, business)
            db, said = _MODEL.apply(branch.column, answer=wanted)
        if business == "yes" and branch.column.db != "none":
            self.board.stands(self.name, of.titled(f"its key is taken: {branch.column.db}"))
        if db != branch.column.db:
            self.position = max(self.position, request.position)
        self._become(of, db)
        return request, said

    # --- the second phase -------------------------------------------------------------------------------------------

    def finish(self, request: Request) -> str | None:
        """Commits, rolls back or bars a branch, and says how it ended; None if it cannot tell yet (55P03)."""
        branch = self.branch(request.of)
        before = branch.column.db
        if branch.row and before == "none":
            self.board.stands(self.name, request.of.titled("55P03: the branch is running and holds its key"))
            return None
        if request.what == "undo":
            return self.undo(request.of, succeeds=True)
        db, said = _MODEL.finished(before, request.what)
        if before == "prepared":
            self._become(request.of, db)
        elif db == before:
            self.board.stands(self.name, request.of.titled(f"42704, its row says {db}"))
        else:
            self._keep(request.of, db)
            self.board.stands(self.name, request.of.titled(f"42704, no row: {db}"))
        return said

    def undo(self, of: Transaction, *, succeeds: bool) -> str:
        """Compensates a step: its key is claimed first, so that work which comes late finds a tombstone there."""
        branch = self.branch(of)
        if branch.column.db == "none":
            self._keep(of, "barred")
            self.board.stands(self.name, of.titled("no row: barred"))
        elif branch.column.db == "applied" and not branch.undone:
            if not succeeds:
                return "retry"
            branch.undone = True
            self.board.stands(self.name, of.titled("applied → undone"))
        else:
            self.board.stands(self.name, of.titled(f"its row says {branch.shown}"))
        return "undone" if branch.undone else NOTHING_TO_UNDO

    # --- what strikes it --------------------------------------------------------------------------------------------

    def stop(self) -> list[Request]:
        """Sessions end: what was running is gone. Returns what was being worked on."""
        ended = [branch.request for branch in self.branches.values() if branch.request is not None]
        for branch in self.branches.values():
            branch.request, branch.row = None, False
        return ended

    def by_hand(self, of: Transaction, *, commit: bool) -> None:
        """A person finishes the prepared branch."""
        if not self.prepared(of):
            raise Impossible(f"nothing is prepared at {self.name}: it is {self.branch(of).shown}")
        self._become(of, "applied" if commit else "none")

    def keep_wrongly(self, of: Transaction) -> None:
        """A participant that has not read the contract prepares a branch that only reads."""
        self._become(of, "prepared")

    def fail_over(self, *, lost: int) -> None:
        """A standby takes over that has not got the last changes."""
        if lost > len(self.history):
            raise Impossible(f"{self.name} has made {len(self.history)} changes, it cannot lose {lost}")
        self.timeline += 1
        self.board.stands(self.name, f"on timeline {self.timeline}")
        for name, column in reversed(self.history[len(self.history) - lost :]):
            was, branch = self.branches[name].shown, self.branches[name]
            branch.column = column
            self.board.stands(self.name, f"{name} {was} → {branch.shown}".lstrip())
        del self.history[len(self.history) - lost :]

    def _running(self, of: Transaction) -> Branch:
        branch = self.branch(of)
        if branch.request is None:
            raise Impossible(f"{self.name} is not at work: its branch is {branch.shown}")
        return branch

    def _become(self, of: Transaction, db: str) -> None:
        before = self.branch(of).column.db
        if db == before:
            return
        self._keep(of, db)
        after = "rolled back" if db == "none" else db
        self.board.stands(self.name, of.titled(after if before == "none" else f"{before} → {after}"))

    def _keep(self, of: Transaction, db: str) -> None:
        branch = self.branch(of)
        self.history.append((of.name, branch.column))
        branch.column = become(branch.column, db)
