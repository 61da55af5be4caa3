"""What must hold in every world that can be reached, and at rest.

Lives here: the rules, as far as one transaction can break them (the numbers are those of docs/protocol.md). Must not
live here: how worlds are made.
"""

from __future__ import annotations

from search.changes import is_undecided, is_unfinished
from search.world import OWNER, World


def broken(world: World) -> str | None:
    """The first rule that this world breaks, whatever happens next."""
    writers = [column for column in world.columns if column.writes]
    states = {column.db for column in writers}
    if any(column.effects != (column.db == "applied") for column in world.columns):
        return f"R7: {[(column.effects, column.db) for column in world.columns]} (effects, ledger)"
    if len(world.told) > 1:
        return "R6: one client was told committed, and another one aborted"
    if world.meddled:
        return None  # what a person did by hand is judged at rest
    if world.journal.decision == "commit" and not states <= {"applied", "prepared"}:
        return f"R3: decided commit, and the branches are {sorted(states)}"
    if "applied" in states and not states <= {"applied", "prepared"}:
        return f"R1: applied at one participant, and {sorted(states)} at the others"
    if "committed" in world.told and not states <= {"applied", "prepared"}:
        return f"R6: told committed, and the branches are {sorted(states)}"
    if "aborted" in world.told and "applied" in states:
        return "R6: told aborted, and a branch is applied"
    for column in world.columns:
        if any(seat.call.endswith("commit") for seat in column.seats) and not (
            world.journal.decision == "commit" and world.journal.durable
        ):
            return "R4: a commit was sent that is not decided durably"
        if column.work == "apply" and not (world.journal.decision == "delegated" and world.journal.durable):
            return "R4: a branch was delegated to, and that is not decided durably"
    return None


def at_rest(world: World) -> bool:
    """Whether nothing is left to be done: what a system comes to when nothing fails any more."""
    if any(column.runs or column.work for column in world.columns):
        return False
    prepared = any(column.db == "prepared" for column in world.columns)
    if prepared and not (world.meddled and world.alarmed and _contradictory(world)):
        return False
    if any(seat.call for column in world.columns for seat in column.seats):
        return False
    if world.journal.fenced and is_unfinished(world.journal):
        return False
    if world.journal.fenced and is_undecided(world.journal) and not world.alarmed:
        return False
    up = [(who, node) for who, node in enumerate(world.nodes) if node.status == "up"]
    if all(who == OWNER and world.journal.fenced for who, _ in up):
        return False  # somebody starts it again
    return not any(node.proposal or node.phase not in ("", "ended") for _, node in up)


def _contradictory(world: World) -> bool:
    """Whether the ledgers disagree after somebody meddled: then a person must look, and nothing goes on by itself."""
    found = {column.db for column in world.columns}
    return bool(found & {"applied", "lost"}) and bool(found & {"tombstone", "barred"})


def wrong_at_rest(world: World) -> str | None:
    """The rule that a world at rest breaks."""
    writers = {column.db for column in world.columns if column.writes}
    known = all(column.hears for column in world.columns if column.writes)  # nobody looks for what no record names
    if known and len(writers) > 1 and "applied" in writers and not world.alarmed:
        return f"R11: the branches ended as {sorted(writers)}, and no alarm was raised"
    return None
