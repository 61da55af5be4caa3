"""What a request does to a participant's database, and what is answered.

Lives here: the participant as the search knows it. Must not live here: when a request arrives, and whether the answer
does (`moves`).

The answers are those of the real one (see `participant.finish`): the ledger's key makes `applied`, `refused` and a
tombstone exclude each other, a prepared branch has its row already, and from 42704 only a tombstone concludes.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.world import Column


@dataclass(frozen=True)
class Participants:
    """Every participant alike."""

    def prepare(self, column: Column, *, agrees: bool) -> tuple[str, str]:
        """The end of the work, with the request to prepare it: the database afterwards, and the vote."""
        if not column.writes:
            return column.db, "read-only" if agrees else "no"
        if column.db != "none":  # the ledger's key, or the prepared branch itself, is there first
            return column.db, "no"
        return ("prepared", "yes") if agrees else ("none", "no")

    def apply(self, column: Column, *, answer: str) -> tuple[str, str]:
        """The end of delegated work: applied, refused, or a refusal for this time that leaves no row."""
        match column.db:
            case "none":
                return ("none" if answer == "retry" else answer), answer
            case "applied" | "refused":
                return column.db, column.db
            case _:
                return column.db, "aborted"

    def commit(self, db: str) -> tuple[str, str]:
        """COMMIT PREPARED."""
        match db:
            case "prepared" | "applied":
                return "applied", "applied"
            case "none":
                return "lost", "lost"
            case _:
                return db, "lost"

    def abort(self, db: str, tombstone: str = "tombstone") -> tuple[str, str]:
        """ROLLBACK PREPARED, and where that finds nothing, the tombstone."""
        match db:
            case "prepared":
                return "none", "aborted"
            case "none":
                return tombstone, "aborted"
            case "applied" | "refused":
                return db, db
            case _:
                return db, "aborted"

    def finished(self, db: str, call: str) -> tuple[str, str]:
        """What a request of the second phase does, and what is answered."""
        match call:
            case "commit":
                return self.commit(db)
            case "abort":
                return self.abort(db)
            case _:
                return self.abort(db, "barred")
